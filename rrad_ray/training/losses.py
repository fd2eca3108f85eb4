"""Rank losses: pure functions of tensors.

Shapes: B queries x N candidate slots, N >= 1. `scores_BN` and `targets_BN` are floats, a higher target is better,
`mask_BN` is true where a slot holds a document; what stands in the other slots, even NaN, never matters. Each returns
a scalar, in nats unless it says otherwise; 0 with a gradient if there is nothing to compare.

No loss depends on the order of a list's documents, nor breaks a tie by it: documents of one target are not compared,
except by those losses that read the distance of targets (`soft_ranknet`, `margin_mse`, `listnet`), where a tie is a
distance of 0 and pulls the scores together. An option that is out of range raises `ValueError`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rrad_ray.errors import InvalidInput


class Loss(Protocol):
    def __call__(self, scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor: ...


# ---- what the losses share ----------------------------------------------------------------------------------


def _require(ok: bool, option: str, value: float, want: str) -> None:
    if not ok:
        raise ValueError(f"{option}={value!r}: {want}")


def _clean(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and targets with 0 in the empty slots: NaN there would reach the gradient even behind a mask."""
    return torch.where(mask_BN, scores_BN, 0.0), torch.where(mask_BN, targets_BN.to(scores_BN.dtype), 0.0)


def _pairs(values_BN: Tensor) -> Tensor:
    """(B, N, N): value of slot i minus value of slot j."""
    return values_BN[:, :, None] - values_BN[:, None, :]


def _both(mask_BN: Tensor) -> Tensor:
    """(B, N, N): slots i and j hold documents."""
    return mask_BN[:, :, None] & mask_BN[:, None, :]


def _better(targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """(B, N, N): documents i and j, target_i > target_j."""
    return (_pairs(targets_BN) > 0) & _both(mask_BN)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def _list_mean(values_B: Tensor, better_BNN: Tensor) -> Tensor:
    """Mean over the lists in which a document stands above another by target."""
    return _mean(values_B, better_BNN.flatten(1).any(1))


def _surprise(values_BN: Tensor, rivals_BNN: Tensor) -> Tensor:
    """(B, N): -log of the chance that slot i comes first among itself and its rivals j (Plackett-Luce model)."""
    itself = torch.eye(values_BN.shape[1], dtype=torch.bool, device=values_BN.device)
    return torch.where(rivals_BNN | itself, -_pairs(values_BN), -math.inf).logsumexp(-1)


def _places(signs_BNN: Tensor, mask_BN: Tensor) -> Tensor:
    """(B, N): documents' places from 1, where the sign for i, j is 1 if i stands before j; equals share the mean of
    their places, so a place may be half a number."""
    return 0.5 + torch.where(mask_BN[:, None, :], (1 - signs_BNN) / 2, 0.0).sum(-1)


def _gains(targets_BN: Tensor, mask_BN: Tensor, k: int = 0) -> Tensor:
    """(B, N): gains 2^target - 1 over the list's ideal DCG@k (`k` = 0: of the whole list); 0 without a document.

    A list with negative targets, such as z-scores, is shifted so that its lowest gains 0: cut off at 0, its lower
    half would be all alike. Both sides of the ratio are divided by 2^highest, so that large targets do not overflow.
    """
    grades = torch.where(mask_BN, targets_BN - targets_BN.amin(-1, keepdim=True).clamp(max=0), 0.0)
    gains = -torch.exp2(grades - grades.amax(-1, keepdim=True)) * torch.expm1(-grades * math.log(2))
    best = gains.sort(dim=-1, descending=True).values[:, : k or None]
    discounts = torch.log2(torch.arange(best.shape[1], device=best.device, dtype=best.dtype) + 2)
    return gains / (best / discounts).sum(-1, keepdim=True).clamp(min=torch.finfo(gains.dtype).tiny)


# ---- a document by itself -----------------------------------------------------------------------------------


def point_mse(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared difference of score and target: keeps the teacher's scale (DisRanker, Point-MSE). In squared units
    of the target."""
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    return _mean((scores_BN - targets_BN) ** 2, mask_BN)


def bce(
    scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, smoothing: float = 0.0, pos_weight: float = 1.0
) -> Tensor:
    """Mean over documents of the cross-entropy of sigmoid(score) against a target in [0, 1], a label or a grade.

    `smoothing`: the share of 1/2 that is mixed into every target (Szegedy et al., 2016). `pos_weight`: multiplies the
    part of the target that says relevant, as in `torch.nn.BCEWithLogitsLoss`, where negatives are many. Raises
    `ValueError` for a target outside [0, 1], with which the loss has no least value.
    """
    _require(0 <= smoothing < 1, "smoothing", smoothing, "must be in [0, 1)")
    _require(pos_weight > 0, "pos_weight", pos_weight, "must be positive")
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    outside = targets_BN[~((targets_BN >= 0) & (targets_BN <= 1))]
    if outside.numel():
        raise InvalidInput(f"bce: a target of {outside[0].item():g}", "scale targets to [0, 1] or take another loss")
    wanted = targets_BN * (1 - smoothing) + smoothing / 2
    likely, unlikely = F.softplus(-scores_BN), F.softplus(scores_BN)
    return _mean(pos_weight * wanted * likely + (1 - wanted) * unlikely, mask_BN)


# ---- pairs: the mean is over all pairs of the batch ---------------------------------------------------------


def ranknet(
    scores_BN: Tensor,
    targets_BN: Tensor,
    mask_BN: Tensor,
    *,
    scale: float = 1.0,
    smoothing: float = 0.0,
    gap_power: float = 0.0,
) -> Tensor:
    """RankNet on the hard order: mean over pairs with target_i > target_j of log(1 + exp(-scale * (s_i - s_j))).

    RRADistill's rank loss: missing documents share the lowest target, so no pair is made between two of them.
    Burges et al., 2005. `smoothing`: the share of 1/2 that is mixed into each preference, for a teacher that errs.
    `gap_power`: a pair weighs (target_i - target_j)^gap_power in the mean, so that with graded labels at 1 a pair two
    grades apart counts twice; 0: all alike.
    """
    _require(scale > 0, "scale", scale, "must be positive")
    _require(0 <= smoothing < 1, "smoothing", smoothing, "must be in [0, 1)")
    _require(gap_power >= 0, "gap_power", gap_power, "must not be negative")
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    better_BNN = _better(targets_BN, mask_BN)
    margins_BNN = scale * _pairs(scores_BN)
    values_BNN = F.softplus(-margins_BNN) + smoothing / 2 * margins_BNN
    if not gap_power:
        return _mean(values_BNN, better_BNN)
    weights_BNN = _pairs(targets_BN).clamp(min=0) ** gap_power
    least = torch.finfo(scores_BN.dtype).tiny
    return _mean(weights_BNN * values_BNN, better_BNN) / _mean(weights_BNN, better_BNN).clamp(min=least)


def margin(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, tau: float = 1.0) -> Tensor:
    """Mean over pairs with target_i > target_j of max(0, tau - (s_i - s_j)): DisRanker's fine-tuning of the teacher.

    In units of the score; a pair that stands right by `tau` pulls no more.
    """
    _require(tau > 0, "tau", tau, "must be positive")
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    return _mean(F.relu(tau - _pairs(scores_BN)), _better(targets_BN, mask_BN))


def soft_ranknet(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, target_scale: float = 2.0) -> Tensor:
    """RankNet with soft preferences: cross-entropy of sigmoid(s_i - s_j) against sigmoid(target_scale * (t_i - t_j)).

    Mean over pairs i < j. Near ties of the teacher pull little, so its noise there costs little.
    """
    _require(target_scale > 0, "target_scale", target_scale, "must be positive")
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    wanted = torch.sigmoid(target_scale * _pairs(targets_BN))
    values = F.binary_cross_entropy_with_logits(_pairs(scores_BN), wanted, reduction="none")
    return _mean(values, _both(mask_BN).triu(diagonal=1))


def margin_mse(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean over pairs i < j of ((s_i - s_j) - (t_i - t_j))^2: keeps the teacher's margins (DisRanker, Margin-MSE;
    Hofstaetter et al., 2020). In squared units of the target."""
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    return _mean((_pairs(scores_BN) - _pairs(targets_BN)) ** 2, _both(mask_BN).triu(diagonal=1))


def lambda_loss(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, k: int = 0, mu: float = 10.0) -> Tensor:
    """LambdaLoss: mean over pairs with target_i > target_j of weight * log2(1 + exp(-(s_i - s_j))), in weighted bits.

    weight = |G_i - G_j| * (mu * |1/D(m) - 1/D(m + 1)| + |1/D(p_i) - 1/D(p_j)|) with gains G over the ideal DCG@k,
    places p by score, m = |p_i - p_j|, D(p) = log2(1 + p): NDCG-Loss2++ (Wang et al., 2018); `mu` = 0 is LambdaRank.
    `k`: only pairs with a document in the top k by score (their equation 18); 0: all. The value is
    sentence-transformers' (and allRank's, where k is 0), except for equal scores, of which the lower target stands
    first here, as in the worst order, and for negative targets (see `_gains`).
    """
    _require(k >= 0 and k % 1 == 0, "k", k, "must be a whole number, 0 for all")
    _require(mu >= 0, "mu", mu, "must not be negative")
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    chosen_BNN = _better(targets_BN, mask_BN)
    with torch.no_grad():
        signs_BNN = (2 * _pairs(scores_BN).sign() - _pairs(targets_BN).sign()).sign()
        places_BN = _places(signs_BNN, mask_BN)
        apart_BNN = _pairs(places_BN).abs().clamp(min=1)
        near_BNN = 1 / torch.log2(1 + apart_BNN) - 1 / torch.log2(2 + apart_BNN)
        swap_BNN = _pairs(1 / torch.log2(1 + places_BN)).abs()
        weights_BNN = _pairs(_gains(targets_BN, mask_BN, int(k))).abs() * (mu * near_BNN + swap_BNN)
        if k:
            top_BN = places_BN <= k
            chosen_BNN = chosen_BNN & (top_BN[:, :, None] | top_BN[:, None, :])
    return _mean(weights_BNN * F.softplus(-_pairs(scores_BN)) / math.log(2), chosen_BNN)


# ---- lists: the mean is over the lists that have something to compare ---------------------------------------


def listnet(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of softmax(scores) against softmax(targets / temperature), mean over lists of two or more.

    ListNet's top-one form (Cao et al., 2007). It has the gradient of the KL divergence, but its least value is the
    entropy of the targets.
    """
    _require(temperature > 0, "temperature", temperature, "must be positive")
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    rivals_BNN = _both(mask_BN)
    wanted_BN = torch.exp(-_surprise(targets_BN / temperature, rivals_BNN))
    values_BN = torch.where(mask_BN, wanted_BN * _surprise(scores_BN, rivals_BNN), 0.0)
    return _mean(values_BN.sum(-1), mask_BN.sum(-1) > 1)


def contrastive(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Softmax cross-entropy of a list's best document against all below it; of several best ones, their mean.

    InfoNCE over the list, known for re-rankers as localized contrastive estimation (Gao et al., 2021). Best is what
    has the list's highest target; grades below it are all negatives.
    """
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    better_BNN = _better(targets_BN, mask_BN)
    best_BN = mask_BN & ~better_BNN.any(1)
    values_BN = torch.where(best_BN, _surprise(scores_BN, better_BNN), 0.0)
    return _list_mean(values_BN.sum(-1) / best_BN.sum(-1).clamp(min=1), better_BNN)


def listmle(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Sum over a list's documents of -log of the chance that one comes first among itself and all of lower target.

    Without ties this is ListMLE, -log of the Plackett-Luce likelihood of the targets' order (Xia et al., 2008). With
    ties it is a composite likelihood, neither that of one order nor that of all orders which the ties allow: two of
    one target do not compete, so that what an LLM left out is only pushed below the rest.
    """
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    better_BNN = _better(targets_BN, mask_BN)
    return _list_mean(_surprise(scores_BN, better_BNN).sum(-1), better_BNN)


def p_listmle(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Position-aware ListMLE (Lan et al., 2014): `listmle` with weights that fall from the top, 2^(n - place) - 1 for
    the document at that place of n by target, and sum to 1 over the documents that have one below.

    Ties share the mean of their places. The weight halves with every place: below the sixth little is learnt.
    """
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    better_BNN = _better(targets_BN, mask_BN)
    places_BN = _places(_pairs(targets_BN).sign(), mask_BN)
    weights_BN = torch.exp2(-places_BN) - torch.exp2(-mask_BN.sum(-1, keepdim=True).to(places_BN.dtype))
    weights_BN = torch.where(better_BNN.any(2), weights_BN, 0.0)
    total_B = weights_BN.sum(-1).clamp(min=torch.finfo(weights_BN.dtype).tiny)
    return _list_mean((weights_BN * _surprise(scores_BN, better_BNN)).sum(-1) / total_B, better_BNN)


def approx_ndcg(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor, *, temperature: float = 1.0) -> Tensor:
    """1 - nDCG with smooth places 1 + sum over the others of sigmoid((s_j - s_i) / temperature); no unit, in [0, 1].

    ApproxNDCG (Qin et al., 2010) with the gains of `_gains`. Margins far above `temperature` have no gradient: at
    TF-Ranking's 0.1, lists whose scores begin about 1 apart get stuck in a wrong order; 1 is allRank's default too.
    Lists of equal targets are left out.
    """
    _require(temperature > 0, "temperature", temperature, "must be positive")
    scores_BN, targets_BN = _clean(scores_BN, targets_BN, mask_BN)
    behind_BNN = torch.sigmoid(-_pairs(scores_BN) / temperature)
    # The slot itself is half behind itself: 0.5 + 0.5 makes the 1 of the formula.
    places_BN = 0.5 + torch.where(mask_BN[:, None, :], behind_BNN, 0.0).sum(-1)
    ndcg_B = (_gains(targets_BN, mask_BN) / torch.log2(1 + places_BN)).sum(-1)
    return _list_mean(1 - ndcg_B, _better(targets_BN, mask_BN))


# ---- names, and their weighted sum --------------------------------------------------------------------------


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


def size(name: str, given: Any, targets_BN: Tensor, mask_BN: Tensor) -> float:
    """What a named loss, with its options as in `weighted`, is a mean over: how many documents, pairs or lists of the
    batch; with `gap_power`, the weight of the pairs.

    The losses of a batch's parts, weighed by their sizes, make the loss of the whole batch. `lambda` with `k` takes
    fewer pairs than are counted here: those that the scores choose.
    """
    if name in ("bce", "point_mse"):
        return float(mask_BN.sum())
    if name in ("margin_mse", "soft_ranknet"):
        return float(_both(mask_BN).triu(diagonal=1).sum())
    if name == "listnet":
        return float((mask_BN.sum(-1) > 1).sum())
    _, targets_BN = _clean(targets_BN, targets_BN, mask_BN)
    better_BNN = _better(targets_BN, mask_BN)
    if name in ("lambda", "margin", "ranknet"):
        power = given.get("gap_power", 0.0) if isinstance(given, Mapping) else 0.0
        return float((_pairs(targets_BN)[better_BNN] ** power).sum())
    return float(better_BNN.flatten(1).any(1).sum())


def _part(name: str, given: Any, defaults: Mapping[str, float]) -> tuple[float, Loss]:
    """A loss's weight, and the loss with its options, from `1.0` or `{weight: 1.0, tau: 0.5}` over `defaults`."""
    if name not in LOSSES:
        raise InvalidInput(f"losses.{name}: no such loss", f"choose from {', '.join(sorted(LOSSES))}")
    options = {**defaults, **(given if isinstance(given, Mapping) else {"weight": given})}
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    known = ["weight", *(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)]
    for key, value in options.items():
        if key not in known:
            raise InvalidInput(f"losses.{name}.{key}: no such option", f"choose from {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"losses.{name}.{key}={value!r}: write a number")
    weight = options.pop("weight", 1.0)
    _require(weight >= 0, f"losses.{name}.weight", weight, "must not be negative")
    loss = functools.partial(LOSSES[name], **options)
    nothing = torch.zeros(1, 1)
    try:  # a wrong option is told now, not at the first step
        loss(nothing, nothing, nothing > 0)
    except ValueError as error:
        raise ValueError(f"losses.{name}.{error}") from error
    return weight, loss


def weighted(losses: Mapping[str, Any], *, target_scale: float = 2.0) -> Loss:
    """The weighted sum of named losses: `{point_mse: 1.0, margin_mse: 1.0}` is DisRanker's hybrid loss.

    A loss has a weight, or options with a weight among them (1 if left out): `{margin: {weight: 0.5, tau: 2.0}}`.
    `target_scale` is soft_ranknet's, unless its options name one. Raises `ValueError` for an unknown name or option,
    listing the known ones, and for a value out of range.
    """
    defaults = {"soft_ranknet": {"target_scale": target_scale}}
    parts = [_part(name, given, defaults.get(name, {})) for name, given in losses.items()]

    def loss(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
        total = torch.where(mask_BN, scores_BN, 0.0).sum() * 0.0
        for weight, part in parts:
            total = total + weight * part(scores_BN, targets_BN, mask_BN)
        return total

    return loss
