"""Continuous batching: which pairs share a batch, and what becomes of late, cancelled and failing requests."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.serving.batcher import Batcher, DeadlineExceeded


class Model:
    """A model that scores a number by its double, holds each batch until the gate is open, and records it."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[Any]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, model: str, pairs: list[Any]) -> list[float]:
        self.batches.append((model, pairs))
        self.gate.wait(60)
        if "boom" in pairs:
            raise RuntimeError("boom")
        return [2.0 * pair for pair in pairs]


def submit(batcher: Batcher, pairs: list[Any], model: str = "m", **options: Any) -> Awaitable[list[float]]:
    return asyncio.ensure_future(batcher(model, pairs, [1] * len(pairs), **options))


async def while_busy(model: Model, batcher: Batcher, *later: Callable[[], Any]) -> list[Any]:
    """Return the results (or exceptions) of calls that are made while the model is busy with another one."""
    model.gate.clear()
    first = submit(batcher, [0])
    while not model.batches:
        await asyncio.sleep(0.001)
    calls = [call() for call in later]
    await asyncio.sleep(0.01)
    model.gate.set()
    await first
    return await asyncio.gather(*calls, return_exceptions=True)


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=8), st.integers(1, 20), st.integers(1, 3))
def test_every_request_gets_its_own_scores_in_its_order_and_no_batch_is_too_large(
    requests: list[list[int]], max_size: int, concurrency: int
) -> None:
    model = Model()

    async def run() -> list[list[float]]:
        batcher = Batcher(model, max_size, concurrency=lambda name: concurrency)
        return await asyncio.gather(*(batcher("m", pairs, pairs) for pairs in requests))

    assert asyncio.run(run()) == [[2.0 * pair for pair in pairs] for pairs in requests]
    for _, pairs in model.batches:
        assert sum(pairs) <= max_size or len(pairs) == 1
    assert sorted(pair for _, pairs in model.batches for pair in pairs) == sorted(itertools.chain(*requests))


def test_waiting_requests_are_scored_together_and_models_apart() -> None:
    model = Model()

    async def run() -> list[Any]:
        batcher = Batcher(model, 10)
        names = ["m", "other", "m", "other"]
        return await while_busy(
            model, batcher, *(lambda n=n, name=name: submit(batcher, [n], name) for n, name in enumerate(names, 1))
        )

    assert asyncio.run(run()) == [[2.0], [4.0], [6.0], [8.0]]
    assert model.batches == [("m", [0]), ("m", [1, 3]), ("other", [2, 4])]


def test_a_long_request_delays_a_short_one_by_a_batch_only() -> None:
    model = Model()

    async def run() -> list[Any]:
        batcher = Batcher(model, 4)
        return await while_busy(
            model, batcher, lambda: submit(batcher, list(range(12))), lambda: submit(batcher, [50, 51])
        )

    assert asyncio.run(run())[1] == [100.0, 102.0]
    assert [pairs for _, pairs in model.batches] == [[0], [0, 1, 2, 3], [50, 51, 4, 5], [6, 7, 8, 9], [10, 11]]


def test_the_late_and_the_cancelled_leave_the_queue_unscored() -> None:
    model = Model()

    async def run() -> list[Any]:
        batcher = Batcher(model, 10)

        def cancelled() -> Any:
            call: Any = submit(batcher, [7])
            asyncio.get_running_loop().call_later(0.002, call.cancel)
            return call

        late = lambda: submit(batcher, [8], deadline=time.monotonic() + 0.001)  # noqa: E731
        return await while_busy(model, batcher, late, cancelled, lambda: submit(batcher, [9]))

    late, cancelled, last = asyncio.run(run())
    assert (type(late), type(cancelled), last) == (DeadlineExceeded, asyncio.CancelledError, [18.0])
    assert [pairs for _, pairs in model.batches] == [[0], [9]]


def test_a_request_that_fails_does_not_fail_its_neighbours() -> None:
    model = Model()

    async def run() -> list[Any]:
        batcher = Batcher(model, 10)
        bad, good = (lambda pairs=pairs: submit(batcher, pairs) for pairs in (["boom"], [4]))
        results = await while_busy(model, batcher, lambda: submit(batcher, [3]), bad, good)
        with pytest.raises(RuntimeError, match="boom"):
            await batcher("m", ["boom"], [1])
        assert await batcher("m", [5], [1]) == [10.0], "it goes on"
        return results

    first, bad, last = asyncio.run(run())
    assert (first, str(bad), last) == ([6.0], "boom", [8.0])


def test_batches_of_one_model_run_beside_each_other_and_those_of_another_wait() -> None:
    model = Model()

    async def run() -> list[Any]:
        batcher = Batcher(model, 4, concurrency=lambda name: 2)
        later = [("m", 1), ("m", 2), ("other", 3)]
        calls = [lambda n=n, name=name: submit(batcher, [n], name) for name, n in later]
        results: Any = asyncio.ensure_future(while_busy(model, batcher, *calls))
        while len(model.batches) < 2:
            await asyncio.sleep(0.001)
        assert (model.batches, batcher.oldest_s() > 0) == ([("m", [0]), ("m", [1])], True), "the third one waits"
        scores = await results
        assert batcher.oldest_s() == 0.0
        return scores

    assert asyncio.run(run()) == [[2.0], [4.0], [6.0]]
    assert model.batches == [("m", [0]), ("m", [1]), ("m", [2]), ("other", [3])]


def test_a_request_whose_later_pairs_are_scored_first_gets_its_scores_in_its_order() -> None:
    first = threading.Event()

    def score(model: str, pairs: list[int]) -> list[float]:
        assert 0 not in pairs or first.wait(60)
        if 3 in pairs:
            first.set()
        return [2.0 * pair for pair in pairs]

    async def run() -> list[float]:
        return await Batcher(score, 2, concurrency=lambda name: 2)("m", list(range(5)), [1] * 5)

    assert asyncio.run(run()) == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_a_model_that_gives_another_number_of_scores_than_there_are_pairs_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 scores for 2 pairs"):
        asyncio.run(Batcher(lambda model, pairs: [1.0], 4)("m", [1, 2], [1, 1]))
