"""The event log of an online test, as the endpoint writes it: Parquet files below one URI, local or `s3://`.

    INPUT/exposures/*.parquet    rows.Exposure, one for each page of results
    INPUT/clicks/*.parquet       rows.ClickEvent

Files may be in subfolders and come in any number and order: a log grows, so it has no manifest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import pyarrow as pa

from rrad_ray import tables
from rrad_ray.data.text_files import Reject
from rrad_ray.errors import RradError
from rrad_ray.online.event_rows import CLICKS, EXPOSURES, MAX_DWELL_S, MAX_POSITION, MAX_TIME_S
from rrad_ray.rows import ClickEvent, Exposure, Row

MAY_BE_EMPTY = {"variant", "query", "model"}


def read_exposures(uri: str, reject: Reject) -> Iterator[Exposure]:
    """Read the pages of results that were shown; rows that cannot be used go to `reject`.

    Raises `RradError` if there is no file, or one cannot be read or lacks a column.
    """
    files = _files(tables.join(uri, EXPOSURES))
    if not files:
        problem = f"no .parquet file under {EXPOSURES}/"
        raise RradError(uri, problem, f"name the folder that holds {EXPOSURES}/ and {CLICKS}/")
    for row in _rows(files, Exposure, _unfit_exposure, "request_id", reject):
        yield cast(Exposure, row)


def read_click_events(uri: str, reject: Reject) -> Iterator[ClickEvent]:
    """Read the clicks, as `read_exposures` does; where nobody has clicked yet there may be no file."""
    for row in _rows(_files(tables.join(uri, CLICKS)), ClickEvent, _unfit_click, "event_id", reject):
        yield cast(ClickEvent, row)


def _files(uri: str) -> list[tables.DataFile]:
    """Return all Parquet files under a URI, in subfolders too, in order."""
    return tables.data_files(uri, (".parquet",))


def _rows(
    files: list[tables.DataFile], kind: type, unfit: Callable[[Row], str], key: str, reject: Reject
) -> Iterator[dict[str, Any]]:
    """Yield the usable rows of some files; the others go to `reject` by their `key`, with the reason and the row."""
    for file in files:
        folder, _, name = file.uri.rpartition("/")
        table = tables.with_partitions(tables.read_columns(folder, name, None), file, tables.schema_of(kind))
        for number, row in enumerate(_cast_rows(table, kind, file.uri), 1):
            if reason := _uncast(row) or _missing(row) or unfit(row):
                reject(str(row[key]), f"{reason} ({name}:{number})", str(row))
            else:
                yield row


class _Uncast:
    """A value that its column's type cannot hold."""

    def __init__(self, value: Any, want: pa.DataType) -> None:
        self.value, self.want = value, want

    def __repr__(self) -> str:
        return repr(self.value)


def _cast_rows(table: pa.Table, kind: type, uri: str) -> Iterator[dict[str, Any]]:
    """Yield a file's rows in the types of `kind`, with an `_Uncast` where a value does not fit.

    So one gap in a column, for which pandas turns whole numbers into floats, costs one row and not the log. Raises
    `RradError` for a column that is missing, of another kind altogether, or of ids that a float has rounded.
    """
    schema = tables.schema_of(kind)
    tables.check_schema(table.slice(0, 0), kind, uri)
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
