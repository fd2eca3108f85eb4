"""An online test's results as a sentence and as one self-contained HTML page with plots.

The content is that of `analysis.analyse`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rrad_ray.evaluation.plots import STYLE, Plot, canvas, short, svg
from rrad_ray.evaluation.summary import number, p_value
from rrad_ray.evaluation.theme import COLOURS, render_page

PageContent = dict[str, Any]

LINES = ("student", "teacher", "loss", "base")  # names of the treatments' colours, in order


def online_headline(content: PageContent) -> str:
    """Return the finding in one sentence, whichever way the test went."""
    if content["design"] == "interleave":
        return _preferred(content)
    if content["mismatch"]["detected"]:
        p = p_value(content["mismatch"]["p"])
        return f"No lift can be trusted: the weights do not explain how many units each variant has (p {_is(p)})."
    lifts = [row for row in content["lifts"] if row["metric"] == content["metric"] and row["p"] is not None]
    if not lifts:
        return "There is too little traffic to compare anything yet."
    best = min(lifts, key=lambda row: row["holm"])
    meaning, control = content["metrics"][content["metric"]], content["control"]
    clear, higher = best["holm"] < content["alpha"], best["lift"] > 0
    verdict = "raises" if higher else "lowers"
    judgement = ", which is good" if higher == meaning["up"] else ", which is bad"
    figures = f"{percent(best['lift'])} {shown_interval(best)}, p {_is(p_value(best['holm']))}"
    if not clear:
        return f"{best['variant']} does not clearly change {meaning['title']} against {control}: {figures}."
    return f"{best['variant']} {verdict} {meaning['title']} against {control}{judgement}: {figures}."


def _preferred(content: PageContent) -> str:
    """Return the headline of an interleaved test."""
    preference, control = content["preference"], content["control"]
    treatment = preference["treatment"]
    if preference["p"] is None:
        return "No unit has clicked on either side more often yet."
    share = f"{100 * preference['share']:.1f} % of the units with a preference"
    if preference["p"] >= content["alpha"]:
        return f"{treatment} and {control} are not clearly apart: {share} prefer {treatment}."
    winner = treatment if preference["share"] > 0.5 else control
    return f"Users prefer {winner}: {share} prefer {treatment}, p {_is(p_value(preference['p']))}."


def _is(p: str) -> str:
    """Return `= 0.012` or `< 0.001`."""
    return p if p.startswith("<") else f"= {p}"


def percent(value: float | None) -> str:
    """Format a relative difference in percent, with its sign; a dash for none.

    A no-break space keeps the percent sign on the number's line.
    """
    return "–" if value is None else f"{'+' if value > 0 else ''}{number(100 * value, 1)}\N{NO-BREAK SPACE}%"


def shown_interval(row: PageContent) -> str:
    """Format a lift's interval in percent."""
    return f"[{percent(row['low'])}, {percent(row['high'])}]"


def value(metric: str, figure: float | None) -> str:
    """Format a metric's value in its unit: seconds for dwell, percent for the others; a dash for none."""
    return f"{number(figure, 1)} s" if metric == "dwell" else "–" if figure is None else f"{100 * figure:.2f} %"


def online_test_page(content: PageContent) -> str:
    """Return one self-contained page: inline CSS and SVG, no script, no network. Same content, same bytes."""
    with matplotlib.rc_context(STYLE):
        plots = {"lifts": _lifts(content), "segments": _segments(content), "looks": _looks(content)}
        figures = {name: (svg(name, plot), plot.caption) for name, plot in plots.items() if plot}
    return render_page(
        "experiment.html.j2", content=content, headline=online_headline(content), figures=figures, percent=percent,
        interval=shown_interval, value=value,
    )  # fmt: skip


def _forest(rows: list[tuple[str, PageContent, str]]) -> Figure:
    """Draw a forest plot of lifts with their intervals. Rows: label, figures, colour."""
    figure, (ax,) = canvas(min(9.0, 0.9 + 0.3 * len(rows)))
    for y, (_, row, colour) in enumerate(rows):
        if row["low"] is not None:
            ax.hlines(y, 100 * row["low"], 100 * row["high"], color=COLOURS[colour], linewidth=1.6, alpha=0.5)
        ax.plot([100 * row["lift"]], [y], "o", markersize=6, color=COLOURS[colour])
    ax.axvline(0, color=COLOURS["base"], linewidth=0.8)
    ax.set_yticks(range(len(rows)), [short(label, 34) for label, _, _ in rows])
    ax.set(xlabel="lift, %", ylim=(len(rows) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)
    return figure


def _colour(content: PageContent, variant: str) -> str:
    return LINES[content["treatments"].index(variant) % len(LINES)]


def _named(content: PageContent, variant: str, label: str) -> str:
    """Return the label, with the variant's name where there are several treatments."""
    return label if len(content["treatments"]) == 1 else f"{label}, {variant}"


def _lifts(content: PageContent) -> Plot | None:
    """Plot the lift of every metric; None if none was measured."""
    drawn = _drawn(content, "lifts", lambda row: content["metrics"][row["metric"]]["title"])
    if drawn is None:
        return None
    figure, alt = drawn
    caption = f"Lift over {content['control']} with its interval, for one reading at the end, uncorrected."
    return Plot(figure, f"Lifts: {alt}", caption)


def _segments(content: PageContent) -> Plot | None:
    """Plot the deciding metric's lift by segment; None if none was measured."""
    drawn = _drawn(content, "segments", _segment)
    if drawn is None:
        return None
    figure, alt = drawn
    title = content["metrics"][content["metric"]]["title"]
    return Plot(figure, f"Lifts by segment: {alt}", f"Lift of {title} by segment, with its interval, uncorrected.")


def _segment(row: dict[str, Any]) -> str:
    """Return a segment's label, as `length: 3 or 4`."""
    return f"{row['kind'].removeprefix('query ')}: {row['segment']}"


def _drawn(content: PageContent, key: str, name: Callable[[dict[str, Any]], str]) -> tuple[Figure, str] | None:
    """Return a forest plot of the lifts under a key of the content, and its alternative text; None without lifts."""
    rows = [
        (_named(content, row["variant"], name(row)), row) for row in content.get(key) or [] if row["lift"] is not None
    ]
    if not rows:
        return None
    figure = _forest([(label, row, _colour(content, row["variant"])) for label, row in rows])
    alt = "; ".join(f"{label} {percent(row['lift'])}" for label, row in rows)
    return figure, alt


def _looks(content: PageContent) -> Plot | None:
    """Plot the always-valid lift over time: what one may believe who looks repeatedly."""
    drawn = {variant: rows for variant, rows in (content.get("looks") or {}).items() if rows}
    if not drawn:
        return None
    figure, (ax,) = canvas(3.2)
    for variant, rows in drawn.items():
        colour = COLOURS[_colour(content, variant)]
        days = [(row["time"] - content["period"][0]) / 86400 for row in rows]
        ax.plot(days, [100 * row["lift"] for row in rows], color=colour, label=short(variant))
        ends = [(day, row) for day, row in zip(days, rows, strict=True) if row["low"] is not None]
        low, high = ([100 * row[end] for _, row in ends] for end in ("low", "high"))
        ax.fill_between([day for day, _ in ends], low, high, color=colour, alpha=0.15, linewidth=0)
    ax.axhline(0, color=COLOURS["base"], linewidth=0.8)
    last = [100 * rows[-1][end] for rows in drawn.values() for end in ("low", "high") if rows[-1][end] is not None]
    if last:  # scaled by the last intervals: beside the first, very wide ones they would look like a line
        reach = max(last) - min(last)
        ax.set_ylim(min(0.0, *last) - reach, max(0.0, *last) + reach)
    ax.set(xlabel="days", ylabel="lift, %")
    if len(drawn) > 1:
        figure.legend(loc="outside upper center", ncols=2)
    title = content["metrics"][content["metric"]]["title"]
    alt = "; ".join(f"{variant} ends at {percent(rows[-1]['lift'])}" for variant, rows in drawn.items())
    caption = f"Lift of {title} as it was seen over time, with intervals that hold at all times at once."
    return Plot(figure, f"Lift over time: {alt}", caption)
