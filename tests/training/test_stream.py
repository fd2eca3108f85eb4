"""The order of training rows: each row once, the same for a seed and any number of workers, few in memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.training.stream import ReservoirSample, RowRefs, ShuffledRows


def names(refs: RowRefs) -> list[str]:
    return [f"{part}-{index}" for part, index in refs]


def stream(
    counts: list[int], shuffle_rows: int, read: Callable[[RowRefs], list[Any]] = names, seed: int = 0
) -> ShuffledRows:
    return ShuffledRows(counts, read, seed=seed, shuffle_rows=shuffle_rows)


def whole(rows: ShuffledRows, epoch: int = 0, first: int = 0) -> list[str]:
    return list(rows(epoch, first, lambda position: True))


SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(SIZES, st.integers(0, 40), st.integers(0, 3))
def test_an_epoch_has_every_row_once(counts: list[int], shuffle_rows: int, epoch: int) -> None:
    expected = names([(part, index) for part, count in enumerate(counts) for index in range(count)])
    assert sorted(whole(stream(counts, shuffle_rows), epoch)) == sorted(expected)


@given(SIZES, st.integers(0, 40), st.integers(0, 60))
def test_an_epoch_that_is_entered_later_goes_on_as_it_would_have(
    counts: list[int], shuffle_rows: int, first: int
) -> None:
    rows = stream(counts, shuffle_rows)
    assert whole(rows, 1, first) == whole(stream(counts, shuffle_rows), 1)[first:]


@given(SIZES, st.integers(0, 40), st.integers(1, 4))
def test_workers_share_the_one_order(counts: list[int], shuffle_rows: int, workers: int) -> None:
    everything = whole(stream(counts, shuffle_rows))
    for rank in range(workers):
        taken = list(stream(counts, shuffle_rows)(0, 0, lambda position, rank=rank: position % workers == rank))
        assert taken == everything[rank::workers]


def test_seed_and_epoch_draw_the_order_and_parts_meet_other_parts_in_each() -> None:
    counts = [5] * 40
    first, second = (whole(stream(counts, 20), epoch) for epoch in (0, 1))
    assert first == whole(stream(counts, 20), 0)
    assert len({tuple(first), tuple(second), tuple(whole(stream(counts, 20, seed=1)))}) == 3
    met = [
        {frozenset(name.partition("-")[0] for name in order[at : at + 10]) for at in range(0, 200, 10)}
        for order in (first, second)
    ]
    assert all(len(parts) == 2 for parts in met[0]), "a window is two whole parts, half of the rows that may be held"
    assert met[0] != met[1]


def test_a_set_that_may_be_held_is_shuffled_whole_and_read_once() -> None:
    calls: list[int] = []

    def read(refs: RowRefs) -> list[str]:
        calls.append(len(refs))
        return names(refs)

    shuffled = stream([5] * 20, 100, read)
    order = whole(shuffled)
    assert len({name.partition("-")[0] for name in order[:20]}) > 8, "rows of many parts in the first fifth"
    assert whole(shuffled, 1) != order
    assert calls == [100]


@given(SIZES, st.integers(0, 40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 40))
def test_lanes_leave_each_row_once_and_the_order_to_the_config(
    counts: list[int], shuffle_rows: int, lanes: int, lane_rows: int, workers: int, first: int
) -> None:
    def rows() -> ShuffledRows:
        return ShuffledRows(counts, names, seed=0, shuffle_rows=shuffle_rows, lanes=lanes, lane_rows=lane_rows)

    order = whole(rows())
    assert sorted(order) == sorted(names([(part, n) for part, count in enumerate(counts) for n in range(count)]))
    assert whole(rows(), first=first) == order[first:]
    for rank in range(workers):
        assert list(rows()(0, 0, lambda position, rank=rank: position % workers == rank)) == order[rank::workers]


@pytest.mark.parametrize("workers", [4, 2, 1])
def test_a_worker_reads_the_parts_of_its_lanes_and_not_every_part(workers: int) -> None:
    read = [set[int]() for _ in range(workers)]
    for rank in range(workers):

        def take(refs: RowRefs, rank: int = rank) -> list[Any]:
            read[rank].update(part for part, _ in refs)
            return refs

        rows = ShuffledRows([10] * 200, take, seed=0, shuffle_rows=800, lanes=4, lane_rows=8)
        for _ in rows(0, 0, lambda position, rank=rank: position // 8 % workers == rank):
            pass
    # Five windows of forty parts: of each a worker reads its share, and at most a part of a neighbour at both ends.
    assert all(len(parts) <= 200 // workers + 5 * 2 * 4 // workers for parts in read)
    assert set.union(*read) == set(range(200))


def test_lanes_mix_the_parts_of_a_worker_and_change_with_the_epoch() -> None:
    rows = ShuffledRows([10] * 200, names, seed=0, shuffle_rows=800, lanes=4, lane_rows=8)
    orders = [list(rows(epoch, 0, lambda position: position // 8 % 4 == 0)) for epoch in (0, 1)]
    batches = [{name.partition("-")[0] for name in orders[0][at : at + 8]} for at in range(0, 96, 8)]
    assert min(map(len, batches)) >= 4, "a batch has rows of half of its lane's parts or more"
    assert len({*orders[0]} & {*orders[1]}) < 250, "another epoch gives a worker other rows: a quarter by chance"


class Row:
    """A row whose lifetime a weak reference can watch."""


@pytest.mark.parametrize("workers", [1, 2])
def test_of_a_set_many_times_the_buffer_only_so_many_rows_are_alive(workers: int) -> None:
    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    most = read_rows = 0

    def read(refs: RowRefs) -> list[Row]:
        nonlocal most, read_rows
        rows = []
        for _ in refs:
            rows.append(Row())
            alive.add(rows[-1])
            most = max(most, len(alive))
        read_rows += len(rows)
        return rows

    shuffled = stream([10] * 200, 100, read)
    taken = sum(1 for _ in shuffled(0, 0, lambda position: position % workers == 0))
    assert taken == read_rows == 2000 // workers, "what other workers take is not read"
    assert 50 // workers < most <= 100 // workers + 1, "two windows, and the row in hand"


def test_a_failure_to_read_reaches_the_one_who_asks() -> None:
    def read(refs: RowRefs) -> list[Any]:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        whole(stream([10] * 10, 20, read))


@given(st.integers(0, 12), st.integers(0, 40), st.integers(0, 5))
def test_a_sample_is_of_its_size_without_repeats_and_the_same_for_a_seed(size: int, seen: int, seed: int) -> None:
    def drawn() -> list[int]:
        sample = ReservoirSample[int](size, seed)
        for row in range(seen):
            sample.add(row)
        return sample.rows

    assert len(drawn()) == len(set(drawn())) == min(size, seen)
    assert drawn() == drawn()


def test_every_row_is_as_likely_to_be_in_a_sample() -> None:
    counts = [0] * 10
    for seed in range(2000):
        sample = ReservoirSample[int](3, seed)
        for row in range(10):
            sample.add(row)
        for row in sample.rows:
            counts[row] += 1
    assert max(abs(count - 600) for count in counts) < 6 * math.sqrt(2000 * 0.3 * 0.7)
