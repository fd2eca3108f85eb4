"""What the teacher says of a judged query: its scores, and how good they are on judged dev queries.

`judge` checks its labeller here before it spends on the rest; `label` turns the same scores into targets.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrad_ray.evaluation import metrics
from rrad_ray.evaluation.fusion import fit_weights
from rrad_ray.labelling import aggregation, answers
from rrad_ray.rows import Row, by_source

JUDGE = "judge"


def verdict(row: Row, method: str = "borda", missing: str = "negative") -> aggregation.Verdict:
    """What the judge says of a `Judgment` row's documents, in their order; options as of `answers.aggregate`. Of
    `Candidates`, which no judge has seen, nothing."""
    count = len(row["doc_ids"])
    if "task" not in row:
        return aggregation.Verdict([0.0] * count, [False] * count, [1.0] * count, [])
    if row["task"] != "order":
        return aggregation.Verdict(list(row["judge_scores"]), [False] * count, [1.0] * count, ["ok"])
    orders = [
        answers.parse_answer(text, len(shown)) for text, shown in zip(row["responses"], row["shown"], strict=True)
    ]
    return aggregation.aggregate(orders, row["shown"], method=method, missing=missing)


def graded(row: Row, whole: bool) -> dict[str, Any]:
    """A `Candidates` row as `Labels` whose targets are the judged grades; a grade of 0 or less means missing.
    `whole`: documents that nobody judged stay, with grade 0."""
    grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    kept = [index for index, doc_id in enumerate(row["doc_ids"]) if whole or doc_id in grades]
    targets = [float(grades.get(row["doc_ids"][index], 0)) for index in kept]
    return {
        **row,
        **{name: [row[name][index] for index in kept] for name in ("doc_ids", "texts", "scores")},
        "source_scores": [[scores[index] for index in kept] for scores in row["source_scores"]],
        "targets": targets,
        "missing": [target <= 0 for target in targets],
        "confidence": [1.0] * len(kept),
        "reasons": [],
        "parse_status": [],
    }


def ranks(found: aggregation.Verdict) -> list[int]:
    """Every document's place by the verdict, from 1; 0 for a missing one."""
    order = sorted(range(len(found.targets)), key=lambda index: -found.targets[index])
    ranked = [index for index in order if not found.missing[index]]
    place = {index: number for number, index in enumerate(ranked, 1)}
    return [place.get(index, 0) for index in range(len(found.targets))]


def with_judge(row: Row, found: aggregation.Verdict) -> dict[str, Sequence[float]]:
    """The sources' scores and the judge's own."""
    return {JUDGE: found.targets, **by_source(row)}


def shuffled(row: Row) -> list[float]:
    """A random order of the row's documents, the same for the same query."""
    source = random.Random(hashlib.sha256(str(row["query_id"]).encode()).hexdigest())
    return [source.random() for _ in row["doc_ids"]]


def teacher_quality(rows: Sequence[Row]) -> dict[str, Any]:
    """nDCG@10 on judged rows of: shuffled input, each source, the sources' free fusion, the judge alone, and the
    teacher (judge and sources fused); with the fusions' weights, fitted on these rows."""
    sources = list(rows[0]["sources"])
    all_scores = [with_judge(row, verdict(row)) for row in rows]
    per_query = {"shuffled": [metrics.row_ndcg(row, shuffled(row)) for row in rows]}
    for name in (*sources, JUDGE):
        per_query[name] = [metrics.row_ndcg(row, scores[name]) for row, scores in zip(rows, all_scores, strict=True)]
    fusion, free = fit_weights(rows, all_scores, sources)
    weights, fused = fit_weights(rows, all_scores, [JUDGE, *sources])
    means = {name: float(np.mean(values)) for name, values in per_query.items()}
    return {
        "queries": len(rows),
        "ndcg_10": means | {"fusion": free, "teacher": fused},
        "fusion_weights": fusion,
        "teacher_weights": weights,
        "per_query": per_query,
    }
