"""SHA-256 digests of local files: of inputs, and of models, whose every file is compared before it is loaded.

A file is read once for as long as its size, times and inode stay: the digest of a large one is kept in the user's
private cache. A program that writes to a file changes its `ctime`, which it cannot set back. So a model of gigabytes
costs some calls of `stat` at every start but the first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rrad_ray.errors import RradError
from rrad_ray.tables.files import write_text
from rrad_ray.tables.private_folders import cache_folder

KEPT_FROM = 2**20  # bytes from which on a file's digest is kept for the next process

SETTLED_S = 2.0  # a file that was written later may be written again in the same tick of its file system's clock


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a local file, which is read once for as long as its size and times stay."""
    facts = os.stat(path)
    return _digest_of(str(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the digests of the files below a folder by relative name, sorted; without hidden ones, which no model
    has."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: file_digest(folder / name) for name in names if not name.rpartition("/")[2].startswith(".")}


def check_digests(folder: Path, known: Mapping[str, str], remedy: str) -> None:
    """Raise `RradError` with this remedy for a file below a folder that is not the one with the known digest, for one
    that is missing, and for one that is not known, which a model may load too."""
    digests = folder_digests(folder)
    for name in sorted({*known, *digests}):
        if name not in digests:
            problem = "is missing: the model has a file of this name"
        elif name not in known:
            problem = "is no file of the model, and might be loaded with it"
        elif digests[name] != known[name]:
            problem = f"its SHA-256 is {digests[name]}, not {known[name]}"
        else:
            continue
        raise RradError(str(folder / name), problem, remedy)


@functools.lru_cache(10_000)
def _digest_of(path: str, size: int, *marks: int) -> str:
    kept = _kept(path, size, *marks) if size >= KEPT_FROM else None
    if kept and kept.is_file():
        return kept.read_text()
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if kept and time.time() - max(marks[:2]) / 1e9 > SETTLED_S:
        write_text(str(kept), digest, durable=False)
    return digest


def _kept(path: str, *marks: int) -> Path | None:
    """Return where a file's digest is kept; None where there can be no private cache."""
    name = hashlib.sha256(json.dumps([path, *marks]).encode()).hexdigest()[:16]
    with suppress(RradError):
        return cache_folder() / "digests" / name
    return None
