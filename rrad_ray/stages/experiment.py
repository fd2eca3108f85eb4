"""experiment: analyse an online test from its exposures and clicks."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig
from rrad_ray.online import analysis, event_log, report_html
from rrad_ray.progress import say


@tables.stage("experiment", None)
def run(cfg: ExperimentConfig, out: tables.Output) -> None:
    """Write `report.json` and `report.html` of an online test.

    Raises `RradError` if there are no exposures, a file cannot be read, or more than `max_quarantined` of the rows
    are bad.
    """
    exposures = event_log.read_exposures(cfg.input, out.quarantine)
    clicks = event_log.read_click_events(cfg.input, out.quarantine)
    content = analysis.analyse(exposures, clicks, cfg)
    seen = content["events"]["exposures"] + content["events"]["clicks"] + len(out.quarantined)
    content["events"]["set_aside"] = out.check_quarantine(seen, cfg.max_quarantined)
    content["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files = {"report.json": tables.json_text(content, indent=1), "report.html": report_html.online_test_page(content)}
    for name, text in files.items():
        tables.write_text(tables.join(out.uri, name), text)
    for line in _lines(content):
        say(line)
    say(f"report: {tables.join(out.uri, 'report.html')}")
    out.commit(pages=content["pages"], units=content["units"], left_out=content["events"]["left_out"])


def _lines(content: analysis.TestContent) -> Iterator[str]:
    """Yield the lines for the terminal: the headline, and the events that were left out."""
    yield report_html.online_headline(content)
    for reason, count in content["events"]["left_out"].items():
        yield f"left out: {count:,} x {reason}"
