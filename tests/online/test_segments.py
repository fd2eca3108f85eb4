"""Segments that are damaged, foreign or no files at all: what can be stored is, the rest is set aside and counted."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.online.event_journal import EventJournal
from rrad_ray.online.event_rows import CLICKS, EXPOSURES
from rrad_ray.online.segments import SET_ASIDE, SUFFIX, Segment, store_segment
from tests.online.test_event_journal import click, exposure, ids

POISON = [
    json.dumps([CLICKS, {**click(0), "position": 2**63}]),
    json.dumps([CLICKS, {**click(0), "position": 1180591620717411303424}]),
    json.dumps([CLICKS, {**click(0), "position": 1.5}]),  # Arrow would cut it to 1
    json.dumps([CLICKS, {**click(0), "position": True}]),
    json.dumps([CLICKS, {**click(0), "dwell_s": "long"}]),
    json.dumps([CLICKS, {**click(0), "doc_id": None}]),
    json.dumps([CLICKS, {**click(0), "doc_id": "\ud800"}]),
    json.dumps([CLICKS, {**click(0), "more": 1}]),
    json.dumps([CLICKS, {"event_id": "e0"}]),
    json.dumps([EXPOSURES, {**exposure(0), "doc_ids": "ab"}]),  # Arrow would take it for ["a", "b"]
    json.dumps([EXPOSURES, {**exposure(0), "doc_ids": ["a", None]}]),
    json.dumps(["purchases", click(0)]),
    json.dumps([None, click(0)]),
    json.dumps([[CLICKS], click(0)]),
    json.dumps([CLICKS, "text"]),
    json.dumps(click(0)),
    '["clicks", {"event_id": "e0", "req',
    "[" * 100_000,
    "9" * 5000,
    "\0" * 300,
    "",
    "ab",
]


def segment(folder: Path, name: str, *lines: str | bytes) -> Path:
    """Write a segment as a killed process leaves it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}{SUFFIX}"
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def good(number: int) -> str:
    return json.dumps([CLICKS, click(number)])


@pytest.mark.parametrize("poison", POISON, ids=range(len(POISON)))
def test_a_row_that_cannot_be_stored_is_set_aside_and_all_others_are_stored(tmp_path: Path, poison: str) -> None:
    uri, path = str(tmp_path / "log"), segment(tmp_path / "journal", "a", good(1), poison, good(2))
    stored = store_segment(path, uri)
    assert stored is not None
    assert (stored.rows, stored.set_aside) == (2, 1)
    assert ids(uri) == ["e1", "e2"]
    [aside] = (tmp_path / "journal").iterdir()
    assert (aside.name, aside.stat().st_mode & 0o777) == (f"a-rows{SET_ASIDE}", 0o600)
    assert aside.read_bytes().split(b"\n")[1:] == [poison.encode(), b""], "nothing of it is lost"


def test_a_folder_full_of_bad_segments_is_recovered_to_its_end_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri, folder = str(tmp_path / "log"), tmp_path / "journal"
    for number, poison in enumerate(POISON):
        segment(folder, f"{number:03}", poison, good(number))
    segment(folder, "empty")
    (folder / f"folder{SUFFIX}").mkdir()
    os.mkfifo(folder / f"pipe{SUFFIX}")
    (folder / f"loop{SUFFIX}").symlink_to(folder / f"loop{SUFFIX}")
    segment(folder, "last", good(999))
    log = EventJournal(uri, str(folder), most=10)
    with caplog.at_level(logging.ERROR):
        log.recover()
        said = len(caplog.records)
        assert log.recover() == 0
    assert len(caplog.records) == said == len(POISON) + 3
    assert "rename it to end in .events, or delete it" in caplog.text
    assert (log.set_aside, log.failed) == (len(POISON) + 3, "")
    assert ids(uri) == sorted([*(f"e{number}" for number in range(len(POISON))), "e999"])
    assert not list(folder.glob(f"*{SUFFIX}"))


def test_the_jam_of_a_click_that_was_too_large_ends_with_a_restart(tmp_path: Path) -> None:
    # As versions before this one have left it: the first segment stopped all others, in every process of the folder.
    uri, folder = str(tmp_path / "log"), tmp_path / "journal"
    segment(folder, "20260101T000000-aaaaaaaaaaaa-000000", good(1), POISON[0])
    segment(folder, "20260101T000030-aaaaaaaaaaaa-000001", good(2))
    log = EventJournal(uri, str(folder), most=10)

    async def run() -> int:
        await log.add(CLICKS, [click(3)])
        return await log.flush()

    assert asyncio.run(run()) == 3
    assert (ids(uri), log.held, log.failed, log.set_aside) == (["e1", "e2", "e3"], 0, "", 1)


def test_rows_that_were_mended_are_stored_beside_the_others_of_their_segment(tmp_path: Path) -> None:
    uri, path = str(tmp_path / "log"), segment(tmp_path / "journal", "a", good(1), POISON[0])
    store_segment(path, uri)
    aside = path.with_name(f"a-rows{SET_ASIDE}")
    mended = aside.rename(aside.with_suffix(SUFFIX))
    mended.write_text(mended.read_text().replace(str(2**63), "2"))
    assert EventJournal("another log", str(tmp_path / "journal"), most=1).recover() == 1
    assert ids(uri) == ["e0", "e1"], "and they know their log"


def test_a_row_that_is_no_event_is_not_acknowledged(tmp_path: Path) -> None:
    log = EventJournal(str(tmp_path / "log"), str(tmp_path / "journal"), most=10)

    async def run(row: Any) -> None:
        with pytest.raises(ValueError, match="write the columns of ClickEvent"):
            await log.add(CLICKS, [click(1), row])

    for row in ({**click(2), "position": 2**63}, {**click(2), "doc_id": "\ud800"}, {}, {**click(2), "time": 10**400}):
        asyncio.run(run(row))
    assert log.held == 0
    assert not list((tmp_path / "journal").iterdir())


def test_segments_of_another_log_go_to_that_log(tmp_path: Path) -> None:
    folder, uris = str(tmp_path / "journal"), [str(tmp_path / name) for name in ("first", "second")]

    async def run() -> None:
        for number, uri in enumerate(uris):
            log = EventJournal(uri, folder, most=10)
            await log.add(CLICKS, [click(number)])
            if number:
                assert await log.flush() == 2, "the first one's too: its process is gone"
            assert log.segment is None or not log.segment.close()  # type: ignore[func-returns-value]

    asyncio.run(run())
    assert [ids(uri) for uri in uris] == [["e0"], ["e1"]]


def test_a_segment_that_the_store_never_takes_does_not_keep_the_others_here(tmp_path: Path) -> None:
    uri, folder = tmp_path / "log", tmp_path / "journal"
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        segment(folder, name, good(number))
    (uri / CLICKS / "a.parquet" / "full").mkdir(parents=True)
    log = EventJournal(str(uri), str(folder), most=10)
    log.recover()
    assert log.failed
    assert len(list(folder.iterdir())) == 3, "the store may be away"
    log.recover()
    assert "a.parquet" in log.failed, "it is tried again, and said"
    assert [path.name for path in sorted(folder.iterdir())] == [f"a{SUFFIX}"]
    (uri / CLICKS / "a.parquet" / "full").rmdir()
    (uri / CLICKS / "a.parquet").rmdir()
    assert (log.recover(), log.failed, ids(str(uri))) == (1, "", ["e1", "e2", "e3"])


def test_a_segment_that_is_too_new_for_the_rest_of_the_disk_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Segment.create(tmp_path / f"a{SUFFIX}", "log")
    assert not list(tmp_path.iterdir())


def test_a_stored_segment_is_synced_with_its_folder_before_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, sync, unlink = list[str](), os.fsync, Path.unlink

    def note(handle: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    def gone(path: Path, missing_ok: bool = False) -> None:
        order.append("deleted")
        unlink(path, missing_ok)

    path = segment(tmp_path / "journal", "a", good(1))
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "unlink", gone)
    store_segment(path, str(tmp_path / "log"))
    folder = str(tmp_path / "log" / CLICKS)
    assert re.fullmatch(rf"{re.escape(folder)}/a\.parquet\.[0-9a-f]{{8}}\.tmp", order[0])
    assert order[1] == folder
    assert {str(tmp_path / "log"), str(tmp_path)} <= set(order), "folders that are new too"
    assert order[-1] == "deleted"
