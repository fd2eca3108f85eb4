"""An ASGI middleware around every route of the endpoint, without a web server.

A path may end with a slash. `HEAD` is `GET` without the body. `OPTIONS` says which methods a path takes, and, to
pages of the origins in `cors_origins`, that they may send them. An unknown path, another method and a fault of ours
get the error body of the path's format and are counted. A long answer goes in pieces, each when the client has read
what was before it: what a request holds is held until then.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rrad_ray.serving import bodies, cross_site, errors, headers, requests
from rrad_ray.serving.admission import within
from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.service import Call, HTTPAnswer, RerankService

UNKNOWN_PATH = "unknown"  # in the metrics: each path is a series there, and clients can make up any number of them

UNTIL_SENT = "rrad_ray.until_sent"  # in a request's scope: an `ExitStack` that ends when its answer has been sent

PIECE = 2**16  # bytes of an answer that are sent at a time, which is what a server buffers before it waits

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")  # that routes have

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]

logger = logging.getLogger("ray.serve")


def call_of(scope: Mapping[str, Any], receive: Receive) -> Call:
    """Return an ASGI request as the service takes it."""
    fields, body = headers.read_headers(scope["headers"]), bodies.received(receive)
    return Call(scope["path"], fields, body, scope.get(UNTIL_SENT))


class Manners:
    """A middleware before `app`, the application with the routes; `service` gives the service of this replica."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: Callable[[], RerankService]) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service, fields = self.service(), headers.read_headers(scope["headers"])
        cors = headers.cors_headers(fields.get("origin", ""), service.cfg.cors_origins)
        reply = _Reply(send, cors, scope["method"] == "HEAD", service.cfg.timeout_s)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        routed = {**scope, "path": scope["path"].rstrip("/") or "/", "method": method}
        try:
            if _routes_take(routed):
                cross_site.check_caller(method, fields, service.cfg)
                with contextlib.ExitStack() as until_sent:
                    await self.app({**routed, UNTIL_SENT: until_sent}, receive, reply)
            else:
                await reply.answer(_without_route(routed, cors))
        except Exception as error:
            refusal = _refusal(error, routed)
            if reply.started and refusal.status == errors.HUNG_UP:
                return  # the server ends the connection; the request is counted by the answer that was sent so far
            answer = HTTPAnswer(*refusal.render(requests.dialect_of(_path(routed))))
            service.metrics.request(UNKNOWN_PATH if refusal.status == 404 else routed["path"], str(answer.status))
            if reply.started:
                raise
            await reply.answer(answer)


class _Reply:
    """The sending half of one request: `extra` headers come to those of the answer, and a `head` has no body. A
    client has `seconds` to read a long body."""

    def __init__(self, send: Send, extra: Mapping[str, str], head: bool, seconds: float) -> None:
        self.send, self.extra, self.head, self.seconds = send, _encoded(extra), head, seconds
        self.started = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            own = message.get("headers", ())
            names = {name.lower() for name, _ in own}
            defaults = [field for field in HARDENED_FIELDS if field[0] not in names]
            message = {**message, "headers": [*own, *self.extra, *defaults]}
        elif self.head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        body = message.get("body", b"")
        if len(body) <= PIECE:
            await self.send(message)
            return
        slow = HTTPError(errors.HUNG_UP, "answer", f"not read within {self.seconds:g} s (timeout_s)")
        await within(self.seconds, self._in_pieces(message), slow)

    async def _in_pieces(self, message: Any) -> None:
        body = message["body"]
        for begin in range(0, len(body), PIECE):
            more = begin + PIECE < len(body) or message.get("more_body", False)
            await self.send({**message, "body": body[begin : begin + PIECE], "more_body": more})

    async def answer(self, answer: HTTPAnswer) -> None:
        """Send a whole answer; None is an empty one."""
        body = b"" if answer.content is None else json.dumps(answer.content).encode()
        described = {"Content-Type": "application/json", "Content-Length": str(len(body))} if body else {}
        fields = _encoded({**described, **answer.headers})
        await self({"type": "http.response.start", "status": answer.status, "headers": fields})
        await self({"type": "http.response.body", "body": body})


def _encoded(fields: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in fields.items()]


HARDENED_FIELDS = _encoded(cross_site.HARDENED)


def _path(scope: Mapping[str, Any]) -> str:
    """Return the path of a request below the one that the whole application stands at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _routes_take(scope: Mapping[str, Any]) -> bool:
    if scope["path"].endswith("\n"):  # before which the pattern of a route may end
        return False
    return any(route.matches(scope)[0].name == "FULL" for route in scope["app"].routes)


def _without_route(scope: Mapping[str, Any], cors: Mapping[str, str]) -> HTTPAnswer:
    """Return the answer to `OPTIONS`; `cors` are the headers for the page that asks, if any may.

    Raises `HTTPError` for other methods: 404 for a path that takes none, 405 for one that takes others.
    """
    methods = [method for method in METHODS if _routes_take({**scope, "method": method})]
    if not methods:
        path = _path(scope)
        shown = path if len(path) <= errors.SHOWN_CHARS else f"{path[: errors.SHOWN_CHARS]}..."
        raise HTTPError(404, "path", f"nothing is served at {shown}; /docs lists what is")
    head = ["HEAD"] if "GET" in methods else []
    allow = ", ".join([*methods, *head, "OPTIONS"])
    if scope["method"] != "OPTIONS":
        raise HTTPError(405, "method", f"this path takes {allow}, found {scope['method']}", {"Allow": allow})
    preflight = headers.preflight_headers(allow) if "Access-Control-Allow-Origin" in cors else {}
    return HTTPAnswer(204, None, {"Allow": allow, **preflight})


def _refusal(error: Exception, scope: Mapping[str, Any]) -> HTTPError:
    """Return the refusal that an error means; one that is none of ours goes into the log."""
    if isinstance(error, HTTPError):
        return error
    logger.exception(f"{scope['method']} {scope['path']!r} could not be answered", exc_info=error)
    return errors.unexpected(error)
