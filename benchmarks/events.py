"""Faults while events of an online test are logged: is one that was acknowledged lost, or stored twice?"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks import harness
from rrad_ray.online.event_journal import EventJournal
from rrad_ray.online.event_log import read_click_events, read_exposures
from rrad_ray.online.segments import SET_ASIDE, SUFFIX
from tests.commands import ROOT
from tests.online.test_segments import POISON
from tests.unreliable import unreliable

PER_SECOND = 20  # of the store that is away: an hour's events are within `online.max_events`
MOST = 100_000


def bench(quick: bool, scratch: str, away_s: int) -> harness.Result:
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)  # what is set aside is said in the table
    kills = 5 if quick else 30
    away_s = min(away_s, 60) if quick else away_s
    rows = [
        _poison(f"{scratch}/poison", 300 if quick else 2000),
        _kills(f"{scratch}/kills", kills, writers=1),
        _kills(f"{scratch}/two", kills, writers=2),
        _kills(f"{scratch}/clock", kills, writers=2, clock="jumps"),
        _full_disk(f"{scratch}/disk"),
        _store_away(scratch, away_s),
    ]
    figures = {key: float(sum(row[key] for row in rows)) for key in ("lost", "doubled")}
    return harness.Result(figures, rows, {"kills": kills, "away_s": away_s})


class Writer:
    """A process that logs events, and the numbers of those that were acknowledged."""

    def __init__(self, uri: str, folder: str, first: int, count: int, per_second: float = 0, clock: str = "") -> None:
        arguments = [uri, folder, first, count, per_second, *([clock] if clock else [])]
        command = [sys.executable, "-m", "benchmarks.event_writer", *map(str, arguments)]
        errors = subprocess.DEVNULL  # the log of a store that is away
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.acknowledged, self.refused = list[int](), 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            if line == "refused\n":
                self.refused += 1
            elif line.endswith("\n"):
                self.acknowledged.append(int(line))

    def wait_for(self, events: int) -> None:
        """Wait until that many were acknowledged, or the process has ended."""
        while len(self.acknowledged) < events and self.process.poll() is None:
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it (kill -9), wherever it is."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Wait for its end."""
        self.process.wait()
        self.reader.join()


def _row(fault: str, uri: str, acknowledged: list[int], refused: int, seconds: float) -> dict[str, Any]:
    """Return the row of a fault: events that are not in the store, and those that are there more than once.

    An event that was stored though nobody was told so, as its process died first, is neither.
    """

    def reject(*row: str) -> None:
        raise SystemExit(f"the reader sets a row aside: {row}")

    stored = Counter(int(row["event_id"][1:]) for row in read_click_events(uri, reject))
    stored.update(2 * int(row["request_id"][1:]) for row in read_exposures(uri, reject))
    return {
        "fault": fault,
        "acknowledged": len(acknowledged),
        "refused": refused,
        "stored": stored.total(),
        "lost": sum(number not in stored for number in acknowledged),
        "doubled": sum(count - 1 for count in stored.values()),
        "seconds to recover": seconds,
    }


def _recover(uri: str, folder: str) -> float:
    """Store what is left in the folder, as the next replica does; return the seconds that it took."""
    began = time.monotonic()
    journal = EventJournal(uri, folder, most=MOST)
    journal.recover()
    left = list(Path(folder).glob(f"*{SUFFIX}"))
    if journal.failed or left:
        raise SystemExit(f"{len(left)} segments are left: {journal.failed}")
    return time.monotonic() - began


def _poison(folder: str, events: int) -> dict[str, Any]:
    """Damage a killed replica's segments, and add segments of nothing but poison."""
    uri, journal = f"{folder}/log", f"{folder}/journal"
    writer = Writer(uri, journal, 0, 10**6)
    writer.wait_for(events)
    writer.kill()
    lines = "".join(f"{line}\n" for line in POISON)
    for path in Path(journal).glob(f"*{SUFFIX}"):
        whole, _, torn = path.read_text().rpartition("\n")
        path.write_text(f"{whole}\n{lines}{torn}")
    for number in range(20):
        Path(journal, f"poison-{number}{SUFFIX}").write_text(lines)
    Path(journal, f"folder{SUFFIX}").mkdir()
    seconds = _recover(uri, journal)
    aside = sum(path.read_bytes().count(b"\n") - 1 for path in Path(journal).glob(f"*-rows{SET_ASIDE}"))
    fault = f"{aside:,} rows of poison, and a folder for a segment"
    return _row(fault, uri, writer.acknowledged, writer.refused, seconds)


def _kills(folder: str, kills: int, writers: int, clock: str = "") -> dict[str, Any]:
    """Kill writers on one folder again and again, in the middle of a write or of a flush; others begin at once."""
    uri, journal, draw = f"{folder}/log", f"{folder}/journal", random.Random(0)
    acknowledged, running, first = list[int](), list[Writer](), 0
    for _ in range(kills + writers):
        if len(running) == writers:
            victim = running.pop(0)
            victim.wait_for(draw.randrange(100, 2000))
            time.sleep(draw.random())
            victim.kill()
            acknowledged += victim.acknowledged
        running.append(Writer(uri, journal, first, 10**6, clock=clock))
        first += 10**6
    for writer in running:
        writer.wait_for(500)
        writer.kill()
        acknowledged += writer.acknowledged
    seconds = _recover(uri, journal)
    fault = f"{kills + writers} x kill -9, {writers} replica(s) on one folder{', the clock jumps' if clock else ''}"
    return _row(fault, uri, acknowledged, 0, seconds)


@contextlib.contextmanager
def _small_disk(folder: str, kilobytes: int) -> Iterator[None]:
    """Mount a disk of that size."""
    os.makedirs(folder)
    options = f"size={kilobytes}k,mode=0700"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        raise SystemExit("the disk that fills is a tmpfs of its own: run this benchmark as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def _full_disk(folder: str) -> dict[str, Any]:
    """Fill the journal's disk, and the store's; then make room."""
    uri, journal = f"{folder}/store/log", f"{folder}/journal"
    with _small_disk(f"{folder}/store", 600), _small_disk(journal, 600):
        ballast = Path(folder, "store", "ballast")
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            file.write(b"x" * 600 * 1024)
        writer = Writer(uri, journal, 0, 6000)
        while not writer.refused:
            time.sleep(0.1)
        time.sleep(5)  # in which every write and every flush fails
        ballast.unlink()
        began = time.monotonic()
        writer.end()
        seconds = time.monotonic() - began
        return _row("the disks of journal and store fill", uri, writer.acknowledged, writer.refused, seconds)


def _store_away(scratch: str, away_s: int) -> dict[str, Any]:
    """Log events while S3 fails every request, and for as long as it takes to store them once it is back."""
    with harness.s3() as (bucket, port), unreliable(port, 0.0, 0.0, 0.0) as (proxy, counts):
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy}"
        uri, count = f"{bucket}/log", (away_s + 20) * PER_SECOND
        writer = Writer(uri, f"{scratch}/away", 0, count, PER_SECOND)
        writer.wait_for(5 * PER_SECOND)
        asked, counts["away"] = counts["all"], 1
        time.sleep(away_s)
        asked, counts["away"] = counts["all"] - asked, 0
        began, behind = time.monotonic(), list(Path(scratch, "away").glob(f"*{SUFFIX}"))
        while any(path.exists() for path in behind):
            time.sleep(0.1)
        seconds = time.monotonic() - began
        writer.end()
        fault = f"S3 fails all of {asked:,} requests for {away_s:,} s"
        return _row(fault, uri, writer.acknowledged, writer.refused, seconds)


AWAY = click.Option(["--away-s"], type=int, default=3600, help="how long the store is away, at most 60 with --quick")

if __name__ == "__main__":
    harness.main("events", bench, AWAY)
