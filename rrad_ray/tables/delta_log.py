"""The log of a Delta Lake table: which files are the rows of its last version.

A folder of Delta also holds files that are no longer part of the table, or never were: those that a commit has
removed and nobody has vacuumed yet, and those of jobs that failed. Its log says which are: the newest checkpoint,
then the commits behind it. A table whose files are not its rows as they stand is an error.
Source: the Delta transaction log protocol, https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from rrad_ray.errors import RradError
from rrad_ray.tables.files import absolute, join
from rrad_ray.tables.part_files import opened_part
from rrad_ray.tables.text import read_json, text_lines
from rrad_ray.uris import S3

DELTA_LOG = "_delta_log"

LAST_CHECKPOINT = "_last_checkpoint"

WHOLE_LOG = "bring the whole folder with its log, or write plain Parquet"

PLAIN_PARQUET = "write the table as plain Parquet"

PURGE = "purge deletion vectors (`REORG TABLE ... APPLY (PURGE)`), or write plain Parquet"

# Of what a table may ask of its readers: what is looked at here (the first three), or concerns types of columns or
# writers alone. Others may keep rows or commits elsewhere.
READER_FEATURES = {"deletionVectors", "columnMapping", "v2Checkpoint", "timestampNtz", "vacuumProtocolCheck"}
READER_FEATURES |= {"typeWidening", "typeWidening-preview", "variantType", "variantType-preview"}

READER_VERSION = 3  # the last one, from which on features have names

# Of a checkpoint's columns, which also hold statistics of every column of the table.
CHECKPOINT_COLUMNS = ["add.path", "add.partitionValues", "add.deletionVector", "remove.path", "remove.deletionVector"]
CHECKPOINT_COLUMNS += ["metaData.configuration", "protocol", "sidecar.path"]

_COMMIT = re.compile(r"(\d{20})\.json")

_CHECKPOINT = re.compile(
    r"(?P<version>\d{20})\.checkpoint"
    r"(?:\.parquet|\.\d{10}\.(?P<parts>\d{10})\.parquet|\.(?P<uuid>[0-9A-Fa-f-]{36})\.(?:parquet|json))"
)

_ABSOLUTE = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*:/")  # a path with a scheme, or from the root


@dataclass
class _Version:
    """The state of a table after some actions: the `add` of each live file by its path and deletion vector."""

    live: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def take(self, action: Mapping[str, Any]) -> None:
        """Apply an action, of which a checkpoint's row has nulls for all other kinds.

        A file may be removed with one deletion vector and added with another in one commit.
        """
        remove, add, settings, protocol = (
            action.get(kind) or {} for kind in ("remove", "add", "metaData", "protocol")
        )
        if remove.get("path") is not None:
            self.live.pop(_key(remove), None)
        if add.get("path") is not None:
            self.live[_key(add)] = add
        if settings.get("configuration") is not None:
            self.settings = dict(settings["configuration"])
        if protocol.get("minReaderVersion") is not None:
            self.protocol = protocol


def live_files(
    table: str, log_names: Collection[str], below: str = ""
) -> dict[str, tuple[tuple[str, str | None], ...]]:
    """Return the files of the last version of the Delta table at `table`: name relative to it, and partition values.

    `log_names`: the files of its log, relative to that. `below`: the folder, as `day=1/`, whose files are asked for.
    Raises `RradError` for a log that is not whole, and where these files are not the rows of the table: deletion
    vectors, mapped columns, files elsewhere, features that are not known.
    """
    log = join(table, DELTA_LOG)
    version = _Version()
    for action in _actions(log, log_names):
        version.take(action)
    _check_readable(log, version)
    files = {}
    for (path, vector), add in version.live.items():
        name = _relative(path, table)
        if not name.startswith(below):
            continue
        if vector:
            raise RradError(join(table, name), "its Delta table has deleted rows of it by a deletion vector", PURGE)
        values = dict(add.get("partitionValues") or {})
        files[name] = tuple((key, value or None) for key, value in values.items())  # an empty one is Delta's null
    return files


def _key(action: Mapping[str, Any]) -> tuple[str, str]:
    vector = action.get("deletionVector") or {}
    values = [vector.get(part) for part in ("storageType", "pathOrInlineDv", "offset")]
    return unquote(action["path"]), "" if values == [None] * 3 else json.dumps(values)


def _check_readable(log: str, version: _Version) -> None:
    """Raise `RradError` for a table that asks more of its readers than to take its live files."""
    mode = version.settings.get("delta.columnMapping.mode", "none")
    if mode != "none":
        problem = f"the columns of this Delta table have other names in its files (column mapping by {mode})"
        raise RradError(log, problem, PLAIN_PARQUET)
    unknown = sorted(set(version.protocol.get("readerFeatures") or ()) - READER_FEATURES)
    if (version.protocol.get("minReaderVersion") or 0) > READER_VERSION:
        unknown.append(f"version {version.protocol['minReaderVersion']}")
    if unknown:
        problem = f"this Delta table asks of its readers what is not supported: {', '.join(unknown)}"
        raise RradError(log, problem, PLAIN_PARQUET)


def _relative(path: str, table: str) -> str:
    """Return a path of the log relative to the table; `RradError` for one that leads elsewhere, as a shallow clone's
    do."""
    if not _ABSOLUTE.match(path):
        return path
    own = absolute(table)
    plain = re.sub(r"^file:/+", "/", re.sub(r"^s3[an]?://", S3, path))
    if not plain.startswith(f"{own.rstrip('/')}/"):
        problem = f"a file of this Delta table lies elsewhere: {path}"
        raise RradError(join(table, DELTA_LOG), problem, "clone the table deeply, or write plain Parquet")
    return plain.removeprefix(own.rstrip("/")).lstrip("/")


def _actions(log: str, names: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the actions of a log in order: of its newest checkpoint, and of the commits behind it.

    Raises `RradError` for a log that lacks a version on the way.
    """
    start, checkpoint = _newest_checkpoint(names)
    commits = sorted(int(match[1]) for match in map(_COMMIT.fullmatch, names) if match and int(match[1]) > start)
    begun = [int(match["version"]) for match in map(_CHECKPOINT.fullmatch, names) if match]
    hint = read_json(join(log, LAST_CHECKPOINT)) if LAST_CHECKPOINT in names else None
    if isinstance(hint, dict) and isinstance(hint.get("version"), int):
        begun.append(hint["version"])
    for version in range(start + 1, max([0, *begun, *commits]) + 1):  # of each that there is, its commit came first
        if version - start > len(commits) or commits[version - start - 1] != version:
            raise RradError(log, f"the log of this Delta table lacks version {version}", WHOLE_LOG)
    for name in checkpoint:
        yield from _checkpoint_actions(log, name)
    for version in commits:
        yield from _json_actions(join(log, f"{version:020d}.json"))


def _newest_checkpoint(names: Collection[str]) -> tuple[int, list[str]]:
    """Return the version and the files of the newest checkpoint that has all its parts; version -1 where none is."""
    files = defaultdict[tuple[int, int, str], list[str]](list)
    for name in sorted(names):
        if match := _CHECKPOINT.fullmatch(name):
            files[int(match["version"]), int(match["parts"] or 1), match["uuid"] or ""].append(name)
    whole = [key for key, parts in files.items() if len(parts) == key[1]]
    return (max(whole)[0], files[max(whole)]) if whole else (-1, [])


def _checkpoint_actions(log: str, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the actions of a file of a checkpoint, and of the sidecars that it names."""
    uri = join(log, name)
    for action in _json_actions(uri) if name.endswith(".json") else _parquet_actions(uri):
        if sidecar := action.get("sidecar"):
            yield from _parquet_actions(join(log, "_sidecars", unquote(sidecar["path"]).rpartition("/")[2]))
        yield action


def _parquet_actions(uri: str) -> Iterator[Mapping[str, Any]]:
    with opened_part(uri) as file:
        for batch in file.iter_batches(columns=CHECKPOINT_COLUMNS):
            yield from batch.to_pylist()


def _json_actions(uri: str) -> Iterator[Mapping[str, Any]]:
    number = 0
    for number, line in text_lines(uri, WHOLE_LOG):
        try:
            action = json.loads(line)
        except ValueError as error:
            raise RradError(f"{uri}:{number}", "is no action of a Delta table's log", WHOLE_LOG) from error
        if not isinstance(action, dict):
            raise RradError(f"{uri}:{number}", "is no action of a Delta table's log", WHOLE_LOG)
        yield action
    if not number:
        raise RradError(uri, "is an empty file of a Delta table's log", WHOLE_LOG)
