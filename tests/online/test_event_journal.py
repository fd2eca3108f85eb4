"""The journal: events are durable before they are acknowledged, and stored once, after a kill and an outage too."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.online.event_journal import SUFFIX, EventJournal, JournalFull
from rrad_ray.online.event_log import CLICKS, EXPOSURES, read_click_events, read_exposures
from tests.commands import ROOT


def click(number: int) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "request_id": f"r{number}",
        "doc_id": "d",
        "position": 1,
        "dwell_s": float("nan"),
        "time": 1.0,
    }


def exposure(number: int) -> dict[str, Any]:
    return {
        "request_id": f"r{number}",
        "experiment": "x",
        "unit": f"u{number}",
        "variant": "a",
        "query": "sort",
        "doc_ids": ["d", "e"],
        "teams": [],
        "time": 1.0,
        "model": "m",
    }


def ids(uri: str) -> list[str]:
    """Return the ids of all clicks in the store."""
    return sorted(row["event_id"] for row in read_click_events(uri, lambda *bad: pytest.fail(str(bad))))


def journal(tmp_path: Path, uri: str, most: int = 1000) -> EventJournal:
    return EventJournal(uri, str(tmp_path / "journal"), most=most)


def test_what_was_added_is_read_back_by_the_experiment(tmp_path: Path, s3_uri: str) -> None:
    for uri in (str(tmp_path / "log"), s3_uri):
        log = journal(tmp_path, uri)

        async def run(log: EventJournal = log) -> int:
            await asyncio.gather(*(log.add(CLICKS, [click(number)]) for number in range(40)))
            await log.add(EXPOSURES, [exposure(1), exposure(2)])
            assert log.held == 42
            return await log.flush()

        assert asyncio.run(run()) == 42
        assert ids(uri) == sorted(f"e{number}" for number in range(40))
        rows = list(read_exposures(uri, lambda *bad: pytest.fail(str(bad))))
        assert sorted(row["unit"] for row in rows) == ["u1", "u2"]
        assert log.held == 0
        assert not list((tmp_path / "journal").iterdir())


def test_a_killed_process_loses_nothing_that_it_acknowledged_and_nothing_is_there_twice(tmp_path: Path) -> None:
    uri, folder = str(tmp_path / "log"), str(tmp_path / "journal")
    program = f"""
import asyncio, os
from rrad_ray.online.event_journal import EventJournal
from tests.online.test_event_journal import CLICKS, click

async def main():
    log = EventJournal({uri!r}, {folder!r}, most=10**6)
    async def send(number):
        await log.add(CLICKS, [click(number)])
        os.write(1, b"%d\\n" % number)
    for start in range(0, 10**6, 50):
        await asyncio.gather(*(send(number) for number in range(start, start + 50)))
        if start == 200:
            await log.flush()
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [next(process.stdout) for _ in range(730)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.wait()
    before = len(list(Path(folder).glob(f"*{SUFFIX}")))
    assert before >= 1, "it was killed with nothing to recover"
    assert EventJournal(uri, folder, most=10).recover() == before
    stored = ids(uri)
    assert len(set(stored)) == len(stored)
    whole = {f"e{int(line)}" for line in acknowledged if line.endswith("\n")}
    assert whole <= set(stored)


def test_a_segment_that_was_written_but_not_deleted_is_written_over(tmp_path: Path) -> None:
    uri, log = str(tmp_path / "log"), journal(tmp_path, str(tmp_path / "log"))

    async def run() -> None:
        await log.add(CLICKS, [click(1)])
        [segment] = (tmp_path / "journal").glob(f"*{SUFFIX}")
        shutil.copy(segment, tmp_path / "kept")
        await log.flush()
        (tmp_path / "kept").rename(segment)  # as if it had died in between

    asyncio.run(run())
    assert journal(tmp_path, uri).recover() == 1
    assert ids(uri) == ["e1"]


def test_half_a_line_at_the_end_was_never_acknowledged_and_is_left_out(tmp_path: Path) -> None:
    log = journal(tmp_path, str(tmp_path / "log"))
    line = json.dumps([CLICKS, click(1)])
    (tmp_path / "journal" / f"torn{SUFFIX}").write_text(f"{line}\n{line[:40]}")
    assert log.recover() == 1
    assert ids(str(tmp_path / "log")) == ["e1"]


def test_a_living_process_keeps_its_segment(tmp_path: Path) -> None:
    log = journal(tmp_path, str(tmp_path / "log"))

    async def run() -> int:
        await log.add(CLICKS, [click(1)])
        assert journal(tmp_path, str(tmp_path / "log")).recover() == 0
        return await log.flush()

    assert asyncio.run(run()) == 1


def test_while_the_store_is_away_events_wait_up_to_a_bound_and_arrive_later(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    log = journal(tmp_path, str(tmp_path / "log"), most=3)

    async def run() -> int:
        await log.add(CLICKS, [click(1), click(2)])
        assert await log.flush() == 0
        assert log.failed
        await log.add(CLICKS, [click(3)])
        with pytest.raises(JournalFull, match=r"3 events wait for .*log"):
            await log.add(CLICKS, [click(4)])
        os.unlink(tmp_path / "log")
        return await log.flush()

    assert asyncio.run(run()) == 3
    assert ids(str(tmp_path / "log")) == ["e1", "e2", "e3"]


def test_a_disk_that_takes_no_more_acknowledges_nothing_and_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = journal(tmp_path, str(tmp_path / "log"))
    sync = os.fsync

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    async def run() -> None:
        await log.add(CLICKS, [click(1)])
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            await log.add(CLICKS, [click(2)])
        monkeypatch.setattr(os, "fsync", sync)
        await log.add(CLICKS, [click(3)])
        await log.flush()

    asyncio.run(run())
    assert ids(str(tmp_path / "log")) == ["e1", "e3"]
