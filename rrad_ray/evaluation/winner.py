"""The winner that `select` chooses and the endpoint serves: the choice, and writer and reader of `winner.json`."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, TypedDict

from rrad_ray import tables
from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.summary import ReportContent, System, number

WINNER_FILE = "winner.json"


class SmokeTest(TypedDict):
    """A query with documents and the scores that a student gave them when it was evaluated."""

    query: str
    documents: list[str]
    scores: list[float]


@dataclass(frozen=True)
class Winner:
    """A student that `select` has chosen.

    `system`: its name in the report. `checkpoint`: the output of `train`, or a checkpoint folder. `rule`, `reason`,
    `metric` and `value` say why it won, `finding` how it compares with the best first stage. `smoke`: what its scores
    are checked against before it is served; None for a winner that was written by hand.
    """

    system: str
    checkpoint: str
    reason: str = ""
    rule: str = ""
    metric: str = ""
    value: float | None = None
    finding: str = ""
    smoke: SmokeTest | None = None

    def report_entry(self) -> dict[str, Any]:
        """Return the report's part on the winner, which has headline and smoke scores elsewhere."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in ("finding", "smoke")}


def write_winner(uri: str, winner: Winner) -> None:
    """Write `winner.json` into a folder."""
    tables.write_json(tables.join(uri, WINNER_FILE), dataclasses.asdict(winner), indent=2)


def parse_winner(text: str, uri: str) -> Winner:
    """Return the winner that the text of a `winner.json` at `uri` holds; raises `RradError` if it holds none."""
    try:
        return Winner(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise RradError(uri, f"its {WINNER_FILE} holds no winner: {error}", "run select again") from error


def choose_winner(content: ReportContent, checkpoints: dict[str, str], cfg: SelectConfig) -> Winner:
    """Return the winner among the students of a report, with rule and reason. `checkpoints`: the students', by name.

    Raises `RradError` if none keeps the latency budget.
    """
    students = [system for system in content["systems"] if system["kind"] == "student"]
    inside = [s for s in students if s["latency_ms"] and s["latency_ms"]["p99"] <= cfg.max_p99_ms]
    if not inside:
        latencies = ", ".join(f"{s['system']} {s['latency_ms']['p99']:.0f} ms" for s in students if s["latency_ms"])
        problem = f"no student keeps p99 <= {cfg.max_p99_ms:g} ms ({latencies or 'no student was evaluated'})"
        raise RradError(cfg.input, problem, "raise max_p99_ms, or train a smaller student")

    def quality(system: System) -> tuple[float, float]:
        """Sort by the metric, ties by latency."""
        return system["metrics"][cfg.metric]["mean"] or 0.0, -system["latency_ms"]["p99"]

    best, *others = sorted(inside, key=quality, reverse=True)
    smoke = best.get("smoke")
    if smoke and not all(score is not None and math.isfinite(score) for score in smoke["scores"]):
        problem = f"the best student, {best['system']}, gave a score that is not a number"
        raise RradError(cfg.input, problem, "train it again, or leave it out, and run evaluate again")
    return Winner(
        system=best["system"],
        checkpoint=checkpoints[best["system"]],
        reason=_reason(best, others, [s for s in students if s not in inside], cfg.metric),
        rule=f"the highest {cfg.metric} among students with p99 <= {cfg.max_p99_ms:g} ms; ties to the faster one",
        metric=cfg.metric,
        value=best["metrics"][cfg.metric]["mean"],
        smoke=smoke,
    )


def _reason(best: System, others: list[System], out_of_budget: list[System], metric: str) -> str:
    """Return why the best student won, with the figures of the others inside the budget and what the report notes."""
    reason = f"{metric} {number(best['metrics'][metric]['mean'])} at p99 {best['latency_ms']['p99']:.0f} ms"
    against = [f"{s['system']} {number(s['metrics'][metric]['mean'])}" for s in others]
    reason += f", above {', '.join(against)}" if against else ""
    reason += f"; over the budget: {', '.join(s['system'] for s in out_of_budget)}" if out_of_budget else ""
    return reason + (f"; {best['system']} {best['note']}" if best.get("note") else "")
