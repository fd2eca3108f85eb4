"""Attention and layer norm over packed tokens by kernels of our own (`amx.c`), for CPUs with AMX.

Attention reads each pair's tokens where they stand. torch's wants them copied to a padded tensor, and spends more on
packing operands for heads of 32 dimensions and on the softmax than on the products.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor, nn

from rrad_ray.patches import torch_cpu
from rrad_ray.rankers.kernels import FLOAT, INT, INT64, POINTER, compile_kernels, warn_of_slower

FLAGS = ("avx512f", "avx512bw", "avx512dq", "avx512bf16", "amx-tile", "amx-bf16")

ARGUMENTS = {  # in the order of `amx.c`
    "rrad_attention": [POINTER, POINTER, INT64, INT64, INT64, FLOAT, INT, POINTER, INT],
    "rrad_layer_norm": [POINTER, POINTER, POINTER, FLOAT, INT64, INT64, POINTER, INT],
}

WIDTHS = (32, 64)  # dimensions of a head that the attention kernel supports


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None on a CPU without AMX.

    Without a C compiler, or where the system does not let the process use AMX, it is None too, and the log says so.
    """
    if not torch_cpu.has_amx():
        return None
    kernels = compile_kernels("amx.c", FLAGS, ARGUMENTS)
    if kernels is not None and kernels.rrad_start():
        warn_of_slower("the system does not grant the use of AMX")
        return None
    return kernels


def attention(
    kernels: ctypes.CDLL, qkv_TX: Tensor, starts: Tensor, heads: int, *, rows: int, first_only: bool
) -> Tensor:
    """Return the attention output (`rows`, D) in bfloat16 of each token, or of each pair's first token only.

    A token attends to its own pair. `qkv_TX`: queries, keys and values side by side, bfloat16 (T, 3 D), contiguous.
    `starts` (P + 1): the first token of each pair, and the end of the last one. D / heads is one of `WIDTHS`. Rows
    behind the last token, or behind the last pair, are zeros. Raises `MemoryError` if there is no memory.
    """
    across = qkv_TX.shape[1] // 3
    pairs, wide = len(starts) - 1, across // heads
    out = qkv_TX.new_empty(rows, across)
    out[pairs if first_only else int(starts[-1]) :] = 0
    inputs = (qkv_TX.data_ptr(), starts.data_ptr(), pairs, heads, wide, wide**-0.5, first_only)
    if kernels.rrad_attention(*inputs, out.data_ptr(), torch.get_num_threads()):
        raise MemoryError(f"no memory for the attention of {pairs} pairs")
    return out


class LayerNorm:
    """A layer norm over bfloat16 rows (T, D), contiguous; D is a multiple of 32."""

    def __init__(self, kernels: ctypes.CDLL, norm: nn.LayerNorm) -> None:
        self.kernels, self.eps = kernels, norm.eps
        self.weight, self.bias = norm.weight.detach().float(), norm.bias.detach().float()

    def __call__(self, x_TD: Tensor) -> Tensor:
        out = torch.empty_like(x_TD)
        weights = (self.weight.data_ptr(), self.bias.data_ptr(), self.eps)
        self.kernels.rrad_layer_norm(x_TD.data_ptr(), *weights, *x_TD.shape, out.data_ptr(), torch.get_num_threads())
        return out
