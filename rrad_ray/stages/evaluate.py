"""evaluate: measure every ranker on the same queries: quality with intervals and tests, latency, a report."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from rrad_ray import tables
from rrad_ray.config import EvaluateConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import report_html, summary
from rrad_ray.evaluation.bench import Evaluation
from rrad_ray.evaluation.content import report_content
from rrad_ray.evaluation.student_scores import StudentScoring
from rrad_ray.evaluation.systems import ranking_rows
from rrad_ray.rows import Candidates, Ranking, Row, with_qrels, without_relevant
from rrad_ray.runtime import cluster
from rrad_ray.tables import checkpoints, shards


def _inputs(cfg: EvaluateConfig) -> dict[str, str]:
    """Return the URIs that the stage reads, by name."""
    # Of a folder that names a winner, the student is the input: `publish` writes another one there.
    students = {f"student.{name}": checkpoints.input_of(uri) or uri for name, uri in cfg.students.items()}
    return {"input": cfg.input, "labels": cfg.labels, **students, **{f"run.{k}": uri for k, uri in cfg.runs.items()}}


@tables.stage("evaluate", Ranking, _inputs, until_done=tables.WORK)
def run(cfg: EvaluateConfig, out: tables.Output) -> None:
    """Write the rankings of every system, `report.json` and `report.html`.

    Raises `RradError` if no query of the split has a relevant document in its qrels, or none of them among its
    candidates.
    """
    judged = tables.read_split(cfg.input, Candidates, cfg.split, cfg.dev)
    rows = list(shards.usable_rows(judged, out.quarantine))
    test, dev = [list(with_qrels(rows, split)) for split in (cfg.split, cfg.dev)]
    if not test:
        problem = f"no query of split '{cfg.split}' has a relevant document"
        raise RradError(cfg.input, problem, "give qrels for it, or name another split")
    if not any(_finds(row) for row in test):  # all systems would be equal, and `select` would take a student
        problem = f"no query of split '{cfg.split}' has a relevant document among its candidates"
        raise RradError(cfg.input, problem, "look at the first stage's documents: a re-ranker can only sort them")
    barren = [without_relevant(rows, split) for split in (cfg.split, cfg.dev)]
    scoring = StudentScoring(cfg, out, (test, dev, *barren), cluster.each_part)
    evaluation = Evaluation(cfg, test, dev, scoring, barren)
    evaluation.measure_all()
    content = report_content(evaluation)
    for number, system in enumerate(evaluation.systems):
        out.write_part(tables.part_name(number), ranking_rows(test, system))
    tables.write_json(tables.join(out.uri, "report.json"), content, indent=1)
    tables.write_text(tables.join(out.uri, "report.html"), report_html.report_page(content))
    Console(width=118).print(summary.table(content))
    students = {name: checkpoints.student_of(uri) for name, uri in cfg.students.items()}
    lineage = dataclasses.replace(evaluation.lineage, evaluation=tables.EvaluationFacts(students))
    rows_written = len(test) * len(evaluation.systems)
    out.commit(rows=rows_written, queries=len(test), report="report.html", lineage=lineage)


def _finds(row: Row) -> bool:
    """Return whether a row's candidates hold one of its relevant documents."""
    relevant = {doc_id for doc_id, grade in zip(row["qrel_ids"], row["qrel_grades"], strict=True) if grade > 0}
    return not relevant.isdisjoint(row["doc_ids"])
