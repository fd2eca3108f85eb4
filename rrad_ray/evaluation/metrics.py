"""Ranking metrics that ir-measures lacks, and nDCG for inner loops. NumPy only.

nDCG here follows trec_eval (linear gain, log2 discount), so that it agrees with ir-measures to the last digit. It is
for inner loops: dev checks while training, fitting fusion weights. Reports use ir-measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def ndcg(ranked_grades: Sequence[float], qrel_grades: Sequence[int], k: int = 10) -> float:
    """Return nDCG@k of one query from the grades in ranked order (0 for unjudged) and all grades of its qrels."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.sort(np.asarray(qrel_grades, dtype=float))[::-1][:k]
    ideal = float(np.maximum(best, 0) @ discounts[: len(best)])
    gains = np.maximum(np.asarray(ranked_grades[:k], dtype=float), 0)
    return float(gains @ discounts[: len(gains)]) / ideal if ideal > 0 else 0.0


def row_ndcg(row: Mapping[str, Any], scores: Sequence[float], k: int = 10) -> float:
    """Return nDCG@k of one `Candidates` row, ranked by `scores`; ties keep the row's order."""
    grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    best = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    return ndcg([grades.get(row["doc_ids"][index], 0) for index in best], row["qrel_grades"], k)


def untied_ndcg(row: Mapping[str, Any], scores: Sequence[float] | np.ndarray, k: int = 10) -> float:
    """Return nDCG@k of one `Candidates` row, ranked by `scores`, as its mean over all orders of equal scores.

    So the row's order, which is another ranker's, adds nothing to scores that tell no documents apart (McSherry and
    Najork, 2008, "Computing information retrieval performance measures efficiently in the presence of tied scores").
    A document without a score (NaN or infinite) is not in the ranking.
    """
    grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    values = np.asarray(scores, dtype=float)
    gains = np.array([max(grades.get(doc_id, 0), 0) for doc_id in row["doc_ids"]], dtype=float)
    known = np.isfinite(values)
    values, gains = values[known], gains[known]
    best = np.argsort(-values, kind="stable")
    values, gains = values[best], gains[best]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])[: len(values)]
    if len(starts) < len(values):
        sizes = np.diff(np.r_[starts, len(values)])
        gains = np.repeat(np.add.reduceat(gains, starts) / sizes, sizes)
    return ndcg(gains.tolist(), row["qrel_grades"], k)


def pair_counts(scores: Sequence[float], grades: Sequence[int]) -> tuple[float, float]:
    """Count the concordant and discordant pairs among one query's documents of different grades.

    A pair with equal scores counts half for each.
    """
    gaps = np.sign(np.subtract.outer(np.asarray(grades, float), np.asarray(grades, float)))
    differences = np.subtract.outer(np.asarray(scores, float), np.asarray(scores, float))
    values = differences[gaps > 0]
    ties = float((values == 0).sum()) / 2
    return float((values > 0).sum()) + ties, float((values < 0).sum()) + ties


def pnr(counts: Sequence[tuple[float, float]]) -> float:
    """Return the positive-negative ratio: concordant over discordant pairs, pooled over queries.

    DisRanker, section 4. Infinite where no pair is discordant.
    """
    concordant, discordant = np.asarray(counts, dtype=float).reshape(-1, 2).sum(axis=0)
    return float(concordant / discordant) if discordant else math.inf


def by_length(words_Q: np.ndarray) -> dict[str, np.ndarray]:
    """Split queries into segments by their numbers of words, (Q,): a mask, (Q,), for each segment."""
    long = words_Q > 4
    return {"1 or 2 words": words_Q <= 2, "3 or 4": (words_Q > 2) & ~long, "5 or more": long}
