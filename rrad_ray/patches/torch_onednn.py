"""oneDNN's linear layers with what follows them fused in.

Uses: `torch.ops.mkldnn._reorder_linear_weight`, `_linear_pointwise` and `_is_mkldnn_bf16_supported`, and
`torch.ops.onednn.qlinear_prepack` and `qlinear_pointwise`, which torch.compile's CPU backend calls (torch 2.13).

Upstream: PyTorch has no public product with a prepacked weight and a fused GELU or addition, nor one of whole numbers
on CPUs. Delete when it has them.

Breaks: an encoder does not load with `backend: torch` on a CPU (AttributeError); `backend: compile` still scores.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_OPS = torch.ops.mkldnn
_LEAST_ROWS = 32
_ROWS = 4096  # the number of rows that the layout of a weight is chosen for


def multiplies(dtype: torch.dtype) -> bool:
    """Return true if oneDNN has products in this format on this CPU."""
    return dtype != torch.bfloat16 or bool(_OPS._is_mkldnn_bf16_supported())


def reordered(weight: Tensor) -> Tensor:
    """Return a weight (out, in) in the layout that oneDNN's product wants."""
    return _OPS._reorder_linear_weight(weight, _ROWS)


def linear(x_TD: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """Return the product with a reordered weight, plus the bias, through GELU where asked; (T, out)."""
    return _OPS._linear_pointwise(x_TD, weight, bias, "gelu" if gelu else "none", [], "none")


def linear_add(x_TD: Tensor, weight: Tensor, bias: Tensor, add: Tensor) -> Tensor:
    """Return the product with a reordered weight, plus the bias and another tensor; (T, out)."""
    return _OPS._linear_pointwise.binary(x_TD, add, weight, bias, "add")


def int8_reordered(weight: Tensor) -> Tensor:
    """Return an int8 weight (out, in) in the layout that oneDNN's product of whole numbers wants."""
    return torch.ops.onednn.qlinear_prepack(weight, [_ROWS, weight.shape[1]])


def int8_linear(x_TD: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Return the product of uint8 rows with a reordered int8 weight, each output times its scale, in float32."""
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    of_rows, of_weight, out = (1.0, 0), (scales, zeros), (1.0, 0, torch.float32)
    return torch.ops.onednn.qlinear_pointwise(x_TD, *of_rows, weight, *of_weight, None, *out, "none", [], "")


@functools.cache
def int8_most() -> int:
    """Return the largest weight whose products oneDNN adds up exactly here: 127, or 63 on a CPU without VNNI.

    Without VNNI, two products are added in 16 bits, where 2 * 255 * 127 has no room: the sum is wrong, not an error.
    """
    rows, weight = torch.full((_LEAST_ROWS, 64), 255, dtype=torch.uint8), torch.full((32, 64), 127, dtype=torch.int8)
    sums = int8_linear(rows, int8_reordered(weight), torch.ones(32))
    return 127 if bool((sums == 64 * 255 * 127).all()) else 63
