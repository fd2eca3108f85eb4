"""What the reports' plots share: the pages' theme, and plots as inline SVG."""

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
    """A figure, what it shows for those who do not see it, and its caption."""

    figure: Figure
    alt: str
    caption: str


def short(text: str, length: int = 30) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def canvas(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    # Narrow on purpose: on a phone the text must not shrink below what can be read.
    figure = Figure(figsize=(4.7, height), dpi=72, layout="constrained")
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def svg(name: str, plot: Plot) -> Markup:
    """The drawing alone: ids of its own on the page, colours from CSS variables, no metadata and no namespace."""
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
