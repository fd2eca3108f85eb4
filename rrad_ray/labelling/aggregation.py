"""Aggregate several orders of one query's documents into one verdict: Borda, Copeland, Bradley-Terry, hard negatives.

An order may be about some of the documents only, as those of blocks and pairs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rrad_ray.labelling.answer_chains import CUT
from rrad_ray.labelling.answers import ParsedOrder

# The precision (1 / variance) of a Bradley-Terry strength's prior, which keeps that of an unbeaten document finite.
PRIOR = 0.1


@dataclass(frozen=True)
class Verdict:
    """The aggregate of all answers about a query's `n` documents; lists are in the candidates' own order.

    `targets`: higher is better. The worst ranked document has 1, a missing one 0: ties among missing documents make
    no pairs. `confidence[i]`, from 0 to 1: the share of the answers' preferences about document i that the targets
    keep (1 where there is one usable answer). `statuses`: one for each answer. `unread`: how many documents stand in
    no usable answer, which may happen with blocks. `rejected`: there are answers, and some document is in no usable
    one.
    """

    targets: list[float]
    missing: list[bool]
    confidence: list[float]
    statuses: list[str]
    unread: int = 0

    @property
    def rejected(self) -> bool:
        return bool(self.rejection)

    @property
    def rejection(self) -> str:
        """The reason why there is no verdict, as `category: problem`; empty where there is one."""
        if self.statuses and all(status.startswith("rejected") for status in self.statuses):
            return self.statuses[0]
        return f"rejected: {self.unread} documents stand in no usable answer" if self.unread else ""


def aggregate(
    orders: Sequence[ParsedOrder],
    shown: Sequence[Sequence[int]],
    *,
    method: str = "borda",
    missing: str = "negative",
) -> Verdict:
    """Aggregate several orders of a query's documents; `shown[r]` holds the candidates' indices as call r shows them.

    `borda` scores a document by the number of documents that it beats, averaged over the answers; ties at the bottom
    count half (Borda count over weak orders). `copeland` scores it by the number of documents that it beats in a
    majority of the answers (Copeland's method), which a single stray answer moves less. Both assume that a document
    beats the same share of the documents it never meets as of those it meets. `bradley_terry` scores it by its
    strength in a Bradley-Terry model of all preferences, in which it counts whom it beats; its confidence is the mean
    probability that the model gives to the targets' order of it and another one. A document that most answers leave
    out is missing, whatever the others say. `missing="append"` puts documents left out last, in the candidates'
    order, as RankGPT does. Those that a cut answer does not come to are tied last. Rejected answers are not counted.
    """
    statuses, n = [order.status for order in orders], len({index for each in shown for index in each})
    usable = [(order, each) for order, each in zip(orders, shown, strict=True) if not order.rejected]
    rankings = [_candidate_ranks(order, each, missing) for order, each in usable]
    seen = np.bincount([index for _, each in usable for index in each], minlength=n)
    if not seen.all():
        return Verdict([0.0] * n, [True] * n, [0.0] * n, statuses, int((seen == 0).sum()))
    if len(rankings) == 1 and method != "bradley_terry":
        return _single(rankings[0], n, statuses)
    ranked = np.bincount([index for ranks in rankings for index in ranks], minlength=n)
    left_out = 2 * ranked < seen
    wins = _wins(rankings, [each for _, each in usable], n)
    met = wins + wins.T
    points = _strengths(wins) if method == "bradley_terry" else _points(wins, met, method)
    targets = np.where(left_out, 0.0, 1.0 + points - points[~left_out].min(initial=np.inf))
    if method == "bradley_terry":
        gaps = np.abs(points[:, None] - points)
        kept = 1 / (1 + np.exp(-gaps))
        others = ~np.eye(n, dtype=bool)
    else:
        kept, others = _kept(wins, met, targets), met > 0
    confidence = [float(row[of].mean()) if of.any() else 1.0 for row, of in zip(kept, others, strict=True)]
    return Verdict(targets.tolist(), left_out.tolist(), confidence, statuses)


def _candidate_ranks(order: ParsedOrder, shown: Sequence[int], missing: str) -> dict[int, int]:
    """Return the 0-based rank of each ranked document, by candidate index. An answer that is cut off leaves none out:
    those that it has not come to share the last rank."""
    appended = sorted(order.missing, key=shown.__getitem__) if missing == "append" else []
    ranked = [*order.ranked, *appended]
    ranks = {shown[index]: rank for rank, index in enumerate(ranked)}
    if CUT in order.repairs and missing != "append":
        ranks |= dict.fromkeys((shown[index] for index in order.missing), len(order.ranked))
    return ranks


def _single(ranks: dict[int, int], n: int, statuses: list[str]) -> Verdict:
    """Return the verdict of a single usable answer: its order, with full confidence."""
    targets, missing = [0.0] * n, [True] * n
    for index, rank in ranks.items():
        targets[index], missing[index] = 1.0 + sum(other > rank for other in ranks.values()), False
    return Verdict(targets, missing, [1.0] * n, statuses)


def _wins(rankings: Sequence[dict[int, int]], shown: Sequence[Sequence[int]], n: int) -> np.ndarray:
    """Return the pairwise wins, (n, n): in how many answers document i is ranked above j; a tie counts half.

    Documents that an answer leaves out are tied below its ranked ones.
    """
    wins = np.zeros((n, n))
    for ranking, each in zip(rankings, shown, strict=True):
        ranks = np.array([ranking.get(index, n) for index in each])
        above = ranks[:, None] < ranks
        wins[np.ix_(each, each)] += above + 0.5 * (ranks[:, None] == ranks)
    np.fill_diagonal(wins, 0.0)
    return wins


def _points(wins: np.ndarray, met: np.ndarray, method: str) -> np.ndarray:
    """Return each document's Borda or Copeland points, (n,), from wins and meetings, (n, n)."""
    n = len(wins)
    if method == "borda":
        return (n - 1) * wins.sum(1) / np.maximum(met.sum(1), 1)
    majority = (wins > met / 2) + 0.5 * (wins == met / 2)
    return (n - 1) * np.where(met > 0, majority, 0.0).sum(1) / np.maximum((met > 0).sum(1), 1)


def _strengths(wins: np.ndarray) -> np.ndarray:
    """Return the strengths, (n,), of a Bradley-Terry model with a normal prior: i beats j with the probability
    sigmoid(strength i - strength j)."""
    from scipy.optimize import minimize

    def loss(strengths: np.ndarray) -> tuple[float, np.ndarray]:
        gaps = strengths[:, None] - strengths
        surprise = wins / (1 + np.exp(gaps))  # wins times the probability of a loss
        value = (wins * np.logaddexp(0.0, -gaps)).sum() + PRIOR / 2 * (strengths**2).sum()
        return float(value), surprise.sum(0) - surprise.sum(1) + PRIOR * strengths

    return minimize(loss, np.zeros(len(wins)), jac=True, method="L-BFGS-B", options={"gtol": 1e-6}).x


def _kept(wins: np.ndarray, met: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each pair of documents, (n, n), the share of its answers that order the two as the targets do. Of
    documents whose targets are tied: 1 where the answers are evenly split, 0 where they agree."""
    share = wins / np.maximum(met, 1)
    gap = targets[:, None] - targets
    return np.where(gap > 0, share, np.where(gap < 0, 1 - share, 1 - np.abs(2 * share - 1)))
