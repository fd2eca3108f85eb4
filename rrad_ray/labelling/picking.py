"""The choice of queries to label: at random, the longest, or those about whose documents two rankers disagree.

Labels for the queries where student and first stage disagree most are query by committee (Seung et al., 1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation.fusion import unscored_last
from rrad_ray.rows import by_source
from rrad_ray.tables.sampling import draw_hash


def rank_disagreement(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return 1 - Kendall's tau with hyperbolic weights of two lists of scores, in [0, 2] (Vigna, 2015).

    A score that is not a number stands for a document that a source does not list: it is the lowest. The result is 0
    for fewer than two documents, and 1 where a list holds one value alone, which orders nothing.
    """
    if len(scores) < 2:
        return 0.0
    tau = stats.weightedtau(*map(unscored_last, (scores, others))).statistic
    return 1.0 if math.isnan(tau) else 1.0 - float(tau)


def scores_by(row: Mapping[str, Any], name: str, key: str) -> Sequence[float]:
    """Return what the source that a `key` of the config names gave a row's documents. Raises `InvalidInput` for a row
    without it."""
    columns = by_source(row)
    if name not in columns:
        problem = f"query {row['query_id']} has no source '{name}' among {', '.join(columns) or 'none'}"
        raise InvalidInput(problem, f"name one of them in {key}")
    return columns[name]


def picked_indices(query_ids: Sequence[str], worth: Sequence[float], share: float, seed: int) -> list[int]:
    """Return the indices, ascending, of the share of the queries that is worth most; of equal ones the seed draws."""
    order = sorted(range(len(worth)), key=lambda index: (-worth[index], draw_hash(seed, query_ids[index])))
    return sorted(order[: math.ceil(share * len(worth))])
