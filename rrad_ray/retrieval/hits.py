"""Hits: pairs of a query and a document that a part's search found, and their union over parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hits:
    """Pairs of a query and a document with their scores by source, (N,) each.

    `queries`: numbers of queries. `documents`: numbers of documents, in the order of the collection. A source that
    does not know a pair has NaN.
    """

    queries: np.ndarray
    documents: np.ndarray
    scores: Mapping[str, np.ndarray]

    def take(self, which: np.ndarray) -> Hits:
        """Return some of the pairs, by mask or index."""
        picked = {source: scores[which] for source, scores in self.scores.items()}
        return Hits(self.queries[which], self.documents[which], picked)

    def moved(self, queries: int = 0, documents: int = 0) -> Hits:
        """Return the same pairs under other numbers, which are so much higher."""
        return Hits(self.queries + queries, self.documents + documents, self.scores)

    def ranks(self, source: str) -> np.ndarray:
        """Return each pair's rank from 0 among those of its query by a source; of equal scores, the earlier document
        is first."""
        order = np.lexsort((self.documents, -self.scores[source], self.queries))
        sorted_queries = self.queries[order]
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order)) - np.searchsorted(sorted_queries, sorted_queries)
        return ranks

    def best(self, depths: Mapping[str, int]) -> Hits:
        """Return the pairs that are among the best of their query by some source: at most `depths[source]` of them,
        with a score above 0."""
        kept = np.zeros(len(self.queries), bool)
        for source, depth in depths.items():
            kept |= (self.ranks(source) < depth) & (self.scores[source] > 0)
        return self.take(kept)


def union(parts: Iterable[Hits], depths: Mapping[str, int]) -> Hits:
    """Return the best hits of all parts, of which each has its own best ones at least. In any grouping and order of
    parts they are the same; two parts are held at once."""
    whole = Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), {source: np.zeros(0) for source in depths})
    for part in parts:
        scores = {source: np.concatenate([whole.scores[source], part.scores[source]]) for source in depths}
        queries = np.concatenate([whole.queries, part.queries])
        whole = Hits(queries, np.concatenate([whole.documents, part.documents]), scores).best(depths)
    return whole
