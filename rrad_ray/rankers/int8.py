"""A transformer layer in int8: oneDNN's products, and kernels of ours (`vectors`) for all between them.

Weights have a scale for each output, activations a range for each token, taken where they arise. Norms, attention and
GELU are computed in float32. oneDNN multiplies with what the CPU has: AMX, VNNI or AVX2.

Few columns of a layer norm's output are ten times as wide as the others, which would share what is left of 255 steps.
So these inputs are divided by a factor for each column, and the weights multiplied by it (SmoothQuant, Xiao et al.,
ICML 2023, with the strength .5). How wide a column is, the norm's own weight and bias say: no text is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rrad_ray.patches import torch_onednn
from rrad_ray.rankers.vectors import Product, Quantized, Vectors

DEVIATIONS = 3  # a normalized number is seldom larger
_TINY = torch.finfo(torch.float32).tiny


class Int8Linear:
    """A linear layer whose weights are whole numbers, in oneDNN's own layout."""

    def __init__(self, vectors: Vectors, *parts: Any, norm: Any = None) -> None:
        """Join `parts`, linear layers with the same input, into one whose outputs stand side by side.

        `norm`: the layer norm that the input comes from, if it does.
        """
        weight = torch.cat([part.weight.detach().float() for part in parts])
        self.vectors, self.factors = vectors, None
        if norm is not None:
            width_D = DEVIATIONS * norm.weight.detach().float().abs() + norm.bias.detach().float().abs()
            smooth_D = (width_D.clamp_min(_TINY) / weight.abs().amax(0).clamp_min(_TINY)).sqrt()
            weight, self.factors = weight * smooth_D, 1 / smooth_D
        self.scales = (weight.abs().amax(1) / torch_onednn.int8_most()).clamp_min(_TINY)
        numbers = (weight / self.scales[:, None]).round()
        self.weight = torch_onednn.int8_reordered(numbers.to(torch.int8))
        self.sums = self.scales * numbers.sum(1)
        self.bias = torch.cat([part.bias.detach().float() for part in parts])

    def __call__(self, x_TD: Tensor | Quantized) -> Product:
        """Return the layer's output, as the product of whole numbers and what turns it into the output."""
        rows = x_TD if isinstance(x_TD, Quantized) else self.vectors.quantized(x_TD, self.factors)
        values = torch_onednn.int8_linear(rows.numbers, self.weight, self.scales)
        return Product(values, rows.ranges, self.sums, self.bias)


class Int8Layer:
    """The products and norms of one transformer layer."""

    def __init__(self, layer: Any, before: Any, vectors: Vectors) -> None:
        """`before`: the layer norm whose output the layer reads, of the layer below or of the embeddings."""
        own, self.vectors = layer.attention.self, vectors
        self.norm, self.last_norm = layer.attention.output.LayerNorm, layer.output.LayerNorm
        self.qkv = Int8Linear(vectors, own.query, own.key, own.value, norm=before)
        self.out = Int8Linear(vectors, layer.attention.output.dense)
        self.up = Int8Linear(vectors, layer.intermediate.dense, norm=self.norm)
        self.down = Int8Linear(vectors, layer.output.dense)

    def __call__(self, x_TD: Tensor, attention: Callable[[Product, bool], Tensor], cls_P: Tensor | None) -> Tensor:
        """Return the states after this layer, of all tokens or of those at `cls_P`."""
        context_TD = attention(self.qkv(x_TD), cls_P is not None)
        x_TD = x_TD if cls_P is None else x_TD[cls_P]
        x_TD = self.vectors.layer_norm(self.out(context_TD), x_TD, self.norm)
        return self.vectors.layer_norm(self.down(self.vectors.gelu(self.up(x_TD))), x_TD, self.last_norm)
