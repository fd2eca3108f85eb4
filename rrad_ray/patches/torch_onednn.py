"""oneDNN's linear layers with what follows them fused in.

Uses: `torch.ops.mkldnn._reorder_linear_weight`, `_linear_pointwise` and `_is_mkldnn_bf16_supported`, which
torch.compile's CPU backend calls (torch 2.13).

Upstream: PyTorch has no public product with a prepacked weight and a fused GELU or addition. Delete when it has one.

Breaks: an encoder does not load with `backend: torch` on a CPU (AttributeError); `backend: compile` still scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

_OPS = torch.ops.mkldnn
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
