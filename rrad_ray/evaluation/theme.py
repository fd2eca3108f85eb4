"""The theme of all HTML pages, and Jinja templates that escape all text."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jinja2

from rrad_ray.evaluation.summary import count, duration, number, p_value, signed

# The light theme. A plot is drawn in these colours, which `plots.svg` then replaces by the page's CSS variables: one
# drawing serves light and dark.
COLOURS = {
    "ink": "#1d2126", "muted": "#68707c", "line": "#dfe2e7", "base": "#828b98",
    "student": "#0b6fa4", "teacher": "#b3650a", "loss": "#c4473a",
}  # fmt: skip

# The policy of pages that run nothing and load nothing: should a text in them ever not be escaped, it still cannot
# run a script, fetch or send anything. Inline styles are allowed: some are in attributes, which no hash can name.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(template: str, **values: Any) -> str:
    """Render a template of `rrad_ray/templates` to a self-contained page, or a part of one, that loads nothing."""
    loader = jinja2.PackageLoader("rrad_ray")
    env = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(number=number, signed=signed, p_value=p_value, count=count, duration=duration)
    return env.get_template(template).render(colours=COLOURS, report_policy=REPORT_POLICY, **values)


def source_hash(text: str) -> str:
    """Return how a content security policy names an inline script or style that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
