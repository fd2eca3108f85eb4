"""select: choose the student with the best quality inside the latency budget, and say why."""

from __future__ import annotations

import json
from typing import Any

from rrad_ray import tables
from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import report_html, summary
from rrad_ray.progress import say


@tables.stage("select", None)
def run(cfg: SelectConfig, out: tables.Output) -> None:
    """Write `winner.json`, with a comparison to the best first stage, and the report with winner and reason.

    The report goes to `publish` too. Raises `RradError` if no student keeps the budget.
    """
    evaluation = tables.read_manifest(cfg.input).lineage.evaluation
    if evaluation is None:
        raise RradError(cfg.input, "no output of evaluate", "name the output of evaluate")
    content = json.loads(tables.read_text(tables.join(cfg.input, "report.json")))
    winner = choose_winner(content, cfg)
    winner["checkpoint"] = evaluation.students[winner["system"]]
    content["winner"] = dict(winner)
    winner["finding"] = summary.headline(
        content
    )  # the best student may still be worse than the first stage, which costs nothing more
    winner["smoke"] = next(one["smoke"] for one in content["systems"] if one["system"] == winner["system"])
    tables.write_text(tables.join(out.uri, "winner.json"), json.dumps(winner, indent=2))
    files = {"report.json": json.dumps(content, indent=1), "report.html": report_html.report_page(content)}
    for folder in filter(None, (out.uri, cfg.publish)):
        for name, text in files.items():
            tables.write_text(tables.join(folder, name), text)
        say(f"report: {tables.join(folder, 'report.html')}")
    say(f"winner: {winner['system']}. {winner['reason']}")
    say(winner["finding"])
    out.commit(winner=winner)


def choose_winner(content: dict[str, Any], cfg: SelectConfig) -> dict[str, Any]:
    """Return the winner among the students of a report, with rule and reason.

    Raises `RradError` if none keeps the budget.
    """
    students = [system for system in content["systems"] if system["kind"] == "student"]
    inside = [s for s in students if s["latency_ms"] and s["latency_ms"]["p99"] <= cfg.max_p99_ms]
    if not inside:
        latencies = ", ".join(f"{s['system']} {s['latency_ms']['p99']:.0f} ms" for s in students if s["latency_ms"])
        problem = f"no student keeps p99 <= {cfg.max_p99_ms:g} ms ({latencies or 'no student was evaluated'})"
        raise RradError(cfg.input, problem, "raise max_p99_ms, or train a smaller student")

    def quality(system: dict[str, Any]) -> tuple[float, float]:
        """Sort by the metric, ties by latency."""
        return system["metrics"][cfg.metric]["mean"] or 0.0, -system["latency_ms"]["p99"]

    best, *others = sorted(inside, key=quality, reverse=True)
    value = best["metrics"][cfg.metric]["mean"]
    against = [f"{s['system']} {summary.number(s['metrics'][cfg.metric]['mean'])}" for s in others]
    out_of_budget = [s["system"] for s in students if s not in inside]
    reason = f"{cfg.metric} {summary.number(value)} at p99 {best['latency_ms']['p99']:.0f} ms"
    reason += f", above {', '.join(against)}" if against else ""
    reason += f"; over the budget: {', '.join(out_of_budget)}" if out_of_budget else ""
    rule = f"the highest {cfg.metric} among students with p99 <= {cfg.max_p99_ms:g} ms; ties to the faster one"
    return {"system": best["system"], "reason": reason, "rule": rule, "metric": cfg.metric, "value": value}
