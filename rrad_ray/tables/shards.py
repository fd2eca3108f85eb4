"""A table, or any folder of Parquet files, as shards: row ranges small enough to hold, read one by one.

A shard is the unit of work of a long stage and one part of its output, whatever sizes the input's files have.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates
from rrad_ray.tables.files import exists, filesystem, io_errors, join
from rrad_ray.tables.manifest import MANIFEST, read_manifest
from rrad_ray.tables.reading import STARTED, part_name, part_names
from rrad_ray.tables.schema import check_schema, schema_of

NEEDED = ("query_id", "query", "doc_ids", "texts")  # what a foreign folder must have

SHARD_READERS = 16  # files that are looked at side by side: object stores answer slowly, and many at once


@dataclass(frozen=True)
class Shard:
    """A range of rows: `start` to `stop` of `file`, which become the output part `part`; `dev`: some are dev queries.

    `documents`: how many its queries have together.
    """

    part: str
    file: str
    start: int
    stop: int
    dev: bool
    documents: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


def plan_shards(uri: str, size: int, row: type) -> list[Shard]:
    """Return the shards of an input, of at most `size` rows each, always the same for the same files.

    `uri` is a finished table, or a folder of Parquet files that no stage has written. Raises `RradError` if there is
    nothing, a table that its stage has not finished, or a file without a column of `row`.
    """
    files = _files(uri)
    foreign = not exists(join(uri, MANIFEST))
    needed = NEEDED if foreign else tuple(schema_of(row).names)
    with ThreadPoolExecutor(SHARD_READERS) as pool:
        looks = list(pool.map(lambda name: _look(join(uri, name), needed), files))
    shards: list[Shard] = []
    for name, (splits, documents) in zip(files, looks, strict=True):
        for start in range(0, len(documents), size):
            stop = min(start + size, len(documents))
            part, dev = part_name(len(shards)), "dev" in splits[start:stop]
            shards.append(Shard(part, name, start, stop, dev, int(documents[start:stop].sum())))
    return shards


def read_shard(uri: str, shard: Shard, row: type) -> list[dict[str, Any]]:
    """Return the rows of a shard; columns that a foreign folder need not have are filled in."""
    file_uri = join(uri, shard.file)
    fs, path = filesystem(file_uri)
    with io_errors(file_uri), fs.open(path, "rb") as file:
        table = _rows(pq.ParquetFile(file), shard.start, shard.stop)
    # Nothing is filled into a finished table: `plan` has seen that it has every column.
    return check_schema(_filled(table), row, file_uri).to_pylist()


def _files(uri: str) -> list[str]:
    """Return the names of the Parquet files under `uri`, relative to it."""
    fs, path = filesystem(uri)
    if exists(join(uri, MANIFEST)):
        return part_names(uri)
    if exists(join(uri, STARTED)):
        read_manifest(uri)  # says that its stage has not finished
    with io_errors(uri):
        names = sorted(name for name in fs.find(path) if name.endswith(".parquet"))
    if not names:
        raise RradError(uri, "neither a finished table nor a folder of Parquet files", "check the path")
    return [name[len(path.rstrip("/")) + 1 :] for name in names]


def _look(uri: str, needed: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the split (empty without the column) and the number of documents of every row of a file."""
    fs, path = filesystem(uri)
    with io_errors(uri), fs.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        have = file.schema_arrow.names
        columns = [name for name in ("split", "doc_ids") if name in have]
        table = file.read(columns=columns)
    for name in needed:
        if name not in have:
            problem = f"has no column '{name}' (columns: {', '.join(have)})"
            remedy = (
                f"candidates need {', '.join(NEEDED)}" if needed is NEEDED else "run the stage that writes it again"
            )
            raise RradError(uri, problem, remedy)
    splits = table["split"].to_pylist() if "split" in columns else []
    if not pa.types.is_list(table["doc_ids"].type):  # `read` will say so
        return splits, np.zeros(file.metadata.num_rows, dtype=np.int64)
    counts = pc.fill_null(pc.list_value_length(table["doc_ids"]), 0)
    return splits, counts.to_numpy().astype(np.int64)


def _rows(file: pq.ParquetFile, start: int, stop: int) -> pa.Table:
    """Return rows `start` to `stop`, from the row groups that hold them."""
    groups: list[int] = []
    offset = first = 0
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if offset < stop and offset + rows > start:
            first = offset if not groups else first
            groups.append(number)
        offset += rows
    if not groups:
        return file.schema_arrow.empty_table()
    return file.read_row_groups(groups).slice(start - first, stop - start)


def _filled(table: pa.Table) -> pa.Table:
    """Return a table with the columns that a foreign one may leave out: all but `NEEDED`."""
    schema = schema_of(Candidates)
    left_out = [name for name in schema.names if name not in (*NEEDED, *table.column_names)]
    if not left_out:
        return table
    counts = [len(ids or []) for ids in table["doc_ids"].to_pylist()]
    for name in left_out:
        values: list[Any] = [[] for _ in counts]
        if name == "split":
            values = ["unlabelled"] * len(counts)
        elif name == "scores":  # in the order given, best first
            values = [[float(-index) for index in range(count)] for count in counts]
        table = table.append_column(name, pa.array(values, schema.field(name).type))
    return table
