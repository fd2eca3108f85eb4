"""Which queries are worth a label: drawn at random, the longest, or those about whose documents two rankers disagree.

Labels for the queries where student and first stage disagree most are query by committee (Seung et al., 1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from rrad_ray.errors import InvalidInput
from rrad_ray.rows import by_source
from rrad_ray.tables.sampling import draw_hash


def rank_disagreement(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return 1 - Kendall's tau with hyperbolic weights of two lists of scores, in [0, 2] (Vigna, 2015).

    A score that is not a number stands for a document that a source does not list: it is the lowest. The result is 0
    for fewer than two documents, and 1 where a list holds one value alone, which orders nothing.
    """
    if len(scores) < 2:
        return 0.0
    tau = stats.weightedtau(*(_without_nan(values) for values in (scores, others))).statistic
    return 1.0 if math.isnan(tau) else 1.0 - float(tau)


def _without_nan(values: Sequence[float]) -> list[float]:
    numbers = [value for value in values if not math.isnan(value)]
    lowest = min(numbers, default=0.0) - 1.0
    return [lowest if math.isnan(value) else value for value in values]


def scores_by(row: Mapping[str, Any], name: str) -> Sequence[float]:
    """Return what a source gave the documents of a row. Raises `InvalidInput` for a row without it."""
    columns = by_source(row)
    if name not in columns:
        problem = f"query {row['query_id']} has no source '{name}' among {', '.join(columns) or 'none'}"
        raise InvalidInput(problem, "name one of them in pick.against")
    return columns[name]


def picked_indices(query_ids: Sequence[str], worth: Sequence[float], share: float, seed: int) -> list[int]:
    """Return the indices, ascending, of the share of the queries that is worth most; of equal ones the seed draws."""
    order = sorted(range(len(worth)), key=lambda index: (-worth[index], draw_hash(seed, query_ids[index])))
    return sorted(order[: math.ceil(share * len(worth))])
