"""An evaluation's results as one self-contained HTML page with plots. The content is that of `report.json`."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from rrad_ray.evaluation.plots import STYLE, Plot, canvas, short, svg
from rrad_ray.evaluation.summary import (
    BASELINES,
    METRIC,
    STUDENTS,
    ReportContent,
    System,
    best_of,
    best_student,
    best_system,
    duration,
    headline,
    latency_of,
    mean_of,
    metric_names,
    number,
    title_of,
    titles_of,
)
from rrad_ray.evaluation.theme import COLOURS, render_page

Line = tuple[float, float, float, float]  # latency, mean, and the ends of the interval

# Candidate positions of a point's label, nearest first: distance from it in points, and direction.
LABEL_POSITIONS = [
    (far, x, y)
    for far in (8, 14, 22, 32, 44, 60, 80)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]

ACROSS, UPWARD = ("center", "left", "right"), ("center", "bottom", "top")  # alignment by direction 0, 1, -1


def report_page(report: ReportContent) -> str:
    """Return one self-contained page: inline CSS and SVG, no script, no network. Same report, same bytes."""
    with matplotlib.rc_context(STYLE):
        plots = {
            "quality": _quality(report), "scatter": _scatter(report), "gains": _gains(report),
            "training": _training(report), "seconds": _seconds(report),
        }  # fmt: skip
        figures = {name: (svg(name, plot), plot.caption) for name, plot in plots.items() if plot}
    return render_page(
        "report.html.j2", report=report, systems=report["systems"], best=best_system(report),
        headline=headline(report),
        main=METRIC, metrics=metric_names(report), titles=titles_of(report), span=_span(report),
        extremes=_extremes(report), segments=_segments(report), figures=figures, label_quality=_label_quality(report),
    )  # fmt: skip


def _label_quality(report: ReportContent) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of each figure about the labels themselves (`label_quality.LabelQuality`)."""
    quality = (report.get("teacher") or {}).get("label_quality") or {}
    known = [
        ("missing_share", "left out", "of the documents shown; these become hard negatives"),
        ("repaired_share", "repaired answers", "read after mending: repeats, other brackets, cut off"),
        ("rejected_share", "rejected answers", "without a usable order; set aside"),
        ("position_bias", "position bias", "Kendall's tau of rank and place in the prompt; 0 is none"),
        ("repeat_agreement", "agreement of repeats", "mean Kendall's tau between answers to one query; 1 is full"),
        ("confidence", "confidence", "share of the answers' preferences that the labels keep"),
        ("ndcg_10", "agreement with judgments", "nDCG@10 of the judge alone, over the judged dev queries"),
    ]
    return [(name, number(quality[key]), note) for key, name, note in known if isinstance(quality.get(key), float)]


def _span(report: ReportContent) -> tuple[float, float]:
    """Return the lowest end and the extent of all intervals: the scale of the small bars in the table."""
    ends = [v for s in report["systems"] for e in ("low", "high") if (v := mean_of(s, METRIC, e)) is not None]
    return (min(ends), (max(ends) - min(ends)) or 1.0) if ends else (0.0, 1.0)


def _pairs(report: ReportContent) -> tuple[System, System, np.ndarray, np.ndarray] | None:
    """Return the best system, the best first stage, and the nDCG@10 of each per query; None where one is missing.

    Where a first stage has won, the best student takes the place of the best system.
    """
    best, base = best_system(report), best_of(report["systems"], BASELINES)
    if best is not None and best.get("kind") in BASELINES:
        best, base = best_student(report), best
    scores = report.get("per_query") or {}
    if best is None or base is None or best is base or not scores.get(best["system"]):
        return None
    ours, theirs = (np.array(scores.get(s["system"]) or [], dtype=float) for s in (best, base))
    return (best, base, ours, theirs) if len(ours) == len(theirs) else None


def _extremes(report: ReportContent, n: int = 4) -> list[tuple[str, float, float]]:
    """Return the `n` queries that gained most and the `n` that lost most: text, before, after."""
    pairs, texts = _pairs(report), report.get("query_texts") or []
    if pairs is None or len(texts) != len(pairs[2]):
        return []
    _, _, ours, theirs = pairs
    order = np.argsort(theirs - ours, kind="stable")
    gained = [i for i in order[:n] if ours[i] > theirs[i]]
    lost = [i for i in order[::-1][:n] if ours[i] < theirs[i]]
    return [(texts[i], float(theirs[i]), float(ours[i])) for i in [*gained, *lost[::-1]]]


def _segments(report: ReportContent) -> dict[str, Any] | None:
    """Return the mean nDCG@10 of the best system and the best first stage on queries of each length."""
    pairs, segments = _pairs(report), report.get("segments") or []
    if pairs is None or not segments:
        return None
    best, base, *_ = pairs
    names = [base["system"], best["system"]]
    rows = [(row["segment"], row["queries"], *(row["ndcg_10"][name] for name in names)) for row in segments]
    return {"names": [title_of(base), title_of(best)], "rows": rows}


def _front(lines: list[Line]) -> list[Line]:
    """Return the Pareto front, by latency: the points that no other is both faster and better than."""
    best, front = -math.inf, []
    for line in sorted(lines, key=lambda line: (line[0], -line[1])):
        if line[1] > best:
            best = line[1]
            front.append(line)
    return front


def _colour(system: System) -> str:
    kind = system.get("kind")
    return COLOURS["student" if kind in STUDENTS else "teacher" if kind == "teacher" else "base"]


def _quality(report: ReportContent) -> Plot | None:
    """Plot quality with confidence intervals against p50 latency; None if no system was timed."""
    drawn = [s for s in report["systems"] if mean_of(s) is not None and latency_of(s)]
    drawn.sort(key=lambda system: -(mean_of(system) or 0.0))
    if not drawn:
        return None
    figure, (ax,) = canvas(3.5)
    lines = []
    for system in drawn:
        x, mean = latency_of(system) or 0.0, mean_of(system) or 0.0
        low, high = (mean_of(system, METRIC, end) for end in ("low", "high"))
        lines.append((x, mean, mean if low is None else low, mean if high is None else high))
        size, marker = 90 if system is best_system(report) else 34, "D" if system.get("kind") == "teacher" else "o"
        ax.scatter([x], [mean], s=size, marker=marker, color=_colour(system), zorder=3)
        ax.vlines(x, *lines[-1][2:], color=_colour(system), linewidth=1.6, alpha=0.5)
    front = _front(lines)
    ax.plot(*np.array([line[:2] for line in front]).T, color=COLOURS["base"], linewidth=1, linestyle=(0, (4, 3)))
    xs = [line[0] for line in lines]
    ax.set(xscale="log", xlim=(min(xs) / 2.5, max(xs) * 2.5), xlabel="p50 latency", ylabel=METRIC)
    decades = math.log10(max(xs) / min(xs))
    ax.xaxis.set_major_locator(LogLocator(subs=(1,) if decades > 1.5 else (1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} s" if x >= 1 else f"{x * 1000:g} ms"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(y=0.12)
    _place_labels(ax, lines, [(short(title_of(s)), _colour(s), s is best_system(report)) for s in drawn])
    kinds: dict[str, list[str]] = {}
    for system in drawn:
        kinds.setdefault(str(system.get("latency_of") or "one query"), []).append(title_of(system))
    missing = [title_of(s) for s in report["systems"] if s not in drawn]
    caption = (
        f"{METRIC} against latency; up and left is better, and nothing is both above and left of the dashed line"
    )
    caption += " (Pareto front). Bars are 95 % confidence intervals. Latency is of "
    caption += "; of ".join(f"{what} ({', '.join(names)})" for what, names in kinds.items())
    caption += f". Not timed: {', '.join(missing)}." if missing else "."
    alt = "; ".join(f"{title_of(s)}: {number(mean_of(s))} at {duration(latency_of(s))}" for s in drawn)
    return Plot(figure, f"{METRIC} against latency. {alt}", caption)


def _place_labels(ax: Axes, lines: list[Line], labels: list[tuple[str, str, bool]]) -> None:
    """Put each label near its point where it hides least: other points and labels above all, then intervals."""
    FigureCanvasAgg(ax.figure)  # type: ignore[arg-type]
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    inside = ax.get_window_extent()
    solid, thin, middles = [], [], []
    for x, mean, low, high in lines:
        (left, bottom), (_, middle), (_, top) = ax.transData.transform([(x, low), (x, mean), (x, high)])
        # Wider than the marker, as another system's label right beside it would look like its own.
        solid.append(Bbox([[left - 13, middle - 9], [left + 13, middle + 9]]))
        thin.append(Bbox([[left - 2, bottom], [left + 2, top]]))
        middles.append((left, middle))
    for i, (text, colour, bold) in enumerate(labels):
        note = ax.annotate(text, lines[i][:2], (0, 0), textcoords="offset points", color=colour, in_layout=False)
        note.set(weight="bold" if bold else "normal")
        size = note.get_window_extent()
        best = (math.inf, LABEL_POSITIONS[0], size)
        for far, dx, dy in LABEL_POSITIONS:
            left = middles[i][0] + far * dx - size.width * (1 - dx) / 2
            bottom = middles[i][1] + far * dy - size.height * (1 - dy) / 2
            frame = Bbox.from_bounds(left, bottom, size.width, size.height)
            hidden = sum(_overlap(frame, other) for other in solid[:i] + solid[i + 1 :])
            hidden += _area(frame) - _overlap(frame, inside) + 0.2 * sum(_overlap(frame, other) for other in thin)
            best = min(best, (9 * hidden + 3 * far, (far, dx, dy), frame), key=lambda each: each[0])
        _, (far, dx, dy), frame = best
        solid.append(frame)
        note.set(position=(far * dx, far * dy), ha=ACROSS[dx], va=UPWARD[dy])
        if far > LABEL_POSITIONS[0][0]:  # it is not next to its point: a line shows whose label it is
            leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0}
            ax.annotate("", lines[i][:2], (far * dx, far * dy), textcoords="offset points", arrowprops=leader)


def _area(frame: Bbox) -> float:
    return float(frame.width * frame.height)


def _overlap(a: Bbox, b: Bbox) -> float:
    common = Bbox.intersection(a, b)
    return _area(common) if common else 0.0


def _scatter(report: ReportContent) -> Plot | None:
    """Plot every query: the best first stage's nDCG@10 across, the best system's up.

    Equal points become one larger point.
    """
    if (pairs := _pairs(report)) is None:
        return None
    best, base, ours, theirs = pairs
    # A grid of 0.02 and one path per size and colour keep the page small with thousands of queries.
    points = Counter(zip((theirs * 50).round().tolist(), (ours * 50).round().tolist(), strict=True))
    figure, (ax,) = canvas(3.6)
    ax.plot([0, 1], [0, 1], color=COLOURS["base"], linewidth=1, linestyle=(0, (4, 3)))
    dots: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for (x, y), n in points.items():
        dots.setdefault(("student" if y > x else "loss" if y < x else "base", n), []).append((x / 50, y / 50))
    for (colour, n), positions in dots.items():
        ax.plot(
            *np.array(positions).T, "o", markersize=4 * n**0.25, color=COLOURS[colour], alpha=0.6, markeredgewidth=0
        )
    ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    ax.set(xlabel=f"{METRIC}, {short(title_of(base))}", ylabel=f"{METRIC}, {short(title_of(best))}")
    names = f"{title_of(best)} against {title_of(base)}"
    caption = f"Every query, {names}. Above the line it gained; a larger dot stands for more queries."
    return Plot(figure, f"Scatter plot of {METRIC} per query, {names}", caption)


def _gains(report: ReportContent) -> Plot | None:
    """Plot every query's difference, sorted, so that one sees how many gain, how many lose, and how much."""
    if (pairs := _pairs(report)) is None:
        return None
    best, base, ours, theirs = pairs
    change = np.sort(ours - theirs)[::-1]
    figure, (ax,) = canvas(3.6)
    for part, colour in ((change.clip(min=0), "student"), (change.clip(max=0), "loss")):
        ax.stairs(part, fill=True, color=COLOURS[colour], linewidth=0)
    ax.axhline(0, color=COLOURS["base"], linewidth=0.8)
    ax.set(xlabel="queries, sorted by difference", ylabel=f"difference in {METRIC}", xlim=(0, len(change)))
    wins, losses = int((change > 0).sum()), int((change < 0).sum())
    tally = f"{wins} queries gain, {losses} lose, {len(change) - wins - losses} stay as they were"
    caption = f"{title_of(best)} minus {title_of(base)}, query by query: {tally}."
    return Plot(figure, f"Sorted per-query differences: {tally}", caption)


def _training(report: ReportContent) -> Plot | None:
    """Plot training loss and nDCG@10 on dev of every student, by step."""
    runs = [run for run in report.get("training") or [] if run.get("steps") or run.get("dev_steps")]
    if not runs:
        return None
    figure, axes = canvas(3.6, rows=2)
    for i, run in enumerate(runs):
        colour, dash = COLOURS[("student", "teacher", "base", "loss")[i % 4]], ("-", "--", ":")[i // 4 % 3]
        for ax, x, y, marker in zip(axes, ("steps", "dev_steps"), ("loss", "dev_ndcg"), ("", "o"), strict=True):
            values = np.array(run.get(y) or [], dtype=float)
            ax.plot(run.get(x) or [], values, marker=marker, markersize=4, color=colour, linestyle=dash)
        axes[0].lines[-1].set_label(short(titles_of(report).get(run["student"], run["student"])))
    axes[0].set_ylabel("training loss")
    axes[1].set(ylabel=f"dev {METRIC}", xlabel="step")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2)
    return Plot(figure, "Training loss and dev quality by step", f"Training loss, and {METRIC} on dev, by step.")


def _seconds(report: ReportContent) -> Plot | None:
    """Plot the wall-clock time of each stage."""
    spent = {str(stage): value for stage, value in (report.get("seconds") or {}).items() if value is not None}
    if not spent:
        return None
    figure, (ax,) = canvas(min(6.0, 0.5 + 0.4 * len(spent)))
    bars = ax.barh(range(len(spent)), list(spent.values()), color=COLOURS["student"], height=0.62)
    ax.bar_label(bars, [duration(value) for value in spent.values()], padding=4, color=COLOURS["ink"])
    ax.set_yticks(range(len(spent)), [short(stage, 20) for stage in spent])
    ax.set_xticks([])
    ax.set(xlim=(0, 1.25 * max(*spent.values(), 1e-9)))
    ax.invert_yaxis()
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.grid(False)
    total = duration(sum(spent.values()))
    alt = "; ".join(f"{stage} {duration(value)}" for stage, value in spent.items())
    return Plot(figure, f"Time per stage: {alt}", f"Wall-clock time per stage, {total} summed.")
