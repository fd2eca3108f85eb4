"""BM25 on texts without a word that counts: nothing is found, and nothing breaks."""

from __future__ import annotations

import numpy as np
import pytest

from rrad_ray.data.bm25 import BM25Index, top_k


@pytest.mark.parametrize("texts", [[], [""], ["", " "], ["a", "I", "?!"], ["the of", "and"]], ids=str)
@pytest.mark.parametrize("query", ["", "open files", "the", "?!"])
def test_texts_without_a_word_that_counts_are_found_by_no_query(texts: list[str], query: str) -> None:
    index = BM25Index(texts)
    assert index.scores(query).tolist() == [0.0] * len(texts)
    assert index.terms(query) == []
    assert index.parts(query, []) == {}
    assert top_k(index.scores(query), 10) == []


def test_empty_texts_beside_others_and_empty_queries_score_nothing() -> None:
    index = BM25Index(["", "open a file", "?!"])
    assert top_k(index.scores("files"), 10) == [1]
    assert top_k(index.scores(""), 10) == []
    assert top_k(np.zeros(0), 3) == []


def test_of_equal_scores_at_the_cut_the_first_ones_stay() -> None:
    assert top_k(np.array([0.0, 1.0, 1.0, 1.0, 2.0]), 3) == [4, 1, 2]
