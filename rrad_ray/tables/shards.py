"""A table, or any folder of Parquet files, as shards: row ranges small enough to hold, read one by one.

A shard is the unit of work of a long stage and one part of its output, whatever sizes the input's files have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray.errors import RradError
from rrad_ray.progress import say
from rrad_ray.rows import SPLITS, Candidates, misfit, without_repeats
from rrad_ray.tables.data_files import DataFile, row_files, with_partitions
from rrad_ray.tables.files import exists, join
from rrad_ray.tables.manifest import MANIFEST, read_manifest
from rrad_ray.tables.part_files import digest_in_manifest, opened_part
from rrad_ray.tables.reading import STARTED, finished_parts, part_name, rows_between
from rrad_ray.tables.schema import check_columns, check_schema, column_as, optional_columns, schema_of

NEEDED = ("query_id", "query", "doc_ids", "texts")  # what a foreign folder must have

MOST_ROWS = 1024  # rows of a part that is made from one of its input, where a foreign file has more

SHARD_READERS = 16  # files that are looked at side by side: object stores answer slowly, and many at once

RejectRow = Callable[[str, str, str], None]  # query id, reason, content


@dataclass(frozen=True)
class Shard:
    """A range of rows: `start` to `stop` of `file`, which become the output part `part`; `dev`: its dev queries.

    `documents`: how many its queries have together, each counted once a query. `repeated`: how many more the file
    lists, of which the first one counts. `known`: the ids of its queries that earlier shards hold too. `digest`: of
    the file in its table's manifest; `whole`: the shard is all of the file. `logged`: see `DataFile`.
    """

    part: str
    file: str
    start: int
    stop: int
    dev: int
    documents: int
    repeated: int = 0
    known: tuple[str, ...] = ()
    digest: str = ""
    whole: bool = False
    logged: tuple[tuple[str, str | None], ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class _Look:
    """The facts that planning needs of a file: query id, split, documents and repeated documents of each row."""

    query_ids: pa.ChunkedArray
    splits: list[str]
    documents: np.ndarray
    repeated: np.ndarray
    digest: str


def plan_shards(uri: str, size: int, row: type) -> list[Shard]:
    """Return the shards of an input, of at most `size` rows each, always the same for the same files.

    `uri` is a finished table, or a folder of Parquet files that no stage has written. Raises `RradError` if there is
    nothing, a table that its stage has not finished, a file without a column of `row`, or a split that there is not.
    """
    files = _files(uri)
    foreign = not exists(join(uri, MANIFEST))
    needed = NEEDED if foreign else tuple(name for name in schema_of(row).names if name not in optional_columns(row))
    with ThreadPoolExecutor(SHARD_READERS) as pool:
        looks = list(pool.map(lambda file: _look(file, needed), files))
    first_rows, offset = _first_rows(looks), 0
    shards: list[Shard] = []
    for file, look in zip(files, looks, strict=True):
        for start in range(0, len(look.documents), size):
            stop = min(start + size, len(look.documents))
            part, dev = part_name(len(shards)), look.splits[start:stop].count("dev")
            documents, repeated = int(look.documents[start:stop].sum()), int(look.repeated[start:stop].sum())
            above = np.flatnonzero(first_rows[offset + start : offset + stop] < offset + start)
            known = tuple(filter(None, look.query_ids.take(start + above).to_pylist()))
            whole = stop - start == len(look.documents)
            shard = Shard(part, file.name, start, stop, dev, documents, repeated, known, look.digest, whole)
            shards.append(dataclasses.replace(shard, logged=file.logged))
        offset += len(look.documents)
    return shards


def _first_rows(looks: Sequence[_Look]) -> np.ndarray:
    """Return for every row of an input, counted over its files, the first row of the same query id."""
    query_ids = pa.chunked_array([chunk for look in looks for chunk in look.query_ids.chunks], pa.string())
    chunks = query_ids.dictionary_encode(null_encoding="encode").chunks
    codes = np.concatenate([np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in chunks)])
    return np.unique(codes, return_index=True)[1][codes]


def repeats(planned: Sequence[Shard]) -> dict[str, int]:
    """Return the number of documents that the input lists once more, as a fact for the manifest; say it."""
    count = sum(shard.repeated for shard in planned)
    if count:
        say(f"{count:,} times a query lists a document again: the first one counts")
    return {"repeated_documents": count} if count else {}


def ignore(query_id: str, reason: str, content: str) -> None:
    """Forget a row: another process that reads the same shard hands it over."""


def read_shard(uri: str, shard: Shard, row: type, reject: RejectRow = ignore) -> list[dict[str, Any]]:
    """Return the rows of a shard that can be used; columns that a foreign folder need not have are filled in.

    Of a document that a row lists twice, the first one counts. Rows with nulls, whose lists do not belong together,
    or of a query that an earlier row of the input has, go to `reject`.
    """
    file = DataFile(uri, shard.file, shard.logged)
    with opened_part(file.uri, shard.digest, whole=shard.whole) as opened:
        table = rows_between(opened, shard.start, shard.stop)
    # Nothing is filled into a finished table: `plan_shards` has seen that it has every column.
    table = _filled(with_partitions(table, file, schema_of(row)), file.uri)
    return list(usable_rows(check_schema(table, row, file.uri, nulls=True).to_pylist(), reject, shard.known))


def usable_rows(
    rows: Iterable[dict[str, Any]], reject: RejectRow = ignore, known: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield the rows of candidates, of the judge's output or of labels whose lists belong together, each query and
    each of its documents once; the others go to `reject` with the reason. `known`: queries that came before."""
    seen = set(known)
    for row in rows:
        again = "duplicate id: an earlier row has this query id" if row["query_id"] in seen else ""
        if reason := misfit(row) or again:
            reject(str(row["query_id"]), reason, str(row))
            continue
        seen.add(row["query_id"])
        yield dict(without_repeats(row))


def _files(uri: str) -> list[DataFile]:
    """Return the Parquet files of an input, hidden ones left out."""
    if exists(join(uri, MANIFEST)):
        return [DataFile(uri, name) for name in finished_parts(uri)]
    if exists(join(uri, STARTED)):
        read_manifest(uri)  # says that its stage has not finished
    files = row_files(uri, (".parquet",))
    if not files:
        raise RradError(uri, "neither a finished table nor a folder of Parquet files", "check the path")
    return files


def _look(source: DataFile, needed: Sequence[str]) -> _Look:
    """Return query id, split (none without the column) and number of documents of every row of a file."""
    uri = source.uri
    digest = "" if needed is NEEDED else digest_in_manifest(source.folder, source.name)
    with opened_part(uri, digest) as file:
        empty = with_partitions(file.schema_arrow.empty_table(), source, schema_of(Candidates))
        remedy = f"candidates need {', '.join(NEEDED)}" if needed is NEEDED else ""
        check_columns(needed, empty.column_names, uri, remedy)
        columns = [name for name in ("query_id", "split", "doc_ids") if name in file.schema_arrow.names]
        table = file.read(columns=columns)
        if not table.num_columns:  # of the partitions' columns alone, it would have no rows
            table = pa.table({"doc_ids": pa.nulls(file.metadata.num_rows)})
    table = with_partitions(table, source, schema_of(Candidates))
    splits = _splits(table, uri) if "split" in table.column_names else []
    query_ids = column_as(table, schema_of(Candidates).field("query_id"), uri)
    doc_ids = column_as(table, schema_of(Candidates).field("doc_ids"), uri).combine_chunks()
    return _Look(query_ids, splits, *_documents(doc_ids), digest)


def _splits(table: pa.Table, uri: str) -> list[str]:
    splits = column_as(table, schema_of(Candidates).field("split"), uri).to_pylist()
    for row, split in enumerate(splits):
        if split not in SPLITS:
            problem = f"row {row} has the split {'null' if split is None else repr(split)}"
            raise RradError(uri, problem, f"write one of {', '.join(SPLITS)}, or leave the column out")
    return splits


def _documents(doc_ids: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of different documents of every row, and of the repeated ones."""
    counts = pc.fill_null(pc.list_value_length(doc_ids), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    codes = pc.list_flatten(doc_ids).dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    different = np.unique(rows * (codes.max(initial=0) + 1) + codes) // (codes.max(initial=0) + 1)
    documents = np.bincount(different, minlength=len(counts)).astype(np.int64)
    return documents, counts - documents


def _filled(table: pa.Table, uri: str) -> pa.Table:
    """Return a table with the columns that a foreign one may leave out: all but `NEEDED`."""
    schema = schema_of(Candidates)
    left_out = [name for name in schema.names if name not in (*NEEDED, *table.column_names)]
    if not left_out:
        return table
    counts = [len(ids or []) for ids in column_as(table, schema.field("doc_ids"), uri).to_pylist()]
    for name in left_out:
        values: list[Any] = [[] for _ in counts]
        if name == "split":
            values = ["unlabelled"] * len(counts)
        elif name == "scores":  # in the order given, best first
            values = [[float(-index) for index in range(count)] for count in counts]
        table = table.append_column(name, pa.array(values, schema.field(name).type))
    return table
