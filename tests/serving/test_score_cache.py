"""The score cache: scores are those of the model, the bound holds, and each pair is scored once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.serving.score_cache import ScoreCache, Scored

WORDS = st.sampled_from(["", " ", "a", "b", "ab", "a b", "0", "1 a"])
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6)


class Model:
    """A model that gives each pair of a version a number of its own and records the pairs that it scored."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str, str], int] = {}
        self.scored: list[list[tuple[str, str]]] = []

    def __call__(self, version: str, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        self.scored.append(list(pairs))
        every = [self.numbers.setdefault((version, *pair), len(self.numbers)) for pair in pairs]
        return [(float(number), number) for number in every]


def lookup(cache: ScoreCache, model: Model, pairs: Sequence[tuple[str, str]], version: str = "v") -> list[Scored]:
    async def score(indices: Sequence[int]) -> list[Scored]:
        return model(version, [pairs[index] for index in indices])

    queries, texts = zip(*pairs)
    return list(asyncio.run(cache(version, queries, texts, score)))


@given(st.lists(st.tuples(st.sampled_from(["v", "v 1"]), PAIRS), max_size=8), st.integers(0, 12))
def test_scores_are_those_of_the_model_whatever_the_bound_and_the_bound_holds(
    requests: list[tuple[str, list[tuple[str, str]]]], entries: int
) -> None:
    cache, model, plain = ScoreCache(entries), Model(), Model()
    for version, pairs in requests:
        expected = plain(version, pairs)
        for pair in pairs:  # the same numbers, whichever model scores first
            model.numbers.setdefault((version, *pair), plain.numbers[version, *pair])
        assert lookup(cache, model, pairs, version) == expected
        assert len(cache.entries) <= entries


def test_a_known_pair_is_not_scored_again_and_of_a_half_known_request_the_rest_is() -> None:
    counted: list[tuple[int, int]] = []
    cache, model = ScoreCache(10, lambda *counts: counted.append(counts)), Model()
    first = lookup(cache, model, [("q", "a"), ("q", "b"), ("q", "a")])
    assert lookup(cache, model, [("q", "c"), ("q", "b"), ("q", "a")])[1:] == [first[1], first[0]]
    lookup(cache, model, [("q", "a"), ("q", "c")])
    assert model.scored == [[("q", "a"), ("q", "b")], [("q", "c")]], "twice in a request is once, too"
    assert counted == [(1, 2), (2, 1), (2, 0)]


def test_the_pair_that_was_requested_longest_ago_goes_first() -> None:
    cache, model = ScoreCache(2), Model()
    for text in "abac":
        lookup(cache, model, [("q", text)])
    model.scored.clear()
    lookup(cache, model, [("q", "a"), ("q", "c")])
    assert model.scored == []
    lookup(cache, model, [("q", "b")])
    assert model.scored == [[("q", "b")]]


def test_another_version_another_query_and_another_text_are_scored_anew() -> None:
    cache, model = ScoreCache(100), Model()
    every = list(itertools.product(["v", "v 1"], ["a", "a b", "0", ""], ["", " ", "b", " b", "a b"]))
    for version, query, text in every:
        lookup(cache, model, [(query, text)], version)
    assert len(model.scored) == len(every)


def test_a_request_that_failed_is_not_remembered() -> None:
    cache = ScoreCache(10)

    async def fail(indices: Sequence[int]) -> list[Scored]:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        asyncio.run(cache("v", ["q"], ["a"], fail))
    assert not cache.entries


def test_without_entries_every_pair_is_scored() -> None:
    cache, model = ScoreCache(0), Model()
    for _ in range(2):
        lookup(cache, model, [("q", "a"), ("q", "a")])
    assert model.scored == [[("q", "a"), ("q", "a")]] * 2
