"""An online test's log as two files of User Behavior Insights, which OpenSearch's `_bulk` takes as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from rrad_ray import tables
from rrad_ray.data.text_files import Reject
from rrad_ray.online.event_log import log_files, usable_tables
from rrad_ray.online.event_rows import CLICKS, EVENT_ROWS, EXPOSURES
from rrad_ray.online.ubi import UBI_EVENTS, UBI_QUERIES, bulk_lines, ubi_event, ubi_query
from rrad_ray.rows import ClickEvent
from rrad_ray.tables.private_folders import scratch_folder

# UBI's events say who clicked and on which query's page; a click without a page belongs to none.
_CLICKED = """SELECT clicks.*, unit, query FROM clicks LEFT JOIN (
    SELECT request_id, any_value(unit) AS unit, any_value(query) AS query FROM pages GROUP BY request_id
) USING (request_id)"""


def write_ubi(log: str, folder: str, reject: Reject) -> dict[str, int]:
    """Write the pages and the clicks of a log into a folder; return how many of each, and of clicks without a page,
    which are left out.

    Raises `RradError` as `usable_tables` does.
    """
    counts = {"queries": 0, "events": 0, "without_page": 0}
    with scratch_folder() as scratch, duckdb.connect(str(scratch / "pages.duckdb")) as pages:
        pages.execute("CREATE TABLE pages (request_id VARCHAR, unit VARCHAR, query VARCHAR)")
        with tables.writing(tables.join(folder, f"{UBI_QUERIES}.ndjson")) as file:
            for table in _events(log, EXPOSURES, reject):
                pages.register("batch", table.select(["request_id", "unit", "query"]))
                pages.execute("INSERT INTO pages SELECT * FROM batch")
                for page in table.to_pylist():
                    file.write(bulk_lines(UBI_QUERIES, ubi_query(page), page["request_id"]).encode())
                counts["queries"] += len(table)
        with tables.writing(tables.join(folder, f"{UBI_EVENTS}.ndjson")) as file:
            for click in _clicked(pages, log, reject):
                if click["unit"] is None:
                    counts["without_page"] += 1
                    continue
                file.write(bulk_lines(UBI_EVENTS, ubi_event(click), click["request_id"], click["event_id"]).encode())
                counts["events"] += 1
    return counts


def _events(log: str, kind: str, reject: Reject) -> Iterator[pa.Table]:
    for each in log_files(log, kind):
        yield from usable_tables(each, kind, reject)


def _clicked(pages: duckdb.DuckDBPyConnection, log: str, reject: Reject) -> Iterator[dict[str, Any]]:
    """Yield the clicks of a log with `unit` and `query` of their pages, None for those without one."""
    batches = (batch for table in _events(log, CLICKS, reject) for batch in table.to_batches())
    pages.register("clicks", pa.RecordBatchReader.from_batches(tables.schema_of(ClickEvent), batches))
    for batch in pages.sql(_CLICKED).to_arrow_reader(EVENT_ROWS):
        yield from batch.to_pylist()
