"""The requests of each wire format, without a server: their fields, their limits, and how a wrong one is refused."""

from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.serving import documents, event_requests, requests
from rrad_ray.serving.errors import COHERE, TEI, VLLM, HTTPError
from rrad_ray.serving.requests import RerankRequest, ScoreRequest, ScoringRequest, TeiRequest, WireFormat

Parsed = TypeVar("Parsed")
LIMITS = requests.Limits(max_documents=3, max_query_chars=10, max_document_chars=20)
FORMATS = {
    **{"/v1/rerank": requests.COHERE_V1, "/v2/rerank": requests.COHERE_V2, "/rerank": requests.VLLM_RERANK},
    **{"/score": requests.VLLM_SCORE, "/v1/search": requests.RRAD_SEARCH},
}
PATHS = tuple(FORMATS)


def parse(path: str, body: Any, limits: requests.Limits = LIMITS) -> ScoringRequest:
    """Read a body (JSON, if it is no bytes) as the endpoint does."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    wire = requests.vllm_or_tei(content) if path == "/rerank" else FORMATS[path]
    return requests.parse_request(content, wire, limits)


def refusal(path: str, body: Any) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        parse(path, body)
    return caught.value


# ---- formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "wire"),
    [
        (b"", requests.VLLM_RERANK),
        (b'{"documents": ["texts"]}', requests.VLLM_RERANK),
        (b'{"texts": ["a"], "documents": ["a"]}', requests.VLLM_RERANK),
        (b'["texts"]', requests.VLLM_RERANK),
        (b'{"texts": ', requests.VLLM_RERANK),
        (b'"texts"' + b"[" * 100_000, requests.VLLM_RERANK),
        (b'{"texts": ["a"]}', requests.TEI_RERANK),
        (b'{"query": 7, "texts": null}', requests.TEI_RERANK),
    ],
)
def test_tei_is_told_from_vllm_by_its_texts(body: bytes, wire: WireFormat) -> None:
    assert requests.vllm_or_tei(body) is wire


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_every_field_of_a_rerank_request(path: str) -> None:
    body = {
        **{"query": "q", "documents": ["a", {"text": "b", "id": "B", "title": "ignored"}], "model": "m", "top_n": 1},
        **{"return_documents": True, "max_tokens_per_doc": 7, "use_activation": False, "instruction": ""},
        **{"explain": True, "user": "u", "rank_fields": ["text"], "priority": "ignored"},
    }
    ids = ["", "B"]
    assert parse(path, body) == ScoringRequest(
        ["q", "q"], ["a", "b"], "m", 1, path != "/v2/rerank", True, True, 7, "u", ids
    )


def test_a_rerank_request_of_two_fields_gets_the_defaults_of_its_format() -> None:
    body = {"query": "q", "documents": ["a"]}
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        gives_back = path == "/rerank"  # vLLM's
        assert parse(path, body) == ScoringRequest(["q"], ["a"], give_back=gives_back, doc_ids=[""])
    for field in ("model", "top_n", "return_documents", "max_tokens_per_doc", "use_activation", "explain", "user"):
        assert parse("/rerank", {**body, field: None}) == parse("/rerank", body), "null is as if it were not there"


def test_top_n_of_0_means_all_to_vllms_clients_and_is_wrong_to_coheres() -> None:
    body = {"query": "q", "documents": ["a"], "top_n": 0}
    assert parse("/rerank", body).top_n == 0
    for path in ("/v1/rerank", "/v2/rerank"):
        assert str(refusal(path, body)) == "top_n: must be at least 1, found 0"


def test_every_field_of_a_tei_request() -> None:
    body = {"query": "q", "texts": ["a", "b"], "raw_scores": True, "return_text": True, "truncate": False}
    expected = ScoringRequest(["q", "q"], ["a", "b"], give_back=True, raw=True)
    assert parse("/rerank", {**body, "truncation_direction": "Right"}) == expected
    assert parse("/rerank", {"query": "q", "texts": ["a"]}) == ScoringRequest(["q"], ["a"])
    assert parse("/rerank", {"query": "q", "texts": ["a"], "model": "m"}) == ScoringRequest(["q"], ["a"], "m")
    assert refusal("/rerank", {**body, "truncation_direction": "left"}).field == "truncation_direction"


@pytest.mark.parametrize(
    ("one", "many"), [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]
)
def test_a_score_request_pairs_one_with_many_and_many_with_many(one: str, many: str) -> None:
    assert parse("/score", {one: "q", many: ["a", "b"]}) == ScoringRequest(["q", "q"], ["a", "b"])
    body = {one: ["q", "p"], many: ["a", "b"], "model": "m", "use_activation": False}
    assert parse("/score", body) == ScoringRequest(["q", "p"], ["a", "b"], "m", raw=True)
    assert parse("/score", {one: "q", many: "a"}) == ScoringRequest(["q"], ["a"])
    assert str(refusal("/score", {one: ["q", "p"], many: "a"})).startswith("queries: 2 for 1 documents")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"a\ud83d", "a\ufffd"),
        (r"\uDE00b", "\ufffdb"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
    ],
)
def test_half_a_character_where_a_text_was_cut_inside_an_emoji_is_read_as_one_that_is_missing(
    written: str, read: str
) -> None:
    """JavaScript cuts so, and the whole request was refused as no JSON."""
    body = f'{{"query": "{written}", "documents": ["{written}", {{"text": "{written}", "id": "{written}"}}]}}'
    request = parse("/v2/rerank", body.encode())
    assert (request.queries[0], request.texts, request.doc_ids) == (read, [read, read], ["", read])
    assert "Invalid JSON" in str(refusal("/v2/rerank", body.encode()[:-1]))


def test_every_field_of_a_search_request() -> None:
    body = {"query": "q", "model": "m", "top_n": 2, "explain": True, "user": "u"}
    assert parse("/v1/search", body) == ScoringRequest(["q"], [], "m", 2, explain=True, unit="u")
    assert parse("/v1/search", {"query": "q"}) == ScoringRequest(["q"], [])


# ---- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "field", "problem"),
    [
        ("/v2/rerank", {"documents": ["a"]}, "query", "missing; the request has documents"),
        ("/v2/rerank", {}, "query", "missing; the request has no fields"),
        ("/v2/rerank", {"query": " \n", "documents": ["a"]}, "query", 'must not be blank, found " \\n"'),
        ("/v2/rerank", {"query": 7, "documents": ["a"]}, "query", "found 7"),
        ("/v2/rerank", {"query": "q", "documents": []}, "documents", "at least 1 item"),
        ("/v2/rerank", {"query": "q", "documents": "one"}, "documents", 'found "one"'),
        ("/v2/rerank", {"query": "q", "documents": ["a", 5]}, "documents", "number 1 must be a string or an object"),
        ("/v2/rerank", {"query": "q", "documents": [{"text": None}]}, "documents", "a string 'text'"),
        (
            "/v2/rerank",
            {"query": "q", "documents": [{"text": "a", "id": 7}]},
            "documents",
            "an 'id' that is no string",
        ),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "top_n": "3"}, "top_n", 'found "3"'),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "top_n": -1}, "top_n", "found -1"),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "explain": 1}, "explain", "found 1"),
        ("/rerank", {"query": "q", "documents": ["a"], "instruction": "x"}, "instruction", "follows none"),
        ("/v1/rerank", {"query": "q", "documents": ["a"], "rank_fields": ["title"]}, "rank_fields", "'text' alone"),
        ("/rerank", {"query": "q", "texts": ["a", 1]}, "texts", "number 1"),
        ("/rerank", {"query": "q", "texts": ["a"], "raw_scores": 1}, "raw_scores", "found 1"),
        ("/score", {"queries": ["q", 2], "documents": ["a", "b"]}, "queries", "number 1"),
        ("/score", {"queries": "q"}, "documents", "missing; the request has queries"),
        ("/v1/search", {"query": "q", "top_n": 0}, "top_n", "found 0"),
        ("/v1/search", ["q"], "body", "an object"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found(path: str, body: Any, field: str, problem: str) -> None:
    error = refusal(path, body)
    assert (error.status, error.field) == (422, field)
    assert error.detail.startswith(f"{field}: ")
    assert problem in error.detail


def test_teis_clients_read_400_for_what_is_empty() -> None:
    for body in ({"query": "q", "texts": []}, {"query": " ", "texts": ["a"]}):
        assert refusal("/rerank", body).status == 400


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b'{"query": ', b"\xff\xfe", b'{"query": "\\ud800"', b"[" * 5000])
def test_a_body_that_is_not_json_is_refused_as_such(path: str, body: bytes) -> None:
    error = refusal(path, body)
    assert (error.status, error.field) == (400, "body")
    assert error.render(TEI)[1]["error_type"] == "Validation", "not Empty, which is a field's"


def test_a_wrong_value_is_shown_cut() -> None:
    error = refusal("/v2/rerank", {"query": {"x": "y" * 1000}, "documents": ["a"]})
    assert len(error.detail) < 200
    assert error.detail.endswith("...")
    many = refusal("/v2/rerank", {f"field {number}": 1 for number in range(1000)})
    assert len(many.detail) <= len("query: ") + 200


def test_a_number_of_thousands_of_digits_is_the_clients_own_error() -> None:
    for digits in (4000, 5000, 100_000):
        body = b'{"query": ' + b"7" * digits + b', "documents": ["a"]}'
        assert refusal("/v2/rerank", body).status in (400, 422)


@pytest.mark.parametrize(
    ("path", "body", "field", "problem"),
    [
        ("/v2/rerank", {"query": "q", "documents": ["a"] * 4}, "documents", "4 texts, at most 3 (max_documents)"),
        ("/rerank", {"query": "q", "texts": ["a"] * 4}, "texts", "4 texts, at most 3 (max_documents)"),
        ("/score", {"queries": "q", "items": ["a"] * 4}, "documents", "4 texts, at most 3 (max_documents)"),
        ("/v1/search", {"query": "q" * 11}, "query", "11 characters, at most 10 (max_query_chars)"),
        ("/score", {"queries": ["q", "q" * 11], "items": ["a", "b"]}, "query", "11 characters, at most 10"),
        (
            "/v2/rerank",
            {"query": "q", "documents": ["a", "b" * 21]},
            "documents",
            "number 1 has 21 characters, at most 20 (max_document_chars)",
        ),
    ],
)
def test_a_request_beyond_a_limit_is_refused_with_the_limit(path: str, body: Any, field: str, problem: str) -> None:
    error = refusal(path, body)
    assert (error.status, error.field) == (422, field)
    assert problem in error.detail


def test_a_request_at_the_limits_is_read() -> None:
    request = parse("/v2/rerank", {"query": "q" * 10, "documents": ["a" * 20] * 3})
    assert len(request.texts) == 3


# ---- any JSON -----------------------------------------------------------------------------------------------

FIELDS = ["query", "documents", "texts", "queries", "items", "text_1", "data_2", "model", "top_n", "return_documents"]
FIELDS += ["max_tokens_per_doc", "use_activation", "instruction", "explain", "user", "raw_scores", "return_text"]
FIELDS += ["truncation_direction", "text", "id", "events", "request_id", "doc_id", "position", "dwell_s", "time"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


def nested(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inside, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inside)


def unless_refused(call: Callable[[], Parsed]) -> Parsed | None:
    """Return what was parsed, or nothing if it was refused as the client's own error, which every dialect can say."""
    with contextlib.suppress(HTTPError):
        return call()
    with pytest.raises(HTTPError) as caught:
        call()
    assert caught.value.status in (400, 422)
    for dialect in (COHERE, VLLM, TEI):
        json.dumps(caught.value.render(dialect))
    return None


JSON = st.recursive(LEAVES, nested, max_leaves=20)


@given(st.sampled_from(PATHS), JSON | st.dictionaries(st.sampled_from(FIELDS), JSON), st.booleans())
def test_any_json_is_a_request_within_the_limits_or_refused(path: str, body: Any, ascii_only: bool) -> None:
    content = json.dumps(body, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    request = unless_refused(lambda: parse(path, content))
    if request:
        assert len(request.texts) <= LIMITS.max_documents
        assert len(request.queries) == max(1, len(request.texts))
        assert request.doc_ids is None or len(request.doc_ids) == len(request.texts)
        assert all(0 < len(query) <= LIMITS.max_query_chars for query in request.queries)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"queries": "q", "documents": [1] * 20_000}),
        ("/score", {"queries": [1] * 20_000, "documents": "d"}),
        ("/v2/rerank", {"query": "q", "documents": [1] * 20_000}),
        ("/rerank", {"query": "q", "texts": [1] * 20_000}),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "first_stage": {"bm25": ["x"] * 20_000}}),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "first_stage": dict.fromkeys(map(str, range(9_000)), "x")}),
        (
            "/v2/rerank",
            {"query": "q", "documents": [{"text": "a", "first_stage": dict.fromkeys(map(str, range(9_000)), "x")}]},
        ),
        ("/v1/events", {"events": [{}] * 10_000}),
    ],
    ids=str,
)
def test_a_long_list_of_wrong_values_costs_no_more_than_its_first_one(path: str, body: Any) -> None:
    def refuse() -> None:
        with pytest.raises(HTTPError):
            clicks(*body["events"]) if "events" in body else parse(path, body)

    refuse()
    tracemalloc.start()
    refuse()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000, "an error object for each of them took 10 MB and more"


@given(st.sampled_from(PATHS), st.binary(max_size=60))
def test_any_bytes_are_a_request_or_refused(path: str, body: bytes) -> None:
    unless_refused(lambda: parse(path, body))


# ---- documents and the schema ------ -----------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "b", "a#1", "a#2"]), max_size=4))
def test_ids_that_come_again_are_told_apart_by_their_index(ids: list[str]) -> None:
    distinct = documents.distinct_ids(ids)
    assert len(set(distinct)) == len(ids)
    for index, (new, old) in enumerate(zip(distinct, ids)):
        assert new == old or (new.startswith(f"{old}#{index}") and old in distinct[:index])
        assert ids.index(old) < index or new == old, "the first of an id keeps it"
        assert new == old or new not in ids, "no copy takes another document's id"


def test_the_schema_of_a_route_has_its_formats_fields() -> None:
    def schemas(*kinds: type[Any]) -> list[dict[str, Any]]:
        schema = requests.openapi(*kinds)["requestBody"]["content"]["application/json"]["schema"]
        return schema.get("anyOf", [schema])

    [rerank, tei] = schemas(RerankRequest, TeiRequest)
    assert (rerank["required"], tei["required"]) == (["query", "documents"], ["query", "texts"])
    assert rerank["properties"]["documents"]["items"]["anyOf"][0] == {"type": "string"}
    [score] = schemas(ScoreRequest)
    assert score["required"] == ["queries", "documents"]


# ---- clicks -------------------------------------------------------------------------------------------------


def clicks(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return event_requests.parse_clicks(json.dumps({"events": events}).encode(), now=5.0)


def test_every_field_of_a_click_and_its_defaults() -> None:
    full = {"request_id": "r", "doc_id": "d", "position": 2, "event_id": "e", "dwell_s": 1.5, "time": 3.0}
    assert clicks({**full, "unknown": 1}) == [full]
    [row] = clicks({"request_id": "r", "doc_id": "d", "position": 2})
    assert math.isnan(row.pop("dwell_s"))
    assert row == {"event_id": "r:d:2", "request_id": "r", "doc_id": "d", "position": 2, "time": 5.0}


@pytest.mark.parametrize(
    "event",
    [
        {"doc_id": "d", "position": 1},
        {"request_id": "r", "position": 1},
        {"request_id": "r", "doc_id": "d"},
        {"request_id": " ", "doc_id": "d", "position": 1},
        {"request_id": "r", "doc_id": "d", "position": 0},
        {"request_id": "r", "doc_id": "d", "position": 1, "dwell_s": -1},
        {"request_id": "r", "doc_id": "d", "position": 1, "time": "now"},
        {"request_id": "r", "doc_id": "d", "position": 2**31},
        {"request_id": "r", "doc_id": "d", "position": 1180591620717411303424},
        {"request_id": "r", "doc_id": "d", "position": 1.0},
        {"request_id": "r", "doc_id": "d", "position": 1, "dwell_s": 1e9},
        {"request_id": "r", "doc_id": "d", "position": 1, "dwell_s": math.inf},
        {"request_id": "r", "doc_id": "d", "position": 1, "dwell_s": math.nan},
        {"request_id": "r", "doc_id": "d", "position": 1, "time": math.inf},
        {"request_id": "r", "doc_id": "d", "position": 1, "time": 1.7e12},
        {"request_id": "r" * 257, "doc_id": "d", "position": 1},
        {"request_id": "r", "doc_id": "d" * 257, "position": 1},
        {"request_id": "r", "doc_id": "d", "position": 1, "event_id": "e" * 257},
    ],
)
def test_a_wrong_click_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(HTTPError) as caught:
        clicks({"request_id": "r", "doc_id": "d", "position": 1}, event)
    assert (caught.value.status, caught.value.field) == (422, "events")
    assert "missing" in caught.value.detail or "number 1 " in caught.value.detail


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "9" * 400, "1e308"])
@pytest.mark.parametrize("field", ["position", "dwell_s", "time"])
def test_a_number_as_it_may_stand_in_a_body_is_refused_where_the_log_cannot_hold_it(number: str, field: str) -> None:
    event = f'{{"request_id": "r", "doc_id": "d", "position": 1, "{field}": {number}}}'
    with pytest.raises(HTTPError) as caught:
        event_requests.parse_clicks(f'{{"events": [{event}]}}'.encode(), now=5.0)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        ({"request_id": "r", "doc_id": "d", "position": "1"}, "position: input should be a valid integer, found"),
        ({"request_id": " ", "doc_id": "d", "position": 1}, 'request_id: must not be blank, found " "'),
        (
            {"request_id": "r", "doc_id": "d", "position": 1, "dwell_s": -1},
            "dwell_s: input should be greater than or",
        ),
        ({"request_id": "r", "position": 1}, "doc_id: missing; it has request_id, position"),
        ({}, "request_id: missing; it has no fields"),
        (3, "input should be an object, found 3"),
    ],
)
def test_a_refused_event_is_named_with_its_number_and_its_own_field(event: Any, detail: str) -> None:
    with pytest.raises(HTTPError) as caught:
        clicks({"request_id": "r", "doc_id": "d", "position": 1}, event)
    assert (caught.value.status, caught.value.field) == (422, "events")
    assert caught.value.detail.startswith(f"events: number 1 {detail}")


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0"])
def test_a_blank_user_is_no_unit_and_a_blank_event_id_none_that_events_share(blank: str) -> None:
    for path, body in (("/v2/rerank", {"documents": ["a"]}), ("/v1/search", {})):
        assert parse(path, {"query": "q", "user": blank, **body}).unit == ""
    sent = [{"request_id": "r", "doc_id": name, "position": 1, "event_id": blank} for name in ("a", "b")]
    assert [click["event_id"] for click in clicks(*sent)] == ["r:a:1", "r:b:1"]


def test_an_id_of_at_most_256_characters_is_taken_and_a_longer_one_refused() -> None:
    longest = "é" * 256
    full = {"request_id": longest, "doc_id": longest, "position": 1, "event_id": longest}
    assert clicks(full)[0]["event_id"] == longest
    documents_of = [{"text": "a", "id": longest}, {"text": "b", "id": ""}, {"text": "b", "id": " "}]
    request = parse("/v2/rerank", {"query": "q", "documents": documents_of, "user": longest})
    assert (request.unit, request.doc_ids) == (longest, [longest, "", ""])
    assert parse("/v1/search", {"query": "q", "user": longest}).unit == longest
    for path, body, field in (
        ("/v2/rerank", {"query": "q", "documents": ["a"], "user": f"{longest}x"}, "user"),
        ("/v1/search", {"query": "q", "user": f"{longest}x"}, "user"),
        ("/v2/rerank", {"query": "q", "documents": ["a", {"text": "b", "id": f"{longest}x"}]}, "documents"),
    ):
        error = refusal(path, body)
        assert (error.status, error.field) == (422, field)
        assert "256" in error.detail


@given(JSON | st.fixed_dictionaries({"events": JSON}))
def test_any_json_is_clicks_or_refused(body: Any) -> None:
    content = json.dumps(body).encode()
    rows = unless_refused(lambda: event_requests.parse_clicks(content, now=5.0))
    assert all(row["position"] >= 1 for row in rows or [])


# ---- scores of the first stage ------------------------------------------------------------------------------


def test_scores_of_the_first_stage_come_as_lists_or_in_the_documents_of_every_format() -> None:
    lists = {"bm25": [2, None], "ours": [0.5, -1.5]}
    objects = [{"text": "a", "first_stage": {"bm25": 2, "ours": 0.5}}, {"text": "b", "first_stage": {"ours": -1.5}}]
    bodies = {
        "/v2/rerank": {"query": "q", "documents": objects},
        "/v1/rerank": {"query": "q", "documents": ["a", {"text": "b"}], "first_stage": lists},
        "/rerank": {"query": "q", "texts": ["a", "b"], "first_stage": lists},
        "/score": {"queries": "q", "documents": ["a", "b"], "first_stage": lists},
    }
    for path, body in bodies.items():
        columns = parse(path, body).first_stage
        assert {name: list(map(str, values)) for name, values in columns.items()} == {
            "bm25": ["2.0", "nan"],
            "ours": ["0.5", "-1.5"],
        }, path
    assert parse("/v2/rerank", {"query": "q", "documents": ["a"]}).first_stage == {}
    both = {"query": "q", "documents": [objects[0], "b"], "first_stage": {"dense": [1, 2]}}
    assert set(parse("/v2/rerank", both).first_stage) == {"bm25", "ours", "dense"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"documents": ["a", "b"], "first_stage": {"bm25": [1]}}, "first_stage: 1 scores of 'bm25' for 2 documents"),
        ({"documents": ["a"], "first_stage": {"bm25": 1}}, "'bm25' input should be a valid array"),
        ({"documents": ["a"], "first_stage": [1]}, "input should be an object"),
        ({"documents": ["a"], "first_stage": {"bm25": ["1"]}}, "valid number"),
        ({"documents": ["a"], "first_stage": {"bm25": [True]}}, "valid number"),
        ({"documents": ["a"], "first_stage": {"bm25": [1e300]}}, "less than or equal"),
        ({"documents": [{"text": "a", "first_stage": {"bm25": "1"}}]}, "has a 'first_stage' that is no object"),
        ({"documents": [{"text": "a", "first_stage": 7}]}, "has a 'first_stage' that is no object"),
        (
            {"documents": [{"text": "a", "first_stage": {"bm25": 1}}], "first_stage": {"bm25": [1]}},
            "'bm25' is in the request and in its documents",
        ),
    ],
)
def test_wrong_scores_of_the_first_stage_are_refused_with_their_field(body: dict[str, Any], says: str) -> None:
    error = refusal("/v2/rerank", {"query": "q", **body})
    assert error.status == 422
    assert says in error.detail
    assert error.field in ("first_stage", "documents")


def test_sources_of_scores_are_few_since_each_costs_a_number_for_each_document() -> None:
    """A body of 10,000 documents and one object with 10,000 sources, of 0.17 MB, took 1.7 GB."""
    few = dict.fromkeys(map(str, range(documents.MAX_SOURCES)), 1)
    objects = [{"text": "a", "first_stage": {str(number): 1}} for number in range(2 * documents.MAX_SOURCES)]
    most = requests.Limits(max_documents=1000, max_query_chars=10, max_document_chars=20)
    assert set(
        parse("/v2/rerank", {"query": "q", "documents": ["a"], "first_stage": {n: [1] for n in few}}).first_stage
    )
    for body, says in (
        ({"documents": ["a"], "first_stage": {name: [1] for name in [*few, "more"]}}, "has scores of 65 sources"),
        ({"documents": [{"text": "a", "first_stage": {**few, "more": 1}}]}, "has scores of 65 sources, at most 64"),
        ({"documents": objects}, "first_stage: 128 sources, at most 64"),
        ({"documents": objects[:64], "first_stage": {"more": [1] * 64}}, "first_stage: 65 sources, at most 64"),
    ):
        with pytest.raises(HTTPError) as caught:
            parse("/v2/rerank", {"query": "q", **body}, most)
        assert caught.value.status == 422
        assert says in caught.value.detail
    tracemalloc.start()
    with pytest.raises(HTTPError):
        parse("/v2/rerank", {"query": "q", "documents": [*objects, *["a"] * 5_000]}, most)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_score_that_json_does_not_know_is_refused(word: str) -> None:
    for body in (
        f'{{"query": "q", "documents": ["a"], "first_stage": {{"bm25": [{word}]}}}}',
        f'{{"query": "q", "documents": [{{"text": "a", "first_stage": {{"bm25": {word}}}}}]}}',
    ):
        assert refusal("/v2/rerank", body.encode()).status in (400, 422)
