"""Continuous batching of requests for one model process: which of them it scores next, and which together.

As soon as the model is free it takes the oldest waiting pairs: no request waits for others to come. A request with
more pairs than fit into a batch goes on behind those that arrived after it, so a long request delays a short one by
no more than the batches in progress.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rrad_ray.tables import spans


class DeadlineExceeded(Exception):
    """A request's deadline passed before its scores were there."""


@dataclass(eq=False)
class _Job:
    """A request in the queue: its pairs, and the scores that they have so far."""

    model: Hashable
    pairs: Sequence[Any]
    sizes: Sequence[int]
    deadline: float
    result: asyncio.Future[list[float]]
    arrived: float
    asked: spans.TraceSpan  # the one that its scores are for
    queued: spans.TraceSpan
    scoring: spans.TraceSpan = spans.OFF  # from its first batch on
    taken: int = 0  # pairs that are in a batch, or were
    scores: dict[int, float] = field(default_factory=dict)  # by index of the pair: batches may end in another order

    def enter(self, batch: spans.TraceSpan) -> None:
        """Trace that some of its pairs are in a batch."""
        self.queued.end()
        if self.scoring is spans.OFF:
            self.scoring = spans.begin("score", parent=self.asked)
        self.scoring.link(batch)


@dataclass
class _Share:
    """A request's part of a batch: its pairs from `start` to `end`, excluded."""

    job: _Job
    start: int
    end: int

    @property
    def pairs(self) -> Sequence[Any]:
        """The pairs of the share."""
        return self.job.pairs[self.start : self.end]

    @property
    def size(self) -> int:
        """The sum of the pairs' sizes."""
        return sum(self.job.sizes[self.start : self.end])


def _batch_span(batch: Sequence[_Share]) -> spans.TraceSpan:
    """Begin the span of a batch: below the first of its requests that is traced, with links to all of them."""
    asked = [share.job.asked for share in batch]
    attributes = {
        "rrad.batch.requests": len(batch),
        "rrad.batch.pairs": sum(share.end - share.start for share in batch),
        "rrad.tokens": sum(share.size for share in batch),
    }
    span = spans.begin("batch", attributes, parent=spans.sampled(asked) or asked[0], links=asked)
    for share in batch:
        share.job.enter(span)
    return span


class Batcher:
    """A queue of requests before a model: it scores their pairs in batches that requests share.

    `score(model, pairs)` runs in a thread and returns one score for each pair. `max_size` is the size of a batch, in
    the unit of `sizes`; a larger pair gets a batch of its own. `concurrency(model)` says how many batches of one
    model may run at a time; those of different models never do. `on_batch(size, waited_s)` is called as each batch
    starts, with how long the requests that begin in it have waited. Times are in seconds of `clock`. The queue is not
    bounded: that is for the caller to do.
    """

    def __init__(
        self,
        score: Callable[[Any, list[Any]], list[float]],
        max_size: int,
        on_batch: Callable[[int, Sequence[float]], None] = lambda size, waited_s: None,
        concurrency: Callable[[Any], int] = lambda model: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.score, self.max_size, self.on_batch, self.concurrency = score, max_size, on_batch, concurrency
        self.clock = clock
        self.threads: list[ThreadPoolExecutor] = []  # of one each, few: torch keeps buffers for each that calls it
        self.waiting: deque[_Job] = deque()
        self.running: dict[int, tuple[float, asyncio.Task[None]]] = {}  # by thread: when a batch began, and its task
        self.model: Hashable = None  # of the batches that are running

    async def __call__(
        self, model: Hashable, pairs: Sequence[Any], sizes: Sequence[int], deadline: float = float("inf")
    ) -> list[float]:
        """Return the scores of a request's pairs, in their order. A cancelled call leaves the queue.

        Raises `DeadlineExceeded`, or what `score` raised for these pairs.
        """
        result: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        job = _Job(
            model, pairs, sizes, deadline, result, self.clock(), asked=spans.current(), queued=spans.begin("queue")
        )
        self.waiting.append(job)
        self._start()
        try:
            return await job.result
        finally:
            job.queued.end()
            job.scoring.end()

    def oldest_s(self) -> float:
        """Return the seconds since the oldest running batch began; 0 if none runs."""
        return max((self.clock() - began for began, _ in self.running.values()), default=0.0)

    def _start(self) -> None:
        """Start as many batches as may run now."""
        while batch := self._next():
            waited_s = [self.clock() - share.job.arrived for share in batch if not share.start]
            self.on_batch(sum(share.size for share in batch), waited_s)
            span = _batch_span(batch)
            self.model = batch[0].job.model
            free = next(number for number in itertools.count() if number not in self.running)
            if free == len(self.threads):
                self.threads.append(ThreadPoolExecutor(1))
            self.running[free] = (self.clock(), asyncio.create_task(self._run(batch, free, span)))

    async def _run(self, batch: Sequence[_Share], thread: int, span: spans.TraceSpan) -> None:
        try:
            with span:
                await self._score_batch(batch, self.threads[thread])
        finally:
            del self.running[thread]
            self._start()

    def _next(self) -> list[_Share]:
        """Take the next batch, of one model, from the queue; empty if it has to wait for those that are running."""
        batch: list[_Share] = []
        room = self.max_size
        unfinished: list[_Job] = []
        others: list[_Job] = []
        while self.waiting:
            job = self.waiting.popleft()
            if job.result.done():  # cancelled, or failed in another batch
                continue
            if job.deadline < self.clock():
                job.result.set_exception(DeadlineExceeded(f"{len(job.scores)} of {len(job.pairs)} pairs were scored"))
                continue
            if not batch and not self._may_start(job.model):
                others.append(job)
                break
            if batch and job.model != batch[0].job.model:
                others.append(job)
                continue
            start = end = job.taken
            while end < len(job.pairs) and (job.sizes[end] <= room or (not batch and end == start)):
                room -= job.sizes[end]
                end += 1
            if end > start or start == len(job.pairs):
                job.taken = end
                batch.append(_Share(job, start, end))
            if end < len(job.pairs):
                (unfinished if end > start else others).append(job)
                break
        self.waiting.extendleft(reversed(others))
        self.waiting.extend(unfinished)
        return batch

    def _may_start(self, model: Hashable) -> bool:
        """Return whether a batch of this model may start beside those that are running."""
        return not self.running or (model == self.model and len(self.running) < self.concurrency(model))

    async def _score_batch(self, batch: Sequence[_Share], thread: ThreadPoolExecutor) -> None:
        """Score a batch; if it fails, each request's share by itself, so that one does not fail its neighbours."""
        try:
            pairs = [pair for share in batch for pair in share.pairs]
            loop = asyncio.get_running_loop()
            # With the context, so that the model's span is the batch's.
            score = contextvars.copy_context().run
            scores = await loop.run_in_executor(thread, score, self.score, batch[0].job.model, pairs)
            if len(scores) != len(pairs):
                raise ValueError(f"{len(scores)} scores for {len(pairs)} pairs")
        except Exception as error:
            if len(batch) > 1:
                for share in batch:
                    await self._score_batch([share], thread)
            elif not batch[0].job.result.done():
                batch[0].job.result.set_exception(error)
            return
        left = iter(scores)
        for share in batch:
            job = share.job
            job.scores |= zip(range(share.start, share.end), left)
            if len(job.scores) == len(job.pairs) and not job.result.done():
                job.result.set_result([job.scores[index] for index in range(len(job.pairs))])
