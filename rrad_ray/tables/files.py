"""Files of any kind, local or `s3://`: paths, whole writes, and errors that say what to do."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from fsspec import AbstractFileSystem

from rrad_ray.errors import RradError, at_place
from rrad_ray.uris import S3, URI_REMEDY, check_uri, is_s3

# What unpacking and Parquet raise for the content of a file.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowInvalid)

_ABANDONED = re.compile(r".+\.[0-9a-f]{8}\.tmp", re.DOTALL)  # the names of `_writing_local`

ABANDONED_S = 3600.0

REMOVERS = 16  # requests side by side that delete files of an object store


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the fsspec file system of a local path or an `s3://` URI, and the path in it; no slash ends it.

    Raises `RradError` for any other scheme.
    """
    with at_place(uri, URI_REMEDY):
        check_uri(uri)
    if not is_s3(uri):
        return fsspec.filesystem("file"), absolute(uri)
    # S3 listings must not be cached: a table is polled by other processes while it grows. Short timeouts and few
    # retries make an unreachable store an error within seconds, not a hang.
    client = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3}}
    return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=client), uri.removeprefix(S3).rstrip("/")


def join(uri: str, *names: str) -> str:
    """Return `s3://b/t/part` for `join("s3://b/t", "part")`; the same for local paths."""
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """Return a URI that means the same to a process with another working directory; `~` is the home folder."""
    if is_s3(uri):
        return uri
    path = os.path.abspath(os.path.expanduser(uri))
    return f"/{path.lstrip('/')}" if os.sep == "/" else path  # POSIX lets `//` begin a path


def above_partitions(uri: str) -> Iterator[tuple[str, str]]:
    """Yield the folders above one that is named down to a partition, nearest first, with the way down: `day=1/`."""
    folder, below = absolute(uri).rstrip("/"), ""
    while "=" in (name := folder.rpartition("/")[2]):
        folder, below = folder.rpartition("/")[0], f"{name}/{below}"
        yield folder, below


@contextmanager
def io_errors(uri: str, missing: str = "") -> Iterator[None]:
    """Raise what fails in this block as the `RradError` that says what an I/O error at `uri` means for the user.

    `missing`: the remedy where there is no such file; empty: the usual one.
    """
    try:
        yield
    except RradError:
        raise
    except Exception as error:
        usual = "check that the place exists, and on S3 the bucket"
        if isinstance(error, FileNotFoundError):
            raise RradError(uri, "no such file", missing or usual) from error
        if isinstance(error, NotADirectoryError):
            raise RradError(uri, "a part of its path is a file, not a folder", missing or usual) from error
        raise _io_error(uri, error) from error


def _io_error(uri: str, error: Exception) -> RradError:
    """Return the `RradError` that says what an I/O error at `uri` means for the user."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and run the same command again: finished parts are kept"
        return RradError(uri, "no space left on the device", remedy)
    if isinstance(error, IsADirectoryError):
        return RradError(uri, "is a folder, not a file", "name a file, or move the folder away")
    untold = type(error) is OSError and error.errno is None  # Arrow's, for a broken footer or a page
    if isinstance(error, DAMAGED) or (untold and (not is_s3(uri) or "CRC checksum" in text)):
        remedy = "the file is cut short, damaged, or of another kind than its name says: bring it again, or rename it"
        return RradError(uri, f"cannot be read ({text})", remedy)
    if is_s3(uri):
        remedy = "check the network, AWS_ENDPOINT_URL and the credentials in the environment; then run again"
        return RradError(uri, f"the object store did not answer ({text})", remedy)
    return RradError(uri, text, "check that the place exists and may be read and written; then run again")


def write_text(uri: str, text: str, *, durable: bool = True) -> None:
    """Write a file as `writing` does."""
    write_bytes(uri, text.encode(), durable=durable)


def write_bytes(uri: str, content: bytes, *, durable: bool = True) -> None:
    """Write a file as `writing` does."""
    with writing(uri, durable=durable) as file:
        file.write(content)


def create_text(uri: str, text: str) -> bool:
    """Write a small file where there is none yet; return whether it was written.

    Of several processes that try at once, one succeeds; with a store that has no such request, all do, and the last
    one's text stands.
    """
    fs, path = filesystem(uri)
    with io_errors(uri):
        if "file" not in fs.protocol:
            return _put_new(fs, path, text.encode())
        _make_folder_of(path)
        try:
            with Path(path).open("xb") as file:  # fsspec would look first and write then
                file.write(text.encode())
        except FileExistsError:
            return False
    return True


def create_bytes(uri: str, content: bytes) -> bool:
    """Write a file as `writing` does where there is none yet; return whether it was written.

    On S3 that is one request; on a disk, a look and a write.
    """
    fs, path = filesystem(uri)
    with io_errors(uri):
        if "file" not in fs.protocol:
            return _put_new(fs, path, content)
        if _exists(fs, path):
            return False
    write_bytes(uri, content)
    return True


def _put_new(fs: AbstractFileSystem, path: str, content: bytes) -> bool:
    """Put an object where there is none yet, by `If-None-Match`; return whether it was put."""
    for wait_s in (0.1, 0.4, 1.6, None):
        try:
            fs.pipe_file(path, content, mode="create")
            return True
        except OSError as error:
            # Not every store says in its answer which condition failed, by which s3fs knows that there is an object.
            answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
            status = answer.get("HTTPStatusCode")
            if status == HTTPStatus.PRECONDITION_FAILED or isinstance(error, FileExistsError):
                return False
            if error.errno == errno.ENOSYS:
                break
            if status != HTTPStatus.CONFLICT or wait_s is None:  # another one is putting or deleting it just now
                raise
            time.sleep(wait_s)
    fs.pipe_file(path, content)
    return True


@contextmanager
def writing(uri: str, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file to write to, which is there, whole, when the block ends well: an S3 upload is atomic, a local file
    is renamed. It outlives a power cut from then on, unless it is not `durable`: one that is written every few
    seconds and that nobody needs after a power cut."""
    fs, path = filesystem(uri)
    with io_errors(uri), _writing_local(path, durable) if "file" in fs.protocol else _uploading(fs, path) as file:
        yield file


@contextmanager
def _uploading(fs: AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    file = fs.open(path, "wb")
    try:
        yield file
    except BaseException:
        file.discard()  # closing would put what is there so far
        file.closed = True
        raise
    file.close()


def _make_folder_of(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except FileExistsError as error:  # a file stands there, which os says otherwise further up
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error


@contextmanager
def _writing_local(path: str, durable: bool) -> Iterator[BinaryIO]:
    _make_folder_of(path)
    # A name that nobody has: of two that write one file, the last one's is the whole file in the end. A link, which
    # may lead to a file of the user's where others can write to the folder too, is not followed.
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    file = os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")
    try:
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):  # of a full disk, which says so again
            file.close()
        with suppress(OSError):
            os.unlink(temporary)
        raise
    file.close()
    os.replace(temporary, path)
    if durable:
        sync_names(path)


def remove_abandoned(uri: str) -> None:
    """Delete what killed processes have left in a local folder of files that they wrote an hour ago or earlier."""
    if is_s3(uri):
        return
    for path in Path(absolute(uri)).rglob("*.tmp"):
        with suppress(FileNotFoundError):
            if _ABANDONED.fullmatch(path.name) and time.time() - path.lstat().st_mtime > ABANDONED_S:
                path.unlink()


def copy_folder(folder: str, uri: str) -> list[str]:
    """Write the files of a local folder below a URI, each as `writing` does; return their relative names, sorted."""
    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    for name in names:
        with Path(folder, name).open("rb") as source, writing(join(uri, name)) as target:
            shutil.copyfileobj(source, target)
    return names


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the names in a local folder, such as that of a new file, as durable as what they name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_names(path: str) -> None:
    """Make the names that lead to a local file or folder durable, for its folders may be new too."""
    folder, *above = Path(path).absolute().parents
    sync_folder(folder)
    for each in above:
        with suppress(OSError):  # a folder of another owner or file system is none that we have made
            sync_folder(each)


def exists(uri: str) -> bool:
    """Return true where there is a file or folder; an unreachable store and a folder that may not be entered are
    errors, not a `False`."""
    fs, path = filesystem(uri)
    with io_errors(uri):
        return _exists(fs, path)


def _exists(fs: AbstractFileSystem, path: str) -> bool:
    if "file" not in fs.protocol:
        return bool(fs.exists(path))
    try:
        os.stat(path)  # `os.path.exists` answers no where a folder on the way may not be entered
    except PermissionError:
        raise
    except (OSError, ValueError):
        return False
    return True


def _raise_refusal(error: OSError) -> None:
    """Raise an error of a folder that may not be listed; what goes away meanwhile is none."""
    if isinstance(error, PermissionError):
        raise error


def remove(uri: str) -> None:
    """Delete a file, or a folder with all that is in it; nothing, where there is none."""
    fs, path = filesystem(uri)
    with io_errors(uri):
        if not fs.exists(path):
            return
        if "file" in fs.protocol:
            fs.rm(path, recursive=True)
            return
        # `rm` of an object store would read `*`, `?` and `[` of a name as a pattern.
        with ThreadPoolExecutor(REMOVERS) as pool:
            list(pool.map(fs.rm_file, fs.find(path)))


def listed(uri: str) -> dict[str, dict[str, Any]]:
    """Return fsspec's facts (`size`, ...) of every file below a folder, by its name relative to the folder, sorted;
    of a file: its own, under the empty name. Without such a folder there are none.

    Raises `RradError` for a link to a folder, whose files would be left out."""
    fs, path = filesystem(uri)
    with io_errors(uri):
        # Left to itself, fsspec takes a local folder that may not be listed for an empty one.
        refusing = {"on_error": _raise_refusal} if "file" in fs.protocol else {}
        files = fs.find(path, detail=True, **refusing) if _exists(fs, path) else {}
    for name, facts in files.items():
        if facts.get("islink") and name != path and os.path.isdir(name):
            raise RradError(name, "is a link to a folder, which is not followed", "put the folder there, or name it")
    names = {name: name.rstrip("/")[len(path) :].lstrip("/") for name in sorted(files)}
    return {names[name]: files[name] for name in names if not name.endswith("/")}  # S3's marks of folders end so


def names_in_folder(uri: str) -> list[str]:
    """Return the names of what is in a folder, without what is below that, sorted; none where there is no folder."""
    fs, path = filesystem(uri)
    with io_errors(uri):
        entries = fs.ls(path, detail=False) if _exists(fs, path) else []
    return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)


def visible_names(uri: str) -> list[str]:
    """Return the names in a folder above or beside the one that is read; none where the user may not look there."""
    try:
        return names_in_folder(uri)
    except RradError as error:
        if isinstance(error.__cause__, PermissionError):
            return []
        raise


def version_mark(facts: Mapping[str, Any]) -> str:
    """Return what tells a file from a changed one, by fsspec's facts."""
    return f"{facts['size']} {facts.get('ETag') or facts.get('mtime')}"
