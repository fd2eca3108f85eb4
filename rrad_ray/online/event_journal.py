"""The write-ahead log of an online test: events are on this machine's disk before they are acknowledged.

A process appends to a segment of its own, a file of JSON lines, and acknowledges an event once `fsync` has returned;
all waiting events share one (group commit). A `flush` writes a segment to the store, as `exposures/NAME.parquet` and
`clicks/NAME.parquet` below the log's URI (see `event_log.py`), and deletes it. A killed process leaves its segments
behind: the next one that starts with the same folder writes them, under the same names, so that no event is lost and
none is written twice. Events that are only on a disk are lost with the disk.
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
    """Raised when the journal already holds its limit of events that are not in the store."""


class EventJournal:
    """A process's journal of events, written to from one event loop.

    `uri`: the log in the store. `folder`: where segments are on this machine. `most`: how many events may wait for
    the store while it cannot be reached.
    """

    def __init__(self, uri: str, folder: str, *, most: int) -> None:
        self.uri, self.folder, self.most = uri, Path(folder), most
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self.number = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:12]}", 0
        self.segment: FileIO | None = None
        self.rows = 0  # in the open segment
        self.closed: list[tuple[FileIO, int]] = []  # segments to be written to the store, each locked, and their rows
        self.pending: list[tuple[bytes, asyncio.Future[None]]] = []  # lines that are not on disk yet
        self.committing: asyncio.Task[None] | None = None
        self.failed = ""  # why the store did not take the last segment

    @property
    def held(self) -> int:
        """The number of events that are here, on disk or about to be, and not yet in the store."""
        return self.rows + len(self.pending) + sum(count for _, count in self.closed)

    async def add(self, kind: str, rows: list[Mapping[str, Any]]) -> None:
        """Write rows of a kind to disk; return once they are durable.

        Raises `JournalFull`, or `OSError` if the disk does not take them.
        """
        if self.held + len(rows) > self.most:
            raise JournalFull(
                f"{self.held} events wait for {self.uri}" + (f" ({self.failed})" if self.failed else "")
            )
        loop = asyncio.get_running_loop()
        waiting = []
        for row in rows:
            waiting.append(loop.create_future())
            self.pending.append((json.dumps([kind, row]).encode() + b"\n", waiting[-1]))
        if self.committing is None or self.committing.done():
            self.committing = asyncio.create_task(self._commit())
        await asyncio.gather(*waiting)

    async def _commit(self) -> None:
        """Write all pending lines with one `fsync`, again and again until none is pending."""
        while self.pending:
            batch, self.pending = self.pending, []
            try:
                await asyncio.to_thread(self._write, b"".join(line for line, _ in batch))
            except OSError as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self.rows += len(batch)
            for _, future in batch:
                if not future.done():
                    future.set_result(None)

    def _write(self, lines: bytes) -> None:
        """Append lines to the open segment and sync it; after an error the segment is as it was before."""
        while self.segment is None:  # a recovering process may hold the lock on the new, empty file for a moment
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
            self.segment.truncate()  # half a line would corrupt the next one
            raise

    async def flush(self) -> int:
        """Write the events on disk to the store and return their number; those that it does not take stay."""
        while self.committing is not None and not self.committing.done():
            await asyncio.shield(self.committing)
        if self.segment is not None:
            self.closed.append((self.segment, self.rows))
            self.segment, self.rows = None, 0
        return await asyncio.to_thread(self._store)

    def _store(self) -> int:
        """Write the closed segments to the store, oldest first, until one fails; return the number of events."""
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
        """Write the segments that killed processes left in the folder to the store, and return their number.

        Segments of living processes, which hold a lock on them, stay.
        """
        count = 0
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if segment := _locked(path, "rb"):
                with segment:
                    if path.exists():  # another process may have been faster
                        store(str(path), self.uri)
                        count += 1
        return count


def folder_of(uri: str) -> str:
    """Return the default folder of segments: one for all processes of a machine that write to this log."""
    name = tables.absolute(uri).replace("/", "_").replace(":", "")
    return os.path.join(tempfile.gettempdir(), f"rrad-events-{name}")


def _locked(path: Path, mode: Literal["xb", "rb"]) -> FileIO | None:
    """Open a file with an exclusive lock, which the process keeps until it closes the file or dies.

    None if another process has it, or if it is gone.
    """
    try:
        file = open(path, mode, buffering=0)  # noqa: SIM115  # it stays open
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _sync_folder(folder: Path) -> None:
    """Make a new file's name in the folder as durable as its content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def store(segment: str, uri: str) -> None:
    """Write a segment to the store as Parquet and delete it; repeated for the same one, it writes the same files."""
    by_kind: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    lines = Path(segment).read_bytes().split(b"\n")
    for line in lines[:-1]:  # what follows the last newline was never acknowledged
        kind, row = json.loads(line)
        by_kind[kind].append(row)
    for kind, rows in by_kind.items():
        if rows:
            with tables.writing(tables.join(uri, kind, f"{Path(segment).stem}.parquet")) as file:
                pq.write_table(pa.Table.from_pylist(rows, schema=tables.schema_of(KINDS[kind])), file)
    os.unlink(segment)
