"""The teacher's scores of a query's documents, and their quality on dev queries with qrels.

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
from rrad_ray.labelling.answer_patterns import AnswerReader
from rrad_ray.rows import JUDGE, Row, by_source

GIVEN = "given"  # the order in which the input lists a query's documents


def verdict(
    row: Row,
    method: str = "borda",
    missing: str = "negative",
    read: AnswerReader = answers.parse_answer,
) -> aggregation.Verdict:
    """Return the judge's verdict on a `JudgeOutput` row's documents; `method` and `missing` as in `aggregate`, `read`
    as its template wants answers to be read.

    For a `Candidates` row, which no judge has seen, the verdict has no statuses and all targets are 0.
    """
    count = len(row["doc_ids"])
    if "task" not in row:
        return aggregation.Verdict([0.0] * count, [False] * count, [1.0] * count, [])
    if row["task"] != "order" or row.get("judge_scores"):
        statuses = ["ok"] * max(len(row.get("responses", ())), 1)
        return aggregation.Verdict(list(row["judge_scores"]), [False] * count, [1.0] * count, statuses)
    if not row["shown"]:  # a single document, which nobody was asked to order
        return aggregation.Verdict([1.0] * count, [False] * count, [1.0] * count, [])
    return aggregation.aggregate(orders_of(row, read), row["shown"], method=method, missing=missing)


def orders_of(row: Row, read: AnswerReader) -> list[answers.ParsedOrder]:
    """Return what each answer of a `JudgeOutput` row says of the documents that it was shown."""
    orders = [read(text, len(shown)) for text, shown in zip(row["responses"], row["shown"], strict=True)]
    cut = row.get("cut") or [False] * len(orders)
    return [answers.cut_short(order) if short else order for order, short in zip(orders, cut, strict=True)]


def graded(row: Row, whole: bool) -> dict[str, Any]:
    """Return a `Candidates` row as a `Labels` row whose targets are the grades of its qrels.

    A grade of 0 or less means missing. `whole` keeps documents without a grade, with grade 0; else they are dropped.
    """
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


def ranks(verdict: aggregation.Verdict) -> list[int]:
    """Return every document's rank by the verdict, from 1; 0 for a missing one."""
    order = sorted(range(len(verdict.targets)), key=lambda index: -verdict.targets[index])
    ranked = [index for index in order if not verdict.missing[index]]
    rank_of = {index: rank for rank, index in enumerate(ranked, 1)}
    return [rank_of.get(index, 0) for index in range(len(verdict.targets))]


def with_judge(row: Row, verdict: aggregation.Verdict) -> dict[str, Sequence[float]]:
    """Return the judge's targets and each source's scores of a row's documents, by name."""
    return {JUDGE: verdict.targets, **by_source(row)}


def shuffled(row: Row) -> list[float]:
    """Return random scores for a row's documents, the same for the same query in every process."""
    source = random.Random(hashlib.sha256(str(row["query_id"]).encode()).hexdigest())
    return [source.random() for _ in row["doc_ids"]]


def common_sources(rows: Sequence[Row]) -> list[str]:
    """Return the sources that all rows have, in the order of the first row."""
    first = list(rows[0]["sources"]) if rows else []
    return [name for name in first if all(name in row["sources"] for row in rows)]


def teacher_quality(
    rows: Sequence[Row],
    *,
    given: bool = False,
    read: AnswerReader = answers.parse_answer,
    method: str = "borda",
    missing: str = "negative",
) -> dict[str, Any]:
    """Return nDCG@10 over rows with qrels of shuffled input, each source, free fusion, the judge and the teacher.

    Free fusion fuses the sources alone, the teacher judge and sources; the weights of both are fitted on these rows
    and returned too. Rows without a source have neither. `given`: also of the order in which the rows list their
    documents, under the name `GIVEN`. The others: as in `verdict`. Ties count by the mean over all their orders, and
    what a source or the judge has no score of is not in its ranking (`metrics.untied_ndcg`).
    """
    sources = common_sources(rows)
    all_scores = [with_judge(row, verdict(row, method, missing, read)) for row in rows]
    per_query = {"shuffled": [metrics.row_ndcg(row, shuffled(row)) for row in rows]}
    if given:
        per_query[GIVEN] = [metrics.row_ndcg(row, [0.0] * len(row["doc_ids"])) for row in rows]
    for name in (*sources, JUDGE):
        per_query[name] = [
            metrics.untied_ndcg(row, scores[name]) for row, scores in zip(rows, all_scores, strict=True)
        ]
    quality: dict[str, Any] = {"ndcg_10": {name: float(np.mean(values)) for name, values in per_query.items()}}
    if sources:
        quality["fusion_weights"], quality["ndcg_10"]["fusion"] = fit_weights(rows, all_scores, sources)
    weights, fused = fit_weights(rows, all_scores, [JUDGE, *sources])
    quality["ndcg_10"] |= {"teacher": fused} if sources else {}
    return {"queries": len(rows), **quality, "teacher_weights": weights, "per_query": per_query}
