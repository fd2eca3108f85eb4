"""The folder of converted and downloaded models on this machine, private to its user; and downloads from S3.

Who may write to a bucket is not thereby a user of this machine: a download stays below its folder, is whole and one
state of the store's, and old ones are deleted. A folder holds the digests of its files, which are compared whenever a
process asks for it: by a disk's fault, a power cut or another program, they may have changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.tables.file_digests import check_digests, folder_digests
from rrad_ray.tables.files import exists, filesystem, io_errors, join
from rrad_ray.tables.json_files import write_json
from rrad_ray.tables.private_folders import cache_folder, private_folder
from rrad_ray.tables.text import read_json

DIGESTS = ".rrad-sha256.json"  # in each folder: the digests of its files; hidden, so none of the model's

DOWNLOAD, SCRATCH = "s3-", "tmp-"  # what names of downloads and of unfinished folders begin with

KEPT_DOWNLOADS = 3  # besides those that a process has asked for lately

MOST_OF_FREE = 0.9  # of the disk's free bytes that a download may take: events are on it too

MOST_CONFIG_BYTES = 32_000_000

LOADS_PROGRAMS = ("BertJapanese",)  # of transformers' tokenizers: by MeCab's and Sudachi's plugins and settings

LATELY_S, DEAD_S = 3600.0, 86_400.0  # an endpoint asks every few seconds; no download takes a day


def keep_compiled_apart() -> None:
    """Have torch keep what it compiles in the cache: its own folder below /tmp has a known name, so that another user
    may make it first, with programs in it."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ.setdefault(name, str(private_folder(cache_folder() / name.partition("_")[0].lower())))


def scratch() -> str:
    """Return a new folder in the cache, for `into_place`."""
    return tempfile.mkdtemp(prefix=SCRATCH, dir=cache_folder())


def into_place(temporary: str, target: Path) -> None:
    """Rename a finished folder, with the digests of its files, also over one without; if another process was faster,
    its folder is as good."""
    write_json(os.path.join(temporary, DIGESTS), folder_digests(Path(temporary)))
    if target.is_dir() and not (target / DIGESTS).exists():
        aside = scratch()
        with suppress(OSError):  # another process has done so
            os.rename(target, aside)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(temporary, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(temporary, ignore_errors=True)


def is_kept(target: Path) -> bool:
    """Return true for a folder that was put into its place with digests, which earlier versions did without.

    Raises `RradError` for one whose files have changed since.
    """
    known = read_json(str(target / DIGESTS))
    if known is None:
        return False
    check_digests(target, known if isinstance(known, dict) else {}, f"delete {target}: it is made again")
    return True


def download(uri: str) -> str:
    """Return a checkpoint folder from S3, downloaded once per content.

    Raises `RradError` for a folder without a model, for one that changes meanwhile or would fill the disk, for names
    that would be written elsewhere, and as `check_configs` and `is_kept` do.
    """
    if exists(join(uri, "model", "config.json")):
        uri = join(uri, "model")
    files = _objects(uri)
    if "config.json" not in files:
        raise RradError(uri, "no model there (no config.json)", "check the path")
    target = cache_folder() / f"{DOWNLOAD}{hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"
    if is_kept(target):
        os.utime(target)  # asked for lately
        return str(target)
    _check_room(uri, sum(size for size, _ in files.values()))
    temporary = scratch()
    try:
        _fetch(uri, files, Path(temporary))
        if _objects(uri) != files:
            raise RradError(uri, "has changed while it was downloaded", "run again when it is whole")
        check_configs(uri, Path(temporary))
    except RradError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    into_place(temporary, target)
    _prune()
    return str(target)


def _objects(uri: str) -> dict[str, tuple[int, str]]:
    """Return size and ETag of the objects below a folder on S3, by relative name, sorted.

    Raises `RradError` for a name that would be no file below a folder of this machine.
    """
    fs, path = filesystem(uri)
    with io_errors(uri):
        listing: Mapping[str, Any] = fs.find(path, detail=True)
    files = {}
    for key, facts in sorted(listing.items()):
        name = key.removeprefix(f"{path}/")
        if key.endswith("/") or key == path:  # S3's mark of a folder, and an object of the folder's own name
            continue
        if {"", ".", "..", DIGESTS} & set(name.split("/")) or "\0" in name:
            remedy = "delete it there, and find out who wrote it: it would be written elsewhere on this machine"
            raise RradError(f"s3://{key}", "no name of a model's file", remedy)
        files[name] = (int(facts["size"]), str(facts.get("ETag")))
    return files


def _check_room(uri: str, size: int) -> None:
    """Raise `RradError` for a download of so many bytes that would leave the disk without room."""
    free = shutil.disk_usage(cache_folder()).free
    if size > MOST_OF_FREE * free:
        problem = f"has {size:,} bytes, and {free:,} are free in {cache_folder()}"
        raise RradError(uri, problem, "free some space, or set XDG_CACHE_HOME to a larger disk")


def _fetch(uri: str, files: Mapping[str, tuple[int, str]], folder: Path) -> None:
    """Download the objects below a folder on S3. Raises `RradError` for one that comes with another size."""
    fs, path = filesystem(uri)
    for name, (size, _) in files.items():
        local = folder / name
        with io_errors(uri):
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{path}/{name}", str(local))
        if (came := local.stat().st_size) != size:
            problem = f"{came:,} bytes came of the {size:,} that the store lists"
            raise RradError(join(uri, name), problem, "run again when the store and the network are well")


def check_configs(uri: str, folder: Path) -> None:
    """Raise `RradError` for a tokenizer that loads a program which its files name, and for a config that is none.

    Who writes to the store would choose the program.
    """
    for path in (path for name in ("config.json", "tokenizer_config.json") for path in folder.rglob(name)):
        config_uri = join(uri, path.relative_to(folder).as_posix())
        if path.stat().st_size > MOST_CONFIG_BYTES:
            problem = f"has {path.stat().st_size:,} bytes, which no config has"
            raise RradError(config_uri, problem, "check that it is the model you mean")
        content = repr(read_json(str(path)))  # parsed, for JSON may write letters as escapes
        if named := next((name for name in LOADS_PROGRAMS if name in content), ""):
            problem = f"names {named}, which loads programs of this machine that the model's files choose"
            raise RradError(config_uri, problem, "copy the model to a folder of this machine, if you trust it")


def _prune() -> None:
    """Delete downloads that nobody has asked for lately, but for the newest, and what killed processes have left."""
    now, used = time.time(), dict[Path, float]()
    for path in cache_folder().iterdir():
        with suppress(FileNotFoundError):  # another process has just renamed or deleted it
            if path.is_dir():
                used[path] = path.stat().st_mtime
    downloads = sorted((path for path in used if path.name.startswith(DOWNLOAD)), key=lambda path: -used[path])
    old = [path for path in downloads[KEPT_DOWNLOADS:] if now - used[path] > LATELY_S]
    old += [path for path in used if path.name.startswith(SCRATCH) and now - used[path] > DEAD_S]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)  # another process may be at it
