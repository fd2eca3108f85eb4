"""A power cut at any moment: what was finished is there, and what is there is whole (`tests/power.py` replays it)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.online.event_journal import EventJournal
from rrad_ray.online.event_log import CLICKS
from rrad_ray.tables import Output
from tests.online.test_event_journal import click
from tests.power import Disk

MANNERS = pytest.mark.parametrize("all_names", [False, True], ids=["all that was not synced", "contents alone"])


class Word(TypedDict):
    """A row."""

    word: str


@dataclass(frozen=True)
class Config:
    """A config."""

    output: str


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[Callable[[], None]], Disk]]:
    """Make the disk under `tmp_path/disk`."""
    disks = []
    with pytest.MonkeyPatch.context() as patch:

        def make(after: Callable[[], None]) -> Disk:
            (tmp_path / "disk").mkdir()
            disks.append(Disk(tmp_path / "disk", patch, after))
            return disks[0]

        yield make
    for each in disks:
        each.close()


@MANNERS
def test_a_part_and_a_manifest_that_a_power_cut_leaves_are_whole_and_what_was_finished_is_left(
    all_names: bool, tmp_path: Path, disk: Callable[[Callable[[], None]], Disk]
) -> None:
    uri, rows = tmp_path / "disk" / "a" / "b", [{"word": "one"}, {"word": "two"}, {"word": "three"}]
    left, finished = tmp_path / "left" / "a" / "b", list[bool]()

    def cut() -> None:
        made.left(tmp_path / "left", all_names=all_names)
        for part in left.rglob("*.parquet"):
            assert pq.read_metadata(part).num_rows == 1
        for text in left.glob("*.json"):
            json.loads(text.read_text())
        finished.append((left / tables.MANIFEST).exists())
        if finished[-1]:
            assert list(tables.read(str(left), Word)) == rows
            assert (left / tables.STARTED).exists()

    @tables.stage("words", Word, lambda cfg: {})
    def run(cfg: Config, out: Output) -> None:
        for number, row in enumerate(rows):
            out.write_part(tables.part_name(number), [row])
            cut()
            assert (left / tables.part_name(number)).exists()  # judge may now drop the answers from memory
        out.quarantine("four", "bad row")
        out.commit()

    made = disk(cut)
    run(Config(str(uri)))
    cut()
    assert finished[-1]
    assert True not in finished[: finished.index(True)]
    assert len(finished) > 10


@MANNERS
def test_a_click_that_was_acknowledged_is_left_in_the_journal_or_in_the_log(
    all_names: bool, tmp_path: Path, disk: Callable[[Callable[[], None]], Disk]
) -> None:
    acknowledged = list[str]()

    def cut() -> None:
        folder = made.left(tmp_path / "left", all_names=all_names)
        journals = [path.read_text() for path in folder.glob("journal/*.events")]
        logged = [pq.read_table(path)["event_id"].to_pylist() for path in folder.glob(f"log/{CLICKS}/*.parquet")]
        stored = [name for names in logged for name in names]
        assert all(name in stored or any(f'"{name}"' in text for text in journals) for name in acknowledged)

    made = disk(cut)
    journal = EventJournal(str(tmp_path / "disk" / "log"), str(tmp_path / "disk" / "journal"), most=100)

    async def run() -> None:
        for number in range(4):
            await journal.add(CLICKS, [click(number)])
            acknowledged.append(f"e{number}")
            cut()
            if number % 2:
                await journal.flush()
                cut()

    asyncio.run(run())
    assert len(acknowledged) == 4
