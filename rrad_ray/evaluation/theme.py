"""What all pages share: one theme, and templates that escape all text."""

from __future__ import annotations

from typing import Any

import jinja2

from rrad_ray.evaluation.summary import count, duration, number, p_value, signed

# The light theme. Plots are drawn in these colours and refer to the page's CSS variables afterwards, so that
# one drawing serves light and dark.
COLOURS = {
    "ink": "#1d2126", "muted": "#68707c", "line": "#dfe2e7", "base": "#828b98",
    "student": "#0b6fa4", "teacher": "#b3650a", "loss": "#c4473a",
}  # fmt: skip


def render(template: str, **values: Any) -> str:
    """One page, or a part of one, that needs nothing else: inline CSS and SVG, no network."""
    loader = jinja2.PackageLoader("rrad_ray")
    env = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(number=number, signed=signed, p_value=p_value, count=count, duration=duration)
    return env.get_template(template).render(colours=COLOURS, **values)
