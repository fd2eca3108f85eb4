"""BM25 over the parts of a collection: terms counted part by part, weighed with the whole collection's frequencies.

Scores are those of `BM25Index` over the whole collection to the last bit: Lucene's variant (Kamphuis et al., 2020) in
the arithmetic and with the rounding of bm25s, and a query's terms are added in their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np

_DEFAULTS = bm25s.BM25()

DENSE_TERMS, DENSE_SHARE = 128, 16  # the most terms with a weight for every document; one in so many has to hold them


@dataclass(frozen=True)
class TermCounts:
    """Counts of the terms of queries in documents (D): for the i-th of `terms`, `rows` and `counts` from
    `starts[i]` to `starts[i + 1]`. `lengths`: the number of all terms of each document, (D,)."""

    terms: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray


@dataclass
class CollectionTerms:
    """The facts about a collection that BM25 weighs with: documents, their terms together, and how many documents
    hold each term of the queries, (V,)."""

    frequencies: np.ndarray
    documents: int = 0
    length: int = 0

    def add(self, part: TermCounts) -> None:
        """Count a part in."""
        self.documents += len(part.lengths)
        self.length += int(part.lengths.sum())
        self.frequencies[part.terms] += np.diff(part.starts)


def count_terms(ids: Sequence[Sequence[int]], words: Mapping[str, int], vocabulary: Mapping[str, int]) -> TermCounts:
    """Return the counts of documents (`ids` of `words`, as `bm25.tokenized` makes them) for the queries' terms."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    number_of = np.full(len(words) + 1, -1, np.int64)
    for word, number in words.items():
        number_of[number] = vocabulary.get(word, -1)
    flat = number_of[np.fromiter((word for document in ids for word in document), np.int64, int(lengths.sum()))]
    rows = np.repeat(np.arange(len(ids)), lengths)[flat >= 0]
    keys, counts = np.unique(flat[flat >= 0] * max(len(ids), 1) + rows, return_counts=True)  # by term, then by row
    terms, starts = np.unique(keys // max(len(ids), 1), return_index=True)
    rows = (keys % max(len(ids), 1)).astype(np.int32)
    return TermCounts(terms, np.append(starts, len(keys)), rows, counts.astype(np.int32), lengths)


def joined_counts(parts: Sequence[TermCounts]) -> TermCounts:
    """Return the counts of parts that follow each other, as one."""
    offsets = np.cumsum([0, *(len(part.lengths) for part in parts)])
    columns = [np.repeat(part.terms, np.diff(part.starts)) for part in parts]
    columns_of, rows = np.concatenate(columns), np.concatenate([p.rows + o for p, o in zip(parts, offsets)])
    order = np.argsort(columns_of, kind="stable")  # a term's rows stay in their order
    terms, starts = np.unique(columns_of[order], return_index=True)
    counts = np.concatenate([part.counts for part in parts])[order]
    lengths = np.concatenate([part.lengths for part in parts])
    return TermCounts(terms, np.append(starts, len(order)), rows[order], counts, lengths)


class PartIndex:
    """BM25's weights of a part's documents for the terms of the queries."""

    def __init__(self, part: TermCounts, collection: CollectionTerms) -> None:
        self.size, self.rows = len(part.lengths), part.rows
        mean = collection.length / max(collection.documents, 1)
        frequencies = collection.frequencies[part.terms]
        idf = np.array([_idf(int(count), collection.documents) for count in frequencies], np.float32)
        saturation = _DEFAULTS.k1 * (
            (1 - _DEFAULTS.b) + _DEFAULTS.b * part.lengths[part.rows] / np.float64(mean or 1)
        )
        counts = part.counts.astype(np.float32)
        repeated = np.repeat(idf, np.diff(part.starts))
        self.weights = (repeated * (counts / (saturation + counts))).astype(np.float32)
        self.spans = {
            int(term): slice(int(start), int(stop))
            for term, start, stop in zip(part.terms, part.starts, part.starts[1:])
        }
        self.dense = self._frequent(part)

    def _frequent(self, part: TermCounts) -> dict[int, np.ndarray]:
        """Return the weights of terms that many documents hold, (D,) each: 0 for a document without the term. To add
        them all in a row is faster than to look up those that are not 0, and 0 changes no sum."""
        held = np.diff(part.starts)
        most = np.argsort(-held, kind="stable")[:DENSE_TERMS]
        dense = {}
        for term in part.terms[most[held[most] * DENSE_SHARE >= self.size]].tolist():
            dense[term] = np.zeros(self.size, np.float32)
            dense[term][self.rows[self.spans[term]]] = self.weights[self.spans[term]]
        return dense

    def add_scores(self, row: np.ndarray, terms: Iterable[int]) -> None:
        """Add the scores of all documents for a query's terms to `row`, (D or more,) zeros."""
        for term in terms:
            if (weights := self.dense.get(int(term))) is not None:
                row[: self.size] += weights
            elif (span := self.spans.get(int(term))) is not None:
                row[self.rows[span]] += self.weights[span]  # a document stands once in a span


def _idf(frequency: int, documents: int) -> float:
    return math.log(1 + (documents - frequency + 0.5) / (frequency + 0.5))
