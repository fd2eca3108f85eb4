"""Tables: Parquet parts under one URI, local or `s3://`, and a manifest that is written last.

    OUTPUT/part-00000.parquet ...   the rows; a part is written whole or not at all
    OUTPUT/quarantine/...           bad input rows with the reason
    OUTPUT/started.json             config and inputs of the run that owns the folder, so that a killed run resumes
    OUTPUT/progress.json            how far a long run is, written every few seconds: what `rrad status` reads
    OUTPUT/manifest.json            last: a table without one does not exist to readers

Credentials and the endpoint of S3 come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, get_args, get_origin, get_type_hints

import fsspec
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from rrad_ray import versions
from rrad_ray.errors import RradError
from rrad_ray.rows import Quarantined

MANIFEST, STARTED, PROGRESS, QUARANTINE = "manifest.json", "started.json", "progress.json", "quarantine"
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


# ---- places -------------------------------------------------------------------------------------------------


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a local path or an `s3://` URI, and the path in it."""
    # S3 listings must not be cached: a table is polled by other processes while it grows. Short timeouts and few
    # retries make an unreachable store an error within seconds, not a hang.
    options: dict[str, Any] = {}
    if uri.startswith("s3://"):
        client = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 3}}
        options = {"use_listings_cache": False, "config_kwargs": client}
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, path


def join(uri: str, *names: str) -> str:
    """`join("s3://b/t", "part")` -> `s3://b/t/part`; the same for local paths."""
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """The same place for a process with another working directory."""
    return uri if "://" in uri else os.path.abspath(uri)


def guard(stage: str, place: str, error: Exception) -> RradError:
    """The `RradError` that says what an I/O error at `place` means for the user."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and run the same command again: finished parts are kept"
        return RradError(stage, place, "no space left on the device", remedy)
    if place.startswith("s3://"):
        remedy = "check the network, AWS_ENDPOINT_URL and the credentials in the environment; then run again"
        return RradError(stage, place, f"the object store did not answer ({text})", remedy)
    return RradError(stage, place, text, "check that the place exists and may be written; then run again")


def read_text(uri: str, stage: str = "read") -> str:
    """The text of a file; `RradError` if it cannot be had."""
    fs, path = filesystem(uri)
    try:
        return fs.read_text(path, encoding="utf-8")
    except FileNotFoundError as error:
        raise RradError(stage, uri, "no such file", "check the path") from error
    except Exception as error:
        raise guard(stage, uri, error) from error


def write_text(uri: str, text: str, stage: str = "write") -> None:
    """Write a file whole or not at all."""
    write_bytes(uri, text.encode(), stage)


def write_bytes(uri: str, content: bytes, stage: str = "write") -> None:
    """Write a file whole or not at all."""
    with writing(uri, stage) as file:
        file.write(content)


@contextmanager
def writing(uri: str, stage: str = "write") -> Iterator[BinaryIO]:
    """A file to write to, that is there when the block ends well: an S3 upload is atomic, a local file is renamed."""
    fs, path = filesystem(uri)
    local = "file" in fs.protocol
    temporary = f"{path}.tmp" if local else path
    try:
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
    except RradError:
        raise
    except Exception as error:
        raise guard(stage, uri, error) from error


def exists(uri: str, stage: str = "read") -> bool:
    """Whether a file or folder stands there; an unreachable store is an error, not a `False`."""
    fs, path = filesystem(uri)
    try:
        return bool(fs.exists(path))
    except Exception as error:
        raise guard(stage, uri, error) from error


# ---- schemas ------------------------------------------------------------------------------------------------


def arrow_type(hint: Any) -> pa.DataType:
    """`list[list[float]]` -> `list<list<double>>`."""
    if get_origin(hint) is list:
        return pa.list_(arrow_type(get_args(hint)[0]))
    return _ARROW[hint]


def schema_of(row: type) -> pa.Schema:
    """The Arrow schema of a row type."""
    return pa.schema([pa.field(name, arrow_type(hint), nullable=False) for name, hint in get_type_hints(row).items()])


def _nulls(column: pa.ChunkedArray) -> int:
    """How many nulls a column holds, those within its lists too."""
    count, values = column.null_count, column
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = pa.compute.list_flatten(values)
        count += values.null_count
    return count


def check_schema(table: pa.Table, row: type, stage: str, place: str, nulls: bool = False) -> pa.Table:
    """The columns of `row`, in its types; `RradError` names the first column that is missing or of a wrong type, or,
    unless `nulls` are wanted, one that holds some."""
    columns = []
    schema = schema_of(row)
    for field in schema:
        if field.name not in table.column_names:
            have = ", ".join(table.column_names)
            found = f"has no column '{field.name}' (columns: {have})"
            raise RradError(stage, place, found, "run the stage that writes it again")
        column = table.column(field.name)
        if not nulls and _nulls(column):
            raise RradError(stage, place, f"column '{field.name}' holds nulls", "drop or fill those rows")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            found = f"column '{field.name}' is {column.type}, not {field.type}"
            raise RradError(stage, place, found, "convert the column") from error
        except pa.ArrowNotImplementedError as error:
            found = f"column '{field.name}' is {column.type}, not {field.type}"
            raise RradError(stage, place, found, "convert the column") from error
    return pa.Table.from_arrays(columns, schema=schema)


# ---- reading ------------------------------------------------------------------------------------------------


def read_manifest(uri: str, stage: str = "read") -> dict[str, Any]:
    """The manifest of a finished table; `RradError` if there is none."""
    place = join(uri, MANIFEST)
    if not exists(place, stage):
        found = "no manifest.json: the table does not exist or its stage has not finished"
        raise RradError(stage, uri, found, "check the path, or run the stage that writes it")
    return json.loads(read_text(place, stage))


def simulated(uri: str, stage: str = "read") -> dict[str, Any]:
    """The mark of labels that no model made, as a fact for the manifest of what is made from them; else nothing."""
    manifest = read_manifest(uri, stage)
    return {"simulated": manifest["simulated"]} if "simulated" in manifest else {}


def part_names(uri: str, stage: str = "read") -> list[str]:
    """The names of the parts that stand under `uri`, sorted; finished table or not."""
    fs, path = filesystem(uri)
    try:
        names = [entry.rpartition("/")[2] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []
    except Exception as error:
        raise guard(stage, uri, error) from error
    return sorted(name for name in names if name.startswith("part-") and name.endswith(".parquet"))


def read_columns(uri: str, name: str, columns: Sequence[str] | None, stage: str = "read") -> pa.Table:
    """Some columns of one part (None: all), as they are."""
    place = join(uri, name)
    fs, path = filesystem(place)
    try:
        with fs.open(path, "rb") as file:
            return pq.read_table(file, columns=columns)
    except Exception as error:
        raise guard(stage, place, error) from error


def read_part(uri: str, name: str, row: type, stage: str = "read") -> list[dict[str, Any]]:
    """The rows of one part, checked against the row type."""
    return check_schema(read_columns(uri, name, None, stage), row, stage, join(uri, name)).to_pylist()


def read(uri: str, row: type, stage: str = "read") -> Iterator[dict[str, Any]]:
    """The rows of a finished table, part by part."""
    read_manifest(uri, stage)
    for name in part_names(uri, stage):
        yield from read_part(uri, name, row, stage)


def read_split(uri: str, row: type, split: str, stage: str = "read") -> Iterator[dict[str, Any]]:
    """The rows of one split of a finished table; of parts that hold none, no text is read."""
    read_manifest(uri, stage)
    for name in part_names(uri, stage):
        if split in read_columns(uri, name, ["split"], stage)["split"].to_pylist():
            yield from (found for found in read_part(uri, name, row, stage) if found["split"] == split)


# ---- writing ------------------------------------------------------------------------------------------------


def plain(cfg: Any) -> dict[str, Any]:
    """A config dataclass as JSON-ready values."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def fingerprint(uri: str, stage: str = "read") -> str:
    """What stands at an input URI, in a few letters: for a table its config and inputs, else names and sizes."""
    if exists(join(uri, MANIFEST), stage):
        manifest = read_manifest(uri, stage)
        content: Any = [manifest["stage"], manifest["config"], manifest["inputs"]]
    else:
        fs, path = filesystem(uri)
        try:
            content = sorted(
                (name.rpartition("/")[2], info["size"]) for name, info in fs.find(path, detail=True).items()
            )
        except Exception as error:
            raise guard(stage, uri, error) from error
        if not content:
            raise RradError(stage, uri, "nothing there", "check the path")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Output:
    """The folder that one stage run writes: resumable parts, a quarantine, the manifest last.

    `inputs` names the tables or files that the rows come from; the same config over the same inputs is the same
    output. Opening it raises `RradError` if the folder belongs to another config, and sets `finished` if there
    is nothing to do.
    """

    def __init__(self, stage: str, cfg: Any, row: type | None, inputs: Mapping[str, str]) -> None:
        self.stage, self.uri, self.row = stage, cfg.output, row
        self.config = {key: value for key, value in plain(cfg).items() if key != "output"}
        self.free = getattr(type(cfg), "FREE", ())  # keys that say how a run is made, not what it makes
        self.inputs = {name: fingerprint(uri, stage) for name, uri in inputs.items() if uri}
        self.began = time.time()
        self.quarantined: list[Quarantined] = []
        self.finished = self._claim()
        print(f"[{stage}] {'already done, nothing to do' if self.finished else 'running'} -> {self.uri}", flush=True)

    def _claim(self) -> bool:
        """Whether the output stands finished; claims the folder for this config otherwise."""
        for name in (MANIFEST, STARTED):
            place = join(self.uri, name)
            if not exists(place, self.stage):
                continue
            owner = json.loads(read_text(place, self.stage))
            for what, now in (("config", self.config), ("inputs", self.inputs)):
                changed = sorted(key for key in {*owner[what], *now} if owner[what].get(key) != now.get(key))
                changed = [key for key in changed if key not in self.free]
                if name == STARTED:  # the remedy of `commit`: what is done stays good when more bad rows are borne
                    changed = [key for key in changed if key != "max_quarantined"]
                if changed and name == STARTED and not self._anything_done():
                    break  # a run that failed before it had anything to show binds nobody
                if changed:
                    was = ", ".join(f"{key}={owner[what].get(key)!r} -> {now.get(key)!r}" for key in changed)
                    found = f"holds the output of another {what} ({was})"
                    raise RradError(self.stage, self.uri, found, "choose a new output, or delete this one")
            if name == MANIFEST:
                return True
        state = {"stage": self.stage, "config": self.config, "inputs": self.inputs}
        write_text(join(self.uri, STARTED), json.dumps(state, indent=2), self.stage)
        return False

    def _anything_done(self) -> bool:
        fs, path = filesystem(self.uri)
        names = [entry.rpartition("/")[2] for entry in fs.ls(path, detail=False)]
        return any(name not in (STARTED, PROGRESS) and not name.endswith(".tmp") for name in names)

    def parts(self) -> list[str]:
        """The parts that an earlier, killed run of the same config has finished."""
        return part_names(self.uri, self.stage)

    def write_part(
        self, name: str, rows: Sequence[Mapping[str, Any]], row: type | None = None, folder: str = ""
    ) -> None:
        """Write one part, whole or not at all. `name` as in `part_name(3)`."""
        place = join(self.uri, folder, name) if folder else join(self.uri, name)
        kind = row or self.row
        assert kind is not None
        schema = schema_of(kind)
        try:
            table = pa.table({field.name: [item[field.name] for item in rows] for field in schema}, schema=schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, KeyError) as error:
            found = f"a row does not fit its type: {type(error).__name__}: {error}"
            raise RradError(self.stage, place, found, "report this as a bug") from error
        check_schema(table, kind, self.stage, place)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_bytes(place, sink.getvalue().to_pybytes(), self.stage)

    def write_all(self, rows: Iterable[Mapping[str, Any]], rows_per_part: int) -> int:
        """Write rows in parts of a fixed size; the number of rows."""
        buffer: list[Mapping[str, Any]] = []
        count = number = 0
        for item in rows:
            buffer.append(item)
            if len(buffer) == rows_per_part:
                self.write_part(part_name(number), buffer)
                count, number, buffer = count + len(buffer), number + 1, []
        if buffer or number == 0:
            self.write_part(part_name(number), buffer)
        return count + len(buffer)

    def quarantine(self, id: str, reason: str, content: str = "") -> None:
        """Set a bad row aside; `commit` writes and counts them."""
        self.quarantined.append({"stage": self.stage, "id": id, "reason": reason, "content": content[:2000]})

    def write_quarantine(self, name: str) -> None:
        """Write what has been set aside since the last call, as part `name` of the quarantine."""
        if self.quarantined:
            self.write_part(name, self.quarantined, Quarantined, QUARANTINE)
            self.quarantined = []

    def _reasons(self) -> dict[str, int]:
        """How many rows were set aside for each reason, by this run and by earlier ones of the same output."""
        counts: dict[str, int] = {}
        folder = join(self.uri, QUARANTINE)
        for name in part_names(folder, self.stage):
            for reason in read_columns(folder, name, ["reason"], self.stage)["reason"].to_pylist():
                kind = reason.partition(":")[0]
                counts[kind] = counts.get(kind, 0) + 1
        return counts

    def tell(self, state: Mapping[str, Any]) -> None:
        """Write how far the run is, for `rrad status`."""
        facts = {
            "stage": self.stage,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "updated": time.time(),
            **state,
        }
        write_text(join(self.uri, PROGRESS), json.dumps(facts, indent=2), self.stage)

    def bear(self, seen: int | None = None, max_quarantined: float = 1.0) -> dict[str, int]:
        """Write the quarantine; how many rows it holds for each reason. `seen`: how many rows were looked at.

        Raises `RradError` if more than the share `max_quarantined` of them were bad; the quarantine stays to be read.
        """
        self.write_quarantine(part_name(0))
        reasons = self._reasons()
        bad = sum(reasons.values())
        place = join(self.uri, QUARANTINE)
        if reasons:
            listing = ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
            print(f"[{self.stage}] set aside {listing}; see {place}", flush=True)
        if seen and bad / seen > max_quarantined:
            share = f"{bad} of {seen} rows are bad ({reasons})"
            raise RradError(self.stage, place, share, "raise max_quarantined and run again, or mend the input")
        return reasons

    def commit(self, *, seen: int | None = None, max_quarantined: float = 1.0, **facts: Any) -> str:
        """Write the quarantine as `bear` does, which may raise, then the manifest."""
        reasons = self.bear(seen, max_quarantined)
        manifest = {
            "stage": self.stage,
            "schema": {} if self.row is None else {field.name: str(field.type) for field in schema_of(self.row)},
            "config": self.config,
            "inputs": self.inputs,
            "quarantined": reasons,
            "versions": versions.installed(),
            "seconds": round(time.time() - self.began, 2),
            **facts,
        }
        write_text(join(self.uri, MANIFEST), json.dumps(manifest, indent=2), self.stage)
        print(f"[{self.stage}] done in {manifest['seconds']:.0f} s -> {self.uri}", flush=True)
        return self.uri


def part_name(number: int) -> str:
    """`part_name(3)` -> `part-00003.parquet`."""
    return f"part-{number:05d}.parquet"
