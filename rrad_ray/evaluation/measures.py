"""Per-query measures: those of ir-measures by name, and pair counts for the positive-negative ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ir_measures
from ir_measures import RR, nDCG

from rrad_ray.errors import RradError
from rrad_ray.evaluation import metrics
from rrad_ray.rows import Row

Scores = list[list[float]]  # one list per query, in the order of the row's documents
Ranked = list[tuple[str, float]]  # ids and scores of one query's documents, best first


def per_query(rows: Sequence[Row], rankings: Sequence[Ranked], more: Sequence[str] = ()) -> dict[str, list[float]]:
    """Return each query's nDCG@10, MRR@10 and the measures that `more` names, by ir-measures, against all its qrels.

    Raises `RradError` for a measure that ir-measures does not know or cannot compute here.
    """
    qrels, ranking = [], []
    for row, ranked in zip(rows, rankings, strict=True):
        grades = zip(row["qrel_ids"], row["qrel_grades"], strict=True)
        qrels += [ir_measures.Qrel(row["query_id"], doc_id, grade) for doc_id, grade in grades]
        # trec_eval breaks ties by document id, we by the ranking's order: the negated rank as score enforces it.
        ranking += [
            ir_measures.ScoredDoc(row["query_id"], doc_id, -float(rank)) for rank, (doc_id, _) in enumerate(ranked)
        ]
    names: dict[Any, str] = {nDCG @ 10: "nDCG@10", RR @ 10: "MRR@10"}
    names |= {measure: name for name in more if (measure := _measure(name)) not in names}
    by_query: dict[str, dict[str, float]] = {name: {} for name in names.values()}
    for value in ir_measures.iter_calc(list(names), qrels, ranking):
        by_query[names[value.measure]][value.query_id] = value.value
    return {name: [values.get(row["query_id"], 0.0) for row in rows] for name, values in by_query.items()}


def _measure(name: str) -> Any:
    """Return the measure that ir-measures knows by this name; raises `RradError` if it cannot be computed here."""
    try:
        measure = ir_measures.parse_measure(name)
        if not ir_measures.DefaultPipeline.supports(measure):
            raise ValueError("none of the installed providers computes it")
    except (AssertionError, NameError, ValueError, TypeError, KeyError) as error:  # ir-measures raises each
        remedy = "name measures as ir-measures does, as in [AP, R@100]"
        raise RradError("metrics", f"{name}: {error}", remedy) from error
    return measure


def pair_counts_of(rows: Sequence[Row], scores: Scores) -> list[tuple[float, float]]:
    """Count the concordant and discordant pairs of each query's candidates; unjudged documents count as grade 0."""
    counts = []
    for row, values in zip(rows, scores, strict=True):
        grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
        counts.append(metrics.pair_counts(values, [grades.get(doc_id, 0) for doc_id in row["doc_ids"]]))
    return counts
