"""Finished tables: their manifests, parts and rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray.errors import RradError
from rrad_ray.tables.files import exists, filesystem, io_error, join, read_text
from rrad_ray.tables.schema import check_schema

MANIFEST, STARTED, PROGRESS, QUARANTINE = "manifest.json", "started.json", "progress.json", "quarantine"


# ---- reading ------------------------------------------------------------------------------------------------


def read_manifest(uri: str, stage: str = "read") -> dict[str, Any]:
    """The manifest of a finished table; `RradError` if there is none."""
    place = join(uri, MANIFEST)
    if not exists(place, stage):
        found = "no manifest.json: the table does not exist or its stage has not finished"
        raise RradError(stage, uri, found, "check the path, or run the stage that writes it")
    return json.loads(read_text(place, stage))


def simulated_mark(uri: str, stage: str = "read") -> dict[str, Any]:
    """The mark of labels that no model made, as a fact for the manifest of what is made from them; else nothing."""
    manifest = read_manifest(uri, stage)
    return {"simulated": manifest["simulated"]} if "simulated" in manifest else {}


def part_names(uri: str, stage: str = "read") -> list[str]:
    """The names of the parts that stand under `uri`, sorted; finished table or not."""
    fs, path = filesystem(uri)
    try:
        names = [entry.rpartition("/")[2] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []
    except Exception as error:
        raise io_error(stage, uri, error) from error
    return sorted(name for name in names if name.startswith("part-") and name.endswith(".parquet"))


def read_columns(uri: str, name: str, columns: Sequence[str] | None, stage: str = "read") -> pa.Table:
    """Some columns of one part (None: all), as they are."""
    place = join(uri, name)
    fs, path = filesystem(place)
    try:
        with fs.open(path, "rb") as file:
            return pq.read_table(file, columns=columns)
    except Exception as error:
        raise io_error(stage, place, error) from error


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


def part_name(number: int) -> str:
    """`part_name(3)` -> `part-00003.parquet`."""
    return f"part-{number:05d}.parquet"
