"""The endpoint's routes without Serve: whatever bytes come, the answer is in the client's format and is counted."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ray import serve

from rrad_ray.runtime import endpoint
from rrad_ray.serving.asgi import UNKNOWN_PATH
from tests.asgi import ask
from tests.serving.test_service import Replica, TwoHits, replica

POSTS = {
    "/v2/rerank": {"query": "q", "documents": ["a", "bbb"]},
    "/v1/rerank": {"query": "q", "documents": [{"text": "a", "id": "A"}], "user": "u"},
    "/rerank": {"query": "q", "texts": ["a", "bbb"]},
    "/score": {"queries": "q", "documents": ["a"]},
    "/v1/score": {"text_1": "q", "text_2": ["a"]},
    "/v1/search": {"query": "q"},
    "/v1/events": {"events": [{"request_id": "r", "doc_id": "d", "position": 1}]},
}
GETS = ("/", "/healthz", "/health", "/livez", "/v1/models", "/docs", "/openapi.json")


@pytest.fixture(scope="module")
def served() -> Replica:
    return replica("ab", searcher=TwoHits(), cors_origins=("https://shop.example",), max_body_bytes=2000)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(autouse=True)
def in_a_replica(served: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the routes find a replica of the endpoint in this process."""
    one = SimpleNamespace(service=served.service, check_health=served.service.check_health)
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=one))


def test_every_path_is_served_with_head_options_and_a_slash(runner: asyncio.Runner, served: Replica) -> None:
    paths = {path.path for path in endpoint.api.routes}
    assert paths == {*POSTS, *GETS}
    for path in GETS:
        whole, slash, head, options = (
            runner.run(ask(endpoint.api, method, path + end))
            for method, end in (("GET", ""), ("GET", "/"), ("HEAD", ""), ("OPTIONS", ""))
        )
        assert (whole.status, slash.body, head.status, head.body) == (200, whole.body, 200, b"")
        assert head.headers == whole.headers
        assert options.headers["allow"] == "GET, HEAD, OPTIONS"
    for path, body in POSTS.items():
        content = json.dumps(body).encode()
        assert runner.run(ask(endpoint.api, "POST", path + "/", content)).status == 200
        packed = runner.run(
            ask(endpoint.api, "POST", path, gzip.compress(content), headers=[(b"Content-Encoding", b"gzip")])
        )
        assert packed.status == 200
        assert runner.run(ask(endpoint.api, "HEAD", path)).headers["allow"] == "POST, OPTIONS"


def is_in_a_format(content: dict[str, Any]) -> bool:
    cohere, tei = {"message", "detail", "field"}, {"error", "error_type"}
    vllm = set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}
    return set(content) in (cohere, tei) or vllm


NAMES = ["content-length", "content-encoding", "content-type", "authorization", "x-deadline-ms", "x-unit", "origin"]
NAMES += ["expect", "access-control-request-method", "x-request-id", "accept-encoding", "range", "host", "cookie"]
VALUES = st.binary(max_size=20) | st.sampled_from(
    [b"\xb2", b"9" * 5000, b"gzip", b"br", b"-1", b"https://shop.example"]
)
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES).map(str.encode), VALUES), max_size=4)
PATHS = st.sampled_from([*POSTS, *GETS]) | st.text(max_size=10).map("/".__add__)
METHODS = st.sampled_from(
    ["POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW", "post"]
)
VALID = st.sampled_from([json.dumps(body).encode() for body in POSTS.values()])
BODIES = st.lists(VALID | VALID.map(gzip.compress) | st.binary(max_size=30), max_size=3)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METHODS, PATHS, st.sampled_from(["", "/"]), HEADERS, BODIES, st.booleans())
@example("POST", "/\n", "", [], [], False)
@example("GET", "/v1/models\n", "", [], [], False)
def test_whatever_comes_is_answered_in_the_format_and_counted(
    runner: asyncio.Runner,
    served: Replica,
    method: str,
    path: str,
    end: str,
    headers: list[tuple[bytes, bytes]],
    chunks: list[bytes],
    hang_up: bool,
) -> None:
    served.metrics.requests.clear()
    answer = runner.run(ask(endpoint.api, method, path + end, *chunks, headers=headers, hang_up=hang_up))
    assert answer.status < 500 or answer.status == 504
    if answer.status >= 400:
        if method != "HEAD":
            assert is_in_a_format(answer.content), answer.content
        meant = path.rstrip("/") or "/"
        known = meant if meant in (*POSTS, *GETS) else UNKNOWN_PATH
        assert served.metrics.requests == {(known, str(answer.status)): 1}
