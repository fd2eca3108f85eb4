"""Fusion of several rankers' scores: z-scores per query, and a weighted sum whose weights are fitted on dev."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrad_ray.evaluation.metrics import untied_ndcg

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # the grid of a source's weight

GRID_SOURCES = 4  # of the full grid, whose points are 6 to the power of their number

LARGE = 1e100  # of a score whose square would overflow; that of one below its inverse would be 0


@dataclass
class Moments:
    """The running mean and standard deviation of a stream of numbers, which are not kept."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # the sum of the squared distances from the mean

    def add(self, values: Sequence[float]) -> None:
        """Update the moments with another list of numbers."""
        data = np.asarray(values, dtype=float)
        if len(data):
            mean = float(data.mean())
            self.merge(Moments(len(data), mean, float(((data - data.mean()) ** 2).sum())))

    def merge(self, other: Moments) -> None:
        """Update the moments with those of other numbers (Chan et al., 1979)."""
        if not other.count:
            return
        before, self.count = self.count, self.count + other.count
        gap = other.mean - self.mean
        self.mean += gap * other.count / self.count
        self.squares += other.squares + gap**2 * before * other.count / self.count

    @property
    def deviation(self) -> float:
        """The population standard deviation; 0 before the first number."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def zscores(values: Sequence[float]) -> np.ndarray:
    """Return the z-scores of one query's documents, (N,).

    A document without a score (NaN or infinite) gets the lowest one; where all scores are equal, all z-scores are 0.
    """
    data = lowest_for_unscored(values)
    if not len(data) or not np.isfinite(data).all():
        return np.zeros(len(data))
    largest = np.abs(data).max()
    if largest > LARGE or 0 < largest < 1 / LARGE:
        data, largest = data / largest, 1.0
    spread = data.std()
    # Scores may be tiny, as probabilities are: what is equal goes by their size.
    return (data - data.mean()) / spread if spread > 1e-9 * min(largest, 1.0) else np.zeros(len(data))


def lowest_for_unscored(values: Sequence[float]) -> np.ndarray:
    """Return one query's scores (N,), in which a document without one (NaN or infinite) has the lowest of the others;
    as they are where no document has one."""
    data = np.asarray(values, dtype=float)
    known = np.isfinite(data)
    return np.where(known, data, data[known].min()) if known.any() else data


def fuse(scores: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> list[float]:
    """Return the weighted sum of each source's z-scores for one query, (N,).

    Raises `KeyError` for a weight without scores.
    """
    return _mix({name: zscores(scores[name]) for name in weights}, weights).tolist()


def unscored_last(scores: Sequence[float]) -> list[float]:
    """Return one source's scores as they are; a document without one (NaN or infinite) gets 1 less
    than the lowest."""
    lowest = min(filter(math.isfinite, scores), default=0.0) - 1.0
    return [score if math.isfinite(score) else lowest for score in scores]


def relative(weights: Mapping[str, float]) -> dict[str, float]:
    """Return weights of the same ratios, the largest of which is 1 or -1: no sum of them overflows or vanishes."""
    largest = max(map(abs, weights.values()), default=0.0)
    return {name: weight / largest if largest else weight for name, weight in weights.items()}


def _mix(normal: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    return np.sum([weight * normal[name] for name, weight in weights.items()], axis=0)


def fit_weights(
    rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Sequence[float]]], names: Sequence[str]
) -> tuple[dict[str, float], float]:
    """Return the fusion weights with the best mean nDCG@10 over rows with qrels, and that nDCG.

    By a full grid of up to `GRID_SOURCES` sources. Only ratios of weights matter, so at least one weight of each grid
    point is 1. Of equally good points the first of the grid, that with the smallest weights, wins. Of more sources,
    whose grid would take hours, each one's weight is chosen in turn beside those of the others, from 1 on, until none
    changes. Documents that a mixture does not tell apart count by the mean over all their orders: the order that the
    row gives is that of another source.
    """
    normal = [{name: zscores(by_name[name]) for name in names} for by_name in scores]

    def ndcg(weights: Mapping[str, float]) -> float:
        return float(np.mean([untied_ndcg(row, _mix(z, weights)) for row, z in zip(rows, normal, strict=True)]))

    if len(names) > GRID_SOURCES:
        return _fit_in_turn(names, ndcg)
    best: tuple[dict[str, float], float] = ({}, -1.0)
    for grid in itertools.product(WEIGHTS, repeat=len(names)):
        if 1.0 not in grid:
            continue
        weights = dict(zip(names, grid, strict=True))
        mean = ndcg(weights)
        if mean > best[1] + 1e-9:
            best = (weights, mean)
    return best


def _fit_in_turn(
    names: Sequence[str], ndcg: Callable[[Mapping[str, float]], float]
) -> tuple[dict[str, float], float]:
    """Return weights, not all 0, that no change of a single one makes better, and their nDCG."""
    weights = dict.fromkeys(names, 1.0)
    best, before = ndcg(weights), -1.0
    while best > before:
        before = best
        for name in names:
            for weight in WEIGHTS:
                changed = {**weights, name: weight}
                if any(changed.values()) and (mean := ndcg(changed)) > best + 1e-9:
                    weights, best = changed, mean
    return weights, best
