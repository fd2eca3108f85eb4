"""The endpoint's manners over raw sockets, through HAProxy and Serve: what HTTP allows and few clients do."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

from rrad_ray.config import ServeConfig
from tests import endpoints
from tests.commands import PATIENCE_S
from tests.heads import free_port
from tests.metrics import exported

pytestmark = pytest.mark.ray

BODY = json.dumps({"query": "how to open a file", "documents": ["open(path)", "len(x) counts items"]}).encode()
ORIGIN = "https://shop.example"
GETS = ("/healthz", "/health", "/livez", "/v1/models", "/", "/openapi.json", "/docs")
POSTS = ("/v2/rerank", "/v1/rerank", "/rerank", "/score", "/v1/score", "/v1/search", "/v1/events")
LIMIT = 2_000_000
SILENT = 4200  # connections, of which HAProxy takes 4096 at a time


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    student, port = str(tmp_path_factory.mktemp("student")), free_port()
    endpoints.student(student, layers=1)
    cfg = ServeConfig(student, port=port, max_body_bytes=LIMIT, cors_origins=(ORIGIN,))
    with endpoints.serving(cfg):
        yield "127.0.0.1", port


@pytest.fixture
def wire(address: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection to the endpoint."""
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        yield connection


def message(method: str, path: str, body: bytes = b"", version: str = "1.1", **headers: str) -> bytes:
    """Return a request; a header's name has `_` for `-`."""
    described = {"content-length": str(len(body)), "content-type": "application/json"} if body else {}
    fields = {"host": "localhost", **described}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + body


class Answers:
    """The answers that come over a connection, one after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self.file = connection.makefile("rb")

    def read(self, method: str = "POST") -> http.client.HTTPResponse:
        """Read the next answer, to a request of this method, with its body in `content`."""
        response: Any = http.client.HTTPResponse(self, method=method)  # type: ignore[arg-type]
        response.begin()
        response.content = response.read()
        return response

    def makefile(self, mode: str) -> Any:
        """Return the connection's file, which stays open behind an answer."""
        return _Left(self.file)


class _Left(io.BufferedIOBase):
    def __init__(self, file: Any) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readline(self, size: int = -1) -> bytes:  # type: ignore[override]
        line: bytes = self.file.readline(size)
        return line

    def read(self, size: int | None = -1) -> bytes:
        content: bytes = self.file.read(size)
        return content

    def readinto(self, into: Any) -> int:
        count: int = self.file.readinto(into)
        return count


def ask(address: tuple[str, int], sent: bytes, method: str = "POST") -> Any:
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        return Answers(connection).read(method)


def test_http_1_0_is_answered_and_the_connection_ends(wire: socket.socket) -> None:
    wire.sendall(message("POST", "/v2/rerank", BODY, version="1.0"))
    answers = Answers(wire)
    answer: Any = answers.read()
    assert (answer.status, len(json.loads(answer.content)["results"])) == (200, 2)
    assert answers.file.read() == b""


def test_pipelined_requests_are_answered_in_their_order(wire: socket.socket) -> None:
    many = [("POST", "/v2/rerank", BODY), ("GET", "/nowhere", b""), ("HEAD", "/healthz", b""), ("GET", "/livez", b"")]
    wire.sendall(b"".join(message(*one) for one in many))
    answers = Answers(wire)
    assert [answers.read(method).status for method, _, _ in many] == [200, 404, 200, 200]


def test_a_client_that_expects_100_continue_gets_it_before_it_sends_the_body(wire: socket.socket) -> None:
    wire.sendall(message("POST", "/v2/rerank", BODY, expect="100-continue")[: -len(BODY)])
    assert wire.recv(100).startswith(b"HTTP/1.1 100 ")
    wire.sendall(BODY)
    assert Answers(wire).read().status == 200


def test_a_gzip_body_is_read_and_a_small_one_does_not_become_a_large_one(address: tuple[str, int]) -> None:
    plain = json.loads(ask(address, message("POST", "/v2/rerank", BODY)).content)["results"]
    zipped = ask(address, message("POST", "/v2/rerank", gzip.compress(BODY), content_encoding="gzip"))
    assert json.loads(zipped.content)["results"] == plain
    bomb = gzip.compress(b'{"query": "' + b"a" * 100 * LIMIT)
    for body, encoding, status in ((bomb, "gzip", 413), (BODY, "br", 415), (BODY, "gzip", 400)):
        answer = ask(address, message("POST", "/rerank", body, content_encoding=encoding))
        assert (answer.status, json.loads(answer.content)["error"]["code"]) == (status, status)


def test_head_is_get_without_the_body_and_leaves_the_connection_usable(wire: socket.socket) -> None:
    answers = Answers(wire)
    for path in GETS:
        wire.sendall(message("GET", path) + message("HEAD", path))
        whole, head = answers.read("GET"), answers.read("HEAD")
        assert (whole.status, head.status) == (200, 200), path
        assert head.getheader("content-length") == whole.getheader("content-length"), path


def test_options_say_what_a_path_takes_and_let_only_the_origins_of_the_config_send_it(
    address: tuple[str, int],
) -> None:
    for path in (*GETS, *POSTS):
        answer = ask(address, message("OPTIONS", path, origin=ORIGIN, access_control_request_method="POST"))
        assert (answer.status, answer.content) == (204, b""), path
        assert answer.getheader("allow") == ("GET, HEAD, OPTIONS" if path in GETS else "POST, OPTIONS")
        assert answer.getheader("access-control-allow-origin") == ORIGIN
        assert "Authorization" in answer.getheader("access-control-allow-headers")
    assert ask(address, message("POST", "/v2/rerank", BODY, origin=ORIGIN)).getheader("vary") == "Origin"
    foreign = ask(address, message("OPTIONS", "/v2/rerank", origin="https://other.example"))
    assert foreign.getheader("access-control-allow-origin") is None


def test_a_slash_at_the_end_a_wrong_method_and_an_unknown_path_are_answered_in_the_format(
    address: tuple[str, int],
) -> None:
    assert ask(address, message("POST", "/v2/rerank/", BODY)).status == 200
    assert ask(address, message("GET", "/healthz/"), "GET").status == 200
    for path in POSTS:
        for method in ("GET", "HEAD", "PUT", "DELETE", "TRACE", "PROPFIND"):
            answer = ask(address, message(method, path), method)
            assert (answer.status, answer.getheader("allow")) == (405, "POST, OPTIONS"), (method, path)
            if method != "HEAD":
                content = json.loads(answer.content)
                assert "takes POST, OPTIONS" in str(content.get("error", content.get("detail")))
    assert json.loads(ask(address, message("POST", "/nowhere", BODY)).content)["field"] == "path"


@pytest.mark.parametrize("value", ["\u00ff", "\u00b2", "9" * 5000, "-1", "nan", "0", "?1", ""])
def test_no_header_makes_a_request_a_servers_error(address: tuple[str, int], value: str) -> None:
    names = ["x-deadline-ms", "x-unit", "x-request-id", "x-request-timeout-seconds", "x-request-disconnect-disabled"]
    names += ["serve_multiplexed_model_id", "x-session-id", "origin", "content-encoding", "authorization", "accept"]
    names += ["content-type", "cookie", "traceparent", "range", "expect", "te", "user-agent", "x-forwarded-for"]
    for name in names:
        answer = ask(address, message("POST", "/v2/rerank", BODY, **{name: value}))
        assert answer.status < 500 or (name, answer.status) == ("x-deadline-ms", 504), (name, answer.content)


PATHS = [
    "/%ff",
    "/%00",
    "/v2/rerank%0d%0aX-Other:%20y",
    "/../v2/rerank",
    "//v2//rerank",
    "/v2/%72erank",
    "*",
    "nowhere",
]
PATHS += [
    "/\u00ff",
    f"/{'x' * 100_000}",
    "/v2/rerank?top_n=\u00b2",
    f"/v2/rerank?top_n={'9' * 5000}",
    "/v2/rerank?%ff&=&;",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:20])
def test_no_path_or_query_makes_a_request_a_servers_error(address: tuple[str, int], path: str) -> None:
    for method in ("POST", "GET", "OPTIONS"):
        answer = ask(address, message(method, path, BODY), method)
        assert answer.status < 500
        assert answer.getheader("x-other") is None


@pytest.mark.slow
def test_more_silent_connections_than_haproxy_takes_do_not_keep_a_request_out(address: tuple[str, int]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * SILENT:
        pytest.skip(f"a process may open {hard} files here, and {SILENT} connections want as many at either end")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * SILENT), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(SILENT)]
        wire = stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
        wire.sendall(message("POST", "/v2/rerank", BODY))
        assert wire.recv(12) == b"HTTP/1.1 200"
        for each in (silent[0], silent[-1]):
            each.settimeout(PATIENCE_S)
            assert each.recv(100)[:12] in (b"HTTP/1.1 408", b""), "closed, with or without a word"


def test_32_clients_with_limits_of_their_own_get_what_each_gets_alone(address: tuple[str, int]) -> None:
    text = "a socket connects two processes over a network " * 20
    bodies = [
        json.dumps({"query": f"how {n}", "documents": [text, text[:90]], "max_tokens_per_doc": (3, 8, 1000)[n % 3]})
        for n in range(96)
    ]

    def score(body: str) -> tuple[int, list[float]]:
        answer = json.loads(ask(address, message("POST", "/v2/rerank", body.encode())).content)
        by_index = {result["index"]: result["relevance_score"] for result in answer["results"]}
        return answer["usage"]["total_tokens"], [by_index[0], by_index[1]]

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(score, bodies))
    for (tokens, scores), (tokens_alone, scores_alone) in zip(together, map(score, bodies), strict=True):
        assert tokens == tokens_alone
        assert scores == pytest.approx(scores_alone, abs=1e-2)  # in bfloat16 it depends on what shares its pass


def test_a_client_that_hangs_up_within_its_body_is_counted_and_holds_no_place(address: tuple[str, int]) -> None:
    large = message("POST", "/v2/rerank", b" " * 1_000_000)
    for sent in (message("POST", "/v2/rerank", BODY)[:-5], large[:-5], large[:70]):
        with socket.create_connection(address, timeout=PATIENCE_S) as connection:
            connection.sendall(sent)
    counts, end = counted(), time.monotonic() + PATIENCE_S
    while (not counts.get(("/v2/rerank", "499")) or counts.get("inside") != 0) and time.monotonic() < end:
        time.sleep(0.5)
        counts = counted()
    assert counts["/v2/rerank", "499"] >= 1, "a body that HAProxy holds has not come to the replica"
    assert counts["inside"] == 0
    assert ask(address, message("POST", "/v2/rerank", BODY)).status == 200


def counted() -> dict[Any, int]:
    """Return the requests by path and status, and those inside, as Prometheus reads them."""
    assert ray.is_initialized()
    counts: dict[Any, int] = {}
    for sample in exported():
        if sample.name == "ray_rrad_serve_requests_total":
            counts[sample.labels["path"], sample.labels["status"]] = int(sample.value)
        elif sample.name == "ray_rrad_serve_inside":
            counts["inside"] = int(sample.value)
    return counts
