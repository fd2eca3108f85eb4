"""A search by inverted lists scores exactly, and finds all that the product finds where every list is met."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.config import IndexConfig
from rrad_ray.retrieval import nearest
from rrad_ray.retrieval.approximate import InvertedLists, trained_lists
from rrad_ray.retrieval.hits import EXACT, INDEX, Hits, recall
from tests.retrieval.test_nearest import vectors


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), count=st.integers(2, 150), copies=st.integers(0, 150), depth=st.integers(1, 12),
    lists=st.integers(1, 9),
)  # fmt: skip
def test_all_lists_together_find_the_exact_documents_and_scores_copies_in_their_order_too(
    seed: int, count: int, copies: int, depth: int, lists: int
) -> None:
    documents, queries = vectors(seed, count, copies), torch.from_numpy(vectors(seed + 1, 5, 0))
    cfg = IndexConfig(probes=lists, lists=lists)
    padded = torch.from_numpy(nearest.padded(documents))
    by_lists = InvertedLists(trained_lists(documents, cfg), documents, lists).nearest(queries, padded, depth)
    for row in range(len(queries)):
        want, known = (
            [(float(s), int(c)) for s, c in zip(scores[row], columns[row], strict=True) if s > 0]
            for scores, columns in (nearest.nearest(queries, padded, depth), by_lists)
        )
        assert known == want


def test_more_copies_than_are_looked_at_first_come_in_their_order() -> None:
    documents = np.repeat(vectors(3, 2, 0), 500, axis=0)
    lists = InvertedLists(trained_lists(documents, IndexConfig(probes=1, lists=2)), documents, 1)
    padded = torch.from_numpy(nearest.padded(documents))
    assert lists.nearest(torch.from_numpy(documents[:1]), padded, 7)[1].tolist() == [list(range(7))]


def test_recall_is_the_share_of_the_exact_best_that_the_index_has_among_its_own() -> None:
    exact, index = np.array([0.9, 0.8, 0.0, 0.7]), np.array([0.9, 0.0, 0.5, 0.7])
    hits = Hits(np.array([0, 0, 0, 1]), np.arange(4), {EXACT: exact, INDEX: index})
    assert recall([hits], 2) == 2 / 3
    assert recall([], 2) == 1.0
