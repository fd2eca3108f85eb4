"""The labels of one part of a table: what `label` does part by part, in its own process or in actors.

A part of the labels is written first, then what was set aside of it, and last its tally in the folder `work` of the
output: so a killed run goes on with the parts that have none.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rrad_ray import tables
from rrad_ray.config import LabelConfig
from rrad_ray.errors import at_place
from rrad_ray.evaluation import fusion
from rrad_ray.labelling import teacher
from rrad_ray.labelling.label_quality import LabelQuality
from rrad_ray.labelling.other_teachers import OtherTeachers
from rrad_ray.labelling.source import source_reader
from rrad_ray.languages.scripts import folded
from rrad_ray.rows import JUDGE, MEASURED, SAME_SOURCES, JudgeOutput, Row, check_sources
from rrad_ray.tables import shards
from rrad_ray.tables.text import read_json

LABELS, MOMENTS = "labels", "moments"  # kinds of tallies

TALLY_READERS = 16  # object stores answer slowly, and many at once

Tally = Mapping[str, Mapping[str, float]]  # counts and sums of a part, by kind and name; they add up


@dataclass(frozen=True)
class LabelPlan:
    """The facts that the labels of every part are made by.

    `kind`: the type of the input's rows. `weights`: of judge, teachers and sources; empty: the judge's order alone.
    `scale`: mean and deviation of the z-scores (`score_scale`). `held`: the texts of dev and test queries, folded: a
    student that learns from them has seen what it is tested on. `compared`: of how many queries of each part orders
    are compared.
    """

    cfg: LabelConfig
    kind: type
    others: OtherTeachers
    weights: Mapping[str, float]
    scale: Mapping[str, Any]
    held: frozenset[str]
    compared: Mapping[str, int]

    @property
    def scaled(self) -> str:
        """The only source of targets that are on a scale of all queries; empty where they are on each query's own."""
        return next(iter(self.weights)) if "mean" in self.scale else ""


class LabelPart:
    """Writes the labels of parts."""

    def __init__(self, plan: LabelPlan, out: tables.Output) -> None:
        self.plan, self.cfg, self.out = plan, plan.cfg, out
        self.read, self.shares = source_reader(plan.cfg.input), fusion.relative(plan.weights)

    def part(self, name: str) -> None:
        """Write the labels of a part, what is set aside of it, and its tally."""
        counts, lacking = Counter[str](), Counter[str]()
        quality = LabelQuality(self.read, self.plan.compared.get(name, 0))
        usable = shards.usable_rows(tables.read_part(self.cfg.input, name, self.plan.kind), self.out.quarantine)
        rows = list(self._passed(usable, counts))
        graded = self.cfg.targets == "grades"
        labelled = list(self._graded(rows, counts) if graded else self._fused(rows, quality, lacking))
        self.out.write_part(name, labelled)
        counts["rows"], counts["set_aside"] = len(labelled), len(self.out.quarantined)
        counts["told_apart"] = sum(len(set(row["targets"])) > 1 for row in labelled)
        self.out.write_quarantine(name)
        write_tally(self.out, LABELS, name, {**quality.state(), "counts": counts, "lacking": lacking})

    def _passed(self, rows: Iterable[dict[str, Any]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows that no dev or test query gives away, and count the others."""
        for row in rows:
            if row["split"] not in MEASURED and folded(row["query"]) in self.plan.held:
                counts["overlap"] += 1
            else:
                yield row

    def _graded(self, rows: Sequence[Row], counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows with the grades of their qrels as targets. Dev and test queries stay, whole; others without
        two grades to compare are passed over and counted, not quarantined: nothing is wrong with them."""
        for row in rows:
            measured = row["split"] in MEASURED
            graded = teacher.graded(row, measured or self.cfg.unjudged == "negative")
            if measured or len(set(graded["targets"])) > 1:
                counts["learnt from"] += not measured
                yield graded
            else:
                counts["no preference" if row["qrel_ids"] else "no judgment"] += 1

    def _fused(self, rows: Sequence[Row], quality: LabelQuality, lacking: Counter[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows with the teacher's targets; an answer that says nothing is quarantined with its text."""
        for row, wide in zip(rows, self.plan.others.joined(rows), strict=True):
            require_sources(self.cfg, wide, self.plan.weights)
            verdict = teacher.verdict(row, self.cfg.aggregate, self.cfg.missing, self.read)
            scores = teacher.with_judge(wide, verdict)
            lacking.update(name for name in self.cfg.teachers if all(map(math.isnan, scores[name])))
            if self.plan.kind is JudgeOutput:
                quality.add(row, verdict)
            if verdict.rejected:
                self.out.quarantine(row["query_id"], verdict.rejection, "\n---\n".join(row["responses"]))
                continue
            if (source := self.plan.scaled) and not any(map(math.isfinite, scores[source])):
                self.out.quarantine(row["query_id"], f"no score: '{source}' knows none of its documents")
                continue
            yield {
                "reasons": [],
                **row,
                "targets": self._targets(scores, verdict.targets),
                "missing": verdict.missing,
                "confidence": verdict.confidence,
                "parse_status": verdict.statuses,
            }

    def _targets(self, scores: Mapping[str, Sequence[float]], judged: list[float]) -> list[float]:
        """Return a query's targets: its scores on the table's scale, fused z-scores, or the judge's own."""
        if source := self.plan.scaled:
            known = fusion.lowest_for_unscored(scores[source]).tolist()
            return [(score - self.plan.scale["mean"]) / self.plan.scale["deviation"] for score in known]
        if not self.plan.weights:
            return judged
        # z-scored again: the targets' spread, which soft losses read, must not hang on the weights' sum
        return fusion.zscores(fusion.fuse(scores, self.shares)).tolist()


class ScoreMoments:
    """Measures mean and deviation of all scores of a part by the only source that has a weight."""

    def __init__(self, cfg: LabelConfig, kind: type, out: tables.Output) -> None:
        self.cfg, self.kind, self.out, self.read = cfg, kind, out, source_reader(cfg.input)

    def part(self, name: str) -> None:
        """Write the moments of a part as its tally."""
        [source] = self.cfg.weights
        moments = fusion.Moments()
        for row in shards.usable_rows(tables.read_part(self.cfg.input, name, self.kind)):
            verdict = teacher.verdict(row, self.cfg.aggregate, self.cfg.missing, self.read)
            require_sources(self.cfg, row, self.cfg.weights)
            moments.add(list(filter(math.isfinite, teacher.with_judge(row, verdict)[source])))
        write_tally(self.out, MOMENTS, name, {MOMENTS: dataclasses.asdict(moments)})


def require_sources(cfg: LabelConfig, row: Row, weighed: Iterable[str]) -> None:
    """Raise `RradError` for a row that lacks a source that has a weight."""
    with at_place(cfg.input, SAME_SOURCES):
        check_sources(row, [name for name in weighed if name != JUDGE])


def write_tally(out: tables.Output, kind: str, name: str, tally: Tally) -> None:
    """Write a part's tally, by which the part counts as done."""
    tables.write_json(tables.join(out.uri, tables.WORK, kind, f"{name}.json"), tally)


def tallied_parts(out: tables.Output, kind: str) -> set[str]:
    """Return the names of the parts that are done."""
    return tables.names_in(tables.join(out.uri, tables.WORK, kind), ".json")


def read_tallies(out: tables.Output, kind: str, names: Sequence[str]) -> list[Tally]:
    """Return the tallies of parts, in their order."""
    with ThreadPoolExecutor(TALLY_READERS) as pool:
        return list(pool.map(lambda name: read_json(tables.join(out.uri, tables.WORK, kind, f"{name}.json")), names))


def added(tallies: Iterable[Tally]) -> dict[str, Counter[str]]:
    """Return the sums of tallies."""
    total: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for tally in tallies:
        for kind, counts in tally.items():
            total[kind].update(counts)
    return total
