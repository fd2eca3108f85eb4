"""The journal: events are durable before they are acknowledged, and stored once, after a kill and an outage too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs

from rrad_ray.errors import RradError
from rrad_ray.online import event_journal
from rrad_ray.online.event_journal import EventJournal, JournalFull
from rrad_ray.online.event_log import read_click_events, read_exposures
from rrad_ray.online.event_rows import CLICKS, EXPOSURES
from rrad_ray.online.segments import SUFFIX
from tests.commands import ROOT
from tests.unreliable import unreliable


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


def test_many_clicks_are_checked_beside_the_loop_that_answers_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, threads = event_journal.encode_events, list[int]()

    def encoded(rows: Any, kind: str) -> bytes:
        threads.append(threading.get_ident())
        return encode(rows, kind)

    monkeypatch.setattr(event_journal, "encode_events", encoded)

    async def run() -> int:
        log = EventJournal(f"{tmp_path}/log", f"{tmp_path}/journal", most=10_000)
        await log.add(CLICKS, [click(0)])
        await log.add(CLICKS, [click(number) for number in range(1, 10_000)])
        return await log.flush()

    assert asyncio.run(run()) == 10_000
    assert threads[0] == threading.get_ident() != threads[1]
    assert len(ids(f"{tmp_path}/log")) == 10_000


def test_a_killed_process_loses_nothing_that_it_acknowledged_and_nothing_is_there_twice(tmp_path: Path) -> None:
    uri, folder = str(tmp_path / "log"), str(tmp_path / "journal")
    program = f"""
import asyncio, os
from rrad_ray.online import event_journal
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


# ---- what does not stop it ----------------------------------------------------------------------------------

WRITER = """
import asyncio, os, resource, sys
from rrad_ray.online.event_journal import EventJournal
from rrad_ray.online.event_rows import CLICKS
from tests.online.test_event_journal import click

async def main():
    log = EventJournal({uri!r}, {folder!r}, most=10**6)
    async def send(number):
        try:
            await log.add(CLICKS, [click(number)])
        except OSError as error:
            os.write(2, str(error).encode())
        else:
            os.write(1, b"%d\\n" % number)
    for start in range({first}, 10**6, 50):
        await asyncio.gather(*(send(number) for number in range(start, start + 50)))
        if start % 500 == 0:
            await log.flush()
"""


def writer(uri: str, folder: str, first: int, more: str = "asyncio.run(main())") -> subprocess.Popen[str]:
    """Start a process that writes clicks from a number on, and prints those that were acknowledged."""
    program = WRITER.format(uri=uri, folder=folder, first=first) + more
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True, **pipes)


def killed(process: subprocess.Popen[str], after: int) -> set[str]:
    """Kill a writer (kill -9) after as many acknowledged clicks; return the ids of all that it acknowledged."""
    assert process.stdout is not None
    lines = [next(process.stdout) for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    return {f"e{int(line)}" for line in lines if line.endswith("\n")}


def test_two_processes_on_one_folder_that_are_killed_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    uri, folder = str(tmp_path / "log"), str(tmp_path / "journal")
    both = [writer(uri, folder, first) for first in (0, 500_000)]
    acknowledged = killed(both[0], 700) | killed(both[1], 1300)
    third = journal(tmp_path, uri)
    third.recover()
    stored = ids(uri)
    assert len(set(stored)) == len(stored)
    assert acknowledged <= set(stored)
    assert (third.failed, third.set_aside, list(Path(folder).iterdir())) == ("", 0, [])


def test_two_journals_in_turn_store_each_others_closed_segments_once(tmp_path: Path, s3_uri: str) -> None:
    logs = [journal(tmp_path, s3_uri) for _ in range(2)]

    async def run() -> None:
        for number in range(6):
            await asyncio.gather(*(log.add(CLICKS, [click(10 * number + which)]) for which, log in enumerate(logs)))
            await asyncio.gather(*(log.flush() for log in logs))
        for log in logs:
            await log.flush()

    asyncio.run(run())
    assert ids(s3_uri) == sorted(f"e{10 * number + which}" for number in range(6) for which in range(2))
    assert [(log.held, log.held_bytes) for log in logs] == [(0, 0)] * 2


def test_a_limit_of_a_files_size_costs_a_segment_and_no_acknowledged_click(tmp_path: Path) -> None:
    uri, folder = str(tmp_path / "log"), str(tmp_path / "journal")
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); asyncio.run(main())"
    process = writer(uri, folder, 1, limit)
    acknowledged = killed(process, 1000)
    assert process.stderr is not None
    assert "File too large" in process.stderr.read() or len(list(Path(folder).iterdir())) > 1
    recovered = journal(tmp_path, uri)
    recovered.recover()
    assert acknowledged <= set(ids(uri))
    assert recovered.set_aside == 0


Fault = Callable[[pytest.MonkeyPatch], None]


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def at_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "fsync", no_room)


def at_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "open", no_room)


@pytest.mark.parametrize("fault", [at_sync, at_open])
def test_while_the_disk_is_full_nothing_is_acknowledged_and_then_all_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    log = journal(tmp_path, str(tmp_path / "log"))

    async def run() -> None:
        for number in range(6):
            with monkeypatch.context() as patch:
                if number % 2:
                    await log.flush()
                    fault(patch)
                with pytest.raises(OSError, match="No space left") if number % 2 else contextlib.nullcontext():
                    await log.add(CLICKS, [click(number)])
                if number % 2:
                    await log.flush()
        await log.flush()

    asyncio.run(run())
    assert ids(str(tmp_path / "log")) == ["e0", "e2", "e4"]
    assert (log.held, log.held_bytes, log.set_aside, list((tmp_path / "journal").iterdir())) == (0, 0, 0, [])


def test_a_disk_that_neither_takes_a_line_nor_lets_it_be_cut_costs_what_was_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = journal(tmp_path, str(tmp_path / "log"))

    class Torn:
        """A file whose disk fails in the middle of a line."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, content: bytes) -> int:
            return int(self.file.write(content[: len(content) // 2]))

        def truncate(self, size: int) -> None:
            raise OSError(5, "Input/output error")

        def close(self) -> None:
            self.file.close()

    async def run() -> None:
        await log.add(CLICKS, [click(1)])
        assert log.segment is not None
        log.segment.file = Torn(log.segment.file)  # type: ignore[assignment]
        with pytest.raises(OSError, match="Input/output error"):
            await log.add(CLICKS, [click(2), click(3)])
        await log.add(CLICKS, [click(4)])
        await log.flush()

    asyncio.run(run())
    stored = ids(str(tmp_path / "log"))
    assert stored == ["e1", "e2", "e4"], "the whole line of 2 is there, as if its answer had been lost on the way"
    assert (log.held, log.failed) == (0, "")


def test_a_full_store_keeps_the_segment_and_its_folder_clean_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = journal(tmp_path, str(tmp_path / "log"))

    async def run() -> None:
        await log.add(CLICKS, [click(1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", no_room)
            assert await log.flush() == 0
        assert "no space left on the device" in log.failed
        assert (await log.flush(), log.failed) == (1, "")

    asyncio.run(run())
    assert ids(str(tmp_path / "log")) == ["e1"]


def test_a_clock_that_jumps_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "log")

    async def run(number: int, flush: bool) -> None:
        log = journal(tmp_path, uri)
        await log.add(CLICKS, [click(number)])
        if flush:
            await log.flush()
            await log.add(CLICKS, [click(number + 1)])
        assert log.segment is not None
        log.segment.close()  # as if it were killed

    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    for number, seconds in enumerate((2e9, 0.0, 2e9, 1e6, 4e9, 2e9)):
        with monkeypatch.context() as patch:
            patch.setattr(time, "gmtime", lambda: time.localtime(seconds))  # noqa: B023
            patch.setattr(time, "time", lambda: seconds)  # noqa: B023
            asyncio.run(run(10 * number, flush=bool(number % 2)))
    journal(tmp_path, uri).recover()
    assert ids(uri) == sorted(f"e{number}" for number in (0, 10, 11, 20, 30, 31, 40, 50, 51))


def test_events_wait_for_a_store_that_is_away_within_bounds_of_rows_and_bytes_and_all_arrive(
    tmp_path: Path, s3_uri: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_journal, "SEGMENT_BYTES", 2000)
    log = EventJournal(s3_uri, str(tmp_path / "journal"), most=1000, most_bytes=20_000)
    taken = list[str]()

    async def run(counts: Counter[str]) -> None:
        counts["away"] = 1
        for number in range(60):
            with contextlib.suppress(JournalFull):
                await log.add(CLICKS, [click(10 * number + index) for index in range(5)])
                taken.extend(f"e{10 * number + index}" for index in range(5))
            if number == 30:
                assert await log.flush() == 0
                assert "did not answer" in log.failed
        assert len(taken) < 300
        on_disk = sum(path.stat().st_size for path in (tmp_path / "journal").iterdir())
        assert 15_000 < on_disk < 22_000, "headers of segments come on top"
        counts["away"] = 0
        assert await log.flush() == len(taken)
        await log.add(CLICKS, [click(999)])
        await log.flush()

    with unreliable(int(s3_endpoint.rpartition(":")[2]), fails=0.0, stalls=0.0, stall_s=0.0) as (port, counts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        asyncio.run(run(counts))
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    assert ids(s3_uri) == sorted([*taken, "e999"])
    assert (log.held, log.held_bytes, log.failed) == (0, 0, "")


def test_what_killed_processes_left_counts_against_the_bound_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")

    async def run() -> int:
        for start in range(100):
            log = EventJournal(str(tmp_path / "log"), str(tmp_path / "journal"), most=1000, most_bytes=5000)
            try:
                await log.add(CLICKS, [click(start)])
            except JournalFull:
                return start
            assert log.segment is not None
            log.segment.close()
            await log.flush()
        return 100

    assert 10 < asyncio.run(run()) < 40, "a process that crashes again and again does not fill the disk"


def test_a_flush_has_its_turn_while_events_never_cease(tmp_path: Path) -> None:
    log = journal(tmp_path, str(tmp_path / "log"), most=10**6)

    async def run() -> int:
        over = asyncio.Event()

        async def send(first: int) -> None:
            number = first
            while not over.is_set():
                await log.add(CLICKS, [click(number)])
                number += 10

        senders = [asyncio.create_task(send(first)) for first in range(10)]
        await asyncio.sleep(0.05)
        flushed = await asyncio.wait_for(log.flush(), 60)
        over.set()
        await asyncio.gather(*senders)
        return flushed

    assert asyncio.run(run()) > 0


def test_a_burst_of_events_is_stored_before_its_time_and_closes_no_door(tmp_path: Path) -> None:
    log = journal(tmp_path, str(tmp_path / "log"), most=100)

    async def run() -> None:
        for number in range(40):
            await log.add(CLICKS, [click(10 * number + index) for index in range(10)])
            while log.held > 80:
                await asyncio.sleep(0.01)
        await log.flush()

    asyncio.run(run())
    assert len(ids(str(tmp_path / "log"))) == 400


def test_a_folder_that_is_cleaned_away_is_made_again_and_costs_no_event(tmp_path: Path) -> None:
    log = journal(tmp_path, str(tmp_path / "log"))

    async def run() -> None:
        for number in range(4):
            await log.add(CLICKS, [click(number)])
            shutil.rmtree(tmp_path / "journal")
        assert await log.flush() == 4

    asyncio.run(run())
    assert ids(str(tmp_path / "log")) == ["e0", "e1", "e2", "e3"]


def test_two_logs_never_share_a_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    uris = ["s3://bucket/a_b", "s3://bucket/a/b", "s3://bucket/a:b", f"s3://bucket/{'a' * 500}"]
    folders = {event_journal.folder_of(uri) for uri in uris}
    assert len(folders) == len(uris)
    for folder in folders:
        assert Path(folder).parent == tmp_path / "state" / "rrad-ray"
        EventJournal("log", folder, most=1)


def test_events_are_read_and_brought_by_no_other_user(tmp_path: Path) -> None:
    async def run() -> tuple[int, int]:
        log = journal(tmp_path, str(tmp_path / "log"))
        await log.add(CLICKS, [click(0)])
        assert log.segment is not None
        path = log.segment.path
        return path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777

    assert asyncio.run(run()) == (0o600, 0o700)
    (tmp_path / "journal").chmod(0o777)
    with pytest.raises(RradError, match="other users may write to it"):
        journal(tmp_path, str(tmp_path / "log"))


def test_large_events_are_stored_before_they_fill_the_journal(tmp_path: Path) -> None:
    log = EventJournal(str(tmp_path / "log"), str(tmp_path / "journal"), most=1000, most_bytes=100_000)

    async def run() -> None:
        for number in range(40):
            await log.add(CLICKS, [click(number) | {"doc_id": "d" * 9000}])
            while log.held_bytes > 80_000:
                await asyncio.sleep(0.01)
        await log.flush()

    asyncio.run(run())
    assert len(ids(str(tmp_path / "log"))) == 40
