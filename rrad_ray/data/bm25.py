"""BM25 over the texts of a collection: the first stage of `retrieve` and of the search page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import bm25s
import numpy as np
from bm25s.tokenization import Tokenized

from rrad_ray.languages import Language
from rrad_ray.languages.analyser import analyser


class BM25Index:
    """A BM25 index of the terms that `analyser` cuts texts into. A query's score is the sum of the scores of its
    terms, each counted as often as the query has it. Texts without a term, or no texts, are found by no query."""

    def __init__(self, texts: Sequence[str], language: Language = "auto") -> None:
        self.size = len(texts)
        self.analyser = analyser(language)
        self.bm25 = bm25s.BM25()
        words = tokenized(texts, language)
        if words.vocab:
            self.bm25.index(words, show_progress=False)
        else:
            self.bm25.vocab_dict = {}  # bm25s indexes no empty vocabulary

    def terms(self, query: str) -> list[str]:
        """Return the query's terms that some text has; bm25s cannot score others."""
        return [term for term in self.analyser.terms(query) if term in self.bm25.vocab_dict]

    def scores(self, query: str) -> np.ndarray:
        """Return the query's score of every text, (D,)."""
        terms = self.terms(query)
        return self.bm25.get_scores(terms) if terms else np.zeros(self.size, dtype=np.float32)

    def best(self, query: str, depth: int) -> list[int]:
        """Return the indices of the `depth` texts that score best and above 0, best first."""
        return top_k(self.scores(query), depth)

    def parts(self, query: str, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """Return what each term of a query adds to the scores of the texts at these indices, (N,) each."""
        counts = Counter(self.terms(query))
        return {term: count * self.bm25.get_scores([term])[list(indices)] for term, count in counts.items()}


def tokenized(texts: Iterable[str], language: Language = "auto") -> Tokenized:
    """Return the terms of texts: `ids`, for each text the numbers of its terms in their order, and `vocab`, each
    term's number."""
    cut, vocab = analyser(language).terms, dict[str, int]()
    ids = [[vocab.setdefault(term, len(vocab)) for term in cut(text)] for text in texts]
    return Tokenized(ids, vocab)


def top_k(scores: np.ndarray, depth: int) -> list[int]:
    """Return indices of the best `depth` scores above zero, best first; ties by index."""
    if depth == 0 or len(scores) == 0:
        return []
    last = np.partition(scores, -depth)[-depth] if depth < len(scores) else 0  # the last score that may count
    picked = [int(index) for index in np.flatnonzero(scores > max(last, 0))]
    if last > 0:
        picked += [int(index) for index in np.flatnonzero(scores == last)[: depth - len(picked)]]
    return sorted(picked, key=lambda index: (-scores[index], index))
