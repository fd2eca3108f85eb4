"""The event log of an online test, as the endpoint writes it: Parquet files below one URI, local or `s3://`.

    INPUT/exposures/*.parquet    rows.Exposure, one for each page of results
    INPUT/clicks/*.parquet       rows.ClickEvent
    INPUT/clicks/*.ndjson        events of User Behavior Insights, of which clicks are read (ubi.py)

Files may be in subfolders and come in any number and order: a log grows, so it has no manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray import tables
from rrad_ray.data.text_files import Reject
from rrad_ray.errors import RradError
from rrad_ray.online.event_rows import (
    CLICKS,
    EVENT_ROWS,
    EXPOSURES,
    KINDS,
    MAX_DWELL_S,
    MAX_POSITION,
    MAX_TIME_S,
)
from rrad_ray.online.ubi import UBI_ENDINGS, read_ubi_clicks
from rrad_ray.rows import ClickEvent, Exposure, Row
from rrad_ray.tables.part_files import open_parquet

MAY_BE_EMPTY = {"variant", "query", "model"}


def read_exposures(uri: str, reject: Reject) -> Iterator[Exposure]:
    """Read the pages of results that were shown; rows that cannot be used go to `reject`.

    Raises `RradError` if there is no file, or one cannot be read or lacks a column.
    """
    for file in log_files(uri, EXPOSURES):
        for table in usable_tables(file, EXPOSURES, reject):
            yield from cast(list[Exposure], table.to_pylist())


def read_click_events(uri: str, reject: Reject) -> Iterator[ClickEvent]:
    """Read the clicks, as `read_exposures` does; where nobody has clicked yet there may be no file."""
    for file in log_files(uri, CLICKS):
        for table in usable_tables(file, CLICKS, reject):
            yield from cast(list[ClickEvent], table.to_pylist())


def log_files(uri: str, kind: str) -> list[tables.DataFile]:
    """Return all files of a kind of events, in subfolders too, in order. Raises `RradError` if there are no
    exposures."""
    endings = (".parquet", *UBI_ENDINGS) if kind == CLICKS else (".parquet",)
    files = tables.row_files(tables.join(uri, kind), endings)
    if not files and kind == EXPOSURES:
        problem = f"no .parquet file under {EXPOSURES}/"
        raise RradError(uri, problem, f"name the folder that holds {EXPOSURES}/ and {CLICKS}/")
    return files


def usable_tables(file: tables.DataFile, kind: str, reject: Reject) -> Iterator[pa.Table]:
    """Yield the usable rows of a file, `EVENT_ROWS` at a time; the others go to `reject` by their id, with the reason
    and the row.

    Raises `RradError` for a column that is missing, of another kind altogether, or of ids that a float has rounded.
    """
    if file.uri.lower().endswith(UBI_ENDINGS):
        yield from read_ubi_clicks(file, reject)
        return
    row, number = KINDS[kind], 1
    schema = tables.schema_of(row)
    fs, path = tables.filesystem(file.uri)
    with tables.io_errors(file.uri), fs.open(path, "rb") as opened:
        parquet = open_parquet(opened)
        empty = tables.with_partitions(parquet.schema_arrow.empty_table(), file, schema)
        tables.check_schema(empty, row, file.uri)
        for batch in parquet.iter_batches(EVENT_ROWS):
            table = tables.with_partitions(pa.Table.from_batches([batch]), file, schema)
            clean = _clean(table, kind)
            if clean is None:  # one bad row at least: each is looked at by itself
                clean = pa.Table.from_pylist(list(_usable(table, kind, file, number, reject)), schema)
            yield clean
            number += len(table)


def _usable(
    table: pa.Table, kind: str, file: tables.DataFile, first: int, reject: Reject
) -> Iterator[dict[str, Any]]:
    """Yield the usable rows of a table whose first one is number `first` of the file."""
    unfit, key = (_unfit_exposure, "request_id") if kind == EXPOSURES else (_unfit_click, "event_id")
    for number, row in enumerate(_cast_rows(table, KINDS[kind], file.uri), first):
        if reason := _uncast(row) or _missing(row) or unfit(row):
            reject(str(row[key]), f"{reason} ({file.uri.rpartition('/')[2]}:{number})", str(row))
        else:
            yield row


def _clean(table: pa.Table, kind: str) -> pa.Table | None:
    """Return a table in the types of its kind if all of its rows can be used, as `_usable` sees it; else None."""
    schema, columns = tables.schema_of(KINDS[kind]), []
    for field in schema:
        try:
            column = pa.concat_arrays([tables.as_type(each, field.type) for each in table.column(field.name).chunks])
        except ValueError:  # of Arrow's and ours: what it is, a look at each row says
            return None
        column = pc.fill_null(column, math.nan) if field.name == "dwell_s" else column
        if column.null_count or (pa.types.is_list(field.type) and pc.list_flatten(column).null_count):
            return None
        if pa.types.is_string(field.type) and field.name not in MAY_BE_EMPTY and pc.any(pc.equal(column, "")).as_py():
            return None
        columns.append(column)
    clean = pa.Table.from_arrays(columns, schema=schema)
    time = clean["time"].to_numpy()
    fit = bool(np.all((time >= 0) & (time <= MAX_TIME_S)))  # false of NaN
    return clean if fit and (_fit_exposures(clean) if kind == EXPOSURES else _fit_clicks(clean)) else None


def _fit_exposures(table: pa.Table) -> bool:
    """Return what `_unfit_exposure` says of all rows together."""
    docs = table["doc_ids"].combine_chunks()
    shown, teams = (pc.list_value_length(column).to_numpy() for column in (docs, table["teams"].combine_chunks()))
    codes = pc.list_flatten(docs).dictionary_encode().indices.to_numpy().astype(np.int64)
    pairs = np.repeat(np.arange(len(shown)), shown) * (codes.max(initial=0) + 1) + codes
    named = pc.not_equal(table["variant"], "").to_numpy()
    return len(np.unique(pairs)) == len(pairs) and bool(np.all(np.where(teams > 0, teams == shown, named)))


def _fit_clicks(table: pa.Table) -> bool:
    """Return what `_unfit_click` says of all rows together."""
    position, dwell = table["position"].to_numpy(), table["dwell_s"].to_numpy()
    fit = (position >= 1) & (position <= MAX_POSITION) & (np.isnan(dwell) | ((dwell >= 0) & (dwell <= MAX_DWELL_S)))
    return bool(np.all(fit))


class _Uncast:
    """A value that its column's type cannot hold."""

    def __init__(self, value: Any, want: pa.DataType) -> None:
        self.value, self.want = value, want

    def __repr__(self) -> str:
        return repr(self.value)


def _cast_rows(table: pa.Table, kind: type, uri: str) -> Iterator[dict[str, Any]]:
    """Yield a file's rows in the types of `kind`, with an `_Uncast` where a value does not fit.

    So one gap in a column, for which pandas turns whole numbers into floats, costs one row and not the log. Raises
    `RradError` for ids that a float has rounded.
    """
    schema = tables.schema_of(kind)
    columns = []
    for field in schema:
        with tables.in_column(field.name, uri):
            columns.append(_cast_values(table.column(field.name), field))
    for values in zip(*columns, strict=True):
        yield dict(zip(schema.names, values, strict=True))


def _cast_values(column: pa.ChunkedArray, field: pa.Field) -> list[Any]:
    """Return a column's values in a field's type, those that it cannot hold as `_Uncast`; a gap is None."""
    values: list[Any] = []
    for chunk in column.chunks:
        try:
            values += tables.as_type(chunk, field.type).to_pylist()
        except pa.ArrowInvalid:
            values += [_cast_value(chunk.slice(index, 1), field.type) for index in range(len(chunk))]
    return [math.nan if value is None else value for value in values] if field.name == "dwell_s" else values


def _cast_value(one: pa.Array, want: pa.DataType) -> Any:
    """Return the value of an array of one in a type, or as an `_Uncast`; NaN, where no number has it, is a gap."""
    try:
        return tables.as_type(one, want)[0].as_py()
    except pa.ArrowInvalid:
        try:
            value = one[0].as_py()
        except UnicodeDecodeError:
            value = "text that is not UTF-8"
        return None if isinstance(value, float) and math.isnan(value) else _Uncast(value, want)


def _uncast(row: Row) -> str:
    """Return the reason why a row holds a value of another type; empty if it holds none."""
    wrong = ((name, value) for name, value in row.items() if isinstance(value, _Uncast))
    return next((f"malformed row: {name} is {value!r:.60}, no {value.want}" for name, value in wrong), "")


def _missing(row: Row) -> str:
    """Return the reason why a row misses a value that it needs; empty if it has all."""
    for name, value in row.items():
        if value is None or (isinstance(value, list) and None in value):
            return f"missing value: {name} is null"
        if value == "" and name not in MAY_BE_EMPTY:
            return f"missing value: {name} is empty"
    if not math.isfinite(row["time"]):
        return "malformed row: time is no number"
    return "" if 0 <= row["time"] <= MAX_TIME_S else f"malformed row: time {row['time']}, no seconds since 1970"


def _unfit_exposure(row: Row) -> str:
    """Return why an exposure cannot be used; empty if it can."""
    docs, teams = row["doc_ids"], row["teams"]
    if len(set(docs)) < len(docs):
        return "malformed row: a document is shown twice"
    if teams and len(teams) != len(docs):
        return f"malformed row: {len(teams)} teams for {len(docs)} documents"
    if not teams and not row["variant"]:
        return "malformed row: neither variant nor teams"
    return ""


def _unfit_click(row: Row) -> str:
    """Return why a click cannot be used; empty if it can."""
    if not 1 <= row["position"] <= MAX_POSITION:
        return f"malformed row: position {row['position']}, they go from 1 to {MAX_POSITION}"
    dwell = row["dwell_s"]
    return "" if math.isnan(dwell) or 0 <= dwell <= MAX_DWELL_S else f"malformed row: dwell_s {dwell}"
