"""Runs of any length as Arrow tables: TREC's text, or Parquet with `query_id`, `doc_id`, `score`, perhaps `rank`."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.data.trec import RUN_LINE, check_ranks, read_trec_lines, repeated_document
from rrad_ray.errors import RradError

RUN_SCHEMA = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float64())])

TREC_LINES = 100_000  # of a TREC run that are Python's at a time


def read_run(uri: str) -> pa.Table:
    """Return a run as columns of `RUN_SCHEMA`, the ids as dictionaries, each query's documents best first.

    Lines of equal score stay in the order of their ranks, and in Parquet without ranks in that of the rows. Raises
    `RradError` for a line or row that is malformed, a document that a query has twice, and an empty run, and as
    `check_ranks` does.
    """
    files = tables.row_files(uri, (".parquet",))
    table = _parquet_run(files) if files else _trec_run(uri)
    if not len(table):
        raise RradError(uri, "is an empty run", RUN_LINE)
    for name in ("query_id", "doc_id"):
        column = table[name].combine_chunks().dictionary_encode()
        table = table.set_column(table.column_names.index(name), name, column)
    queries, documents = codes_of(table["query_id"]), codes_of(table["doc_id"])
    _check_repeats(uri, table, queries, documents)
    scores = table["score"].to_numpy()
    ranks = table["rank"].to_numpy()
    order = np.lexsort((ranks, -scores, queries))
    steps = np.diff(ranks[order])[(np.diff(queries[order]) == 0) & (np.diff(scores[order]) != 0)]
    check_ranks(uri, int((steps > 0).sum()), int((steps < 0).sum()))
    return table.select(RUN_SCHEMA.names).take(pa.array(order))


def codes_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return for each row of a dictionary column of one chunk the number of its value in the dictionary."""
    return column.combine_chunks().indices.to_numpy()


def _check_repeats(uri: str, table: pa.Table, queries: np.ndarray, documents: np.ndarray) -> None:
    pairs = queries.astype(np.int64) << 32 | documents
    order = np.argsort(pairs, kind="stable")
    again = np.flatnonzero(np.diff(pairs[order]) == 0)
    if len(again):
        row = int(order[again + 1].min())
        number = table["line"][row].as_py() if "line" in table.column_names else row + 1
        raise repeated_document(f"{uri}:{number}", table["query_id"][row].as_py(), table["doc_id"][row].as_py())


def _trec_run(uri: str) -> pa.Table:
    names = ["line", "query_id", "doc_id", "score", "rank"]
    types = [pa.int64(), pa.string(), pa.string(), pa.float64(), pa.int64()]
    schema = pa.schema(list(zip(names, types, strict=True)))
    chunks, lines = [], read_trec_lines(uri)
    while rows := list(itertools.islice(lines, TREC_LINES)):
        columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), types, strict=True)]
        chunks.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(chunks) if chunks else schema.empty_table()


def _parquet_run(files: list[tables.DataFile]) -> pa.Table:
    chunks = []
    for file in files:
        fs, path = tables.filesystem(file.uri)
        with tables.io_errors(file.uri), fs.open(path, "rb") as opened:
            parquet = pq.ParquetFile(opened)
            remedy = "name its columns query_id, doc_id and score"
            tables.check_columns(RUN_SCHEMA.names, parquet.schema_arrow.names, file.uri, remedy)
            table = parquet.read(columns=[*RUN_SCHEMA.names, *{"rank"}.intersection(parquet.schema_arrow.names)])
        columns = [tables.column_as(table, field, file.uri) for field in RUN_SCHEMA]
        ranks: pa.Array | pa.ChunkedArray = pa.array(np.full(len(table), np.nan))
        if "rank" in table.column_names:  # pandas writes floats, and 2.5 for two that share it
            ranks = pc.fill_null(tables.column_as(table, pa.field("rank", pa.float64()), file.uri), np.nan)
        table = pa.Table.from_arrays([*columns, ranks], schema=RUN_SCHEMA.append(pa.field("rank", pa.float64())))
        usable = pc.is_finite(table["score"])
        for name in ("query_id", "doc_id"):  # a null is none either
            usable = pc.and_(usable, pc.not_equal(pc.utf8_trim_whitespace(table[name]), ""))
        if not pc.all(pc.fill_null(usable, False), min_count=0).as_py():  # all of none are
            row = pc.index(pc.fill_null(usable, False), False).as_py()
            raise RradError(file.uri, f"row {row} is no line of a run: {table.slice(row, 1).to_pylist()}", RUN_LINE)
        chunks.append(table)
    return pa.concat_tables(chunks)
