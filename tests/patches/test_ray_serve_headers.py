"""Which headers of a request come to Ray Serve, and that Serve still asks for the middleware."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.serve._private import constants, http_util
from ray.serve.config import HTTPOptions

from rrad_ray.patches import ray_serve_headers


def passed(*headers: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return those of the headers of a request that come to what stands behind the middleware."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    middleware = ray_serve_headers.WithoutServesHeaders(app)
    asyncio.run(middleware({"type": "http", "headers": [*headers]}, None, None))
    (kept,) = seen
    return list(kept)


def test_a_client_changes_no_setting_of_serve_and_sends_it_no_id_that_fails() -> None:
    settings = [(b"X-Request-Timeout-Seconds", b"0"), (b"x-request-disconnect-disabled", b"?1")]
    broken = [(b"x-request-id", b"\xff"), (b"serve_multiplexed_model_id", b"\xff"), (b"x_session_id", b"\xff")]
    fine = [(b"x-request-id", "caf\u00e9".encode()), (b"x-session-id", b"1"), (b"x-unit", b"\xff"), (b"host", b"h")]
    assert passed(*settings, *broken, *fine) == fine


def test_serve_asks_for_the_middleware_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    [(name, value)] = ray_serve_headers.VARIABLES.items()
    assert hasattr(constants, name)
    monkeypatch.setattr(http_util, name, value)
    options = http_util.configure_http_middlewares(HTTPOptions())
    assert [one.cls for one in options.middlewares] == [ray_serve_headers.WithoutServesHeaders]
    read = {constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER, constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER}
    assert {header.decode() for header in ray_serve_headers.SETTINGS} == read
