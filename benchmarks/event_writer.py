"""A process that logs events as a replica does, and prints each that was acknowledged: `benchmarks.events` kills it.

python -m benchmarks.event_writer URI FOLDER FIRST COUNT PER_SECOND [jumps]
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import sys
import time
from types import SimpleNamespace
from typing import Any

from rrad_ray.online.event_journal import EventJournal, JournalFull
from rrad_ray.online.event_rows import CLICKS, EXPOSURES
from rrad_ray.serving.chores import Chores, flush_journal

FLUSH_S = 1.0
AT_ONCE = 10  # events that share a group commit


def events_of(number: int) -> tuple[str, dict[str, Any]]:
    """Return the kind and the row of an event: a page, or a click on it."""
    page = {"request_id": f"r{number // 2}", "time": time.time()}
    if number % 2:
        return CLICKS, {**page, "event_id": f"e{number}", "doc_id": "d1", "position": 1, "dwell_s": 3.5}
    page |= {"experiment": "x", "unit": f"u{number % 100}", "variant": "a", "model": "m", "query": "sort a list"}
    return EXPOSURES, {**page, "doc_ids": [f"d{index}" for index in range(1, 11)], "teams": []}


async def log_events(uri: str, folder: str, first: int, count: int, per_second: float) -> None:
    """Log events, a few at a time, at a rate (0: as fast as it goes), with the chores of a replica; flush at the
    end."""
    journal = EventJournal(uri, folder, most=100_000)
    metrics: Any = SimpleNamespace(events_held=lambda held: None, events_set_aside=lambda rows: None)
    chores = Chores()
    chores.repeat(FLUSH_S, functools.partial(flush_journal, journal, metrics))

    async def send(number: int) -> None:
        kind, row = events_of(number)
        try:
            await journal.add(kind, [row])
        except (JournalFull, OSError):
            os.write(1, b"refused\n")
        else:
            os.write(1, b"%d\n" % number)

    began = time.monotonic()
    for start in range(first, first + count, AT_ONCE):
        await asyncio.gather(*map(send, range(start, start + AT_ONCE)))
        if per_second:
            await asyncio.sleep(began + (start - first + AT_ONCE) / per_second - time.monotonic())
    chores.cancel()
    while journal.held:
        await journal.flush()
        await asyncio.sleep(0.1)


def let_the_clock_jump() -> None:
    """Let each look at the clock of the day give a time of its own, from 1970 to 2100."""
    draw, local = random.Random(os.getpid()), time.gmtime
    time.time = lambda: draw.uniform(0, 4.1e9)
    time.gmtime = lambda *seconds: local(*seconds or [time.time()])


if __name__ == "__main__":
    if "jumps" in sys.argv:
        let_the_clock_jump()
    uri, folder, first, count, per_second = sys.argv[1:6]
    asyncio.run(log_events(uri, folder, int(first), int(count), float(per_second)))
