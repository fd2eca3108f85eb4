"""`rrad experiment` over a long log: peak memory, events a second, and a later reading that knows all days but one.

Pages are simulated: each user sees some pages of ten documents, queries are frequent by Zipf's law.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from rrad_ray import tables
from rrad_ray.online.event_rows import CLICKS, EXPOSURES
from rrad_ray.rows import ClickEvent, Exposure

DAYS, DOCUMENTS, QUERIES, FILE_PAGES = 8, 10, 300_000, 125_000
WORDS = np.array([f"word{number}" for number in range(600)], object)


def bench(quick: bool, scratch: str) -> harness.Result:
    """Read seven days of a log, then eight with what has been kept of the seven, then eight from scratch."""
    pages = (1_500_000 if quick else 15_000_000) // DAYS  # of a day; a third as many clicks
    rows, events = [], [0, 0]
    for day in range(DAYS):
        events = [count + more for count, more in zip(events, _write_day(f"{scratch}/log", day, pages), strict=True)]
        if day == DAYS - 2:
            rows.append(_read("seven days", scratch, f"{scratch}/state"))
    rows.append(_read("and the eighth", scratch, f"{scratch}/state"))
    rows.append(_read("eight days from scratch", scratch, ""))
    total = sum(events)
    figures = {
        "peak_gib": max(row["peak GiB"] for row in rows),
        "events_per_s": total / rows[2]["seconds"],
        "incremental_over_scratch": rows[1]["seconds"] / rows[2]["seconds"],
    }
    return harness.Result(figures, rows, {"exposures": events[0], "clicks": events[1]})


def _read(what: str, scratch: str, state: str) -> dict[str, Any]:
    """Return seconds and peak memory of a reading."""
    peak = 0

    def measure(process: psutil.Process) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    output = f"{scratch}/{what.replace(' ', '-')}"
    design = ["name=test", f"state={state}"]
    began = time.perf_counter()
    code, lines = harness.run(
        ["experiment", "configs/experiment.yaml", f"input={scratch}/log", f"output={output}", *design], measure
    )
    if code:
        raise SystemExit("\n".join(lines))
    return {"reading": what, "seconds": time.perf_counter() - began, "peak GiB": peak / 2**30}


def _write_day(log: str, day: int, pages: int) -> tuple[int, int]:
    """Write a day's pages and clicks, in files as replicas do; return their numbers."""
    clicks = 0
    for start in range(0, pages, FILE_PAGES):
        count, draw = min(FILE_PAGES, pages - start), np.random.default_rng([day, start])
        numbers = np.arange(start, start + count)
        units = draw.integers(0, max(pages, 1), count)  # on average a page a day
        queries = np.minimum(draw.zipf(1.2, count), QUERIES)
        documents = np.arange(DOCUMENTS) + DOCUMENTS * (queries[:, None] % 10_000)
        bounds = np.arange(0, (count + 1) * DOCUMENTS, DOCUMENTS, dtype=np.int32)
        lists = pa.ListArray.from_arrays(bounds, pa.array(np.char.add("d", documents.ravel().astype(str))))
        requests = pa.array(np.char.add(f"{day}-", numbers.astype(str)))
        moments = day * 86_400.0 + np.sort(draw.random(count)) * 86_400.0
        variants = np.where(units % 2, "encoder", "bm25")
        shown = {
            "request_id": requests, "experiment": ["test"] * count, "unit": np.char.add("user-", units.astype(str)),
            "variant": variants, "query": _texts(queries), "doc_ids": lists, "teams": [[]] * count, "time": moments,
            "model": variants,
        }  # fmt: skip
        _write(f"{log}/{EXPOSURES}/day={day}/{start:09}.parquet", shown, Exposure)
        clicked = np.flatnonzero(draw.random(count) < 1 / 3)
        positions = draw.integers(0, DOCUMENTS, len(clicked))
        events = {
            "event_id": np.char.add("e", clicked.astype(str)), "request_id": requests.take(pa.array(clicked)),
            "doc_id": lists.values.take(pa.array(clicked * DOCUMENTS + positions)), "position": positions + 1,
            "dwell_s": draw.exponential(30, len(clicked)), "time": moments[clicked] + 5.0,
        }  # fmt: skip
        _write(f"{log}/{CLICKS}/day={day}/{start:09}.parquet", events, ClickEvent)
        clicks += len(clicked)
    return pages, clicks


def _texts(queries: np.ndarray) -> list[str]:
    """Return a query of three words for each number."""
    parts = [WORDS[queries % 600], WORDS[queries // 600 % 600], WORDS[queries * 7 % 600]]
    return [" ".join(words) for words in zip(*parts, strict=True)]


def _write(uri: str, columns: dict[str, object], kind: type) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=tables.schema_of(kind)), sink, compression="zstd")
    tables.write_bytes(uri, sink.getvalue().to_pybytes())


if __name__ == "__main__":
    harness.main("experiment", bench)
