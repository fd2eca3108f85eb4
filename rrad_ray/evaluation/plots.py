"""Plotting for both reports: the theme of the pages as Matplotlib settings, and plots as inline SVG."""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rrad_ray.evaluation.theme import COLOURS

STYLE: Any = {
    "svg.hashsalt": "rrad-ray", "svg.fonttype": "none", "text.parse_math": False, "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9, "legend.frameon": False, "lines.linewidth": 1.5,
    "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["muted"], "axes.edgecolor": COLOURS["line"],
    "xtick.color": COLOURS["line"], "ytick.color": COLOURS["line"], "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"], "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": COLOURS["line"], "grid.linewidth": 0.6,
}  # fmt: skip


class Plot(NamedTuple):
    """A figure with its alternative text and its caption."""

    figure: Figure
    alt: str
    caption: str


def short(text: str, length: int = 30) -> str:
    """Return the text on one line, cut to `length` characters with an ellipsis."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def canvas(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure of this height in inches and its axes, one below the other with a common x axis."""
    # It is narrow so that the text stays readable on a phone.
    figure = Figure(figsize=(4.7, height), dpi=72, layout="constrained")
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def svg(name: str, plot: Plot) -> Markup:
    """Return the plot as inline SVG: ids prefixed by `name`, colours as CSS variables, no metadata, no namespace."""
    buffer = io.StringIO()
    plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    width, height = plot.figure.get_size_inches() * 72
    return Markup(f'<svg role="img" aria-label="{escape(plot.alt)}" viewBox="0 0 {width:g} {height:g}">{text}')
