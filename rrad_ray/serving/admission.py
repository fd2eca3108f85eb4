"""The door of a replica: who may come in, how many at a time, what their bodies may take, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.service_metrics import ServiceMetrics

BODIES = 16  # of the largest size that a replica holds at a time; smaller ones are many more

SMALL = 2**16  # bytes of a body that are taken whatever others hold: a few large ones keep no ordinary request out

Done = TypeVar("Done")


class Admission:
    """The door of a replica: requests with a valid key, at most `limit` of them at a time.

    A request takes its place once its body is there, so that slow senders keep nobody out. What all bodies hold
    together is bounded by `most_bytes`, but for the first `SMALL` bytes of each.
    """

    def __init__(self, keys: ApiKeys | None, limit: int, most_bytes: int, metrics: ServiceMetrics) -> None:
        self.keys, self.limit, self.most_bytes, self.metrics = keys, limit, most_bytes, metrics
        self.inside = self.held_bytes = 0

    def has_key(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request may ask."""
        return not self.keys or self.keys.allow(headers.get("authorization", ""))

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Raise `HTTPError` (401) for a request without a key."""
        if not self.has_key(headers):
            raise HTTPError(401, "authorization", "no valid key; send 'Authorization: Bearer KEY'")

    @contextlib.contextmanager
    def enter(self, headers: Mapping[str, str]) -> Iterator[Callable[[int], None]]:
        """Let a request in for this block, and give it a function that counts the bytes of its body.

        Raises `HTTPError`: 401 without a key, 503 if too many are inside. The function raises 503 for bytes beyond
        `most_bytes` and the first `SMALL` of a body.
        """
        self.check_key(headers)
        self._check_room()
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if held + size > SMALL and self.held_bytes + size > self.most_bytes:
                problem = f"{self.held_bytes:,} bytes of requests are held, at most {self.most_bytes:,}"
                raise HTTPError(503, "requests", f"{problem} ({BODIES} x max_body_bytes)")
            held, self.held_bytes = held + size, self.held_bytes + size

        try:
            yield hold
        finally:
            self.held_bytes -= held

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for this block. Raises `HTTPError` (503) if all are taken."""
        self._check_room()
        self.inside += 1
        self.metrics.inside(self.inside)
        try:
            yield
        finally:
            self.inside -= 1
            self.metrics.inside(self.inside)

    def _check_room(self) -> None:
        if self.inside >= self.limit:
            raise HTTPError(503, "requests", f"{self.inside} are waiting, at most {self.limit} (max_queued)")


async def within(seconds: float, work: Awaitable[Done], late: HTTPError) -> Done:
    """Do work, but cancel it when it has taken so long. Raises `late` then."""
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            return await work
    except TimeoutError as error:
        if timer.expired():
            raise late from error
        raise
