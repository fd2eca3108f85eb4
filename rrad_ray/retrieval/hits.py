"""Hits: pairs of a query and a document that a part's search found, and their union over parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

EXACT, INDEX = "exact", "index"  # the sources of hits that an index is measured by


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


def joined_hits(parts: Iterable[Hits]) -> Hits:
    """Return the pairs of one or more parts, one part after the other."""
    each = list(parts)
    scores = {source: np.concatenate([part.scores[source] for part in each]) for source in each[0].scores}
    return Hits(np.concatenate([part.queries for part in each]), np.concatenate([p.documents for p in each]), scores)


def recall(hits: Iterable[Hits], depth: int) -> float:
    """Return the share of the exact best `depth` of all queries that an index has among its own; 1 where there is
    none. `hits`: blocks of queries, with scores by `EXACT` and `INDEX`."""
    wanted = both = 0
    for block in hits:
        exact, known = ((block.ranks(way) < depth) & (block.scores[way] > 0) for way in (EXACT, INDEX))
        wanted, both = wanted + int(exact.sum()), both + int((exact & known).sum())
    return both / wanted if wanted else 1.0


def union(parts: Iterable[Hits], depths: Mapping[str, int]) -> Hits:
    """Return the best hits of all parts. Each part has at least its own best ones, so grouping and order of the parts
    make no difference; two parts are held at once."""
    whole = Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), {source: np.zeros(0) for source in depths})
    for part in parts:
        whole = joined_hits([whole, part]).best(depths)
    return whole
