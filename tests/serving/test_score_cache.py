"""Scores that were given lately: the same as without a cache, within its bound, each pair asked for once."""

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
    """Scores a pair by a number that no other pair of the same version has; remembers what it was asked."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str, str], int] = {}
        self.asked: list[list[tuple[str, str]]] = []

    def __call__(self, version: str, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        self.asked.append(list(pairs))
        every = [self.numbers.setdefault((version, *pair), len(self.numbers)) for pair in pairs]
        return [(float(number), number) for number in every]


def ask(cache: ScoreCache, model: Model, pairs: Sequence[tuple[str, str]], version: str = "v") -> list[Scored]:
    async def score(places: Sequence[int]) -> list[Scored]:
        return model(version, [pairs[place] for place in places])

    queries, texts = zip(*pairs)
    return list(asyncio.run(cache(version, queries, texts, score)))


@given(st.lists(st.tuples(st.sampled_from(["v", "v 1"]), PAIRS), max_size=8), st.integers(0, 12))
def test_scores_are_those_of_the_model_whatever_the_bound_and_the_bound_holds(
    requests: list[tuple[str, list[tuple[str, str]]]], entries: int
) -> None:
    cache, model, plain = ScoreCache(entries), Model(), Model()
    for version, pairs in requests:
        expected = plain(version, pairs)
        for pair in pairs:  # the same numbers, whoever is asked first
            model.numbers.setdefault((version, *pair), plain.numbers[version, *pair])
        assert ask(cache, model, pairs, version) == expected
        assert len(cache.kept) <= entries


def test_what_is_known_is_not_asked_again_and_of_a_half_known_request_the_rest_is() -> None:
    heard: list[tuple[int, int]] = []
    cache, model = ScoreCache(10, lambda *counts: heard.append(counts)), Model()
    first = ask(cache, model, [("q", "a"), ("q", "b"), ("q", "a")])
    assert ask(cache, model, [("q", "c"), ("q", "b"), ("q", "a")])[1:] == [first[1], first[0]]
    ask(cache, model, [("q", "a"), ("q", "c")])
    assert model.asked == [[("q", "a"), ("q", "b")], [("q", "c")]], "twice in a request is once, too"
    assert heard == [(1, 2), (2, 1), (2, 0)]


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    cache, model = ScoreCache(2), Model()
    for text in "abac":
        ask(cache, model, [("q", text)])
    model.asked.clear()
    ask(cache, model, [("q", "a"), ("q", "c")])
    assert model.asked == []
    ask(cache, model, [("q", "b")])
    assert model.asked == [[("q", "b")]]


def test_another_version_another_query_and_another_text_are_asked_anew() -> None:
    cache, model = ScoreCache(100), Model()
    every = list(itertools.product(["v", "v 1"], ["a", "a b", "0", ""], ["", " ", "b", " b", "a b"]))
    for version, query, text in every:
        ask(cache, model, [(query, text)], version)
    assert len(model.asked) == len(every)


def test_what_failed_is_not_remembered() -> None:
    cache = ScoreCache(10)

    async def fail(places: Sequence[int]) -> list[Scored]:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        asyncio.run(cache("v", ["q"], ["a"], fail))
    assert not cache.kept


def test_without_entries_everything_is_asked_for() -> None:
    cache, model = ScoreCache(0), Model()
    for _ in range(2):
        ask(cache, model, [("q", "a"), ("q", "a")])
    assert model.asked == [[("q", "a"), ("q", "a")]] * 2
