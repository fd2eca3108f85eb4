"""A million queries through `judge` (echo: no model) and `label`: rows/s, peak memory, how time grows."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil

from benchmarks import harness
from rrad_ray import tables

DOCUMENTS = 20


def bench(quick: bool, scratch: str) -> harness.Result:
    small, large = (10_000, 100_000) if quick else (100_000, 1_000_000)
    rows = [_through(scratch, "local", small), _through(scratch, "local", large)]
    with harness.s3() as (bucket, _):
        rows.append(_through(bucket, "S3", large))
    least, most = rows[0], rows[1]
    figures = {
        "rows_per_s": most["queries"] / (most["judge s"] + most["label s"]),
        "peak_gib": max(row["peak GiB"] for row in rows),
        "time_ratio_10x": (most["judge s"] + most["label s"]) / (least["judge s"] + least["label s"]),
    }
    return harness.Result(figures, rows, {"documents": DOCUMENTS, "queries": [small, large]})


def _through(place: str, kind: str, queries: int) -> dict[str, Any]:
    """Input made, judged and labelled by the commands that a user types; each in a process of its own."""
    folder = tables.join(place, f"{kind}-{queries}")
    harness.write_candidates(tables.join(folder, "input"), queries, DOCUMENTS)
    judge = ["judge", "configs/judge.yaml", f"input={folder}/input", f"output={folder}/judgments"]
    judge += ["engine=echo", "task=order", "shard_queries=1000"]
    judged = _run(judge)
    labelled = _run(["label", "configs/label.yaml", f"input={folder}/judgments", f"output={folder}/labels"])
    facts = tables.read_manifest(f"{folder}/labels").facts
    if facts["rows"] != queries:
        raise SystemExit(f"{facts['rows']} labelled queries of {queries}")
    return {
        "place": kind,
        "queries": queries,
        "judge s": judged[0],
        "label s": labelled[0],
        "queries/s": queries / (judged[0] + labelled[0]),
        "peak GiB": max(judged[1], labelled[1]),
    }


def _run(arguments: list[str]) -> tuple[float, float]:
    """Seconds, and the peak of what all the command's processes held at once, shared pages counted once, in GiB."""
    began = time.monotonic()
    peak = 0

    def look(process: psutil.Process) -> None:
        nonlocal peak
        peak = max(peak, _held(process))

    code, said = harness.run(arguments, look, every_s=1)
    if code:
        raise SystemExit("".join(said[-40:]))
    return time.monotonic() - began, peak / 2**30


def _held(process: psutil.Process) -> int:
    held = 0
    with contextlib.suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                held += one.memory_full_info().pss
    return held


if __name__ == "__main__":
    harness.main("scale", bench)
