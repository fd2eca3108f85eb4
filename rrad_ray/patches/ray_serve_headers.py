"""Headers that Ray Serve reads before the endpoint does, taken from requests where they would do harm.

By `x-request-timeout-seconds: 0` a client lifts Serve's time limit, by `x-request-disconnect-disabled: ?1` it keeps
Serve from hearing that it has hung up. An id that is no UTF-8 is a plain 500 of Serve's.

Uses: the variable `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, which names a function of Starlette middlewares for
all that takes requests, and the names of Serve's headers (Ray 2.60).

Upstream: Serve lets any client set them, and decodes ids without looking at errors. Delete when it does not.

Breaks: a renamed variable is ignored without a word: the tests of the endpoint's manners fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

VARIABLES = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares"}  # of a local cluster

SETTINGS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
IDS = (b"x-request-id", b"x-session-id", b"serve-multiplexed-model-id")  # Serve takes `_` for `-`


def middlewares() -> list[Any]:
    """Return the Starlette middlewares that stand before Serve."""
    from fastapi.middleware import Middleware

    return [Middleware(WithoutServesHeaders)]


class WithoutServesHeaders:
    """An ASGI middleware before `app`, to which harmful headers of Serve's do not come."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if "headers" in scope:
            scope = {**scope, "headers": [header for header in scope["headers"] if _is_harmless(*header)]}
        await self.app(scope, receive, send)


def _is_harmless(name: bytes, value: bytes) -> bool:
    name = name.lower().replace(b"_", b"-")
    return name not in SETTINGS and (name not in IDS or _is_utf8(value))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
