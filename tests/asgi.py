"""Requests to an ASGI application, byte for byte and without a server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """What an application sends back; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def scope_of(method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> dict[str, Any]:
    """Return what a server says of a request at first."""
    names = {"scheme": "http", "server": ("test", 80), "client": ("client", 1), "http_version": "1.1"}
    scope = {"type": "http", "method": method, "path": path, "raw_path": b"", "query_string": b"", "root_path": ""}
    return {**scope, **names, "headers": [*headers], "asgi": {"version": "3.0"}}


async def ask(
    app: Callable[..., Awaitable[None]],
    method: str,
    path: str,
    *chunks: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
    hang_up: bool = False,
) -> Answer:
    """Send a request, whose body comes in chunks and, if the client hangs up, never ends; a POST is of JSON."""
    if method == "POST" and not any(name.lower() == b"content-type" for name, _ in headers):
        headers = [*headers, (b"content-type", b"application/json")]
    coming: list[Any] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    coming.append({"type": "http.disconnect"} if hang_up else {"type": "http.request", "body": b""})
    sent: list[Any] = []

    async def receive() -> Any:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of(method, path, headers), receive, send)
    start, *parts = sent
    fields = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], fields, b"".join(part.get("body", b"") for part in parts))
