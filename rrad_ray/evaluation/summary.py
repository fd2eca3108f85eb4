"""An evaluation's results in words and numbers: the table for terminal and README, and the headline.

Every function takes the content of `report.json`. Only `systems` is required: what is missing is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from markupsafe import escape
from rich import box
from rich.table import Table
from rich.text import Text

ReportContent = dict[str, Any]

System = dict[str, Any]

METRIC = "nDCG@10"  # the metric that plots and tests compare, and the headline where `select` had no other

# Kinds of systems. The kinds of a report are these, "run" and "teacher".
BASELINES = ("first_stage", "pre_ranker", "fusion")

STUDENTS = ("student", "student_fused")

NOT_TESTED, TOO_FEW = "no test of significance", "not enough queries for a test of significance"

MAX_P = 0.05  # from this p-value on, a difference is called unclear


def table(report: ReportContent) -> Table:
    """Return the table for the terminal: one row per system, at most 120 columns wide."""
    header, rows = _cells(report)
    note = qrels_note(report)
    title, caption = Text(str(report.get("name") or "")), Text(note) if note else None
    result = Table(box=box.SIMPLE_HEAD, header_style="bold", title=title, caption=caption)
    for i, name in enumerate(header):
        result.add_column(Text(name), justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for system, row in zip(report["systems"], rows, strict=True):
        result.add_row(*(Text(cell) for cell in row), style="bold green" if system is best_system(report) else None)
    return result


def markdown_table(report: ReportContent) -> str:
    """Return the same table as Markdown for a README; the best system's row is bold."""
    header, rows = _cells(report)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for system, row in zip(report["systems"], rows, strict=True):
        safe = [re.sub(r"([|*_`\\\[\]])", r"\\\1", " ".join(str(escape(cell)).split())) for cell in row[:1]] + row[1:]
        lines.append([f"**{cell}**" for cell in safe] if system is best_system(report) else safe)
    note = qrels_note(report)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (f"\n{escape(note)}\n" if note else "")


def qrels_note(report: ReportContent) -> str:
    """Return the sentence on qrels that a model has made; empty for those of people."""
    return str((report.get("qrels") or {}).get("note") or "")


def headline(report: ReportContent) -> str:
    """Return the finding in one sentence, whichever way the comparison went, and say whose qrels it stands on if a
    model has made them."""
    qrels = report.get("qrels") or {}
    return _finding(report) + (f" The qrels are by a model ({qrels['model']}), not by people." if qrels else "")


def _finding(report: ReportContent) -> str:
    winner = report.get("winner") or {}
    metric = winner.get("metric") or METRIC
    best, base = best_system(report), best_of(report["systems"], BASELINES, metric)
    if best is None:
        lead = f"{title_of(base)} leads with {METRIC} {number(mean_of(base))}; " if base else ""
        return f"{lead}no student was evaluated." if lead else "No student was evaluated."
    if best.get("kind") in BASELINES:
        return _first_stage_won(report, best, metric)
    if base is None:
        return f"{title_of(best)} has {metric} {number(mean_of(best, metric))}{_speed(report, best)}."
    delta, p = difference(report, best, base, metric)
    unclear = p is None or p >= MAX_P
    verdict = "does not beat" if delta <= 0 else "is not clearly better than" if unclear else "beats"
    scores = f"{metric} {number(mean_of(best, metric))} against {number(mean_of(base, metric))}"
    scores += f" ({signed(delta)}, {_chance(report, p)}){_speed(report, best)}."
    notes = " It was selected because allow_worse is true." if delta < 0 and winner.get("allow_worse") else ""
    alone = next((s for s in report["systems"] if s["system"] == winner.get("student")), best)
    if (mean_of(alone, metric) or 0.0) < (mean_of(base, metric) or 0.0) and alone is not best:
        value = number(mean_of(alone, metric))
        notes += f" Requests without first-stage scores get {title_of(alone)} alone, which is below it at {value}."
    return f"{title_of(best)} {verdict} the best first stage, {title_of(base)}: {scores}{notes}"


def _first_stage_won(report: ReportContent, best: System, metric: str) -> str:
    """Return the finding where a first stage has won: how the best student compares with it."""
    scores = f"{title_of(best)} has {metric} {number(mean_of(best, metric))}"
    student = best_student(report, metric)
    if student is None:
        return f"The first stage wins, as no student was evaluated: {scores}."
    delta, p = difference(report, student, best, metric)
    why = "" if delta < 0 else ", as no student that is as good keeps the latency budget"
    if student.get("constant"):
        why = ", as the best student gives all documents of a query the same score"
    clear = "" if p is None else ", a clear difference" if p < MAX_P else ", no clear difference"
    compared = f"the best student, {title_of(student)}, {number(mean_of(student, metric))}"
    return f"The first stage wins{why}: {scores}, and {compared} ({signed(delta)}, {_chance(report, p)}{clear})."


def _chance(report: ReportContent, p: float | None) -> str:
    """Return a p-value in words, and why there is none."""
    if p is None:
        return TOO_FEW if report.get("queries") == 1 else NOT_TESTED
    return f"p {'' if p < 0.001 else '= '}{p_value(p)}"


def best_system(report: ReportContent) -> System | None:
    """Return the system that the page is about: the winner if one was selected, else the best student, else None."""
    winner = (report.get("winner") or {}).get("system")
    chosen = [system for system in report["systems"] if winner and system["system"] == winner]
    return chosen[0] if chosen else best_student(report)


def best_student(report: ReportContent, metric: str = METRIC) -> System | None:
    """Return the best student, alone or fused; a fusion whose fitted weight of the student is 0 is none."""
    asked = [s for s in report["systems"] if (s.get("weights") or {}).get(s.get("student"), 1.0)]
    return best_of(asked, STUDENTS, metric)


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with a fixed number of digits; a dash for what could not be measured."""
    if value is None or math.isnan(value):
        return "–"
    return (f"{value:.{digits}f}" if math.isfinite(value) else f"{value}".replace("inf", "∞")).replace("-", "−")


def signed(value: float | None) -> str:
    """Format a difference, with its sign."""
    return ("+" if value is not None and value > 0 else "") + number(value)


def p_value(p: float | None) -> str:
    """Format a p-value with three digits; smaller ones read `< 0.001`."""
    return "< 0.001" if p is not None and p < 0.001 else number(p)


def count(value: float | None) -> str:
    """Format a count with three digits and a suffix, as 22.7M; a dash for none."""
    for unit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value and value >= 0.9995 * unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}" if value else "–"


def duration(seconds: float | None) -> str:
    """Format a duration in the unit a person would use: 1.2 ms, 3.4 s, 5 min 06 s, 2 h 03 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _cells(report: ReportContent) -> tuple[list[str], list[list[str]]]:
    """Return the table's header and its rows as text."""
    metrics = metric_names(report)
    rows = []
    for system in report["systems"]:
        values = [_interval(system, name) if name == METRIC else number(mean_of(system, name)) for name in metrics]
        latency = (
            f"{duration(latency_of(system))} / {duration(latency_of(system, 'p99'))}" if latency_of(system) else "–"
        )
        sizes = [count(system.get("parameters")), count(system.get("documents_per_s"))]
        rows.append([title_of(system), *values, *sizes, latency])
    names = [f"{name} [95 % CI]" if name == METRIC else name for name in metrics]
    return ["System", *names, "Params", "Docs/s", "p50 / p99"], rows


def _interval(system: System, metric: str) -> str:
    """Format a system's mean with its confidence interval, which takes two queries."""
    mean, low, high = (mean_of(system, metric, part) for part in ("mean", "low", "high"))
    return number(mean) + ("" if low is None else f" [{number(low)}, {number(high)}]")


def metric_names(report: ReportContent) -> list[str]:
    """Return the names of all metrics that any system has, in the order of their first appearance."""
    return list(dict.fromkeys(name for system in report["systems"] for name in system.get("metrics") or {}))


def title_of(system: System) -> str:
    """Return a system's title, else its name."""
    return str(system.get("title") or system["system"])


def titles_of(report: ReportContent) -> dict[str, str]:
    """Return the title of each system by its name."""
    return {system["system"]: title_of(system) for system in report["systems"]}


def mean_of(system: System, metric: str = METRIC, part: str = "mean") -> float | None:
    """Return a system's mean of a metric, or another `part` of it: "low" or "high"; None if it was not measured.

    The mean may be infinite: the PNR of a system that puts no two documents the wrong way round.
    """
    if part == "mean" and metric in system.get("infinite", ()):
        return math.inf
    value = ((system.get("metrics") or {}).get(metric) or {}).get(part)
    return None if value is None or math.isnan(value) else value


def latency_of(system: System, which: str = "p50") -> float | None:
    """Return a latency percentile of one query in seconds: "p50" or "p99"; None if it was not measured."""
    value = (system.get("latency_ms") or {}).get(which)
    return None if value is None else value / 1000


def best_of(systems: Iterable[System], kinds: tuple[str, ...], metric: str = METRIC) -> System | None:
    """Return the system of these kinds with the highest mean of a metric; None without one that was measured."""
    scored = [(mean_of(s, metric), s) for s in systems if s.get("kind") in kinds and mean_of(s, metric) is not None]
    return max(scored, key=lambda pair: pair[0] or 0.0)[1] if scored else None


def difference(
    report: ReportContent, system: System, base: System, metric: str = METRIC
) -> tuple[float, float | None]:
    """Return the difference to the baseline, and its p-value corrected for all tests; None where none tested them."""
    for test in (report.get("tests") or []) if metric == METRIC else []:
        if (test["system"], test["against"]) == (system["system"], base["system"]):
            return test["delta"], test.get("p_holm", test.get("p"))
    value, other = mean_of(system, metric) or 0.0, mean_of(base, metric) or 0.0
    return 0.0 if value == other else value - other, None  # also of two infinite values


def _speed(report: ReportContent, system: System) -> str:
    """Return the headline's clause on a system's latency, compared with the teacher's; empty if it was not timed."""
    latency = latency_of(system)
    teacher = best_of((s for s in report["systems"] if latency_of(s)), ("teacher",))
    if not latency or teacher is None or teacher is system:
        return f", at {duration(latency)} a query" if latency else ""
    teachers = latency_of(teacher) or latency
    ratio = max(latency, teachers) / min(latency, teachers)
    times = f"{ratio:.{0 if ratio >= 10 else 1}f} times {'faster' if teachers >= latency else 'slower'}"
    return f", at {duration(latency)} a query against the teacher's {duration(teachers)} ({times})"
