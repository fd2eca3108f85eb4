"""Arithmetic of lists with empty slots, which the losses share.

Shapes as in `losses`: B queries x N candidate slots, `mask_BN` true where a slot holds a document.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_option(ok: bool, option: str, value: float, want: str) -> None:
    """Raise `ValueError` for an option of a loss that is not `ok`, with its value and what is wanted."""
    if not ok:
        raise ValueError(f"{option}={value!r}: {want}")


def cleaned(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and targets with 0 in empty slots: NaN there would reach the gradient even behind a mask."""
    return torch.where(mask_BN, scores_BN, 0.0), torch.where(mask_BN, targets_BN.to(scores_BN.dtype), 0.0)


def differences(values_BN: Tensor) -> Tensor:
    """Return the differences (B, N, N), value of slot i minus value of slot j."""
    return values_BN[:, :, None] - values_BN[:, None, :]


def both_there(mask_BN: Tensor) -> Tensor:
    """Return (B, N, N), true where both slots i and j hold documents."""
    return mask_BN[:, :, None] & mask_BN[:, None, :]


def better(targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Return (B, N, N), true where i and j are documents with target_i > target_j."""
    return (differences(targets_BN) > 0) & both_there(mask_BN)


def chosen_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values; 0 where none is."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def list_mean(values_B: Tensor, better_BNN: Tensor) -> Tensor:
    """Return the mean over the lists in which some document has a higher target than another."""
    return chosen_mean(values_B, better_BNN.flatten(1).any(1))


def choice_nll(values_BN: Tensor, rivals_BNN: Tensor) -> Tensor:
    """Return (B, N), -log of the probability that i is ranked first among itself and its rivals j (Plackett-Luce)."""
    itself = torch.eye(values_BN.shape[1], dtype=torch.bool, device=values_BN.device)
    return torch.where(rivals_BNN | itself, -differences(values_BN), -math.inf).logsumexp(-1)


def tied_ranks(signs_BNN: Tensor, mask_BN: Tensor) -> Tensor:
    """Return the documents' ranks (B, N) from 1; the sign at i, j is 1 where i ranks before j, and 0 for a tie.

    Tied documents share the mean of their ranks, so a rank may be a half.
    """
    return 0.5 + torch.where(mask_BN[:, None, :], (1 - signs_BNN) / 2, 0.0).sum(-1)


def relative_gains(targets_BN: Tensor, mask_BN: Tensor, k: int = 0) -> Tensor:
    """Return gains (B, N), 2^target - 1 over the list's ideal DCG@k (`k` = 0: of the whole list); 0 in empty slots.

    A list with negative targets, such as z-scores, is shifted so that its lowest target gains 0; clipped at 0, its
    lower half would be all alike. Numerator and denominator are divided by 2^highest, so that no target overflows.
    """
    grades = torch.where(mask_BN, targets_BN - targets_BN.amin(-1, keepdim=True).clamp(max=0), 0.0)
    gains = -torch.exp2(grades - grades.amax(-1, keepdim=True)) * torch.expm1(-grades * math.log(2))
    best = gains.sort(dim=-1, descending=True).values[:, : k or None]
    discounts = torch.log2(torch.arange(best.shape[1], device=best.device, dtype=best.dtype) + 2)
    return gains / (best / discounts).sum(-1, keepdim=True).clamp(min=torch.finfo(gains.dtype).tiny)
