"""User Behavior Insights: clicks come in as OpenSearch's clients send and store them, a log goes out by the schema.

`ubi/` has the schema and the mappings of OpenSearch's plugin.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig, ExportConfig
from rrad_ray.errors import RradError
from rrad_ray.online.event_log import read_click_events
from rrad_ray.online.event_rows import CLICKS, EXPOSURES, events_table
from rrad_ray.rows import ClickEvent, Exposure
from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.event_requests import MAX_EVENTS, parse_clicks
from rrad_ray.stages import experiment, export
from tests.commands import ROOT
from tests.online.test_event_journal import click, exposure

SCHEMAS = ROOT / "tests" / "online" / "ubi"
STRICT_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}(Z|[+-]\d\d:?\d\d)")  # of OpenSearch's `date`
PAGE = "00112233-4455-6677-8899-aabbccddeeff"
EVENT = {
    "application": "primary-search",
    "action_name": "click",
    "query_id": PAGE,
    "session_id": "84266fdbd31d4c2c6d0665f7e8380fa3",
    "client_id": "5e3b2a1c-8b7d-4f2e-a3d4-c9b2e1f3a4b5",
    "timestamp": "2024-05-16T12:34:56.789Z",
    "message_type": "CONVERSION",
    "message": "opened",
    "user_query": "toner",
    "event_attributes": {
        "object": {"object_id": "XYZ-12345", "object_id_field": "sku", "internal_id": "1"},
        "position": {"ordinal": 3},
        "browser": "any",
    },
}
READ = {"event_id": f"{PAGE}:XYZ-12345:3", "request_id": PAGE, "doc_id": "XYZ-12345", "position": 3}
SECONDS = 1715862896.789


def content(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


def by_schema(name: str, document: Any) -> None:
    schema = content(f"{name}.schema.json")
    if "action_name" in schema["properties"]:
        # As it stands, `oneOf` refuses the names that it lists: each is also any text of 100 characters.
        action = schema["properties"]["action_name"]
        action["anyOf"] = action.pop("oneOf")
    Draft202012Validator(schema).validate(document)


def received(body: Any) -> list[Any]:
    return parse_clicks(json.dumps(body).encode(), now=5.0)


def changed(*path: str, value: Any) -> Any:
    """Return the event with another value at a path of keys."""
    event = json.loads(json.dumps(EVENT))
    inner = event
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return event


def as_read(row: Any) -> Any:
    assert row["dwell_s"] != row["dwell_s"], "not known"
    return {key: value for key, value in row.items() if key != "dwell_s"}


# ---- in -----------------------------------------------------------------------------------------------------


def test_the_endpoint_takes_an_event_or_a_list_of_them_and_keeps_the_clicks() -> None:
    by_schema("event", EVENT)
    impression, exit_ = EVENT | {"action_name": "impression"}, {"action_name": "page_exit", "event_attributes": {}}
    for body in (EVENT, [EVENT], [impression, EVENT, exit_]):
        [row] = received(body)
        assert as_read(row) == READ | {"time": SECONDS}
    assert received([impression, exit_]) == []


def test_a_body_in_our_format_may_hold_the_word_too() -> None:
    events = [{"request_id": "r", "doc_id": "d", "position": 1, "action_name": "click"}]
    assert [row["request_id"] for row in received({"events": events})] == ["r"]


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("2024-05-16T12:34:56.789Z", SECONDS),
        ("2024-05-16T14:34:56.789+02:00", SECONDS),
        ("2024-05-16T12:34:56", 1715862896.0),
        (1715862896789, SECONDS),
    ],
)
def test_times_are_iso_8601_or_milliseconds(timestamp: Any, seconds: float) -> None:
    [row] = received(EVENT | {"timestamp": timestamp})
    assert row["time"] == seconds


def test_an_objects_id_may_be_a_number() -> None:
    [row] = received(changed("event_attributes", "object", "object_id", value=123))
    assert row["doc_id"] == "123"


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (changed("timestamp", value="yesterday"), "timestamp"),
        (changed("timestamp", value=1715862896.789), "ISO 8601 or milliseconds"),
        (changed("timestamp", value=10**400), "ISO 8601 or milliseconds"),
        (changed("timestamp", value="1715862896789"), "ISO 8601 or milliseconds"),
        (changed("query_id", value=" "), "must not be blank"),
        (changed("query_id", value="a" * 257), "at most 256"),
        (changed("event_attributes", "position", value={"xy": {"x": 1, "y": 2}}), "ordinal"),
        (changed("event_attributes", "position", "ordinal", value=0), "greater than or equal to 1"),
        (changed("event_attributes", "object", value={}), "object_id"),
        (changed("event_attributes", "object", "object_id", value=True), "string"),
        (changed("action_name", value=3), "action_name"),
        ([EVENT] * (MAX_EVENTS + 1), f"at most {MAX_EVENTS}"),
    ],
)
def test_an_event_that_the_log_cannot_hold_is_refused_by_its_field(event: Any, problem: str) -> None:
    with pytest.raises(HTTPError) as refused:
        received(event)
    assert (refused.value.status, refused.value.field) == (422, "events")
    assert problem in refused.value.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*EVENT, "object"]), inner),
    max_leaves=5,
)


@given(st.sampled_from([("timestamp",), ("query_id",), ("event_attributes",), ("event_attributes", "object")]), JSON)
def test_whatever_is_accepted_can_be_stored(path: tuple[str, ...], value: Any) -> None:
    with contextlib.suppress(HTTPError):
        events_table(CLICKS, received(changed(*path, value=value)))


def test_a_log_holds_events_as_the_index_gives_them_back_and_sets_aside_what_it_cannot_use(tmp_path: Path) -> None:
    """Lines of events, of a search's hits and of `_bulk`."""
    hit = {"_index": "ubi_events", "_id": "x", "_source": changed("query_id", value="hit")}
    bad = changed("event_attributes", "position", "ordinal", value=-1)
    lines = [EVENT, hit, {"index": {"_index": "ubi_events"}}, changed("query_id", value="bulk"), bad]
    text = "".join(f"{json.dumps(line)}\n" for line in [*lines, EVENT | {"action_name": "view"}, {}])
    (tmp_path / "clicks").mkdir()
    (tmp_path / "clicks" / "events.ndjson").write_text(f"{text}no JSON\n", encoding="utf-8")
    rejected = list[str]()
    rows = list(read_click_events(str(tmp_path), lambda place, reason, line: rejected.append(reason)))
    assert [row["request_id"] for row in rows] == [PAGE, "hit", "bulk"]
    assert as_read(rows[0]) == READ | {"time": SECONDS}
    assert rejected == [
        "malformed row: events.0.event_attributes.position.ordinal=-1: must be at least 1 (events.ndjson:5)",
        "malformed row: no value for events.0.action_name (events.ndjson:7)",
        "malformed JSON: events.ndjson:8 cannot be read (Expecting value: line 1 column 1 (char 0))",
    ]


# ---- out ----------------------------------------------------------------------------------------------------


def log(folder: Path, pages: list[Any], clicks: list[Any]) -> str:
    for kind, row, rows in ((EXPOSURES, Exposure, pages), (CLICKS, ClickEvent, clicks)):
        (folder / kind).mkdir(parents=True)
        table = pa.Table.from_pylist(rows, schema=tables.schema_of(row))
        pq.write_table(table, folder / kind / "a.parquet")
    return str(folder)


def bulk(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return action and document of each pair of lines."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert path.read_text().endswith("\n"), "_bulk asks for it"
    return list(zip(lines[::2], lines[1::2], strict=True))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[str, Path]:
    """A log of an A/B page, an interleaved page and clicks, one of them on no page; and what `export` writes."""
    page = exposure(1) | {"request_id": "p1", "unit": "anna", "query": "tonér", "time": SECONDS}
    mixed = page | {"request_id": "p2", "variant": "", "teams": ["a", "b"], "doc_ids": ["x", "y"]}
    clicks = [click(number) | {"request_id": f"p{number}", "time": SECONDS, "dwell_s": 2.5} for number in (1, 2, 9)]
    later = clicks[0] | {"event_id": "later", "dwell_s": math.nan}
    uri = log(tmp_path / "log", [page, page, mixed], [*clicks, later])
    export.run(ExportConfig(uri, f"{tmp_path}/ubi", "ubi"))
    return uri, tmp_path / "ubi"


def test_a_log_is_written_by_ubis_schema_with_ids_that_replace_what_is_posted_again(
    exported: tuple[str, Path],
) -> None:
    queries, events = (bulk(exported[1] / f"{name}.ndjson") for name in ("ubi_queries", "ubi_events"))
    assert [document["query_id"] for _, document in queries] == ["p1", "p1", "p2"]
    assert sorted(document["query_id"] for _, document in events) == ["p1", "p1", "p2"], "p9 was not shown"
    for index, pairs, schema, mapping in (
        ("ubi_queries", queries, "query.request", "queries"),
        ("ubi_events", events, "event", "events"),
    ):
        known = content(f"{mapping}-mapping.json")["properties"]
        for action, document in pairs:
            by_schema(schema, document)
            assert STRICT_DATE_TIME.fullmatch(document["timestamp"])
            assert document.keys() <= known.keys(), "what OpenSearch's plugin has a field for"
            assert action["index"].keys() == {"_index", "_id"}
            assert action["index"]["_index"] == index
    names = [action["index"]["_id"] for action, _ in queries + events]
    assert names[0] == names[1]
    assert len(set(names)) == 5


def test_a_log_of_which_most_rows_are_bad_is_no_finished_export(tmp_path: Path) -> None:
    """Times in milliseconds, say: two empty files were reported done."""
    milliseconds = exposure(1) | {"time": SECONDS * 1000}
    uri = log(tmp_path / "log", [exposure(1), milliseconds], [click(1)])
    with pytest.raises(RradError, match="1 of 3 rows are bad"):
        export.run(ExportConfig(uri, f"{tmp_path}/ubi", "ubi"))
    assert not tables.exists(f"{tmp_path}/ubi/manifest.json")
    export.run(ExportConfig(uri, f"{tmp_path}/ubi", "ubi", max_quarantined=0.5))


def test_queries_say_the_variant_or_the_teams_and_events_whose_they_are(exported: tuple[str, Path]) -> None:
    queries, events = (bulk(exported[1] / f"{name}.ndjson") for name in ("ubi_queries", "ubi_events"))
    attributes = [document["query_attributes"] for _, document in queries]
    assert attributes[0].keys() == {"experiment", "variant", "model"}
    assert attributes[2]["teams"] == ["a", "b"]
    document = queries[2][1]
    assert (document["client_id"], document["user_query"]) == ("anna", "tonér")
    assert (document["timestamp"], document["query_response_hit_ids"]) == ("2024-05-16T12:34:56.789Z", ["x", "y"])
    event = next(each for _, each in events if each["query_id"] == "p2")
    assert (event["action_name"], event["client_id"], event["user_query"]) == ("click", "anna", "tonér")
    assert event["event_attributes"]["dwell_s"] == 2.5


def test_what_is_written_is_read_back_by_endpoint_and_log(exported: tuple[str, Path], tmp_path: Path) -> None:
    uri, folder = exported
    clicks = {
        (row["request_id"], row["doc_id"], row["position"], row["time"])
        for row in read_click_events(uri, lambda *bad: pytest.fail(str(bad)))
        if row["request_id"] != "p9"
    }
    sent = received([document for _, document in bulk(folder / "ubi_events.ndjson")])
    (tmp_path / "again" / "clicks").mkdir(parents=True)
    (folder / "ubi_events.ndjson").rename(tmp_path / "again" / "clicks" / "ubi_events.ndjson")
    again = list(read_click_events(f"{tmp_path}/again", lambda *bad: pytest.fail(str(bad))))
    for rows in (sent, again):
        assert {(row["request_id"], row["doc_id"], row["position"], row["time"]) for row in rows} == clicks


def test_an_experiment_reads_clicks_of_ubi_beside_those_of_the_endpoint(tmp_path: Path) -> None:
    pages = [
        exposure(number)
        | {"request_id": f"p{number}", "unit": f"u{number}", "variant": "ab"[number % 2], "experiment": "t"}
        | {"doc_ids": ["d", "XYZ-12345", "e"], "teams": []}
        for number in range(4)
    ]
    own = click(0) | {"request_id": "p0", "doc_id": "d", "position": 1, "time": pages[0]["time"] + 1}
    uri = log(tmp_path / "log", pages, [own])
    event = changed("event_attributes", "position", "ordinal", value=2) | {"query_id": "p1"}
    event["timestamp"] = int(1000 * pages[1]["time"]) + 1000
    (tmp_path / "log" / "clicks" / "ubi.ndjson").write_text(json.dumps(event))
    output = experiment.run(ExperimentConfig(uri, f"{tmp_path}/read", "t", {"a": 1.0, "b": 1.0}))
    report = json.loads(Path(output, "report.json").read_text())
    assert (report["events"]["clicks"], report["events"]["left_out"]) == (2, {})
