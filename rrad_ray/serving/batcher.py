"""Requests that wait for one model process: which of them it scores next, and together.

Whenever the model is free it takes what waits, the oldest first: no request waits for others to come. A request with
more pairs than fit goes on behind those that came after it: a long one delays a short one by what is under way only.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any


class DeadlineExceeded(Exception):
    """A request's deadline has passed before its scores were there."""


@dataclass(eq=False)
class _Job:
    model: Hashable
    pairs: Sequence[Any]
    sizes: Sequence[int]
    deadline: float
    found: asyncio.Future[list[float]]
    came: float
    taken: int = 0  # pairs that are in a pass, or were
    scores: dict[int, float] = field(default_factory=dict)  # by place: passes may end in another order


@dataclass
class _Share:
    """A request's part of a pass."""

    job: _Job
    start: int
    end: int

    @property
    def pairs(self) -> Sequence[Any]:
        return self.job.pairs[self.start : self.end]

    @property
    def size(self) -> int:
        return sum(self.job.sizes[self.start : self.end])


class Batcher:
    """Scores of pairs, in the order of each request, by threads that many requests share.

    `score(model, pairs)` runs in a thread: one score for each pair. `most`: size of a pass (in what `sizes` counts);
    a pair that is larger stands alone. `at_once(model)`: passes of one model that may be under way together; those of
    different models never are. `seen(batch_size, waited_s)` hears of each pass, and how long those whose first pairs
    are in it had waited. Times are those of `time.monotonic`. How many may wait is for the caller to say.
    """

    def __init__(
        self,
        score: Callable[[Any, list[Any]], list[float]],
        most: int,
        seen: Callable[[int, Sequence[float]], None] = lambda size, waited: None,
        at_once: Callable[[Any], int] = lambda model: 1,
    ) -> None:
        self.score, self.most, self.seen, self.at_once = score, most, seen, at_once
        self.threads: list[ThreadPoolExecutor] = []  # of one each, few: torch keeps buffers for each that calls it
        self.waiting: deque[_Job] = deque()
        self.running: dict[int, tuple[float, asyncio.Task[None]]] = {}  # by thread: when a pass began, and the pass
        self.model: Hashable = None  # of those that are running

    async def __call__(
        self, model: Hashable, pairs: Sequence[Any], sizes: Sequence[int], deadline: float = float("inf")
    ) -> list[float]:
        """Raises `Late`, or what `score` raised for these pairs. A cancelled call leaves the queue."""
        job = _Job(model, pairs, sizes, deadline, asyncio.get_running_loop().create_future(), time.monotonic())
        self.waiting.append(job)
        self._start()
        return await job.found

    def longest(self) -> float:
        """Seconds since the oldest pass that is under way began; 0 if none is."""
        return max((time.monotonic() - began for began, _ in self.running.values()), default=0.0)

    def _start(self) -> None:
        """Starts the passes for which there is room."""
        while batch := self._next():
            waited = [time.monotonic() - share.job.came for share in batch if not share.start]
            self.seen(sum(share.size for share in batch), waited)
            self.model = batch[0].job.model
            free = next(number for number in itertools.count() if number not in self.running)
            if free == len(self.threads):
                self.threads.append(ThreadPoolExecutor(1))
            self.running[free] = (time.monotonic(), asyncio.create_task(self._run(batch, free)))

    async def _run(self, batch: Sequence[_Share], thread: int) -> None:
        try:
            await self._pass(batch, self.threads[thread])
        finally:
            del self.running[thread]
            self._start()

    def _next(self) -> list[_Share]:
        """The next pass, of one model; nothing if it has to wait for those that are under way."""
        batch: list[_Share] = []
        room = self.most
        unfinished: list[_Job] = []
        others: list[_Job] = []
        while self.waiting:
            job = self.waiting.popleft()
            if job.found.done():  # cancelled, or failed in another pass
                continue
            if job.deadline < time.monotonic():
                job.found.set_exception(DeadlineExceeded(f"{len(job.scores)} of {len(job.pairs)} pairs were scored"))
                continue
            if not batch and not self._fits(job.model):
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

    def _fits(self, model: Hashable) -> bool:
        """Whether a pass of this model may start beside those that are under way."""
        return not self.running or (model == self.model and len(self.running) < self.at_once(model))

    async def _pass(self, batch: Sequence[_Share], thread: ThreadPoolExecutor) -> None:
        """Scores a pass; where it fails, each request's share by itself, so that one does not fail its neighbours."""
        try:
            pairs = [pair for share in batch for pair in share.pairs]
            loop = asyncio.get_running_loop()
            scores = await loop.run_in_executor(thread, self.score, batch[0].job.model, pairs)
            if len(scores) != len(pairs):
                raise ValueError(f"{len(scores)} scores for {len(pairs)} pairs")
        except Exception as error:
            if len(batch) > 1:
                for share in batch:
                    await self._pass([share], thread)
            elif not batch[0].job.found.done():
                batch[0].job.found.set_exception(error)
            return
        left = iter(scores)
        for share in batch:
            job = share.job
            job.scores |= zip(range(share.start, share.end), left)
            if len(job.scores) == len(job.pairs) and not job.found.done():
                job.found.set_result([job.scores[place] for place in range(len(job.pairs))])
