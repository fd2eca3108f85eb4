"""Rank losses: pure functions of tensors.

Shapes: B queries x N candidate slots, N >= 1. `scores_BN` and `targets_BN` are floats, a higher target is better, and
`mask_BN` is true where a slot holds a document; values in the other slots, even NaN, never matter. Each loss returns
a scalar, in nats unless it says otherwise; without anything to compare it returns 0 with a (zero) gradient.

No loss depends on the order of a list's documents, nor breaks ties by it. Documents of equal target are not compared,
except by the losses that read distances between targets (`soft_ranknet`, `margin_mse`, `listnet`): there a tie is a
distance of 0 and pulls the scores together. An option out of range raises `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rrad_ray.errors import InvalidInput
from rrad_ray.training.list_math import (
    better,
    both_there,
    check_option,
    choice_nll,
    chosen_mean,
    cleaned,
    differences,
    list_mean,
    relative_gains,
    tied_ranks,
)

# ---- pointwise: the mean is over all documents of the batch --------------------------------------------------


def point_mse(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Return the mean squared difference of score and target, in squared units of the target.

    Keeps the teacher's scale (DisRanker, Point-MSE).
    """
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    return chosen_mean((scores_BN - targets_BN) ** 2, mask_BN)


def bce(
    scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, smoothing: float = 0.0, pos_weight: float = 1.0
) -> Tensor:
    """Return the mean cross-entropy of sigmoid(score) against a target in [0, 1], a label or a grade.

    `smoothing`: weight of 1/2 in every target (label smoothing, Szegedy et al., 2016). `pos_weight`: factor on the
    positive term, as in `torch.nn.BCEWithLogitsLoss`, for many negatives. Raises `ValueError` for a target outside
    [0, 1], for which the loss is unbounded below.
    """
    check_option(0 <= smoothing < 1, "smoothing", smoothing, "must be in [0, 1)")
    check_option(pos_weight > 0, "pos_weight", pos_weight, "must be positive")
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    outside = targets_BN[~((targets_BN >= 0) & (targets_BN <= 1))]
    if outside.numel():
        raise InvalidInput(f"bce: a target of {outside[0].item():g}", "scale targets to [0, 1] or take another loss")
    wanted = targets_BN * (1 - smoothing) + smoothing / 2
    likely, unlikely = F.softplus(-scores_BN), F.softplus(scores_BN)
    return chosen_mean(pos_weight * wanted * likely + (1 - wanted) * unlikely, mask_BN)


# ---- pairwise: the mean is over all pairs of the batch ------------------------------------------------------


def ranknet(
    scores_BN: Tensor,
    targets_BN: Tensor,
    mask_BN: Tensor,
    *,
    scale: float = 1.0,
    smoothing: float = 0.0,
    gap_power: float = 0.0,
) -> Tensor:
    """Return RankNet on hard preferences: the mean of log(1 + exp(-scale * (s_i - s_j))) over target_i > target_j.

    Burges et al., 2005; RRADistill's rank loss: missing documents share the lowest target, so two of them make no
    pair. `smoothing`: weight of 1/2 in every preference, for a noisy teacher. `gap_power`: a pair's weight in the
    mean is (target_i - target_j)^gap_power; at 1, a pair two grades apart counts twice; at 0, all count alike.
    """
    check_option(scale > 0, "scale", scale, "must be positive")
    check_option(0 <= smoothing < 1, "smoothing", smoothing, "must be in [0, 1)")
    check_option(gap_power >= 0, "gap_power", gap_power, "must not be negative")
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    better_BNN = better(targets_BN, mask_BN)
    margins_BNN = scale * differences(scores_BN)
    values_BNN = F.softplus(-margins_BNN) + smoothing / 2 * margins_BNN
    if not gap_power:
        return chosen_mean(values_BNN, better_BNN)
    weights_BNN = differences(targets_BN).clamp(min=0) ** gap_power
    least = torch.finfo(scores_BN.dtype).tiny
    return chosen_mean(weights_BNN * values_BNN, better_BNN) / chosen_mean(weights_BNN, better_BNN).clamp(min=least)


def margin(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, tau: float = 1.0) -> Tensor:
    """Return the mean hinge max(0, tau - (s_i - s_j)) over pairs with target_i > target_j, in units of the score.

    DisRanker's loss for fine-tuning the teacher. A pair that is right by `tau` has no gradient.
    """
    check_option(tau > 0, "tau", tau, "must be positive")
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    return chosen_mean(F.relu(tau - differences(scores_BN)), better(targets_BN, mask_BN))


def soft_ranknet(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, target_scale: float = 2.0) -> Tensor:
    """Return RankNet with soft preferences, the mean over pairs i < j.

    Cross-entropy of sigmoid(s_i - s_j) against sigmoid(target_scale * (t_i - t_j)). Near ties of the teacher have
    small gradients, so its noise there costs little.
    """
    check_option(target_scale > 0, "target_scale", target_scale, "must be positive")
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    wanted = torch.sigmoid(target_scale * differences(targets_BN))
    values = F.binary_cross_entropy_with_logits(differences(scores_BN), wanted, reduction="none")
    return chosen_mean(values, both_there(mask_BN).triu(diagonal=1))


def margin_mse(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Return the mean of ((s_i - s_j) - (t_i - t_j))^2 over pairs i < j, in squared units of the target.

    Keeps the teacher's margins (DisRanker, Margin-MSE; Hofstaetter et al., 2020).
    """
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    return chosen_mean((differences(scores_BN) - differences(targets_BN)) ** 2, both_there(mask_BN).triu(diagonal=1))


def lambda_loss(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, k: int = 0, mu: float = 10.0) -> Tensor:
    """Return LambdaLoss: the mean of weight * log2(1 + exp(-(s_i - s_j))) over target_i > target_j, in weighted bits.

    weight = |G_i - G_j| * (mu * |1/D(m) - 1/D(m + 1)| + |1/D(r_i) - 1/D(r_j)|) with gains G over the ideal DCG@k,
    ranks r by score, m = |r_i - r_j|, D(r) = log2(1 + r): NDCG-Loss2++ (Wang et al., 2018); `mu` = 0 is LambdaRank.
    `k`: only pairs with a document in the top k by score (their equation 18); 0: all pairs. Values equal those of
    sentence-transformers (and of allRank for k = 0), except that of equal scores the lower target ranks first (the
    worst order), and for negative targets (see `relative_gains`).
    """
    check_option(k >= 0 and k % 1 == 0, "k", k, "must be a whole number, 0 for all")
    check_option(mu >= 0, "mu", mu, "must not be negative")
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    chosen_BNN = better(targets_BN, mask_BN)
    with torch.no_grad():
        signs_BNN = (2 * differences(scores_BN).sign() - differences(targets_BN).sign()).sign()
        ranks_BN = tied_ranks(signs_BNN, mask_BN)
        apart_BNN = differences(ranks_BN).abs().clamp(min=1)
        near_BNN = 1 / torch.log2(1 + apart_BNN) - 1 / torch.log2(2 + apart_BNN)
        swap_BNN = differences(1 / torch.log2(1 + ranks_BN)).abs()
        weights_BNN = differences(relative_gains(targets_BN, mask_BN, int(k))).abs() * (mu * near_BNN + swap_BNN)
        if k:
            top_BN = ranks_BN <= k
            chosen_BNN = chosen_BNN & (top_BN[:, :, None] | top_BN[:, None, :])
    return chosen_mean(weights_BNN * F.softplus(-differences(scores_BN)) / math.log(2), chosen_BNN)


# ---- listwise: the mean is over the lists with something to compare -----------------------------------------


def listnet(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the cross-entropy of softmax(scores) against softmax(targets / temperature), over lists of two or more.

    ListNet's top-one form (Cao et al., 2007). Its gradient is that of the KL divergence, but its minimum is the
    entropy of the targets.
    """
    check_option(temperature > 0, "temperature", temperature, "must be positive")
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    rivals_BNN = both_there(mask_BN)
    wanted_BN = torch.exp(-choice_nll(targets_BN / temperature, rivals_BNN))
    values_BN = torch.where(mask_BN, wanted_BN * choice_nll(scores_BN, rivals_BNN), 0.0)
    return chosen_mean(values_BN.sum(-1), mask_BN.sum(-1) > 1)


def contrastive(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Return the softmax cross-entropy of a list's best document against all others; of several best, their mean.

    InfoNCE over the list, known for re-rankers as localized contrastive estimation (Gao et al., 2021). The best
    documents are those with the list's highest target; all lower targets are negatives.
    """
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    better_BNN = better(targets_BN, mask_BN)
    best_BN = mask_BN & ~better_BNN.any(1)
    values_BN = torch.where(best_BN, choice_nll(scores_BN, better_BNN), 0.0)
    return list_mean(values_BN.sum(-1) / best_BN.sum(-1).clamp(min=1), better_BNN)


def listmle(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Return ListMLE: the sum over documents of -log P(it ranks first among itself and all of lower target).

    Without ties this is -log of the Plackett-Luce likelihood of the targets' order (Xia et al., 2008). With ties it
    is a composite likelihood, neither that of one order nor that of all orders which the ties allow: documents of
    equal target do not compete, so documents that an LLM left out are only pushed below the rest.
    """
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    better_BNN = better(targets_BN, mask_BN)
    return list_mean(choice_nll(scores_BN, better_BNN).sum(-1), better_BNN)


def p_listmle(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Return position-aware ListMLE (Lan et al., 2014): `listmle` with weights that fall with the rank by target.

    The document at rank r of n weighs 2^(n - r) - 1; the weights are normalised to sum to 1 over the documents with
    another one below them. Ties share the mean of their ranks. Weights halve from rank to rank, so little is learnt
    below the sixth.
    """
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    better_BNN = better(targets_BN, mask_BN)
    ranks_BN = tied_ranks(differences(targets_BN).sign(), mask_BN)
    weights_BN = torch.exp2(-ranks_BN) - torch.exp2(-mask_BN.sum(-1, keepdim=True).to(ranks_BN.dtype))
    weights_BN = torch.where(better_BNN.any(2), weights_BN, 0.0)
    total_B = weights_BN.sum(-1).clamp(min=torch.finfo(weights_BN.dtype).tiny)
    return list_mean((weights_BN * choice_nll(scores_BN, better_BNN)).sum(-1) / total_B, better_BNN)


def approx_ndcg(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return ApproxNDCG, 1 - nDCG with smooth ranks 1 + sum_j sigmoid((s_j - s_i) / temperature), j != i; in [0, 1].

    Qin et al., 2010, with the gains of `relative_gains`; without unit. Margins far above `temperature` have no
    gradient: at TF-Ranking's 0.1, lists whose scores start about 1 apart get stuck in a wrong order; 1 is allRank's
    default too. Lists of equal targets are left out.
    """
    check_option(temperature > 0, "temperature", temperature, "must be positive")
    scores_BN, targets_BN = cleaned(scores_BN, targets_BN, mask_BN)
    behind_BNN = torch.sigmoid(-differences(scores_BN) / temperature)
    # The sum includes j = i, which adds sigmoid(0) = 0.5: together with this 0.5 it is the 1 of the formula.
    ranks_BN = 0.5 + torch.where(mask_BN[:, None, :], behind_BNN, 0.0).sum(-1)
    ndcg_B = (relative_gains(targets_BN, mask_BN) / torch.log2(1 + ranks_BN)).sum(-1)
    return list_mean(1 - ndcg_B, better(targets_BN, mask_BN))


# ---- losses by name, and what each is a mean over -----------------------------------------------------------


LOSSES: dict[str, Callable[..., Tensor]] = {
    "approx_ndcg": approx_ndcg,
    "bce": bce,
    "contrastive": contrastive,
    "lambda": lambda_loss,
    "listmle": listmle,
    "listnet": listnet,
    "margin": margin,
    "margin_mse": margin_mse,
    "p_listmle": p_listmle,
    "point_mse": point_mse,
    "ranknet": ranknet,
    "soft_ranknet": soft_ranknet,
}


def size(name: str, spec: Any, targets_BN: Tensor, mask_BN: Tensor) -> float:
    """Return how many documents, pairs or lists of the batch a named loss is a mean over.

    `spec`: its weight or options, as in `weighted_loss`; with `gap_power`, pairs count by their weight. The losses of
    a batch's parts, averaged with these sizes as weights, give the loss of the whole batch. For `lambda` with `k` the
    size is an upper bound, because the scores choose its pairs.
    """
    if name in ("bce", "point_mse"):
        return float(mask_BN.sum())
    if name in ("margin_mse", "soft_ranknet"):
        return float(both_there(mask_BN).triu(diagonal=1).sum())
    if name == "listnet":
        return float((mask_BN.sum(-1) > 1).sum())
    _, targets_BN = cleaned(targets_BN, targets_BN, mask_BN)
    better_BNN = better(targets_BN, mask_BN)
    if name in ("lambda", "margin", "ranknet"):
        power = spec.get("gap_power", 0.0) if isinstance(spec, Mapping) else 0.0
        return float((differences(targets_BN)[better_BNN] ** power).sum())
    return float(better_BNN.flatten(1).any(1).sum())
