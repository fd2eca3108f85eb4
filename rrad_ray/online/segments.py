"""Segments of the event journal: files of JSON lines on this machine, and their way to the store.

The first line of a segment says which log its events belong to. The process that writes a segment holds a lock on it;
one without a lock may be stored by anybody. Storing a segment again writes the same files, so a process may be killed
at any point of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.online.event_rows import decode_events

SUFFIX, SET_ASIDE = ".events", ".bad"
LOG = "log"  # the kind of the first line
# Errors of one file, by which it is set aside; any other (too many open files, say) may be over the next time.
UNREADABLE = {errno.EIO, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR}

logger = logging.getLogger("ray.serve")


@dataclass
class Segment:
    """A segment that is being written: its file, and the rows and bytes of it that are durable."""

    path: Path
    file: FileIO
    header: bytes
    rows: int = 0
    size: int = 0  # without the header

    @classmethod
    def create(cls, path: Path, uri: str) -> Segment | None:
        """Return a new segment of a log, locked and with a durable name; None if somebody else has locked it."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        segment = cls(path, FileIO(handle, "r+"), _log_line(uri))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tables.sync_folder(path.parent)
        except BlockingIOError:  # who looks for segments to store has opened this one; it is empty, so he deletes it
            segment.close()
            return None
        except OSError:
            segment.close()
            path.unlink(missing_ok=True)
            raise
        return segment

    def append(self, lines: bytes, rows: int) -> None:
        """Append lines and sync them; after an `OSError` the file is as it was before, if its disk lets it."""
        content = lines if self.size else self.header + lines
        try:
            if self.file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self.file.fileno())
        except OSError:
            self.file.truncate(
                len(self.header) + self.size if self.size else 0
            )  # half a line would be set aside, though nobody was promised it
            raise
        self.rows, self.size = self.rows + rows, self.size + len(lines)

    def lines(self) -> bytes:
        """Return the lines that are durable, also of a file that someone has deleted."""
        return os.pread(self.file.fileno(), self.size, len(self.header))

    def close(self) -> None:
        """Close the file, by which its lock goes, as it does when the process dies."""
        self.file.close()


@dataclass(frozen=True)
class StoredSegment:
    """The rows of a segment that went to the store, and those that were set aside."""

    rows: int = 0
    set_aside: int = 0


def store_segment(path: Path, uri: str) -> StoredSegment | None:
    """Write a segment to its log in the store, or to `uri` if it names none, and delete it.

    What no table can hold goes to a `.bad` file beside it, which is logged. None if another process has it or has
    stored it. Raises what the store or the disk raises; then the segment stays.
    """
    with contextlib.ExitStack() as lock:
        try:
            content = _read_locked(path, lock)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            _say_set_aside(path.rename(path.with_suffix(SET_ASIDE)), 1, f"the file cannot be read: {error}")
            return StoredSegment(set_aside=1)
        # What follows the last newline was being written when its process died: nobody was promised it.
        return None if content is None else _store_lines(path, content.split(b"\n")[:-1], uri)


def _read_locked(path: Path, lock: contextlib.ExitStack) -> bytes | None:
    """Return a segment's content, with a lock on it that `lock` holds; None if a process has it, or it is gone."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise IsADirectoryError(errno.EISDIR, "no file", str(path))
        file = lock.enter_context(path.open("rb", buffering=0))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file.read() if path.exists() else None  # another process may have been faster
    except (FileNotFoundError, BlockingIOError):
        return None


def _store_lines(path: Path, lines: list[bytes], uri: str) -> StoredSegment:
    """Write a segment's lines to the store, set those aside that no table can hold, and delete it."""
    if named := _log_of(lines[0]) if lines else "":
        uri, lines = named, lines[1:]
    by_kind, unfit = decode_events(lines)
    for kind, table in by_kind.items():
        with tables.writing(tables.join(uri, kind, f"{path.stem}.parquet")) as file:
            pq.write_table(table, file)
    if unfit:
        # Of another name than the segment's: when its rows come back, they do not replace those stored now.
        aside = path.with_name(f"{path.stem}-rows{SET_ASIDE}")
        with tables.writing(str(aside)) as file:
            file.write(_log_line(uri) + b"".join(lines[index] + b"\n" for index in unfit))
        aside.chmod(0o600)
        _say_set_aside(aside, len(unfit), next(iter(unfit.values())))
    path.unlink()
    return StoredSegment(sum(table.num_rows for table in by_kind.values()), len(unfit))


def _say_set_aside(path: Path, rows: int, reason: str) -> None:
    """Log that rows were set aside."""
    problem = f"{rows} row(s) of the event journal cannot be stored and are set aside ({reason:.200})"
    logger.error(str(RradError(str(path), problem, f"mend the file and rename it to end in {SUFFIX}, or delete it")))


def _log_line(uri: str) -> bytes:
    """Return the first line of a segment whose events belong to a log."""
    return json.dumps([LOG, uri]).encode() + b"\n"


def _log_of(line: bytes) -> str:
    """Return the URI of the log that a segment's first line names; empty for a line that is an event."""
    try:
        kind, uri = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return ""
    return uri if kind == LOG and isinstance(uri, str) else ""
