"""A click log: queries, and title and summary of the documents clicked. Parquet, JSON Lines, TSV; local or `s3://`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.data import text_files
from rrad_ray.data.headers import count_known, named_columns, unclear_header
from rrad_ray.data.text_files import SPARK_LINES, BadRow, Reject
from rrad_ray.errors import RradError
from rrad_ray.rows import Click, Row

CLICK_COLUMNS = ("query", "title", "summary", "clicks")

CLICK_LOG_ENDINGS = (
    *(".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".tsv", ".tsv.gz"),
    *SPARK_LINES,
)

HEADER_WORDS = {
    "query": ({"query", "querytext", "searchquery"}, {"search", "searchterm", "term", "keyword", "keywords"}),
    "title": ({"title", "doctitle", "documenttitle", "pagetitle"},),
    "summary": ({"summary", "docsummary"}, {"snippet", "description", "abstract"}),
    "clicks": ({"clicks", "click", "clickcount", "numclicks", "nclicks"}, {"count"}),
}

WHOLE = re.compile(r"([+-]?[0-9]{1,19})(?:\.0{1,19})?")  # 3.0 is 3, as pandas writes it where another row has none

MOST_CLICKS = 2**63  # that a column holds

CLICK_LOG_HEADER = "write query<TAB>title<TAB>summary<TAB>clicks as its first line, in the order of the columns"

CLICK_LOG_LAYOUT = (
    "name a file or a folder of .parquet or .jsonl with the fields query, title and, where there are, summary and "
    "clicks; or of .tsv with lines query<TAB>title<TAB>summary<TAB>clicks, of which the last two may be left out"
)


def read_clicks(uri: str, reject: Reject, gap: Callable[[], None] = lambda: None) -> Iterator[Click]:
    """Yield the clicks of a file, or of a folder's files in the order of their names; streamed.

    A summary may be empty, a query or a title may not. A row without a number of clicks has one click; `gap` is
    called for it where others have numbers. What cannot be used is handed to `reject`. Raises `RradError` if there is
    no such file, a file cannot be read, or no row can be used.
    """
    used, last = 0, ("", "")
    for file in _files(uri):
        for number, raw, columns in _raw_rows(file):
            row_place = f"{file.uri.rpartition('/')[2]}:{number}"
            try:
                click = _click(_parsed(raw, file, columns), gap)
            except BadRow as bad:
                last = (row_place, bad.problem)
                reject(row_place, f"{bad.category}: {row_place} {bad.problem}", str(raw))
                continue
            used += 1
            yield click
    if not used:
        row_place, why = last if last[0] else (uri, "holds no rows")
        raise RradError(row_place, f"{why}; no row can be used", CLICK_LOG_LAYOUT)


def _files(uri: str) -> list[tables.DataFile]:
    """Return the files of a click log."""
    files = tables.row_files(uri, CLICK_LOG_ENDINGS)
    if files:
        return files
    if uri.lower().endswith(CLICK_LOG_ENDINGS) and not tables.exists(uri):
        raise RradError(uri, "no such file", CLICK_LOG_LAYOUT)
    others = len(tables.data_files(uri))
    raise RradError(uri, f"no file of a click log ({others} other files)", CLICK_LOG_LAYOUT)


def _raw_rows(file: tables.DataFile) -> Iterator[tuple[int, Any, Sequence[str]]]:
    """Yield the rows of a file with their numbers from 1: of Parquet as they are, else lines, without a header; and
    what the columns of a line hold."""
    if file.uri.lower().endswith(".parquet"):
        for number, row in enumerate(_parquet(file), 1):
            yield number, row, CLICK_COLUMNS
        return
    columns: Sequence[str] = () if ".tsv" in _ending(file) else CLICK_COLUMNS
    for number, line in text_files.lines(file.uri, CLICK_LOG_LAYOUT):
        if not columns:
            header = _header(line, f"{file.uri}:{number}")
            columns = header or CLICK_COLUMNS
            if header:
                continue
        yield number, line, columns


def _header(line: str, line_place: str) -> list[str] | None:
    """Return what each column holds, by a file's first line ('': what is not read); None where it is no header.

    Raises `RradError` for a header that leaves open which column is query and title.
    """
    cells = line.split("\t")
    columns = named_columns(cells, HEADER_WORDS)
    has_number = any(cell.strip().isdecimal() for cell in cells)
    if count_known(cells, HEADER_WORDS) < 2 or has_number:  # a query may be called `query`
        return None
    if not {"query", "title"} <= columns.keys():
        raise unclear_header(line_place, cells, "query and title", CLICK_LOG_HEADER)
    names = {number: name for name, number in columns.items()}
    return [names.get(number, "") for number in range(len(cells))]


def _ending(file: tables.DataFile) -> str:
    return next(ending for ending in CLICK_LOG_ENDINGS if file.uri.lower().endswith(ending))


def _parsed(raw: Any, file: tables.DataFile, columns: Sequence[str]) -> Row:
    """Return a raw row as fields, with those that the file's path says.

    `BadRow` if it has none; `RradError` where row and path disagree.
    """
    if isinstance(raw, dict):
        return raw  # `_parquet` has looked at the path
    row = _tsv(raw, columns) if ".tsv" in _ending(file) else text_files.json_row(raw)
    for name, value in file.partitions.items():
        if name in CLICK_COLUMNS:
            typed = _whole(value) if name == "clicks" else value
            written = row.setdefault(name, typed)
            if (_whole(written) if name == "clicks" else written) != typed:
                raise tables.disagreement(file, name, str(value), row[name])
    return row


def _parquet(file: tables.DataFile) -> Iterator[Row]:
    fs, path = tables.filesystem(file.uri)
    with tables.io_errors(file.uri, CLICK_LOG_LAYOUT), fs.open(path, "rb") as opened:
        parquet = pq.ParquetFile(opened)
        names = parquet.schema_arrow.names
        tables.with_partitions(parquet.schema_arrow.empty_table(), file, tables.schema_of(Click))
        wanted = [name for name in CLICK_COLUMNS if name in names]
        for batch in parquet.iter_batches(columns=wanted):
            table = tables.with_partitions(pa.Table.from_batches([batch]), file, tables.schema_of(Click))
            for number, field in enumerate(table.schema):
                if pa.types.is_decimal(field.type) or pa.types.is_binary(
                    field.type
                ):  # DuckDB's sums, Spark's old text
                    column = tables.column_as(table, tables.schema_of(Click).field(field.name), file.uri)
                    table = table.set_column(number, field.name, column)
            yield from table.to_pylist()


def _tsv(line: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return a line as fields; `columns`: what each holds. The last ones may be left out."""
    text_files.check_line(line)
    cells = line.split("\t")
    row: dict[str, Any] = {name: cell for name, cell in zip(columns, cells) if name}
    if len(cells) > len(columns) or not {"query", "title"} <= row.keys():
        raise BadRow("malformed line", f"is not {', '.join(filter(None, columns))}, with tabs between them")
    return row


def _whole(value: Any) -> Any:
    """Return a whole number that stands there as text as a number, anything else as it is."""
    whole = WHOLE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(whole[1]) if whole else value


def _clicks(row: Row) -> Any:
    """Return the clicks of a row as they are written; None where it has none: null, pandas' NaN or an empty cell."""
    clicks = row.get("clicks")
    if isinstance(clicks, float) and (math.isnan(clicks) or clicks.is_integer()):
        return None if math.isnan(clicks) else int(clicks)
    return None if isinstance(clicks, str) and not clicks.strip() else _whole(clicks)


def _click(row: Row, gap: Callable[[], None]) -> Click:
    """Return a row as a click, and call `gap` for a column of clicks without a number; `BadRow` says why it is
    none."""
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
    clicks = _clicks(row)
    if clicks is None:
        clicks = 1
        if "clicks" in row:
            gap()
    if not isinstance(clicks, int) or isinstance(clicks, bool) or not 1 <= clicks < MOST_CLICKS:
        raise BadRow("malformed line", f"has {repr(clicks)[:40]} as clicks, which is no whole number from 1")
    return Click(query=texts["query"], title=texts["title"], summary=texts["summary"], clicks=clicks)
