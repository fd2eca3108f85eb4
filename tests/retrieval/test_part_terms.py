"""BM25 part by part gives bm25s's own scores of the whole collection, to the last bit."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.data.bm25 import BM25Index, tokenized, top_k
from rrad_ray.retrieval import part_terms
from rrad_ray.retrieval.nearest import TILE, best_of_rows

WORDS = ["sorting", "sort", "files", "the", "a", "merge", "x1", "?!"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), min_size=1, max_size=40)


def query_terms(query: str, vocabulary: dict[str, int]) -> list[int]:
    words = tokenized([query])
    term_of = {number: term for term, number in words.vocab.items()}
    return [vocabulary.setdefault(term_of[number], len(vocabulary)) for number in words.ids[0]]


@settings(max_examples=60, deadline=None)
@given(
    texts=TEXTS, query=st.lists(st.sampled_from([*WORDS, "unknown"]), max_size=6), cuts=st.lists(st.integers(0, 40))
)
def test_scores_of_parts_are_those_of_the_whole_collection_to_the_last_bit(
    texts: list[str], query: list[str], cuts: list[int]
) -> None:
    vocabulary: dict[str, int] = {}
    terms = query_terms(" ".join(query), vocabulary)
    places = sorted(min(cut, len(texts)) for cut in cuts)
    counted = [
        part_terms.count_terms(*tokenized(texts[start:stop]), vocabulary)
        for start, stop in zip([0, *places], [*places, len(texts)], strict=True)
    ]
    collection = part_terms.CollectionTerms(np.zeros(len(vocabulary), np.int64))
    for part in counted:
        collection.add(part)
    scores = np.zeros(len(texts), np.float32)
    for start, part in zip([0, *places], counted, strict=True):
        part_terms.PartIndex(part, collection).add_scores(scores[start : start + len(part.lengths)], terms)
    joined = np.zeros(len(texts), np.float32)
    part_terms.PartIndex(part_terms.joined_counts(counted), collection).add_scores(joined, terms)
    whole = BM25Index(texts).scores(" ".join(query))
    assert scores.tolist() == joined.tolist() == whole.tolist()


def test_a_frequent_term_has_a_row_of_weights_and_a_rare_one_does_not() -> None:
    texts = ["merge sort"] + ["sort"] * 40 + ["files"] * 5
    vocabulary: dict[str, int] = {}
    frequent, rare = query_terms("sort merge", vocabulary)
    part = part_terms.count_terms(*tokenized(texts), vocabulary)
    collection = part_terms.CollectionTerms(np.zeros(len(vocabulary), np.int64))
    collection.add(part)
    index = part_terms.PartIndex(part, collection)
    assert frequent in index.dense
    assert rare in index.spans
    assert rare not in index.dense
    scores = np.zeros(len(texts), np.float32)
    index.add_scores(scores, [frequent, rare])
    assert scores.tolist() == BM25Index(texts).scores("sort merge").tolist()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=400), depth=st.integers(1, 20))
def test_the_best_of_a_row_come_in_the_order_of_one_sort(rows: list[int], depth: int) -> None:
    scores = np.zeros((1, -(-len(rows) // TILE) * TILE), np.float32)
    scores[0, : len(rows)] = rows
    values, columns = best_of_rows(torch.from_numpy(scores), depth)
    best = [int(c) for v, c in zip(values[0], columns[0], strict=True) if v > 0]
    assert best == top_k(scores[0], depth)
