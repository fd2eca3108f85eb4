"""Search by vectors finds exactly what a sort of all exact scores gives, whatever the parts, and copies come in their
order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.retrieval import nearest
from rrad_ray.retrieval.hits import Hits, union


def vectors(seed: int, count: int, copies: int, size: int = 12) -> np.ndarray:
    """Random vectors of which the last `copies` are copies of the others, some of them a hair apart."""
    random = np.random.default_rng(seed)
    first = random.normal(size=(count, size))
    again = first[random.integers(0, count, copies)] + random.choice([0, 1e-8], (copies, 1))
    return nearest.on_grid(np.concatenate([first, again]))


def by_sorting(queries: np.ndarray, documents: np.ndarray, depth: int) -> list[list[tuple[int, float]]]:
    exact = (queries.astype(float) @ documents.astype(float).T).astype(np.float32)
    orders = [sorted(range(len(documents)), key=lambda index: (-row[index], index))[:depth] for row in exact]
    return [[(i, float(row[i])) for i in order if row[i] > 0] for row, order in zip(exact, orders, strict=True)]


def by_parts(
    queries: np.ndarray, documents: np.ndarray, depth: int, cuts: list[int]
) -> list[list[tuple[int, float]]]:
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, len(documents)], strict=True):
        padded = torch.from_numpy(nearest.padded(documents[start:stop]))
        scores, rows = nearest.nearest(torch.from_numpy(queries), padded, depth)
        owner = np.repeat(np.arange(len(queries)), scores.shape[1])
        part = Hits(owner, rows.flatten().numpy() + start, {"dense": scores.flatten().numpy()})
        parts.append(part.best({"dense": depth}))
    whole = union(parts, {"dense": depth})
    ranks = whole.ranks("dense")
    ranked: list[list[tuple[int, float]]] = [[] for _ in queries]
    for index in np.lexsort((ranks, whole.queries)):
        ranked[whole.queries[index]].append((int(whole.documents[index]), float(whole.scores["dense"][index])))
    return ranked


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 200),
    copies=st.integers(0, 200),
    depth=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
def test_parts_find_what_one_sort_of_all_exact_scores_gives(
    seed: int, count: int, copies: int, depth: int, cuts: list[int]
) -> None:
    documents, queries = vectors(seed, count, copies), vectors(seed + 1, 5, 0)
    places = sorted(min(cut, len(documents)) for cut in cuts)
    assert by_parts(queries, documents, depth, places) == by_sorting(queries, documents, depth)


def test_more_copies_than_are_asked_for_come_in_their_order() -> None:
    documents = np.repeat(vectors(3, 2, 0), 500, axis=0)
    assert [index for index, _ in by_parts(documents[:1], documents, 7, [])[0]] == list(range(7))
    assert [index for index, _ in by_parts(documents[:1], documents, 7, [3, 100])[0]] == list(range(7))


@pytest.mark.parametrize("size", [3, 384, 1024])
def test_scores_are_exact_dot_products_rounded_once(size: int) -> None:
    first, second = vectors(1, 20, 0, size), vectors(2, 20, 0, size)
    scores = nearest.pair_scores(torch.from_numpy(first), torch.from_numpy(second))
    for one, other, score in zip(first.tolist(), second.tolist(), scores.tolist(), strict=True):
        exact = sum(Fraction(a) * Fraction(b) for a, b in zip(one, other, strict=True))
        assert float(exact) == exact, "the product does not fit into float64"
        assert np.float32(float(exact)) == score


def test_vectors_on_the_grid_are_those_given_up_to_rounding_and_bad_ones_are_near_to_nothing() -> None:
    given_ones = np.random.default_rng(0).normal(size=(4, 384)).astype(np.float32)
    given_ones[1, 0], given_ones[2] = np.nan, 0
    unit = nearest.on_grid(given_ones)
    assert np.abs(unit[0] - given_ones[0] / np.linalg.norm(given_ones[0])).max() < 1e-7
    assert not unit[1].any()
    assert not unit[2].any()
    assert by_parts(unit[3:], unit, 4, [2]) == [[(3, 1.0)]] or len(by_parts(unit[3:], unit, 4, [2])[0]) <= 2
