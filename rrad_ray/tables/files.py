"""Files of any kind, local or `s3://`: paths, whole writes, and errors that say what to do."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import fsspec
from fsspec import AbstractFileSystem

from rrad_ray.errors import RradError


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the fsspec file system of a local path or an `s3://` URI, and the path in it."""
    # S3 listings must not be cached: a table is polled by other processes while it grows. Short timeouts and few
    # retries make an unreachable store an error within seconds, not a hang.
    options: dict[str, Any] = {}
    if uri.startswith("s3://"):
        client = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3}}
        options = {"use_listings_cache": False, "config_kwargs": client}
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, path


def join(uri: str, *names: str) -> str:
    """Return `s3://b/t/part` for `join("s3://b/t", "part")`; the same for local paths."""
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """Return a URI that means the same to a process with another working directory."""
    return uri if "://" in uri else os.path.abspath(uri)


@contextmanager
def io_errors(uri: str, missing: str = "") -> Iterator[None]:
    """Raise what fails in this block as the `RradError` that says what an I/O error at `uri` means for the user.

    `missing`: the remedy where there is no such file; empty: an error like any other.
    """
    try:
        yield
    except RradError:
        raise
    except Exception as error:
        if missing and isinstance(error, FileNotFoundError):
            raise RradError(uri, "no such file", missing) from error
        raise _io_error(uri, error) from error


def _io_error(uri: str, error: Exception) -> RradError:
    """Return the `RradError` that says what an I/O error at `uri` means for the user."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and run the same command again: finished parts are kept"
        return RradError(uri, "no space left on the device", remedy)
    if uri.startswith("s3://"):
        remedy = "check the network, AWS_ENDPOINT_URL and the credentials in the environment; then run again"
        return RradError(uri, f"the object store did not answer ({text})", remedy)
    return RradError(uri, text, "check that the place exists and may be written; then run again")


def read_text(uri: str) -> str:
    """Return the text of a file; `RradError` if it cannot be read."""
    fs, path = filesystem(uri)
    with io_errors(uri, "check the path"):
        return fs.read_text(path, encoding="utf-8")


def read_json(uri: str) -> Any:
    """Return the content of a JSON file; None where there is no such file."""
    return json.loads(read_text(uri)) if exists(uri) else None


def write_text(uri: str, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(uri, text.encode())


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    with writing(uri) as file:
        file.write(content)


@contextmanager
def writing(uri: str) -> Iterator[BinaryIO]:
    """Open a file to write to, which is there when the block ends well: an S3 upload is atomic, a local file is
    renamed."""
    fs, path = filesystem(uri)
    local = "file" in fs.protocol
    temporary = f"{path}.tmp" if local else path
    with io_errors(uri):
        if local:
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        file = fs.open(temporary, "wb")
        try:
            yield file
        except BaseException:
            if local:
                with suppress(OSError):  # of a full disk, which says so again
                    file.close()
            else:
                file.discard()  # closing would put what is there so far
                file.closed = True
            raise
        file.close()
        if local:
            fs.mv(temporary, path)


def exists(uri: str) -> bool:
    """Return true where there is a file or folder; an unreachable store is an error, not a `False`."""
    fs, path = filesystem(uri)
    with io_errors(uri):
        return bool(fs.exists(path))
