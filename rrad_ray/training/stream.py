"""Shuffled training rows that do not fit in memory, read one window ahead.

An epoch is one order of all rows, drawn from seed, epoch and the config's number of workers: the parts of a table in
random order, cut into windows of whole parts. Each window is cut again into as many lanes as the config may have
workers, of as many rows as these workers take of the window; the rows of each lane are shuffled. So a worker reads
its lane's parts, and at each end one that its neighbour reads too, instead of every part of the window.

The number of workers that run only decides which worker takes which positions of that order. So a run resumes exactly
where it was, also with another number of workers; where that does not divide the number of lanes, a worker reads
parts of several.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, Generic, TypeVar

T = TypeVar("T")

RowRefs = list[tuple[int, int]]  # references to rows: (index of the part, index of the row in the part)

ReadRows = Callable[[RowRefs], list[Any]]  # reads the referenced rows, in the order of the references


class ShuffledRows:
    """The rows of a table's parts in a shuffled order, another one in each epoch.

    `counts`: rows of each part. At most `shuffle_rows` rows are in memory at a time, or two parts where these are
    larger. A set of at most `shuffle_rows` rows is shuffled as a whole, and read once. `lanes`: the most workers;
    `lane_rows`: the rows of a step of one of them.
    """

    def __init__(
        self,
        counts: Sequence[int],
        read: ReadRows,
        *,
        seed: int,
        shuffle_rows: int,
        lanes: int = 1,
        lane_rows: int = 1,
    ) -> None:
        self.counts, self.read, self.seed, self.lanes, self.lane_rows = counts, read, seed, lanes, lane_rows
        self.total = sum(counts)
        self.fits = self.total <= shuffle_rows
        self.window = shuffle_rows if self.fits else shuffle_rows // 2  # the other half is read ahead

    @classmethod
    def of(cls, rows: Sequence[Any], seed: int) -> ShuffledRows:
        """Return a shuffled view of rows that are in memory already."""
        return cls([len(rows)], lambda refs: [rows[index] for _, index in refs], seed=seed, shuffle_rows=len(rows))

    def __len__(self) -> int:
        return self.total

    def __call__(self, epoch: int, first: int, is_local: Callable[[int], bool]) -> Iterator[Any]:
        """Yield an epoch's rows from position `first` on, those for whose position `is_local` is true."""
        if self.fits:
            yield from (self._held[ref] for refs in self._local_refs(epoch, first, is_local) for ref in refs)
            return
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[list[Any]] | None = None
            for refs in self._local_refs(epoch, first, is_local):
                ready, coming = coming, ahead.submit(self.read, refs)
                if ready:
                    yield from _drain(ready.result())
                del ready  # lets go of the window before the next one is awaited
            if coming:
                yield from _drain(coming.result())

    @cached_property
    def _held(self) -> dict[tuple[int, int], Any]:
        """All rows by their references, of a set that fits in memory."""
        every = [(part, index) for part, count in enumerate(self.counts) for index in range(count)]
        return dict(zip(every, self.read(every), strict=True))

    def _local_refs(self, epoch: int, first: int, is_local: Callable[[int], bool]) -> Iterator[RowRefs]:
        """Yield the references of each window's rows that this worker takes, windows without any left out."""
        start = 0
        for window in self._windows(epoch):
            stop = start + len(window)
            positions = (position for position in range(max(start, first), stop) if is_local(position))
            if refs := [window[position - start] for position in positions]:
                yield refs
            start = stop

    def _windows(self, epoch: int) -> Iterator[RowRefs]:
        """Yield references to all rows of an epoch, one window at a time."""
        source = random.Random(f"{self.seed}:{epoch}")
        parts = list(range(len(self.counts)))
        if not self.fits:
            source.shuffle(parts)
        window: RowRefs = []
        start = 0
        for part in parts:
            if window and len(window) + self.counts[part] > self.window:
                yield self._shuffled(window, start, source)
                start, window = start + len(window), []
            window += [(part, index) for index in range(self.counts[part])]
        yield self._shuffled(window, start, source)

    def _shuffled(self, window: RowRefs, start: int, source: random.Random) -> RowRefs:
        """Return the rows of a window that begins at a position: each lane's own, shuffled, at its positions."""
        lanes = 1 if self.fits else self.lanes
        lane_of = [position // self.lane_rows % lanes for position in range(start, start + len(window))]
        sizes, taken = Counter(lane_of), 0
        rows: dict[int, Iterator[tuple[int, int]]] = {}
        for lane in range(lanes):
            own = window[taken : taken + sizes[lane]]
            source.shuffle(own)
            rows[lane], taken = iter(own), taken + sizes[lane]
        return [next(rows[lane]) for lane in lane_of]


def _drain(rows: list[Any]) -> Iterator[Any]:
    """Yield the rows, dropping each from the list, so that a row lives only as long as its user needs it."""
    rows.reverse()
    while rows:
        yield rows.pop()


class ReservoirSample(Generic[T]):
    """A uniform random sample of at most `size` added rows, the same for a seed (Vitter's algorithm R, 1985)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.random, self.seen, self.rows = size, random.Random(seed), 0, list[T]()

    def add(self, row: T) -> None:
        """Take a row into the sample in place of another one, or pass over it."""
        index = self.seen if self.seen < self.size else self.random.randrange(self.seen + 1)
        self.seen += 1
        self.rows[index : index + 1] = [row] if index < self.size else []
