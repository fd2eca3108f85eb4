"""Ranking metrics that ir-measures lacks, score fusion, and the statistics around them. NumPy and SciPy only.

nDCG here follows trec_eval (linear gain, log2 discount), so that it agrees with ir-measures to the last digit; it is
kept for the inner loops (dev checks while training, fitting fusion weights), reports use ir-measures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


def ndcg(ranked_grades: Sequence[int], judged_grades: Sequence[int], k: int = 10) -> float:
    """nDCG@k of one query: the grades in ranked order (0 for unjudged), and all grades that were judged."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.sort(np.asarray(judged_grades, dtype=float))[::-1][:k]
    ideal = float(np.maximum(best, 0) @ discounts[: len(best)])
    gains = np.maximum(np.asarray(ranked_grades[:k], dtype=float), 0)
    return float(gains @ discounts[: len(gains)]) / ideal if ideal > 0 else 0.0


def row_ndcg(row: Mapping[str, Any], scores: Sequence[float], k: int = 10) -> float:
    """nDCG@k of one `Candidates` row under `scores`; ties keep the row's order."""
    grades = dict(zip(row["judged_ids"], row["judged_grades"], strict=True))
    best = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    return ndcg([grades.get(row["doc_ids"][index], 0) for index in best], row["judged_grades"], k)


def pair_counts(scores: Sequence[float], grades: Sequence[int]) -> tuple[float, float]:
    """Concordant and discordant pairs among one query's documents of different grades; a tied score is half each."""
    gaps = np.sign(np.subtract.outer(np.asarray(grades, float), np.asarray(grades, float)))
    differences = np.subtract.outer(np.asarray(scores, float), np.asarray(scores, float))
    values = differences[gaps > 0]
    ties = float((values == 0).sum()) / 2
    return float((values > 0).sum()) + ties, float((values < 0).sum()) + ties


def pnr(counts: Sequence[tuple[float, float]]) -> float:
    """Positive-negative ratio (DisRanker, section 4): concordant over discordant pairs, pooled over queries."""
    concordant, discordant = np.asarray(counts, dtype=float).reshape(-1, 2).sum(axis=0)
    return float(concordant / discordant) if discordant else math.inf


def interval(values: Sequence[Any], statistic: Any = np.mean, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap percentile interval of a statistic over queries. `values`: (Q,) or (Q, C); axis 0 resampled."""
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(data), size=(2000, len(data)))
    low, high = np.percentile([statistic(data[pick]) for pick in picks], [2.5, 97.5])
    return float(low), float(high)


def paired_p(a: Sequence[float], b: Sequence[float], alternative: str = "two-sided") -> float:
    """p-value of a paired t-test over queries that `a` and `b` have the same mean; 1 if they never differ."""
    from scipy.stats import ttest_rel

    if np.allclose(a, b):
        return 1.0
    return float(ttest_rel(a, b, alternative=alternative).pvalue)


# ---- fusion -------------------------------------------------------------------------------------------------


@dataclass
class Moments:
    """Mean and standard deviation of numbers that come a list at a time and are not held."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # the sum of the squared distances from the mean

    def add(self, values: Sequence[float]) -> None:
        data = np.asarray(values, dtype=float)
        if not len(data):
            return
        before, self.count = self.count, self.count + len(data)
        gap = float(data.mean()) - self.mean  # Chan et al., 1979: two sets' means and squares are those of both
        self.mean += gap * len(data) / self.count
        self.squares += float(((data - data.mean()) ** 2).sum()) + gap**2 * before * len(data) / self.count

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def zscores(values: Sequence[float]) -> np.ndarray:
    """Per-query z-scores, (N,); a document without a score (NaN) gets the lowest one, equal scores all get 0."""
    data = np.asarray(values, dtype=float)
    known = np.isfinite(data)
    if not known.any():
        return np.zeros(len(data))
    data = np.where(known, data, data[known].min())
    spread = data.std()
    return (data - data.mean()) / spread if spread > 1e-9 else np.zeros(len(data))


def fuse(scores: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> list[float]:
    """Weighted sum of per-query z-scores, (N,). Raises `KeyError` for a weight without scores."""
    return _mix({name: zscores(scores[name]) for name in weights}, weights).tolist()


def _mix(normal: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    return np.sum([weight * normal[name] for name, weight in weights.items()], axis=0)


def fit_weights(
    rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Sequence[float]]], names: Sequence[str]
) -> tuple[dict[str, float], float]:
    """Fusion weights with the best mean nDCG@10 over judged rows, by full grid; and that nDCG.

    The last name's weight is 1 unless it is alone in being 0: only ratios matter. Of equal ones, the first in
    the grid (the smallest weights) wins.
    """
    normal = [{name: zscores(by_name[name]) for name in names} for by_name in scores]
    best: tuple[dict[str, float], float] = ({}, -1.0)
    for grid in itertools.product(WEIGHTS, repeat=len(names)):
        if max(grid) == 0 or 1.0 not in grid:
            continue
        weights = dict(zip(names, grid, strict=True))
        mixed = [row_ndcg(row, _mix(z, weights).tolist()) for row, z in zip(rows, normal, strict=True)]
        mean = float(np.mean(mixed))
        if mean > best[1] + 1e-9:
            best = (weights, mean)
    return best
