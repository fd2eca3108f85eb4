"""label: the judge's answers to training targets, part by part. No engine: a better parser, or another way to make
one order of several, re-runs on a laptop or on the CPUs of a cluster. Of candidates that no judge has seen, the
sources' fusion is the target, or the grades of the collection's own judgments."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rrad_ray import tables
from rrad_ray.config import LabelConfig
from rrad_ray.config.base import actors_of
from rrad_ray.errors import RradError, at_place
from rrad_ray.evaluation import fusion
from rrad_ray.labelling import part_labels, teacher
from rrad_ray.labelling.answer_patterns import AnswerReader
from rrad_ray.labelling.label_quality import SAMPLE, LabelQuality
from rrad_ray.labelling.other_teachers import OtherTeachers
from rrad_ray.labelling.part_labels import LABELS, MOMENTS, LabelPart, LabelPlan, ScoreMoments
from rrad_ray.labelling.source import measured_queries, source_reader
from rrad_ray.progress import say
from rrad_ray.rows import JUDGE, Candidates, JudgeOutput, Labels, by_source, with_qrels
from rrad_ray.runtime import cluster
from rrad_ray.tables import shards


def _inputs(cfg: LabelConfig) -> dict[str, str]:
    return {"input": cfg.input, **{f"teachers.{name}": uri for name, uri in cfg.teachers.items()}}


@tables.stage("label", Labels, _inputs, until_done=tables.WORK, keeps_quarantine=True)
def run(cfg: LabelConfig, out: tables.Output) -> None:
    """Write targets for every query of the judge's output, part by part. Raises `RradError` if the input is labels
    itself, if more answers than `max_quarantined` are unusable, if fusion weights name a source that is not there or
    cannot be fitted for want of judged dev queries, or if no query has two documents that the targets tell apart."""
    source = tables.read_manifest(cfg.input)
    if source.stage == "label" and cfg.targets == "teacher":  # else its sources alone were the teacher
        raise RradError(cfg.input, "is the output of label", "name the output of judge, or candidates")
    kind = JudgeOutput if source.stage == "judge" and cfg.targets == "teacher" else Candidates
    others, read = OtherTeachers(cfg), source_reader(cfg.input)
    lineages = [source.lineage, *others.lineages.values()] if cfg.targets == "teacher" else []
    with at_place(cfg.input, "take another teacher"):
        source.lineage.check_teachers(name for each in lineages for name in each.teachers)
    weights, dev = ({}, {}) if cfg.targets == "grades" else _weights(cfg, kind, others, read)
    scale = _scale(cfg, kind, out)
    plan = LabelPlan(cfg, kind, others, weights, scale, _held(cfg), _compared(source))
    names = _each_part(cfg, out, LabelPart, {"plan": plan, "out": out}, LABELS)
    tally = part_labels.added(part_labels.read_tallies(out, LABELS, names))
    counts = tally["counts"]
    simulated = next((each.simulated for each in lineages if each.simulated), "")
    if cfg.targets == "grades":
        labels, facts = tables.LabelFacts(model="", weights={}), _graded(cfg, counts)
    else:
        quality = LabelQuality(read)
        quality.merge(tally)
        measured = quality.facts()
        lacking = {name: tally["lacking"][name] for name in cfg.teachers}
        _say_fused(plan, measured, counts, lacking, source.lineage.qrels_note)
        model = source.lineage.judge.model if kind is JudgeOutput and source.lineage.judge else ""
        labels = tables.LabelFacts(model, weights, dev, measured, others.models)
        facts = {"answers": measured["answers"], "scale": scale, "lacking": lacking}
    out.commit(
        seen=counts["rows"] + counts["overlap"] + counts["set_aside"] + sum(facts.get("passed_over", {}).values()),
        max_quarantined=cfg.max_quarantined,
        planned=names,
        rows=counts["rows"],
        overlap=counts["overlap"],
        lineage=dataclasses.replace(source.lineage, labels=labels, simulated=simulated),
        **facts,
    )


def _each_part(cfg: LabelConfig, out: tables.Output, work: type, options: dict[str, Any], kind: str) -> list[str]:
    """Have the work done for every part of the input that is not done; return the parts' names.

    A part is done if it has a tally of this kind; a part of labels must also stand in the output.
    """
    names, done = tables.finished_parts(cfg.input), part_labels.tallied_parts(out, kind)
    if kind == LABELS:
        done &= set(out.parts())
    here = actors_of(cfg.num_workers) == (1, 1)
    cluster.each_part(cfg, out, work, options, names, done, "parts", cfg.input, here=here)
    return names


def _held(cfg: LabelConfig) -> frozenset[str]:
    """Return the texts of dev and test queries, as `folded` compares them; none where they may be learnt from."""
    if cfg.keep_overlap:
        return frozenset()
    held = measured_queries(cfg.input)
    if not held:
        say("no dev or test queries are in the input: whether a query asks what one of them asks is not looked at")
    return held


def _compared(source: tables.Manifest) -> dict[str, int]:
    """Return how many queries of each part are among the first `SAMPLE` of the table."""
    left, compared = SAMPLE, {}
    for name, facts in sorted((source.parts or {}).items()):
        compared[name] = min(left, facts["rows"])
        left -= compared[name]
    return {name: count for name, count in compared.items() if count}


def _say_fused(
    plan: LabelPlan, quality: dict[str, Any], counts: Counter[str], lacking: Mapping[str, int], note: str
) -> None:
    """Say what the targets are and how good they are, and the `note` on the qrels, if there is one. Raises
    `RradError` if none tells two documents apart."""
    if counts["rows"] and not counts["told_apart"]:
        problem = f"all documents of a query have the same target, in each of {counts['rows']:,} queries"
        raise RradError(plan.cfg.input, problem, "look at the judge's answers: there is nothing to learn from them")
    shown = ", ".join(f"{key} x {value:g}" for key, value in plan.weights.items()) or "the LLM's order"
    figures = ", ".join(f"{key} {value:.3f}" for key, value in quality.items() if isinstance(value, float))
    summary = f"answers: {quality['answers']}; {figures}" if plan.kind is JudgeOutput else "no LLM was asked"
    lack = "".join(f"; {count:,} queries lack {name}" for name, count in lacking.items() if count)
    if alike := counts["rows"] - counts["told_apart"]:
        lack += f"; {alike:,} queries have the same target for all documents, and teach nothing"
    lack += f"; {note}" if note else ""
    say(f"teacher = {shown}; {summary}{_overlap_note(counts)}{lack}")


def _graded(cfg: LabelConfig, counts: Counter[str]) -> dict[str, Any]:
    """Return, and say, of how many queries the qrels say nothing (DisRanker's rank fine-tuning). Raises `RradError`
    if no query is left to learn from."""
    over = {reason: counts[reason] for reason in ("no judgment", "no preference")}
    summary = ", ".join(f"{count:,} with {reason}" for reason, count in over.items())
    say(f"targets = judged grades of {counts['rows']:,} queries; passed over: {summary}{_overlap_note(counts)}")
    if not counts["learnt from"]:
        remedy = (
            "give retrieve qrels of two grades, or set unjudged=negative where only relevant documents are judged"
        )
        raise RradError(cfg.input, f"no query to learn from; passed over: {summary}", remedy)
    return {"passed_over": over}


def _overlap_note(counts: Counter[str]) -> str:
    """Return what is said of the queries that a dev or test query gives away; empty if there are none."""
    why = "whose text is that of a dev or test query are left out (keep_overlap keeps them)"
    return f"; {counts['overlap']:,} queries {why}" if counts["overlap"] else ""


def _weights(
    cfg: LabelConfig, kind: type, others: OtherTeachers, read: AnswerReader
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the teacher's fusion weights: the config's, or those with the best nDCG@10 on judged dev queries."""
    first = next(tables.read(cfg.input, kind), None)
    known = [*([JUDGE] if kind is JudgeOutput else []), *(first["sources"] if first else []), *cfg.teachers]
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
        part_labels.require_sources(cfg, row, known)
    if len(judged) < 10:
        problem = f"{len(judged)} judged dev queries are too few to fit fusion weights"
        raise RradError(cfg.input, problem, f"give weights in the config, as in weights={{{known[0]}: 1}}")
    if kind is Candidates:
        fitted, ndcg = fusion.fit_weights(judged, [by_source(row) for row in judged], known)
        return {name: weight for name, weight in fitted.items() if weight}, {"ndcg_10": {"fusion": ndcg}}
    quality = teacher.teacher_quality(judged, read=read, method=cfg.aggregate, missing=cfg.missing)
    del quality["per_query"]
    return {name: weight for name, weight in quality["teacher_weights"].items() if weight}, quality


def _scale(cfg: LabelConfig, kind: type, out: tables.Output) -> dict[str, Any]:
    """Return mean and deviation of the z-scores: a query's own, those of all scores of the table, or none."""
    if cfg.scale == "query":
        return {"over": "query"}
    if cfg.scale == "absolute":
        return {"over": "nothing", "mean": 0.0, "deviation": 1.0}
    [name] = cfg.weights
    names = _each_part(cfg, out, ScoreMoments, {"cfg": cfg, "kind": kind, "out": out}, MOMENTS)
    moments = fusion.Moments()
    for tally in part_labels.read_tallies(out, MOMENTS, names):
        moments.merge(fusion.Moments(**tally[MOMENTS]))  # type: ignore[arg-type]
    mean, deviation = moments.mean, moments.deviation
    if not deviation > 1e-6 * max(abs(mean), 1.0):
        problem = f"all {moments.count:,} scores of '{name}' are about {mean:g} (standard deviation {deviation:.2g})"
        raise RradError(cfg.input, problem, "look at the teacher: it tells no document from another")
    return {"over": "table", "mean": mean, "deviation": deviation}
