"""Training rows that are too many to hold: in an order of each epoch's own, read a window ahead.

An epoch is one order of all rows, drawn from seed and epoch alone: the parts of a table in a random order, cut into
windows of whole parts, the rows of a window shuffled. How many workers there are only says who takes which places of
it, so a run goes on where it was, with as many workers or with others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, Generic, TypeVar

T = TypeVar("T")

RowRefs = list[tuple[int, int]]  # rows: each the number of its part, and its place in the part

ReadRows = Callable[[RowRefs], list[Any]]  # the rows at these places, in the order asked for


class ShuffledRows:
    """Rows of parts with so many rows each, shuffled; at most `shuffle_rows` of them are held at a time, or two parts
    where these are larger. A set that is not larger than that is shuffled whole, and read once."""

    def __init__(self, counts: Sequence[int], read: ReadRows, *, seed: int, shuffle_rows: int) -> None:
        self.counts, self.read, self.seed = counts, read, seed
        self.total = sum(counts)
        self.fits = self.total <= shuffle_rows
        self.window = shuffle_rows if self.fits else shuffle_rows // 2  # the other half is read ahead

    @classmethod
    def of(cls, rows: Sequence[Any], seed: int) -> ShuffledRows:
        """Of rows that are there already."""
        return cls([len(rows)], lambda picks: [rows[place] for _, place in picks], seed=seed, shuffle_rows=len(rows))

    def __len__(self) -> int:
        return self.total

    def __call__(self, epoch: int, first: int, mine: Callable[[int], bool]) -> Iterator[Any]:
        """The rows at those places of an epoch, from the `first` on, that are mine."""
        if self.fits:
            yield from (self._held[pick] for picks in self._picks(epoch, first, mine) for pick in picks)
            return
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[list[Any]] | None = None
            for picks in self._picks(epoch, first, mine):
                ready, coming = coming, ahead.submit(self.read, picks)
                if ready:
                    yield from _drained(ready.result())
                del ready
            if coming:
                yield from _drained(coming.result())

    @cached_property
    def _held(self) -> dict[tuple[int, int], Any]:
        every = [(part, place) for part, count in enumerate(self.counts) for place in range(count)]
        return dict(zip(every, self.read(every), strict=True))

    def _picks(self, epoch: int, first: int, mine: Callable[[int], bool]) -> Iterator[RowRefs]:
        """Of each window, the rows that are taken."""
        start = 0
        for window in self._windows(epoch):
            stop = start + len(window)
            picks = [window[place - start] for place in range(max(start, first), stop) if mine(place)]
            if picks:
                yield picks
            start = stop

    def _windows(self, epoch: int) -> Iterator[RowRefs]:
        """All rows of an epoch, a window at a time."""
        source = random.Random(f"{self.seed}:{epoch}")
        parts = list(range(len(self.counts)))
        if not self.fits:
            source.shuffle(parts)
        window: RowRefs = []
        for part in parts:
            if window and len(window) + self.counts[part] > self.window:
                source.shuffle(window)
                yield window
                window = []
            window += [(part, place) for place in range(self.counts[part])]
        source.shuffle(window)
        yield window


def _drained(rows: list[Any]) -> Iterator[Any]:
    """Rows, each let go of when it is handed out."""
    rows.reverse()
    while rows:
        yield rows.pop()


class ReservoirSample(Generic[T]):
    """At most `size` of the rows that it sees, each as likely as any other and the same for a seed: Vitter's
    algorithm R (1985)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.random, self.seen, self.rows = size, random.Random(seed), 0, list[T]()

    def see(self, row: T) -> None:
        place = self.seen if self.seen < self.size else self.random.randrange(self.seen + 1)
        self.seen += 1
        self.rows[place : place + 1] = [row] if place < self.size else []
