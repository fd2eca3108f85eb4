"""User Behavior Insights (UBI 1.3), OpenSearch's schema for queries and events, to and from an online test's log.

A page is a query of UBI whose `query_id` is the page's `request_id`; a click is its event of the action `click`.
Times are ISO 8601 with milliseconds, as the plugin's mapping (`strict_date_time`) has them.
https://github.com/o19s/ubi
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rrad_ray import tables
from rrad_ray.config.problems import first_error, problem_of
from rrad_ray.data import text_files
from rrad_ray.data.text_files import BadRow, Reject
from rrad_ray.online.event_rows import EVENT_ROWS, MAX_POSITION, MAX_TIME_S, IdToName
from rrad_ray.rows import ClickEvent, Row

UBI_QUERIES, UBI_EVENTS = "ubi_queries", "ubi_events"  # the indices of OpenSearch's plugin

UBI_ENDINGS = (".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz")

CLICK_ACTION = "click"  # the others say nothing of a document that was chosen on a page

APPLICATION = "rrad-ray"


def _as_text(name: Any) -> Any:
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name


def _in_seconds(time: Any) -> float:
    """Return a time in seconds since 1970: a whole number is milliseconds, and a date without a zone is UTC."""
    seconds = -1.0
    if isinstance(time, str):
        with suppress(ValueError):  # which speaks of months that nobody wrote
            date = datetime.fromisoformat(time)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    elif isinstance(time, int) and 0 <= time <= 1000 * MAX_TIME_S:
        seconds = time / 1000
    if not 0 <= seconds <= MAX_TIME_S:
        raise ValueError("must be ISO 8601 or milliseconds since 1970")
    return seconds


class _Ubi(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _UbiObject(_Ubi):
    object_id: Annotated[IdToName, BeforeValidator(_as_text)]


class _UbiPosition(_Ubi):
    ordinal: Annotated[int, Field(ge=1, le=MAX_POSITION)]


class _UbiAttributes(_Ubi):
    object: _UbiObject
    position: _UbiPosition


class _UbiClick(_Ubi):
    query_id: IdToName
    timestamp: Annotated[float, BeforeValidator(_in_seconds)]
    event_attributes: _UbiAttributes

    @property
    def row(self) -> ClickEvent:
        """The click as the log has it: a document that is clicked again on its page counts once."""
        doc_id, position = self.event_attributes.object.object_id, self.event_attributes.position.ordinal
        return {
            "event_id": f"{self.query_id}:{doc_id}:{position}",
            "request_id": self.query_id,
            "doc_id": doc_id,
            "position": position,
            "dwell_s": math.nan,
            "time": self.timestamp,
        }


class _UbiAction(_Ubi):
    action_name: str


class _UbiActions(_Ubi):
    events: list[_UbiAction]


class UbiClicks(_Ubi):
    """The clicks among events of UBI, as far as they are read."""

    events: list[_UbiClick]


def ubi_clicks(events: list[Any]) -> list[ClickEvent]:
    """Return the clicks among events of UBI as the log has them; other actions are left out.

    Raises `ValidationError`.
    """
    actions = _UbiActions.model_validate({"events": events}).events
    clicked = [event for event, each in zip(events, actions, strict=True) if each.action_name == CLICK_ACTION]
    return [click.row for click in UbiClicks.model_validate({"events": clicked}).events]


def read_ubi_clicks(file: tables.DataFile, reject: Reject) -> Iterator[pa.Table]:
    """Yield the clicks of a file of UBI's events, `EVENT_ROWS` at a time; lines that cannot be used go to `reject`.

    A line is an event, a search's hit with the event as `_source`, or one of the lines that `_bulk` takes.
    """
    rows = _ubi_rows(file, reject)
    while some := list(islice(rows, EVENT_ROWS)):
        yield pa.Table.from_pylist(some, schema=tables.schema_of(ClickEvent))


def _ubi_rows(file: tables.DataFile, reject: Reject) -> Iterator[ClickEvent]:
    for number, line in text_files.lines(file.uri):
        row_place = f"{file.uri.rpartition('/')[2]}:{number}"
        try:
            content = text_files.json_row(line)
            if content.keys() not in ({"index"}, {"create"}):
                yield from ubi_clicks([content.get("_source", content)])
        except BadRow as bad:
            reject(row_place, f"{bad.category}: {row_place} {bad.problem}", line)
        except ValidationError as error:
            reject(row_place, f"malformed row: {problem_of(UbiClicks, first_error(error))} ({row_place})", line)


def ubi_query(page: Row) -> Row:
    """Return a page of results (`rows.Exposure`) as a query of UBI."""
    shown_by = {"variant": page["variant"]} if page["variant"] else {"teams": page["teams"]}
    return {
        "application": APPLICATION,
        "query_id": page["request_id"],
        "client_id": page["unit"],
        "user_query": page["query"],
        "timestamp": _iso(page["time"]),
        "query_response_id": page["request_id"],
        "query_response_hit_ids": page["doc_ids"],
        "query_attributes": {"experiment": page["experiment"], **shown_by, "model": page["model"]},
    }


def ubi_event(click: Row) -> Row:
    """Return a click, with `unit` and `query` of its page, as an event of UBI."""
    dwell = {} if math.isnan(click["dwell_s"]) else {"dwell_s": click["dwell_s"]}
    target = {"object": {"object_id": click["doc_id"]}, "position": {"ordinal": click["position"]}}
    return {
        "application": APPLICATION,
        "action_name": CLICK_ACTION,
        "query_id": click["request_id"],
        "client_id": click["unit"],
        "user_query": click["query"],
        "timestamp": _iso(click["time"]),
        "event_attributes": {**target, **dwell},
    }


def bulk_lines(index: str, document: Row, *key: str) -> str:
    """Return a document as the two lines that OpenSearch's `_bulk` takes; posted again, the same key replaces it."""
    name = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()  # ids there have at most 512 bytes
    action = {"index": {"_index": index, "_id": name}}
    return f"{json.dumps(action)}\n{tables.json_text(document)}\n"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
