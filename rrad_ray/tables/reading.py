"""Finished tables: their parts and rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray.tables.files import filesystem, io_errors, join
from rrad_ray.tables.manifest import read_manifest
from rrad_ray.tables.schema import check_schema

STARTED, PROGRESS, QUARANTINE = "started.json", "progress.json", "quarantine"


def part_names(uri: str) -> list[str]:
    """Return the names of the parts under `uri`, sorted; finished table or not."""
    fs, path = filesystem(uri)
    with io_errors(uri):
        names = [entry.rpartition("/")[2] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []
    return sorted(name for name in names if name.startswith("part-") and name.endswith(".parquet"))


def read_columns(uri: str, name: str, columns: Sequence[str] | None) -> pa.Table:
    """Return some columns of one part (None: all), as they are."""
    part_uri = join(uri, name)
    fs, path = filesystem(part_uri)
    with io_errors(part_uri), fs.open(path, "rb") as file:
        return pq.read_table(file, columns=columns)


def read_part(uri: str, name: str, row: type) -> list[dict[str, Any]]:
    """Return the rows of one part, checked against the row type."""
    return check_schema(read_columns(uri, name, None), row, join(uri, name)).to_pylist()


def read(uri: str, row: type) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished table, part by part."""
    read_manifest(uri)
    for name in part_names(uri):
        yield from read_part(uri, name, row)


def read_split(uri: str, row: type, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one split of a finished table; of parts that hold none, no text is read."""
    read_manifest(uri)
    for name in part_names(uri):
        if split in read_columns(uri, name, ["split"])["split"].to_pylist():
            yield from (each for each in read_part(uri, name, row) if each["split"] == split)


def part_name(number: int) -> str:
    """Return `part-00003.parquet` for 3."""
    return f"part-{number:05d}.parquet"
