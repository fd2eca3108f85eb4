"""Events of an online test on their way to Parquet: on this machine's disk before they are acknowledged.

A process appends to a segment of its own, a file of JSON lines, and tells the sender once `fsync` has returned; all
who wait share one. At a `flush` a segment becomes `exposures/NAME.parquet` and `clicks/NAME.parquet` below
the log's URI (see `events.py`) and is deleted. A process that is killed leaves its segments behind: the next one that
starts with the same folder writes them, under the same names, so that nothing is lost and nothing is there twice.
What stands on a disk is lost with the disk.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import tempfile
import time
import uuid
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.online.event_log import CLICKS, EXPOSURES
from rrad_ray.rows import ClickEvent, Exposure

KINDS: dict[str, type] = {EXPOSURES: Exposure, CLICKS: ClickEvent}

SUFFIX = ".events"


class JournalFull(Exception):
    """As many events wait for the store as may."""


class EventJournal:
    """`add` from one event loop. `most`: events that may wait for the store, while it cannot be reached."""

    def __init__(self, uri: str, folder: str, *, most: int) -> None:
        self.uri, self.folder, self.most = uri, Path(folder), most
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self.number = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:12]}", 0
        self.segment: FileIO | None = None
        self.rows = 0  # in the open segment
        self.closed: list[tuple[FileIO, int]] = []  # segments that wait to be written, each locked
        self.asking: list[tuple[bytes, asyncio.Future[None]]] = []
        self.committing: asyncio.Task[None] | None = None
        self.failed = ""  # why the store did not take the last segment

    @property
    def held(self) -> int:
        """Events that are on disk here and not yet in the store."""
        return self.rows + len(self.asking) + sum(count for _, count in self.closed)

    async def add(self, kind: str, rows: list[Mapping[str, Any]]) -> None:
        """Returns once the rows are on disk. Raises `Full`, or `OSError` if the disk does not take them."""
        if self.held + len(rows) > self.most:
            raise JournalFull(
                f"{self.held} events wait for {self.uri}" + (f" ({self.failed})" if self.failed else "")
            )
        loop = asyncio.get_running_loop()
        waiting = []
        for row in rows:
            waiting.append(loop.create_future())
            self.asking.append((json.dumps([kind, row]).encode() + b"\n", waiting[-1]))
        if self.committing is None or self.committing.done():
            self.committing = asyncio.create_task(self._commit())
        await asyncio.gather(*waiting)

    async def _commit(self) -> None:
        while self.asking:
            asked, self.asking = self.asking, []
            try:
                await asyncio.to_thread(self._write, b"".join(line for line, _ in asked))
            except OSError as error:
                for _, future in asked:
                    if not future.done():
                        future.set_exception(error)
                continue
            self.rows += len(asked)
            for _, future in asked:
                if not future.done():
                    future.set_result(None)

    def _write(self, lines: bytes) -> None:
        while self.segment is None:  # a process that recovers may have the fresh, empty file for a moment
            self.segment = _locked(self.folder / f"{self.name}-{self.number:06}{SUFFIX}", "xb")
            self.number += 1
            _sync_folder(self.folder)
        began = self.segment.tell()
        try:
            if self.segment.write(lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.segment.name)
            os.fsync(self.segment.fileno())
        except OSError:
            self.segment.seek(began)
            self.segment.truncate()  # half a line would spoil the next one
            raise

    async def flush(self) -> int:
        """Hands what is on disk to the store; how many events. What it does not take stays, for the next time."""
        while self.committing is not None and not self.committing.done():
            await asyncio.shield(self.committing)
        if self.segment is not None:
            self.closed.append((self.segment, self.rows))
            self.segment, self.rows = None, 0
        return await asyncio.to_thread(self._store)

    def _store(self) -> int:
        count = 0
        while self.closed:
            segment, rows = self.closed[0]
            try:
                store(segment.name, self.uri)
            except Exception as error:
                self.failed = f"{type(error).__name__}: {error}".splitlines()[0]
                return count
            self.failed = ""
            segment.close()
            self.closed.pop(0)
            count += rows
        return count

    def recover(self) -> int:
        """Writes the segments that killed processes have left in the folder; how many. Those of living ones, which
        hold a lock on them, stay."""
        count = 0
        for place in sorted(self.folder.glob(f"*{SUFFIX}")):
            if segment := _locked(place, "rb"):
                with segment:
                    if place.exists():  # another process may have been faster
                        store(str(place), self.uri)
                        count += 1
        return count


def folder_of(uri: str) -> str:
    """Where events wait unless the config says: one folder for all processes of a machine that write to a place."""
    name = tables.absolute(uri).replace("/", "_").replace(":", "")
    return os.path.join(tempfile.gettempdir(), f"rrad-events-{name}")


def _locked(place: Path, mode: Literal["xb", "rb"]) -> FileIO | None:
    """The open file, which its process alone has until it dies; None if another one has it."""
    try:
        file = open(place, mode, buffering=0)  # noqa: SIM115  # it stays open
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name as durable as what is in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def store(segment: str, uri: str) -> None:
    """A segment as Parquet, and the segment gone. Again for the same one, it writes the same files."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    lines = Path(segment).read_bytes().split(b"\n")
    for line in lines[:-1]:  # what is behind the last newline was never acknowledged
        kind, row = json.loads(line)
        found[kind].append(row)
    for kind, rows in found.items():
        if rows:
            place = tables.join(uri, kind, f"{Path(segment).stem}.parquet")
            with tables.writing(place) as file:
                pq.write_table(pa.Table.from_pylist(rows, schema=tables.schema_of(KINDS[kind])), file)
    os.unlink(segment)
