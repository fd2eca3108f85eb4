"""Rank losses: pure functions of tensors.

Shapes: B queries x N candidate slots. `scores_BN` and `targets_BN` are floats, `mask_BN` is true where a slot holds a
document. Each returns a scalar; 0 with a gradient if there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(Protocol):
    def __call__(self, scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor: ...


def _pairs(values_BN: Tensor) -> Tensor:
    """(B, N, N): value of slot i minus value of slot j."""
    return values_BN[:, :, None] - values_BN[:, None, :]


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def ranknet(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, scale: float = 1.0) -> Tensor:
    """RankNet on the hard order: mean over pairs with target_i > target_j of log(1 + exp(-scale * (s_i - s_j))).

    RRADistill's rank loss: missing documents share the lowest target, so no pair is made between two of them.
    Burges et al., 2005.
    """
    chosen = (_pairs(targets_BN) > 0) & mask_BN[:, :, None] & mask_BN[:, None, :]
    return _mean(F.softplus(-scale * _pairs(scores_BN)), chosen)


def soft_ranknet(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, target_scale: float = 2.0) -> Tensor:
    """RankNet with soft preferences: cross-entropy of sigmoid(s_i - s_j) against sigmoid(target_scale * (t_i - t_j)).

    Mean over pairs i < j. Near ties of the teacher pull little, so its noise there costs little.
    """
    both = mask_BN[:, :, None] & mask_BN[:, None, :]
    chosen = both & torch.ones_like(both).triu(diagonal=1)
    wanted = torch.sigmoid(target_scale * _pairs(targets_BN))
    return _mean(F.binary_cross_entropy_with_logits(_pairs(scores_BN), wanted, reduction="none"), chosen)


def point_mse(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared difference of score and target: keeps the teacher's scale (DisRanker, Point-MSE)."""
    return _mean((scores_BN - targets_BN) ** 2, mask_BN)


def margin_mse(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean over pairs i < j of ((s_i - s_j) - (t_i - t_j))^2: keeps the teacher's margins (DisRanker, Margin-MSE;
    Hofstaetter et al., 2020)."""
    both = mask_BN[:, :, None] & mask_BN[:, None, :]
    chosen = both & torch.ones_like(both).triu(diagonal=1)
    return _mean((_pairs(scores_BN) - _pairs(targets_BN)) ** 2, chosen)


LOSSES: dict[str, Loss] = {
    "ranknet": ranknet,
    "soft_ranknet": soft_ranknet,
    "point_mse": point_mse,
    "margin_mse": margin_mse,
}


def weighted(weights: Mapping[str, float], *, target_scale: float = 2.0) -> Loss:
    """The weighted sum of named losses: `{point_mse: 1.0, margin_mse: 1.0}` is DisRanker's hybrid loss.

    Raises `ValueError` for an unknown name, listing the known ones.
    """
    for name in weights:
        if name not in LOSSES:
            raise ValueError(f"losses.{name}: no such loss; choose from {', '.join(sorted(LOSSES))}")

    def loss(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
        total = scores_BN.sum() * 0.0
        for name, weight in weights.items():
            if name == "soft_ranknet":
                total = total + weight * soft_ranknet(scores_BN, targets_BN, mask_BN, target_scale=target_scale)
            else:
                total = total + weight * LOSSES[name](scores_BN, targets_BN, mask_BN)
        return total

    return loss
