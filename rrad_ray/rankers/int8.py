"""A transformer layer in int8: oneDNN's products, and kernels of ours (`vectors`) for all between them.

Weights have a scale for each output, activations a range for each token, taken where they arise. Norms, attention and
GELU are computed in float32. oneDNN multiplies with what the CPU has: AMX, VNNI or AVX2.

A few numbers of a row are ten times as large as the others, which would share what is left of 255 steps. So rows are
rotated before they are quantized (QuaRot, Ashkboos et al., NeurIPS 2024): multiplied by random signs and a Hadamard
matrix, which spreads what is large over its block. The weights are rotated alike, and the product is the same.

Before that, columns are divided by factors by which the weights are multiplied (SmoothQuant, Xiao et al., ICML 2023),
so that both are equally wide in each column: a rounding error counts by the product of their sizes over all columns.
How wide a column of a layer norm's output is, the norm's own weight and bias say: no text is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rrad_ray.patches import torch_onednn
from rrad_ray.rankers.vectors import Product, Quantized, Vectors, rotated_block

_TINY = torch.finfo(torch.float32).tiny


class Int8Linear:
    """A linear layer whose weights are whole numbers, in oneDNN's own layout. Its input is rotated by `factors`."""

    def __init__(self, vectors: Vectors, *parts: Any, norm: Any = None) -> None:
        """Join `parts`, linear layers with the same input, into one whose outputs stand side by side.

        `norm`: the layer norm that the input comes from, if it does.
        """
        weight = torch.cat([part.weight.detach().float() for part in parts])
        self.vectors = vectors
        smooth_D, signs_D = torch.ones(weight.shape[1]), rotation_factors(weight.shape[1])
        if norm is not None:
            width_D = torch.hypot(norm.weight.detach().float(), norm.bias.detach().float())
            smooth_D = (width_D.clamp_min(_TINY) / weight.square().mean(0).sqrt().clamp_min(_TINY)).sqrt()
        self.factors = signs_D / smooth_D
        weight = vectors.rotated(weight, signs_D * smooth_D)
        self.scales = (weight.abs().amax(1) / torch_onednn.int8_most()).clamp_min(_TINY)
        numbers = (weight / self.scales[:, None]).round()
        self.weight = torch_onednn.int8_reordered(numbers.to(torch.int8))
        self.sums = self.scales * numbers.sum(1)
        self.bias = torch.cat([part.bias.detach().float() for part in parts])

    def __call__(self, rows: Quantized) -> Product:
        """Return the layer's output, as the product of whole numbers and what turns it into the output."""
        values = torch_onednn.int8_linear(rows.numbers, self.weight, self.scales)
        return Product(values, rows.ranges, self.sums, self.bias)

    def of_rows(self, x_TD: Tensor) -> Product:
        """Return the layer's output for rows in float32."""
        return self(self.vectors.quantized(x_TD, self.factors))


def rotation_factors(size: int) -> Tensor:
    """Return random signs (size), the same in every process, times what normalizes the Hadamard matrix."""
    signs = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    return signs.float() / rotated_block(size) ** 0.5


class Int8Layer:
    """The products and norms of one transformer layer."""

    def __init__(self, layer: Any, before: Any, vectors: Vectors) -> None:
        """`before`: the layer norm whose output the layer reads, of the layer below or of the embeddings."""
        self.vectors = vectors
        self.norm, self.last_norm = layer.attention.output.LayerNorm, layer.output.LayerNorm
        own = layer.attention.self
        self.qkv = Int8Linear(vectors, own.query, own.key, own.value, norm=before)
        self.out = Int8Linear(vectors, layer.attention.output.dense)
        self.up = Int8Linear(vectors, layer.intermediate.dense, norm=self.norm)
        self.down = Int8Linear(vectors, layer.output.dense)

    def __call__(self, x_TD: Tensor, attention: Callable[[Product, bool], Tensor], cls_P: Tensor | None) -> Tensor:
        """Return the states after this layer, of all tokens or of those at `cls_P`."""
        context_TD = attention(self.qkv.of_rows(x_TD), cls_P is not None)
        x_TD = x_TD if cls_P is None else x_TD[cls_P]
        x_TD = self.vectors.layer_norm(self.out.of_rows(context_TD), x_TD, self.norm)
        inner = self.vectors.gelu(self.up.of_rows(x_TD), self.down.factors)
        return self.vectors.layer_norm(self.down(inner), x_TD, self.last_norm)
