"""What every request meets around its route: slashes, methods, origins, hang-ups, and faults that nobody expected."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

from rrad_ray.serving import cross_site, requests
from rrad_ray.serving.asgi import PIECE, UNKNOWN_PATH, Manners, call_of
from tests.asgi import Answer, ask, scope_of
from tests.serving.test_service import Replica, replica

ORIGIN = b"https://shop.example"


def application(served: Replica) -> Starlette:
    """Return an application with routes that answer, fail, and fail when they have begun to answer."""

    async def rerank(request: Request) -> JSONResponse:
        answer = await served.service.rerank(call_of(request.scope, request.receive), requests.VLLM_RERANK)
        return JSONResponse(answer.content, answer.status, headers=dict(answer.headers))

    async def echo(request: Request) -> JSONResponse:
        return JSONResponse({"path": request.url.path})

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse("", headers={"Content-Security-Policy": "script-src 'self'"})

    async def fail(request: Request) -> JSONResponse:
        raise KeyError("a fault of ours")

    async def break_off(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            yield b"half"
            raise KeyError("a fault of ours")

        return StreamingResponse(parts())

    routes = [Route("/rerank", rerank, methods=["POST"]), Route("/", echo), Route("/echo", echo)]
    routes += [Route("/page", page)]
    routes += [Route("/score", fail, methods=["POST"]), Route("/half", break_off)]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    app.add_middleware(Manners, service=lambda: served.service)
    return app


def answer(served: Replica, method: str, path: str, *chunks: bytes, origin: bytes = b"", **more: Any) -> Answer:
    headers = [(b"origin", origin)] if origin else []
    return asyncio.run(ask(application(served), method, path, *chunks, headers=headers, **more))


@pytest.mark.parametrize("reads_on", [True, False])
def test_a_long_answer_that_nobody_reads_holds_the_bytes_of_its_request_and_is_given_up(reads_on: bool) -> None:
    served = replica(timeout_s=60.0 if reads_on else 3.0)
    texts = ["word " * 20_000, "another " * 20_000]
    body = json.dumps({"query": "q", "documents": texts, "return_documents": True}).encode()
    coming, sent, held = [{"type": "http.request", "body": body}], list[Any](), list[int]()

    async def receive() -> Any:
        return coming.pop(0)

    async def send(message: Any) -> None:
        held.append(served.service.admission.held_bytes)
        if len(sent) == 2 and not reads_on:  # the start and one piece
            await asyncio.sleep(60)
        sent.append(message)

    scope = scope_of("POST", "/rerank", [(b"content-type", b"application/json")])
    if reads_on:
        asyncio.run(application(served)(scope, receive, send))
        pieces = [message["body"] for message in sent[1:]]
        assert [len(piece) for piece in pieces[:-1]] == [PIECE] * (len(pieces) - 1)
        found = json.loads(b"".join(pieces))["results"]
        assert sorted(result["document"]["text"] for result in found) == sorted(texts)
        assert [message["more_body"] for message in sent[1:]] == [True] * (len(pieces) - 1) + [False]
    else:
        asyncio.run(application(served)(scope, receive, send))
        assert len(sent) == 2
    assert sum(served.metrics.requests.values()) == 1
    assert set(held) == {len(body)}
    assert served.service.admission.held_bytes == 0


@pytest.mark.parametrize(
    ("path", "meant"), [("/", "/"), ("/echo", "/echo"), ("/echo/", "/echo"), ("/echo//", "/echo")]
)
def test_a_slash_at_the_end_changes_nothing(path: str, meant: str) -> None:
    assert answer(replica(), "GET", path).content == {"path": meant}


def test_head_is_get_without_its_body() -> None:
    whole, head = (answer(replica(), method, "/echo") for method in ("GET", "HEAD"))
    assert (head.status, head.headers, head.body) == (200, whole.headers, b"")


def test_an_unknown_path_and_another_method_are_refused_in_the_paths_format_and_counted() -> None:
    served = replica()
    unknown = answer(served, "GET", "/nowhere/" + "x" * 500)
    assert (unknown.status, unknown.content["field"], len(unknown.content["detail"]) < 150) == (404, "path", True)
    vllm = answer(served, "GET", "/rerank")
    assert (vllm.status, vllm.headers["allow"], vllm.content["error"]["code"]) == (405, "POST, OPTIONS", 405)
    cohere = answer(served, "PUT", "/echo/")
    assert (cohere.status, cohere.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert cohere.content["detail"] == "method: this path takes GET, HEAD, OPTIONS, found PUT"
    assert served.metrics.requests == {(UNKNOWN_PATH, "404"): 1, ("/rerank", "405"): 1, ("/echo", "405"): 1}


def test_options_say_what_a_path_takes_with_and_without_cors() -> None:
    for served, sent, known in (
        (replica(), None, None),
        (replica(cors_origins=(ORIGIN.decode(),)), ORIGIN.decode(), "Origin"),
        (replica(cors_origins=("*",)), "*", None),
        (replica(cors_origins=("https://other.example",)), None, "Origin"),
    ):
        for path, allow in (("/rerank", "POST, OPTIONS"), ("/echo/", "GET, HEAD, OPTIONS")):
            options = answer(served, "OPTIONS", path, origin=ORIGIN)
            assert (options.status, options.body, options.headers["allow"]) == (204, b"", allow)
            assert options.headers.get("access-control-allow-origin") == sent
            assert options.headers.get("access-control-allow-methods") == (allow if sent else None)
            assert options.headers.get("vary") == known
        refused = answer(served, "POST", "/rerank", b"{}", origin=ORIGIN)
        assert (refused.status, refused.headers.get("access-control-allow-origin")) == (400 if sent else 403, sent)
        assert answer(served, "OPTIONS", "/nowhere").status == 404


def test_a_fault_that_nobody_expected_is_a_500_in_the_paths_format_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = replica()
    failed = answer(served, "POST", "/score")
    assert failed.content["error"]["message"] == "request: could not be answered (KeyError)"
    assert (failed.status, served.metrics.requests) == (500, {("/score", "500"): 1})
    assert "Traceback" in caplog.text
    assert "a fault of ours" in caplog.text


def test_an_answer_that_breaks_off_is_counted_and_not_answered_twice() -> None:
    served = replica()
    with pytest.raises(KeyError):
        answer(served, "GET", "/half")
    assert served.metrics.requests == {("/half", "500"): 1}


def test_a_client_that_hangs_up_within_its_body_is_counted_and_holds_no_place() -> None:
    served = replica()
    assert answer(served, "POST", "/rerank", b'{"query": ', hang_up=True).status == 499
    assert (served.metrics.requests, served.service.admission.inside) == ({("/rerank", "499"): 1}, 0)


def test_an_answer_says_to_browsers_that_it_is_no_page_and_a_page_says_its_own() -> None:
    for headers in (answer(replica(), "GET", "/echo").headers, answer(replica(), "GET", "/nowhere").headers):
        assert cross_site.HARDENED.items() <= {name.title(): value for name, value in headers.items()}.items()
    with_policy = answer(replica(), "GET", "/page")
    assert with_policy.headers["content-security-policy"] == "script-src 'self'"


def test_a_page_of_another_site_is_refused_before_its_request_is_read() -> None:
    served = replica()
    for headers, status in (
        ([(b"host", b"evil.example")], 403),
        ([(b"host", b"localhost:8000"), (b"origin", b"https://evil.example")], 403),
        ([(b"host", b"localhost:8000"), (b"content-type", b"text/plain")], 415),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")], 400),
    ):
        got = asyncio.run(ask(application(served), "POST", "/rerank", b"{}", headers=headers))
        assert (got.status, "error" in got.content) == (status, True), headers
    assert served.metrics.requests[("/rerank", "403")] == 2
    assert asyncio.run(ask(application(served), "GET", "/echo", headers=[(b"host", b"evil.example")])).status == 403
