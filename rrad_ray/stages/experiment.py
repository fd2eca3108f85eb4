"""experiment: analyse an online test from its exposures and clicks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig
from rrad_ray.errors import RradError
from rrad_ray.online import analysis, report_html
from rrad_ray.online.event_digests import LogDigests
from rrad_ray.online.event_rows import CLICKS, EXPOSURES, KINDS
from rrad_ray.online.traffic_join import join_traffic
from rrad_ray.progress import say
from rrad_ray.tables.apart import lies_within
from rrad_ray.tables.private_folders import scratch_folder


@tables.stage("experiment", None)
def run(cfg: ExperimentConfig, out: tables.Output) -> None:
    """Write `report.json` and `report.html` of an online test.

    Raises `RradError` if there are no exposures, a file cannot be read, more than `max_quarantined` of the rows are
    bad, or `state` is the log itself.
    """
    _check_state(cfg)
    with scratch_folder() as folder:
        state = cfg.state or str(folder / "state")
        digests = {kind: LogDigests(cfg.input, kind, state) for kind in KINDS}
        set_aside = _set_aside(digests, out)
        exposures, clicks = (digests[kind].batches() for kind in (EXPOSURES, CLICKS))
        content = analysis.analyse(join_traffic(exposures, clicks, cfg, folder), cfg)
    seen = content["events"]["exposures"] + content["events"]["clicks"] + set_aside
    content["events"]["set_aside"] = out.check_quarantine(seen, cfg.max_quarantined)
    content["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files = {"report.json": tables.json_text(content, indent=1), "report.html": report_html.online_test_page(content)}
    for name, text in files.items():
        tables.write_text(tables.join(out.uri, name), text)
    for line in _lines(content):
        say(line)
    say(f"report: {tables.join(out.uri, 'report.html')}")
    new_files = sum(each.new_files for each in digests.values())
    figures = {"pages": content["pages"], "units": content["units"], "left_out": content["events"]["left_out"]}
    out.commit(**figures, new_files=new_files)


def _check_state(cfg: ExperimentConfig) -> None:
    """Raise `RradError` for a state among the files of the log, which would be read as events the next time."""
    for kind in KINDS if cfg.state else ():
        if lies_within(tables.join(cfg.state, kind), tables.join(cfg.input, kind)):
            raise RradError("state", f"{cfg.state} is where the log's {kind} are", "name a folder beside the log")


def _set_aside(digests: Mapping[str, LogDigests], out: tables.Output) -> int:
    """Write the quarantine, a part for each digest that has set rows aside; return the number of these rows."""
    count = 0
    for number, bad in enumerate(bad for each in digests.values() for bad in each.bad if bad):
        for row in bad:
            out.quarantine(*row)
        out.write_quarantine(tables.part_name(number))
        count += len(bad)
    return count


def _lines(content: analysis.TestContent) -> Iterator[str]:
    """Yield the lines for the terminal: the headline, and the events that were left out or shortened."""
    yield report_html.online_headline(content)
    for reason, count in content["events"]["left_out"].items():
        yield f"left out: {count:,} x {reason}"
    if shortened := content["events"].get("shortened"):
        yield f"counted as max_dwell_s: {shortened:,} x longer dwell (dwell_s is in seconds)"
