"""qrels: another model's grades stand as qrels where people have judged too little to check teachers and students."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from typing import Any

from rrad_ray import tables
from rrad_ray.config import QrelsConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.labelling.model_qrels import (
    GradePairs,
    agreement,
    describe_qrels,
    judged_pairs,
    off_scale,
    whole_grades,
)
from rrad_ray.progress import say
from rrad_ray.rows import MEASURED, Candidates, JudgeOutput, Row, check_same_query
from rrad_ray.tables import shards


@tables.stage("qrels", Candidates, lambda cfg: {"input": cfg.input, "graded": cfg.graded})
def run(cfg: QrelsConfig, out: tables.Output) -> None:
    """Write the candidates with a model's grades as qrels of those queries that have none of people.

    Raises `RradError` for a table without grades, for qrels that a model has made before or that the input's own
    teacher would make, and where none of the graded queries is in the input.
    """
    lineage, source = tables.lineage_of(cfg.input), _grader(cfg)
    if lineage.qrels:
        raise RradError(cfg.input, f"its qrels are by the model {lineage.qrels.model} already", "name its own input")
    with at_place("graded", "grade by another model"):
        tables.check_grader(source.model, lineage.teachers)
    graded: dict[str, Row] = {}
    pairs: GradePairs = []
    for row in shards.usable_rows(tables.read(cfg.graded, JudgeOutput), out.quarantine):
        if off_scale(row, source.grades):
            out.quarantine(row["query_id"], "off scale: a grade that its template does not have", str(row))
            continue
        graded[row["query_id"]] = {"query": row["query"], "grades": whole_grades(row)}
        pairs += judged_pairs(row, cfg.unjudged)
    every = shards.plan_shards(cfg.input, shards.MOST_ROWS, Candidates)
    rows, queries = 0, Counter[str]()
    for shard in every:
        rows_of_part = shards.read_shard(cfg.input, shard, Candidates, out.quarantine)
        with at_place(cfg.graded, "grade queries of this input"):
            part = [_judged(row, graded, cfg.dev_share, queries) for row in rows_of_part]
        out.write_part(shard.part, part)
        rows += len(part)
    if not queries:
        problem = f"none of its {len(graded):,} queries is in the input without qrels of people"
        raise RradError(cfg.graded, problem, "grade queries of this input that people have not judged")
    figures = agreement(pairs, source.grades) if len(pairs) >= cfg.min_judgments else {}
    simulated = tables.lineage_of(cfg.graded).simulated
    model = f"{source.model} ({simulated})" if simulated else source.model
    note = describe_qrels(model, queries, len(pairs), figures)
    say(note)
    counts: dict[str, Any] = {"rows": rows, "queries": dict(queries), "agreement": figures} | shards.repeats(every)
    facts = tables.QrelsFacts(source.model, dict(queries), note, figures)
    lineage = dataclasses.replace(lineage, qrels=facts)
    out.commit(seen=rows + len(out.quarantined), max_quarantined=cfg.max_quarantined, lineage=lineage, **counts)


def _grader(cfg: QrelsConfig) -> tables.JudgeFacts:
    """Return the record of the model that has graded; raises `RradError` for a table that holds no grades."""
    manifest = tables.read_manifest(cfg.graded)
    judge = manifest.lineage.judge
    if manifest.stage != "judge" or judge is None or not judge.grades:
        remedy = "name an output of judge with task=grade and a template with `score: expected`"
        raise RradError(cfg.graded, "its scores are no grades", remedy)
    return judge


def _judged(row: dict[str, Any], graded: dict[str, Row], dev_share: float, queries: Counter[str]) -> dict[str, Any]:
    """Return a row with the model's grades as its qrels, counted by its split; one of people's qrels, and one that
    was not graded, as it is. Raises `ValueError` for a query that was another one when it was graded."""
    graded_before = graded.get(row["query_id"])
    if graded_before:
        check_same_query(row, graded_before)
    if row["qrel_ids"] or not graded_before or not graded_before["grades"]:
        return row
    given = graded_before["grades"]
    split = row["split"]
    if split not in MEASURED:
        digest = hashlib.sha256(row["query_id"].encode()).digest()
        split = "dev" if int.from_bytes(digest[:8], "big") < dev_share * 2**64 else "test"
    queries[split] += 1
    return {**row, "split": split, "qrel_ids": list(given), "qrel_grades": list(given.values())}
