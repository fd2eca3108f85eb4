"""Per-query measures: those of ir-measures by name, and pair counts for the positive-negative ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ir_measures
from ir_measures import RR, nDCG

from rrad_ray.config.metric_names import parse_metric
from rrad_ray.errors import RradError
from rrad_ray.evaluation import metrics
from rrad_ray.rows import Row

Scores = list[list[float]]  # one list per query, in the order of the row's documents
Ranked = list[tuple[str, float]]  # ids and scores of one query's documents, best first


def per_query(rows: Sequence[Row], rankings: Sequence[Ranked], more: Sequence[str] = ()) -> dict[str, list[float]]:
    """Return each query's nDCG@10, MRR@10 and the measures that `more` names, by ir-measures, against all its qrels.

    Raises `RradError` for a measure that ir-measures does not know or cannot compute for these queries.
    """
    qrels, ranking = [], []
    numbers: dict[str, str] = {}  # of documents: some providers take no other ids
    for query, (row, ranked) in enumerate(zip(rows, rankings, strict=True)):
        for doc_id, grade in zip(row["qrel_ids"], row["qrel_grades"], strict=True):
            number = numbers.setdefault(doc_id, str(len(numbers) + 1))
            qrels.append(ir_measures.Qrel(str(query + 1), number, grade))
        # trec_eval breaks ties by document id, we by the ranking's order: the negated rank as score enforces it.
        for rank, (doc_id, _) in enumerate(ranked):
            number = numbers.setdefault(doc_id, str(len(numbers) + 1))
            ranking.append(ir_measures.ScoredDoc(str(query + 1), number, -float(rank)))
    names: dict[Any, str] = {nDCG @ 10: "nDCG@10", RR @ 10: "MRR@10"}
    names |= {measure: name for name in more if (measure := parse_metric(name)) not in names}
    return {name: _values(measure, name, qrels, ranking, len(rows)) for measure, name in names.items()}


def _values(measure: Any, name: str, qrels: Sequence[Any], ranking: Sequence[Any], queries: int) -> list[float]:
    """Return a measure of each query; 0 where the ranking has none of its documents."""
    values = [0.0] * queries
    try:
        for value in ir_measures.iter_calc([measure], qrels, ranking):
            values[int(value.query_id) - 1] = value.value
    except Exception as error:  # whatever the library or the program behind a provider raises
        problem = f"{name} cannot be computed for these queries: {error or type(error).__name__}"
        raise RradError("metrics", problem, "leave it out") from error
    return values


def pair_counts_of(rows: Sequence[Row], scores: Scores) -> list[tuple[float, float]]:
    """Count the concordant and discordant pairs of each query's candidates; unjudged documents count as grade 0."""
    counts = []
    for row, values in zip(rows, scores, strict=True):
        grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
        counts.append(metrics.pair_counts(values, [grades.get(doc_id, 0) for doc_id in row["doc_ids"]]))
    return counts
