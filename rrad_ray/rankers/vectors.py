"""Attention and what surrounds int8 products over packed tokens, by kernels of our own (`vectors.c`) in float32.

For CPUs with AVX2 or AVX-512. Attention reads each pair's tokens where they stand, without padding, in float32 or
bfloat16.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rrad_ray.rankers.kernels import FLOAT, INT, INT64, POINTER, compile_kernels

INSTRUCTIONS = {"AVX512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"), "AVX2": ("avx2", "fma")}

_ARGUMENTS = {  # in the order of `vectors.c`
    "rrad_attend": [*[POINTER] * 4, INT, POINTER, INT64, INT64, INT64, INT, POINTER, INT],
    "rrad_rotate": [POINTER, POINTER, INT64, INT64, POINTER, INT],
    "rrad_quantize": [POINTER, POINTER, INT64, INT64, POINTER, POINTER, INT],
    "rrad_gelu": [*[POINTER] * 5, INT64, INT64, POINTER, POINTER, INT],
    "rrad_layer_norm": [*[POINTER] * 7, FLOAT, INT64, INT64, POINTER, INT],
}

WIDTH = 32  # heads have a multiple of so many dimensions, other rows of half as many: two vectors, and one


@functools.cache
def vector_kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None on a CPU without AVX2; without a C compiler too, as the log then says."""
    flags = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability())
    return compile_kernels("vectors.c", flags, _ARGUMENTS) if flags else None


@dataclass(frozen=True)
class Quantized:
    """Rows of numbers from 0 to 255: a row is `step * numbers + least`."""

    numbers: Tensor
    """uint8 (T, D)"""
    ranges: Tensor
    """float32 (T, 2): each row's step and least number"""

    @classmethod
    def empty(cls, rows: int, size: int) -> Quantized:
        """Return rows of which nothing is computed yet."""
        return cls(torch.empty(rows, size, dtype=torch.uint8), torch.empty(rows, 2, dtype=torch.float32))


@dataclass(frozen=True)
class Product:
    """The output of a linear layer: `values`, or what `ranges`, `sums` and `bias` make of an int8 product."""

    values: Tensor
    """float32 (T, out); without `ranges` also bfloat16"""
    ranges: Tensor | None = None
    """float32 (T, 2): of the rows that were multiplied; output = step * value + least * sum + bias"""
    sums: Tensor | None = None
    """float32 (out): the sum of each output's weights"""
    bias: Tensor | None = None
    """float32 (out)"""

    def __len__(self) -> int:
        return len(self.values)

    def pointers(self) -> tuple[int, int, int, int]:
        """Return the addresses that kernels take, 0 for what is not there."""
        return (self.values.data_ptr(), _address(self.ranges), _address(self.sums), _address(self.bias))


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class Vectors:
    """The kernels, called with tensors: contiguous, float32 where nothing else is said."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self.kernels = kernels

    def attention(
        self, qkv_TX: Tensor | Product, starts: Tensor, heads: int, *, rows: int, first_only: bool
    ) -> Tensor:
        """Return the attention output (`rows`, D) of each token, or of each pair's first token only.

        A token attends to its own pair. `qkv_TX`: queries, keys and values side by side (T, 3 D), in float32 or, as
        the output then is, in bfloat16; D / heads is a multiple of `WIDTH`. `starts` (P + 1): the first token of each
        pair, and the end of the last one. Rows after the last token, or after the last pair, are zeros. Raises
        `MemoryError` if there is no memory.
        """
        qkv = qkv_TX if isinstance(qkv_TX, Product) else Product(qkv_TX)
        across, pairs = qkv.values.shape[1] // 3, len(starts) - 1
        out = qkv.values.new_empty(rows, across)
        out[pairs if first_only else int(starts[-1]) :] = 0
        halves = qkv.values.dtype == torch.bfloat16
        inputs = (*qkv.pointers(), halves, starts.data_ptr(), pairs, heads, across // heads, first_only)
        if self.kernels.rrad_attend(*inputs, out.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"no memory for the attention of {pairs} pairs")
        return out

    def rotated(self, x_TD: Tensor, factors_D: Tensor) -> Tensor:
        """Return rows, each column times its factor, of which each block is multiplied by a Hadamard matrix.

        Such a matrix holds 1 and -1, and is not normalized. A block has `rotated_block(D)` numbers.
        """
        out = torch.empty_like(x_TD)
        inputs = (x_TD.data_ptr(), factors_D.data_ptr(), *x_TD.shape)
        self.kernels.rrad_rotate(*inputs, out.data_ptr(), torch.get_num_threads())
        return out

    def quantized(self, x_TD: Tensor, factors_D: Tensor) -> Quantized:
        """Return `rotated` rows, each quantized by its own range."""
        out = Quantized.empty(*x_TD.shape)
        self.kernels.rrad_quantize(x_TD.data_ptr(), factors_D.data_ptr(), *x_TD.shape, *_into(out))
        return out

    def gelu(self, product: Product, factors_D: Tensor) -> Quantized:
        """Return an int8 product through GELU, `rotated` and quantized; its values are overwritten."""
        out = Quantized.empty(*product.values.shape)
        inputs = (*product.pointers(), factors_D.data_ptr(), *product.values.shape)
        self.kernels.rrad_gelu(*inputs, *_into(out))
        return out

    def layer_norm(self, product: Product, add_TD: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Return the layer norm (T, D) of an int8 product with a residual added."""
        out = torch.empty_like(add_TD)
        weights = (norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)
        inputs = (*product.pointers(), add_TD.data_ptr(), *weights, *add_TD.shape)
        self.kernels.rrad_layer_norm(*inputs, out.data_ptr(), torch.get_num_threads())
        return out


def rotated_block(size: int) -> int:
    """Return how many numbers of a row of `size` are rotated together: the largest power of two that divides it."""
    return size & -size


def _into(rows: Quantized) -> tuple[int, int, int]:
    """Return a kernel's last arguments: where it writes rows, and on how many threads."""
    return rows.numbers.data_ptr(), rows.ranges.data_ptr(), torch.get_num_threads()
