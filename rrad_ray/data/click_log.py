"""A click log: queries, and title and summary of the documents clicked. Parquet, JSON Lines, TSV; local or `s3://`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.data import text_files
from rrad_ray.data.text_files import BadRow, Reject
from rrad_ray.errors import RradError
from rrad_ray.rows import Click, Row

CLICK_COLUMNS = ("query", "title", "summary", "clicks")

CLICK_LOG_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz")

HEADER = re.compile(rb"(\xef\xbb\xbf)?query\ttitle")

CLICK_LOG_LAYOUT = (
    "name a file or a folder of .parquet or .jsonl with the fields query, title and, where there are, summary and "
    "clicks; or of .tsv with lines query<TAB>title<TAB>summary<TAB>clicks, of which the last two may be left out"
)


def read_clicks(uri: str, reject: Reject) -> Iterator[Click]:
    """Yield the clicks of a file, or of a folder's files in the order of their names; streamed.

    A summary may be empty, a query or a title may not. What cannot be used is handed to `reject`. Raises `RradError`
    if there is no such file, a file cannot be read, or no row can be used.
    """
    used, last = 0, ("", "")
    for file in _files(uri):
        parse, rows = _opened(file)
        for number, raw in rows:
            try:
                click = _click(parse(raw))
            except BadRow as bad:
                row_place = f"{file.rpartition('/')[2]}:{number}"
                last = (row_place, bad.problem)
                reject(row_place, f"{bad.category}: {row_place} {bad.problem}", _readable(raw))
                continue
            used += 1
            yield click
    if not used:
        row_place, why = last if last[0] else (uri, "holds no rows")
        raise RradError(row_place, f"{why}; no row can be used", CLICK_LOG_LAYOUT)


def _files(uri: str) -> list[str]:
    """Return the URIs of the files of a click log."""
    fs, path = tables.filesystem(uri)
    with tables.io_errors(uri):
        if uri.endswith(CLICK_LOG_ENDINGS) and not fs.isdir(path):  # Spark writes folders of such names
            return [uri]
        names = [entry.rpartition("/")[2] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []
    uris = [tables.join(uri, name) for name in sorted(names) if name.endswith(CLICK_LOG_ENDINGS)]
    if not uris:
        raise RradError(uri, f"no file of a click log ({len(names)} other files)", CLICK_LOG_LAYOUT)
    return uris


def _opened(uri: str) -> tuple[Callable[[Any], Row], Iterator[tuple[int, Any]]]:
    """Return the parser of a file's rows, and the rows with their numbers from 1."""
    if uri.endswith(".parquet"):
        return dict, enumerate(_parquet(uri), 1)
    lines = text_files.lines(uri, CLICK_LOG_LAYOUT)
    if uri.removesuffix(".gz").endswith(".jsonl"):
        return text_files.json_row, lines
    return _tsv, (item for item in lines if item[0] > 1 or not HEADER.match(item[1]))


def _readable(raw: Any) -> str:
    return text_files.readable(raw) if isinstance(raw, bytes) else str(raw)


def _parquet(uri: str) -> Iterator[Row]:
    fs, path = tables.filesystem(uri)
    with tables.io_errors(uri, CLICK_LOG_LAYOUT), fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        wanted = [name for name in CLICK_COLUMNS if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(columns=wanted):
            yield from batch.to_pylist()


def _tsv(line: bytes) -> Row:
    try:
        columns: list[Any] = line.decode("utf-8-sig").split("\t")
        if not 2 <= len(columns) <= len(CLICK_COLUMNS):
            raise ValueError(columns)
        if len(columns) == len(CLICK_COLUMNS):
            columns[3] = int(columns[3])
    except ValueError as error:
        problem = "is not query, title, summary and a whole number of clicks, with tabs between them"
        raise BadRow("malformed line", problem) from error
    return dict(zip(CLICK_COLUMNS, columns))


def _click(row: Row) -> Click:
    """Return a row as a click; `BadRow` says why it is none."""
    for key in ("query", "title"):
        if row.get(key) is None:
            raise BadRow("missing field", f"has no {key} (fields: {', '.join(row)})")
    texts: dict[str, str] = {}
    for key in ("query", "title", "summary"):
        text = row.get(key)
        if text is not None and not isinstance(text, str):
            raise BadRow("missing field", f"has no text in field '{key}' but {type(text).__name__}")
        texts[key] = (text or "").strip()
        if not texts[key] and key != "summary":
            raise BadRow("empty text", f"has an empty {key}")
    clicks = row.get("clicks")
    clicks = 1 if clicks is None else clicks
    if not isinstance(clicks, int) or isinstance(clicks, bool) or clicks < 1:
        raise BadRow("malformed line", f"has {clicks!r} clicks; a click log counts from 1")
    return Click(query=texts["query"], title=texts["title"], summary=texts["summary"], clicks=clicks)
