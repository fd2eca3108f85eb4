"""Whatever is acknowledged can be stored, and is read back by the experiment: any JSON, any row."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.errors import InvalidInput
from rrad_ray.online import event_rows
from rrad_ray.online.event_journal import EventJournal
from rrad_ray.online.event_log import read_click_events, read_exposures
from rrad_ray.online.event_rows import CLICKS, EXPOSURES, MAX_DWELL_S, MAX_ID_CHARS, MAX_POSITION, MAX_TIME_S
from rrad_ray.online.segments import store_segment
from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.event_requests import parse_clicks
from tests.online.test_event_journal import click, exposure
from tests.online.test_segments import segment

NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from(
        [
            0,
            1,
            -1,
            2**31,
            2**31 - 1,
            2**53,
            2**63,
            -(2**63),
            2**64,
            10**400,
            1e308,
            5e-324,
            -0.0,
            MAX_DWELL_S,
            MAX_TIME_S,
        ]
    )
)
TEXTS = st.text(max_size=8) | st.sampled_from(["", " ", "\0", "é", "a" * MAX_ID_CHARS, "a" * (MAX_ID_CHARS + 1)])
VALUES = st.none() | st.booleans() | NUMBERS | TEXTS | st.lists(TEXTS, max_size=2)
EVENT = st.fixed_dictionaries(
    {"request_id": TEXTS | VALUES, "doc_id": TEXTS | VALUES, "position": st.integers(1, 9) | VALUES},
    optional={"event_id": TEXTS | VALUES, "dwell_s": NUMBERS | VALUES, "time": NUMBERS | VALUES, "more": VALUES},
)


def accepted(*events: Any) -> list[Any]:
    """Return the rows that the endpoint would log for these clicks; none if it refuses them."""
    with contextlib.suppress(HTTPError):
        return parse_clicks(json.dumps({"events": events}).encode(), now=5.0)
    return []


def stored(kind: str, rows: list[Any]) -> list[Any]:
    """Return rows as the experiment reads them from the store; the journal must take them."""
    with tempfile.TemporaryDirectory() as folder:
        log = EventJournal(f"{folder}/log", f"{folder}/journal", most=100)

        async def run() -> None:
            await log.add(kind, rows)
            await log.flush()

        asyncio.run(run())
        assert (log.failed, log.set_aside, log.held, log.held_bytes) == ("", 0, 0, 0)
        read = {CLICKS: read_click_events, EXPOSURES: read_exposures}[kind]
        return list(read(f"{folder}/log", lambda *bad: pytest.fail(f"set aside by the reader: {bad}")))


def same(rows: list[Any], others: list[Any]) -> bool:
    """Compare rows by their JSON, in which NaN equals itself, and 1 is not 1.0."""
    as_floats = [{name: float(value) if name in ("dwell_s", "time") else value for name, value in row.items()}
                 for row in rows]  # fmt: skip
    return json.dumps(as_floats) == json.dumps(others)


@given(st.lists(EVENT, min_size=1, max_size=3))
def test_any_json_that_is_accepted_is_stored_and_read_back(events: list[Any]) -> None:
    rows = accepted(*events)
    assert not rows or same(rows, stored(CLICKS, rows))


@given(st.sampled_from(["position", "dwell_s", "time"]), NUMBERS)
def test_a_number_that_is_accepted_is_one_that_the_log_may_hold(field: str, value: Any) -> None:
    event = {"request_id": "r", "doc_id": "d", "position": 1, field: value}
    most = {"position": MAX_POSITION, "dwell_s": MAX_DWELL_S, "time": MAX_TIME_S}[field]
    within = math.isfinite(value) if isinstance(value, float) else True
    within = within and (1 if field == "position" else 0) <= value <= most
    within = within and not (field == "position" and isinstance(value, float))
    rows = accepted(event)
    assert bool(rows) == within
    assert all(row[field] == value for row in rows)


@given(st.sampled_from([CLICKS, EXPOSURES]), st.data())
def test_any_row_that_the_journal_takes_is_in_the_store_as_it_was(kind: str, data: st.DataObject) -> None:
    row = {CLICKS: click, EXPOSURES: exposure}[kind](1)
    name = data.draw(st.sampled_from(list(row)))
    row[name] = data.draw(VALUES | st.lists(VALUES, max_size=2))
    try:
        table = event_rows.events_table(kind, [row])
    except InvalidInput:
        return
    [back] = table.to_pylist()
    assert same([row], [back])
    by_kind, unfit = event_rows.decode_events([event_rows.encode_events([row], kind).rstrip(b"\n")])
    assert unfit == {}
    assert by_kind[kind].equals(table) or not math.isfinite(row["time"]) or math.isnan(row.get("dwell_s", 0))


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b'["clicks", 1]', b"[]", b"null", b'["log", 1]'])))
def test_any_bytes_in_a_segment_are_stored_or_set_aside(lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = segment(Path(folder) / "journal", "a", json.dumps([CLICKS, click(1)]), *lines)
        result = store_segment(path, f"{folder}/log")
        assert result is not None
        assert (result.rows, result.set_aside) == (1, len(lines))
        [row] = read_click_events(f"{folder}/log", lambda *bad: pytest.fail(str(bad)))
        assert row["event_id"] == "e1"
