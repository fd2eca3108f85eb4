"""What the reports share: one theme for page and plots, plots as inline SVG, templates that escape all text."""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rrad_ray.report import count, duration, number, p_value, signed

# The light theme. Plots are drawn in these colours and refer to the page's CSS variables afterwards, so that
# one drawing serves light and dark.
COLOURS = {
    "ink": "#1d2126", "muted": "#68707c", "line": "#dfe2e7", "base": "#828b98",
    "student": "#0b6fa4", "teacher": "#b3650a", "loss": "#c4473a",
}  # fmt: skip
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


def render(template: str, **values: Any) -> str:
    """One page that needs nothing else: inline CSS and SVG, no script, no network."""
    loader = jinja2.PackageLoader("rrad_ray")
    env = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(number=number, signed=signed, p_value=p_value, count=count, duration=duration)
    return env.get_template(template).render(colours=COLOURS, **values)


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
