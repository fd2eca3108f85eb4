"""The write-ahead log of an online test: events are on this machine's disk before they are acknowledged.

A process appends to a segment of its own, a locked file of JSON lines, and acknowledges an event once `fsync` has
returned; all waiting events share one (group commit). A `flush` closes the segment, by which its lock goes, writes
every segment without a lock to the store, as `exposures/NAME.parquet` and `clicks/NAME.parquet` below the log's URI
(see `event_log.py`), and deletes it. So whatever a killed process leaves behind is stored by the next one with the
same folder, under the same names: no event is lost, and none is stored twice.

Nothing in the folder stops the rest. A line that no table can hold is set aside, in a `.bad` file. A segment that the
store does not take is tried again after all others. Events that are only on a disk are lost with the disk.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.online.event_rows import encode_events
from rrad_ray.online.segments import SUFFIX, Segment, store_segment
from rrad_ray.tables.private_folders import private_folder, state_folder

SEGMENT_BYTES = 8 * 2**20  # of a segment, before another one begins: what a flush holds in memory
BATCH_BYTES = 4 * 2**20  # of the lines that share an `fsync`
MOST_BYTES = 256_000_000

Made = TypeVar("Made")


FEW_ROWS = 200  # that are worked on where the event loop runs; a thread's start costs about as much


async def beside_loop(work: Callable[..., Made], rows: Sequence[Any], *more: Any) -> Made:
    """Return what `work(rows, *more)` does: in a thread where the rows are many, for the loop answers others too."""
    return await asyncio.to_thread(work, rows, *more) if len(rows) > FEW_ROWS else work(rows, *more)


class JournalFull(Exception):
    """Raised when the journal already holds its limit of events that are not in the store."""


@dataclass
class _Waiting:
    """Lines that are not on disk yet, and the future of those who wait for it."""

    lines: bytes
    rows: int
    durable: asyncio.Future[None]


class EventJournal:
    """A process's journal of events, written to from one event loop.

    `uri`: the log in the store. `folder`: where segments are on this machine; others may use it at the same time.
    `most`: how many events of this process, and `most_bytes`: how many bytes in the folder, may wait for the store.
    Raises `RradError` if other users may write to the folder.
    """

    def __init__(self, uri: str, folder: str, *, most: int, most_bytes: int = MOST_BYTES) -> None:
        self.uri, self.folder = tables.absolute(uri), private_folder(folder)
        self.most, self.most_bytes = most, most_bytes
        # No process has another's name, whatever their clocks say.
        self.name, self.number = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:12]}", 0
        self.segment: Segment | None = None
        self.closed: dict[Path, tuple[int, int]] = {}  # rows and bytes of this process's segments that wait
        self.held = self.held_bytes = 0  # events of this process, on disk or about to be, and not yet in the store
        self.left_bytes = self._left_bytes()  # in segments of other processes
        self.pending: deque[_Waiting] = deque()
        self.committing: asyncio.Task[None] | None = None
        self.early: asyncio.Task[int] | None = None  # a flush before its time
        self.writing, self.flushing = asyncio.Lock(), asyncio.Lock()
        self.failures: Counter[Path] = Counter()  # how often the store has refused a segment
        self.failed = ""  # why the store did not take the last segment
        self.set_aside = 0  # rows that no table can hold, until somebody counts them

    # ---- events come --------------------------------------------------------------------------------------------

    async def add(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of a kind to disk; return once they are durable.

        Raises `InvalidInput` if a row does not fit into its table, `JournalFull`, or `OSError` if the disk does not
        take them; then none of them is logged.
        """
        lines = await beside_loop(encode_events, rows, kind)
        waiting = self.held_bytes + self.left_bytes
        if self.held + len(rows) > self.most or waiting + len(lines) > self.most_bytes:
            reason = f" ({self.failed})" if self.failed else ""
            raise JournalFull(f"{self.held} events wait for {self.uri}, {waiting:,} bytes{reason}")
        entry = _Waiting(lines, len(rows), asyncio.get_running_loop().create_future())
        self._count(len(rows), len(lines))
        self.pending.append(entry)
        if self.committing is None or self.committing.done():
            self.committing = asyncio.create_task(self._commit())
        await entry.durable
        half_full = self.held > self.most // 2 or self.held_bytes > self.most_bytes // 2
        if half_full and not self.failed and not self.flushing.locked():
            self.early = asyncio.create_task(self.flush())  # a burst does not fill it until the next flush

    def _count(self, rows: int, size: int) -> None:
        self.held, self.held_bytes = self.held + rows, self.held_bytes + size

    async def _commit(self) -> None:
        """Write all pending lines, as many as fit into a batch with one `fsync`, until none is pending."""
        while self.pending:
            async with self.writing:  # released between batches, so that a flush has its turn under steady load
                batch = [self.pending.popleft()]
                size = len(batch[0].lines)
                while self.pending and (size := size + len(self.pending[0].lines)) <= BATCH_BYTES:
                    batch.append(self.pending.popleft())
                failure: Exception | None = None
                try:
                    lines, rows = b"".join(entry.lines for entry in batch), sum(entry.rows for entry in batch)
                    await asyncio.to_thread(self._write, lines, rows)
                except Exception as error:
                    failure = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
                    self._count(-rows, -len(lines))
            for entry in batch:
                if not entry.durable.done():
                    entry.durable.set_exception(failure) if failure else entry.durable.set_result(None)

    def _write(self, lines: bytes, rows: int) -> None:
        """Append lines to the open segment, or to a new one where that is large."""
        self._rescue()
        if self.segment is not None and self.segment.size >= SEGMENT_BYTES:
            self._close()
        if self.segment is None:
            self.segment = self._open()
        try:
            self.segment.append(lines, rows)
        except OSError:
            self._close()  # whatever it was that failed (a limit of this file, a bad block), another file is whole
            raise

    def _open(self) -> Segment:
        """Return a new segment, of a name that no process has used."""
        private_folder(self.folder)  # something may have cleaned it away
        segment = None
        while segment is None:
            segment = Segment.create(self.folder / f"{self.name}-{self.number:06}{SUFFIX}", self.uri)
            self.number += 1
        return segment

    def _rescue(self) -> None:
        """Where something has cleaned the folder, copy the open segment, whose file lives on, into a new one."""
        segment = self.segment
        if segment is None or segment.path.exists():
            return
        copy = self._open()
        try:
            copy.append(segment.lines(), segment.rows)
        except OSError:  # then the deleted file still has them
            copy.close()
            copy.path.unlink(missing_ok=True)
            raise
        segment.close()
        self.segment = copy

    def _close(self) -> None:
        """Close the open segment, by which its lock goes: from now on any process may write it to the store."""
        self._rescue()
        segment, self.segment = self.segment, None
        if segment is None:
            return
        if segment.rows:
            self.closed[segment.path] = (segment.rows, segment.size)
        else:
            segment.path.unlink(missing_ok=True)
        segment.close()

    # ---- events go to the store ---------------------------------------------------------------------------------

    async def flush(self) -> int:
        """Write the events on disk to the store and return their number; those that it does not take stay.

        Also those that killed processes have left in the folder.
        """
        async with self.flushing:
            problem = ""
            async with self.writing:
                try:
                    await asyncio.to_thread(self._close)
                except (OSError, RradError) as error:  # the others may go, and make room on the disk
                    problem = str(error)
            _, rows = await asyncio.to_thread(self._sweep)
            self.failed = self.failed or problem
            for path in [path for path in self.closed if not path.exists()]:
                count, size = self.closed.pop(path)
                self._count(-count, -size)
            return rows

    def recover(self) -> int:
        """Write the segments that killed processes have left in the folder to the store, and return their number."""
        return self._sweep()[0]

    def _sweep(self) -> tuple[int, int]:
        """Write all segments that no living process holds to the store, until it refuses one; return their number
        and that of their rows.

        Those that it has refused come last, so that a segment which it never takes does not keep the others here.
        """
        segments, rows, self.failed = 0, 0, ""
        for path in sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda path: (self.failures[path], path.name)):
            try:
                stored = store_segment(path, self.uri)
            except Exception as error:  # whatever a store or a disk may say
                self.failures[path] += 1
                self.failed = f"{type(error).__name__}: {error}".splitlines()[0]
                break
            self.failures.pop(path, None)
            if stored is not None:
                segments, rows = segments + 1, rows + stored.rows
                self.set_aside += stored.set_aside
        self.left_bytes = self._left_bytes()
        return segments, rows

    def _left_bytes(self) -> int:
        """Return the bytes of the segments that other processes have in the folder."""
        return sum(_size(path) for path in self.folder.glob(f"*{SUFFIX}") if not path.name.startswith(self.name))


def folder_of(uri: str) -> str:
    """Return the default folder of segments: one for all processes of this user that write to this log, and private
    to the user."""
    digest = blake2b(tables.absolute(uri).encode(), digest_size=8).hexdigest()
    return str(state_folder() / f"events-{digest}")


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
