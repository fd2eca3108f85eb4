"""The winner that `select` chooses and the endpoint serves: the choice, and writer and reader of `winner.json`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rrad_ray import tables
from rrad_ray.config import WinnerRule
from rrad_ray.config.base import Count, Given, Positive
from rrad_ray.config.problems import first_error, problem_of
from rrad_ray.errors import RradError
from rrad_ray.evaluation.calibration import Calibration, Verdicts
from rrad_ray.evaluation.summary import BASELINES, STUDENTS, ReportContent, System, latency_of, mean_of, number
from rrad_ray.tables.checkpoints import WINNER_FILE
from rrad_ray.tables.file_models import file_model
from rrad_ray.tables.text import read_json

MAY_WIN = (*BASELINES, *STUDENTS)  # kinds; a teacher and a run from elsewhere cannot be served


class SmokeTest(TypedDict):
    """A query with documents and the scores that a student gave them when it was evaluated."""

    query: str
    documents: list[str]
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class Winner:
    """A system that `select` has chosen; `winner.json` has the fields in this order.

    `finding`: how it compares with the best first stage, or with the best student where a first stage has won.
    `system`: its name in the report. `student`: the student in it, and `checkpoint` the output of `train` or a
    checkpoint folder; both empty for a first stage. `weights`: of the z-scores that it sums, by source and student;
    empty for a student alone, whose scores stand as they are. `encoders`: the bi-encoders behind its sources.
    `rule`, `reason`, `metric` and `value` (None for an infinite one) say why it won; `allow_worse`: whether it was
    allowed to be below the first stage. `smoke`: what the student's scores are checked against before it is served;
    None for a winner that was written by hand. `calibration`: of its scores, with `calibrate`. Where it sums, slope
    and offset are the endpoint's to apply; those of a student are in its head.
    """

    finding: str = ""
    system: str
    student: str
    checkpoint: str
    weights: dict[str, float]
    encoders: dict[str, tables.EncoderFacts] = field(default_factory=dict)
    reason: str = ""
    rule: str = ""
    metric: str = ""
    value: float | None = None
    allow_worse: bool = False
    smoke: SmokeTest | None = None
    calibration: Calibration | None = None

    def report_entry(self) -> dict[str, Any]:
        """Return the report's part on the winner, which has headline and smoke scores elsewhere."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in ("finding", "smoke")}


_BOUND = 1e100  # of numbers that scores are multiplied by or added to: sums stay finite
_Bounded = Annotated[float, Field(ge=-_BOUND, le=_BOUND)]
_EncoderFile = file_model(tables.EncoderFacts, model=Given, max_length=Count)
_WinnerFile = file_model(
    Winner,
    system=Given,
    weights=dict[str, _Bounded],
    encoders=dict[str, _EncoderFile],  # type: ignore[valid-type]
    smoke=file_model(SmokeTest) | None,
    calibration=file_model(
        Calibration,
        slope=Annotated[Positive, Field(le=_BOUND)],
        offset=_Bounded,
        relevant=file_model(Verdicts),
        nothing=file_model(Verdicts),
    )
    | None,
)


class _Figure(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    mean: float | None


class _System(BaseModel):
    """A system of a report, as far as the choice reads it."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    system: str
    kind: str
    metrics: dict[str, _Figure] | None
    latency_ms: dict[str, float | None] | None = None
    weights: dict[str, float] = {}


class _Report(BaseModel):
    systems: list[_System]


def write_winner(uri: str, winner: Winner) -> None:
    """Write `winner.json` into a folder."""
    tables.write_json(tables.join(uri, WINNER_FILE), dataclasses.asdict(winner), indent=2)


def read_winner(uri: str) -> Winner:
    """Return the winner of a folder; raises `RradError` where there is none."""
    return parse_winner(tables.read_text(tables.join(uri, WINNER_FILE)), uri)


def parse_winner(text: str, uri: str) -> Winner:
    """Return the winner that the text of a `winner.json` at `uri` holds; raises `RradError` if it holds none.

    The error names the key, what stands there and what is wanted: people edit the file.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        _WinnerFile.model_validate({**values, "smoke": values.get("smoke") or None})  # {} is none too
        winner = Winner(**values)
        _check_consistent(winner)
        return winner
    except ValidationError as error:
        problem = problem_of(_WinnerFile, first_error(error))
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise RradError(uri, f"its {WINNER_FILE} holds no winner: {problem}", "run select again")


def _check_consistent(winner: Winner) -> None:
    """Raise `ValueError` for a winner whose keys contradict each other."""
    student, checkpoint, weights = winner.student, winner.checkpoint, winner.weights
    if bool(student) != bool(checkpoint):
        raise ValueError(f"student={student!r} and checkpoint={checkpoint!r}: both or none are empty")
    if not (student or weights):
        raise ValueError("it names neither a student with its checkpoint nor weights of a first stage")
    if weights and not any(weights.values()):
        raise ValueError(f"weights={weights!r}: all are 0")
    if student and weights and student not in weights:
        raise ValueError(f"weights={weights!r}: none is of the student {student!r}")
    if winner.smoke and not student:
        raise ValueError("smoke has scores of a student, and student='' names none")
    if winner.smoke and len(winner.smoke["scores"]) != len(winner.smoke["documents"]):
        counts = f"{len(winner.smoke['documents'])} documents and {len(winner.smoke['scores'])} scores"
        raise ValueError(f"smoke has {counts}")


def read_report(uri: str) -> ReportContent:
    """Return the `report.json` of an output of `evaluate`; raises `RradError` where none has systems."""
    report_uri = tables.join(uri, "report.json")
    content = read_json(report_uri)
    if not isinstance(content, dict) or not isinstance(content.get("systems"), list):
        raise RradError(report_uri, "is missing, or no report of evaluate", "run evaluate again")
    try:
        _Report.model_validate(content)
    except ValidationError as error:
        problem = problem_of(_Report, first_error(error))
        raise RradError(report_uri, f"is no report of evaluate: {problem}", "run evaluate again") from error
    return content


def choose_winner(
    content: ReportContent,
    checkpoints: Mapping[str, str],
    cfg: WinnerRule,
    encoders: Mapping[str, tables.EncoderFacts] | None = None,
) -> Winner:
    """Return the winner of a report, with rule and reason: a student, alone or fused, or the best first stage.

    `checkpoints`: the students', by name. `encoders`: the first stage's bi-encoders, by source. The budget bounds
    re-ranking, so a first stage always keeps it: it has scored the documents that it found. Raises `RradError` for a
    report without fusion weights or without figures to choose by, and if nothing is left to choose from.
    """
    _check_students(content, checkpoints, cfg)
    systems = [_with_weights(system, cfg.input) for system in content["systems"] if system["kind"] in MAY_WIN]
    students = [s for s in systems if s["kind"] in STUDENTS and _student(s, checkpoints)]
    inside = [s for s in students if (p99 := latency_of(s, "p99")) is not None and 1000 * p99 <= cfg.max_p99_ms]
    first = [s for s in systems if s["kind"] in BASELINES]
    _check_figures(inside if cfg.allow_worse else [*inside, *first], cfg)
    candidates = inside
    if first and not cfg.allow_worse:
        # A student that gives all documents the same score keeps their order, which is the first stage's merit.
        constant = {s["system"] for s in students if s.get("constant")}
        candidates = [s for s in inside if _student(s, checkpoints) not in constant]
        candidates.append(max(first, key=lambda s: _quality(s, cfg.metric)))
    if not candidates:
        none = _latencies(students) or "no student was evaluated"
        problem = f"no student keeps p99 <= {cfg.max_p99_ms:g} ms ({none})"
        raise RradError(cfg.input, problem, "raise max_p99_ms, or train a smaller student")
    best, *others = sorted(candidates, key=lambda s: _quality(s, cfg.metric), reverse=True)
    slow = [s for s in students if s not in inside]
    winner = _winner(best, _student(best, checkpoints), students, cfg)
    return dataclasses.replace(
        winner,
        checkpoint=checkpoints[winner.student] if winner.student else "",
        encoders={source: facts for source, facts in (encoders or {}).items() if source in best["weights"]},
        reason=_reason(best, others, students, slow, cfg.metric),
    )


def _check_students(content: ReportContent, checkpoints: Mapping[str, str], cfg: WinnerRule) -> None:
    """Raise `RradError` for a student none of whose names the manifest knows: the report is another evaluation's."""
    names = [system["system"] for system in content["systems"] if system["kind"] == "student"]
    if names and checkpoints.keys().isdisjoint(names):
        known = ", ".join(checkpoints) or "none"
        problem = f"its report has the students {', '.join(names)}, and its manifest {known}"
        raise RradError(cfg.input, problem, "run evaluate again")


def calibration_of(content: ReportContent, system: str, uri: str, remedy: str) -> Calibration:
    """Return the calibration that `evaluate` has fitted for a system; raises `RradError` for one without."""
    if why := why_uncalibrated(content, system):
        raise RradError(uri, why, remedy)
    calibration: Calibration = _entry(content, system)["calibration"]
    return calibration


def why_uncalibrated(content: ReportContent, system: str) -> str:
    """Return why `evaluate` has fitted no calibration for a system; empty where it has."""
    entry = _entry(content, system)
    why = entry.get("uncalibrated") or "evaluate had no judged queries of dev, or was an older version"
    return "" if entry.get("calibration") else f"'{system}' cannot be calibrated: {why}"


def _entry(content: ReportContent, system: str) -> System:
    return next(each for each in content["systems"] if each["system"] == system)


def _check_figures(systems: Sequence[System], cfg: WinnerRule) -> None:
    """Raise `RradError` for systems none of which has the metric that decides, or any of which has no PNR.

    PNR lacks where no query has two documents of different grades, or where an older version wrote the report: it did
    not tell that from an infinite one.
    """
    lacking = [system["system"] for system in systems if mean_of(system, cfg.metric) is None]
    if lacking and (cfg.metric == "PNR" or len(lacking) == len(systems)):
        problem = f"its report has no {cfg.metric} of {', '.join(lacking)}"
        raise RradError(cfg.input, problem, "run evaluate again, or choose another metric")


def _winner(best: System, student: str, students: Sequence[System], cfg: WinnerRule) -> Winner:
    """Return a system as the winner, but for what others say of it.

    Raises `RradError` if its student's stored scores are no numbers.
    """
    smoke = next((s.get("smoke") for s in students if s["system"] == student), None)
    if smoke and not all(score is not None and math.isfinite(score) for score in smoke["scores"]):
        problem = f"the best student, {student}, gave a score that is not a number"
        raise RradError(cfg.input, problem, "train it again, or leave it out, and run evaluate again")
    value = mean_of(best, cfg.metric)
    return Winner(
        system=best["system"],
        student=student,
        checkpoint="",
        weights={} if best["kind"] == "student" else best["weights"],
        rule=_rule(cfg),
        metric=cfg.metric,
        value=None if value is None or math.isinf(value) else value,
        allow_worse=cfg.allow_worse,
        smoke=smoke,
    )


def _with_weights(system: System, uri: str) -> System:
    """Return a system with the weights of what it sums that are not 0: of a fusion those that were fitted, else 1."""
    fused = system["kind"] in ("fusion", "student_fused")
    if fused and "weights" not in system:
        raise RradError(uri, f"its report has no weights of '{system['system']}'", "run evaluate again")
    weights = system["weights"] if fused else {system["system"]: 1.0}
    return {**system, "weights": {name: weight for name, weight in weights.items() if weight}}


def _student(system: System, checkpoints: Mapping[str, str]) -> str:
    """Return the student that a system asks; empty where it asks none, as with a fitted weight of 0."""
    asked = system["weights"] if system["kind"] in STUDENTS else ()
    return next((name for name in asked if name in checkpoints), "")


def _quality(system: System, metric: str) -> tuple[float, bool, int, float]:
    """Sort by the metric; ties to a student, then to what needs fewer scores, then to the faster one."""
    latency = latency_of(system, "p99") or 0.0
    value = mean_of(system, metric)
    return -math.inf if value is None else value, system["kind"] in STUDENTS, -len(system["weights"]), -latency


def _rule(cfg: WinnerRule) -> str:
    """Return the rule of the choice."""
    students = f"students, alone or fused with the first stage, with p99 <= {cfg.max_p99_ms:g} ms"
    ties = "ties to fewer scores, then to the faster one"
    if cfg.allow_worse:
        return f"the highest {cfg.metric} among {students}, also below the first stage (allow_worse); {ties}"
    return f"the highest {cfg.metric} among {students}, unless the best first stage is above it; {ties}"


def _latencies(systems: Sequence[System]) -> str:
    """Return the p99 latencies of the systems that were timed."""
    timed = ((s["system"], latency_of(s, "p99")) for s in systems)
    return ", ".join(f"{name} {1000 * p99:.0f} ms" for name, p99 in timed if p99 is not None)


def _reason(
    best: System, others: Sequence[System], students: Sequence[System], slow: Sequence[System], metric: str
) -> str:
    """Return why a system won: the figures of the others, the names of students over budget, notes on students."""
    latency = f" at p99 {best['latency_ms']['p99']:.0f} ms" if best["kind"] in STUDENTS else ""
    reason = f"{metric} {number(mean_of(best, metric))}{latency}"
    against = [f"{s['system']} {number(mean_of(s, metric))}" for s in others]
    reason += f", above {', '.join(against)}" if against else ""
    notes = [f"over the budget: {', '.join(s['system'] for s in slow)}"] if slow else []
    notes += [f"{s['system']} {s['note']}" for s in students if s["kind"] == "student" and s.get("note")]
    return "; ".join([reason, *notes])
