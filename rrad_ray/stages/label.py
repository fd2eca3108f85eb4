"""label: the judge's answers to training targets. No engine, no cluster: a better parser, or another way to make one
order of several, re-runs on a laptop. Of candidates that no judge has seen, the sources' fusion is the target, or the
grades of the collection's own judgments."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray import tables
from rrad_ray.config import LabelConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.evaluation import fusion
from rrad_ray.labelling import teacher
from rrad_ray.labelling.answer_patterns import AnswerReader
from rrad_ray.labelling.label_quality import LabelQuality
from rrad_ray.labelling.other_teachers import OtherTeachers
from rrad_ray.labelling.source import source_reader
from rrad_ray.languages.scripts import folded
from rrad_ray.progress import say
from rrad_ray.rows import SAME_SOURCES, Candidates, JudgeOutput, Labels, Row, by_source, check_sources, with_qrels
from rrad_ray.tables import shards

MEASURED = ("dev", "test")  # the splits that a student is chosen and reported by


def _inputs(cfg: LabelConfig) -> dict[str, str]:
    return {"input": cfg.input, **{f"teachers.{name}": uri for name, uri in cfg.teachers.items()}}


@tables.stage("label", Labels, _inputs)
def run(cfg: LabelConfig, out: tables.Output) -> None:
    """Write targets for every query of the judge's output. Raises `RradError` if more answers than `max_quarantined`
    are unusable, if fusion weights name a source that is not there or cannot be fitted for want of judged dev
    queries, or if no query has two documents that the targets tell apart."""
    source = tables.read_manifest(cfg.input)
    overlap = Overlap(cfg)
    if cfg.targets == "grades":
        _grades(cfg, source.lineage, out, overlap)
        return
    kind = JudgeOutput if source.stage == "judge" else Candidates
    model = source.lineage.judge.model if kind is JudgeOutput and source.lineage.judge else ""
    others, answers = OtherTeachers(cfg), LabelQuality(source_reader(cfg.input))
    weights, quality = _weights(cfg, kind, others, answers.read)
    scale = _scale(cfg, kind, answers.read)
    rows = _write(cfg, out, lambda name: _labelled(cfg, name, kind, others, weights, scale, out, answers, overlap))
    shown = ", ".join(f"{key} x {value:g}" for key, value in weights.items()) or "the LLM's order"
    quality_facts = answers.facts()
    figures = ", ".join(f"{key} {value:.3f}" for key, value in quality_facts.items() if isinstance(value, float))
    summary = f"answers: {quality_facts['answers']}; {figures}" if kind is JudgeOutput else "no LLM was asked"
    lacking = "".join(f"; {count:,} queries lack {name}" for name, count in others.lacking.items() if count)
    say(f"teacher = {shown}; {summary}{overlap.note()}{lacking}")
    simulated = [tables.lineage_of(uri).simulated for uri in (cfg.input, *cfg.teachers.values())]
    out.commit(
        seen=rows + overlap.count + len(out.quarantined),
        max_quarantined=cfg.max_quarantined,
        rows=rows,
        answers=quality_facts["answers"],
        scale=scale,
        overlap=overlap.count,
        lacking=dict(others.lacking),
        lineage=dataclasses.replace(
            source.lineage,
            labels=tables.LabelFacts(model, weights, quality, quality_facts),
            simulated=next(filter(None, simulated), ""),
        ),
    )


class Overlap:
    """The queries of `train` and `unlabelled` whose text is that of a dev or test query too, as `folded` compares
    them: a student that learns from them has seen what it is tested on. `count`: how many were passed over."""

    def __init__(self, cfg: LabelConfig) -> None:
        self.held, self.count = set[str](), 0
        for name in () if cfg.keep_overlap else tables.finished_parts(cfg.input):
            table = tables.read_columns(cfg.input, name, ["split", "query"])
            measured = table.filter(pc.is_in(table["split"], pa.array(MEASURED)))
            self.held.update(map(folded, measured["query"].to_pylist()))

    def passed(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows that are none of them, and count the others."""
        for row in rows:
            if row["split"] not in MEASURED and folded(row["query"]) in self.held:
                self.count += 1
            else:
                yield row

    def note(self) -> str:
        """Return what is said of them; empty if there are none."""
        why = "whose text is that of a dev or test query are left out (keep_overlap keeps them)"
        return f"; {self.count:,} queries {why}" if self.count else ""


def _write(cfg: LabelConfig, out: tables.Output, labelled: Callable[[str], Iterator[dict[str, Any]]]) -> int:
    """Write the label rows of every part and return their number. Raises `RradError` if no target tells two documents
    apart."""
    rows = told_apart = 0
    for name in tables.finished_parts(cfg.input):
        some = list(labelled(name))
        out.write_part(name, some)
        rows += len(some)
        told_apart += sum(len(set(row["targets"])) > 1 for row in some)
    if rows and not told_apart:
        problem = f"all documents of a query have the same target, in each of {rows:,} queries"
        raise RradError(cfg.input, problem, "look at the judge's answers: there is nothing to learn from them")
    return rows


def _grades(cfg: LabelConfig, source: tables.Lineage, out: tables.Output, overlap: Overlap) -> None:
    """Write labels by the collection's qrels (DisRanker's rank fine-tuning). Dev and test queries stay, whole; others
    without two grades to compare are passed over and counted, not quarantined: nothing is wrong with them."""
    counts: Counter[str] = Counter()
    for name in tables.finished_parts(cfg.input):
        labelled = []
        for row in overlap.passed(shards.usable_rows(tables.read_part(cfg.input, name, Candidates), out.quarantine)):
            measured = row["split"] in MEASURED
            graded = teacher.graded(row, measured or cfg.unjudged == "negative")
            if measured or len(set(graded["targets"])) > 1:
                labelled.append(graded)
                counts["learnt from"] += not measured
            else:
                counts["no preference" if row["qrel_ids"] else "no judgment"] += 1
        out.write_part(name, labelled)
        counts["rows"] += len(labelled)
    over = {reason: counts[reason] for reason in ("no judgment", "no preference")}
    summary = ", ".join(f"{count:,} with {reason}" for reason, count in over.items())
    say(f"targets = judged grades of {counts['rows']:,} queries; passed over: {summary}{overlap.note()}")
    if not counts["learnt from"]:
        remedy = (
            "give retrieve qrels of two grades, or set unjudged=negative where only relevant documents are judged"
        )
        raise RradError(cfg.input, f"no query to learn from; passed over: {summary}", remedy)
    lineage = dataclasses.replace(source, labels=tables.LabelFacts(model="", weights={}), simulated="")
    seen = counts["rows"] + sum(over.values()) + overlap.count + len(out.quarantined)
    facts = {"rows": counts["rows"], "passed_over": over, "overlap": overlap.count}
    out.commit(seen=seen, max_quarantined=cfg.max_quarantined, lineage=lineage, **facts)


def _weights(
    cfg: LabelConfig, kind: type, others: OtherTeachers, read: AnswerReader
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the teacher's fusion weights: the config's, or those with the best nDCG@10 on judged dev queries."""
    first = next(tables.read(cfg.input, kind), None)
    known = [*([teacher.JUDGE] if kind is JudgeOutput else []), *(first["sources"] if first else []), *cfg.teachers]
    for name in cfg.weights:
        if name not in known:
            raise RradError(f"weights.{name}", "no such source", f"choose from {', '.join(known)}")
    if cfg.weights:
        return dict(cfg.weights), {}
    if first is None or (first.get("task") == "order" and not cfg.teachers):
        return {}, {}  # RRADistill: the LLM's order alone is the target
    if not known:
        problem = "candidates without sources, which no judge has seen, have no targets"
        raise RradError(cfg.input, problem, "run judge on them, or set targets=grades")
    judged = others.joined(with_qrels(list(shards.usable_rows(tables.read_split(cfg.input, kind, "dev")))))
    for row in judged:
        _check_sources(cfg, row, known)
    if len(judged) < 10:
        problem = f"{len(judged)} judged dev queries are too few to fit fusion weights"
        raise RradError(cfg.input, problem, f"give weights in the config, as in weights={{{known[0]}: 1}}")
    if kind is Candidates:
        fitted, ndcg = fusion.fit_weights(judged, [by_source(row) for row in judged], known)
        return {name: weight for name, weight in fitted.items() if weight}, {"ndcg_10": {"fusion": ndcg}}
    quality = teacher.teacher_quality(judged, read=read, method=cfg.aggregate, missing=cfg.missing)
    del quality["per_query"]
    return {name: weight for name, weight in quality["teacher_weights"].items() if weight}, quality


def _check_sources(cfg: LabelConfig, row: Row, weighed: Iterable[str]) -> None:
    """Raise `RradError` for a row that lacks a source that has a weight."""
    with at_place(cfg.input, SAME_SOURCES):
        check_sources(row, [name for name in weighed if name != teacher.JUDGE])


def _scale(cfg: LabelConfig, kind: type, read: AnswerReader) -> dict[str, Any]:
    """Return mean and deviation of the z-scores: a query's own, those of all scores of the table, or none."""
    if cfg.scale == "query":
        return {"over": "query"}
    if cfg.scale == "absolute":
        return {"over": "nothing", "mean": 0.0, "deviation": 1.0}
    [name] = cfg.weights
    moments = fusion.Moments()
    for row in shards.usable_rows(tables.read(cfg.input, kind)):
        verdict = teacher.verdict(row, cfg.aggregate, cfg.missing, read)
        _check_sources(cfg, row, cfg.weights)
        moments.add(teacher.with_judge(row, verdict)[name])
    mean, deviation = moments.mean, moments.deviation
    if not deviation > 1e-6 * max(abs(mean), 1.0):
        problem = f"all {moments.count:,} scores of '{name}' are about {mean:g} (standard deviation {deviation:.2g})"
        raise RradError(cfg.input, problem, "look at the teacher: it tells no document from another")
    return {"over": "table", "mean": mean, "deviation": deviation}


def _labelled(
    cfg: LabelConfig,
    name: str,
    kind: type,
    others: OtherTeachers,
    weights: dict[str, float],
    scale: dict[str, Any],
    out: tables.Output,
    answers: LabelQuality,
    overlap: Overlap,
) -> Iterator[dict[str, Any]]:
    """Yield the label rows of one part; an answer that says nothing is quarantined with its text."""
    shares = fusion.relative(weights)
    given = shards.usable_rows(tables.read_part(cfg.input, name, kind), out.quarantine)
    rows = list(overlap.passed(given))
    for row, wide in zip(rows, others.joined(rows, count=True), strict=True):
        _check_sources(cfg, wide, weights)
        verdict = teacher.verdict(row, cfg.aggregate, cfg.missing, answers.read)
        if kind is JudgeOutput:
            answers.add(row, verdict)
        if verdict.rejected:
            out.quarantine(row["query_id"], verdict.rejection, "\n---\n".join(row["responses"]))
            continue
        targets = verdict.targets
        if "mean" in scale:
            [source] = weights
            scores = teacher.with_judge(wide, verdict)[source]
            targets = [(score - scale["mean"]) / scale["deviation"] for score in scores]
        elif weights:
            # z-scored again: the targets' spread, which soft losses read, must not hang on the weights' sum
            targets = fusion.zscores(fusion.fuse(teacher.with_judge(wide, verdict), shares)).tolist()
        yield {
            "reasons": [],
            **row,
            "targets": targets,
            "missing": verdict.missing,
            "confidence": verdict.confidence,
            "parse_status": verdict.statuses,
        }
