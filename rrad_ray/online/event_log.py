"""The event log of an online test, as the endpoint writes it: Parquet files below one URI, local or `s3://`.

    INPUT/exposures/*.parquet    rows.Exposure, one for each page of results
    INPUT/clicks/*.parquet       rows.ClickEvent

Files may be in subfolders and come in any number and order: a log grows, so it has no manifest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

from rrad_ray import tables
from rrad_ray.data.text_files import Reject
from rrad_ray.errors import RradError
from rrad_ray.rows import ClickEvent, Exposure, Row

EXPOSURES, CLICKS = "exposures", "clicks"

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
        table = tables.check_schema(table, kind, file.uri, nulls=True)
        for number, row in enumerate(table.to_pylist(), 1):
            if reason := _missing(row) or unfit(row):
                reject(str(row[key]), f"{reason} ({name}:{number})", str(row))
            else:
                yield row


def _missing(row: Row) -> str:
    """Return the reason why a row misses a value that it needs; empty if it has all."""
    for name, value in row.items():
        if value is None or (isinstance(value, list) and None in value):
            return f"missing value: {name} is null"
        if value == "" and name not in MAY_BE_EMPTY:
            return f"missing value: {name} is empty"
    return "" if math.isfinite(row["time"]) else "malformed row: time is no number"


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
    if row["position"] < 1:
        return f"malformed row: position {row['position']}, they count from 1"
    dwell = row["dwell_s"]
    return f"malformed row: dwell_s {dwell}" if dwell < 0 or math.isinf(dwell) else ""
