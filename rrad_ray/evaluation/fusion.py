"""Fusion of several rankers' scores: z-scores of each query, and a weighted sum fitted on dev."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrad_ray.evaluation.metrics import row_ndcg

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


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
