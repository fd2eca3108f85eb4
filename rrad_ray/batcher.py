"""Requests that wait for one model process: which of them it scores next, and together.

Whenever the model is free it takes what waits, the oldest first: no request waits for others to come. A request with
more pairs than fit goes on behind those that came after it: a long one delays a short one by one pass only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any


class Late(Exception):
    """A request's deadline has passed before its scores were there."""


@dataclass(eq=False)
class _Job:
    model: Hashable
    pairs: Sequence[Any]
    sizes: Sequence[int]
    deadline: float
    found: asyncio.Future[list[float]]
    came: float
    scores: list[float] = field(default_factory=list)


class Batcher:
    """Scores of pairs, in the order of each request, by one thread that many requests share.

    `score(model, pairs)` runs in a thread: one score for each pair. `most`: size of a pass (in what `sizes` counts);
    a pair that is larger stands alone. `seen(batch_size, waited_s)` hears of each pass, and how long those whose
    first pairs are in it had waited. Times are those of `time.monotonic`. How many may wait is for the caller to say.
    """

    def __init__(
        self,
        score: Callable[[Any, list[Any]], list[float]],
        most: int,
        seen: Callable[[int, Sequence[float]], None] = lambda size, waited: None,
    ) -> None:
        self.score, self.most, self.seen = score, most, seen
        self.thread = ThreadPoolExecutor(1)  # always the same: torch keeps threads and buffers for each that calls it
        self.waiting: deque[_Job] = deque()
        self.running: asyncio.Task[None] | None = None
        self.since = 0.0  # when the pass that is running began; 0: none is

    async def __call__(
        self, model: Hashable, pairs: Sequence[Any], sizes: Sequence[int], deadline: float = float("inf")
    ) -> list[float]:
        """Raises `Late`, or what `score` raised for these pairs. A cancelled call leaves the queue."""
        job = _Job(model, pairs, sizes, deadline, asyncio.get_running_loop().create_future(), time.monotonic())
        self.waiting.append(job)
        if self.running is None or self.running.done():
            self.running = asyncio.create_task(self._run())
        return await job.found

    async def _run(self) -> None:
        while batch := self._next():
            waited = [time.monotonic() - job.came for job, _, _ in batch if not job.scores]
            self.seen(sum(sum(sizes) for _, _, sizes in batch), waited)
            self.since = time.monotonic()
            try:
                await self._pass(batch)
            finally:
                self.since = 0.0
            for job, _, _ in batch:
                if not job.found.done() and len(job.scores) == len(job.pairs):
                    job.found.set_result(job.scores)

    def _next(self) -> list[tuple[_Job, list[Any], list[int]]]:
        """The pairs of the next pass, of one model, by request."""
        batch: list[tuple[_Job, list[Any], list[int]]] = []
        room = self.most
        unfinished: list[_Job] = []
        others: list[_Job] = []
        while self.waiting:
            job = self.waiting.popleft()
            if job.found.done():  # cancelled, or failed in another pass
                continue
            if job.deadline < time.monotonic():
                job.found.set_exception(Late(f"{len(job.scores)} of {len(job.pairs)} pairs were scored"))
                continue
            if batch and job.model != batch[0][0].model:
                others.append(job)
                continue
            start = end = len(job.scores)
            while end < len(job.pairs) and (job.sizes[end] <= room or (not batch and end == start)):
                room -= job.sizes[end]
                end += 1
            if end > start or start == len(job.pairs):
                batch.append((job, list(job.pairs[start:end]), list(job.sizes[start:end])))
            if end < len(job.pairs):
                (unfinished if end > start else others).append(job)
                break
        self.waiting.extendleft(reversed(others))
        self.waiting.extend(unfinished)
        return batch

    async def _pass(self, batch: Sequence[tuple[_Job, list[Any], list[int]]]) -> None:
        """Scores a pass; where it fails, each request's share by itself, so that one does not fail its neighbours."""
        try:
            pairs = [pair for _, some, _ in batch for pair in some]
            loop = asyncio.get_running_loop()
            scores = await loop.run_in_executor(self.thread, self.score, batch[0][0].model, pairs)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._pass([one])
            elif not batch[0][0].found.done():
                batch[0][0].found.set_exception(error)
            return
        start = 0
        for job, some, _ in batch:
            job.scores += scores[start : start + len(some)]
            start += len(some)
