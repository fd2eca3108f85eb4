"""BM25 over the texts of a collection: the first stage of `retrieve` and of the search page."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

WORD_PATTERN = r"(?u)\b\w\w+\b"


class BM25Index:
    """A BM25 index with English stop words and stems. A query's score is the sum of the scores of its terms (stems),
    each counted as often as the query has it. Texts without one word that counts, or no texts, are found by no
    query."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.size = len(texts)
        self.stemmer = Stemmer.Stemmer("english")
        self.bm25 = bm25s.BM25()
        words = bm25s.tokenize(
            list(texts), token_pattern=WORD_PATTERN, stopwords="en", stemmer=self.stemmer, show_progress=False
        )
        if words.vocab:
            self.bm25.index(words, show_progress=False)
        else:
            self.bm25.vocab_dict = {}  # bm25s indexes no empty vocabulary

    def terms(self, query: str) -> list[str]:
        """Return the query's terms that some text has; bm25s cannot score others."""
        tokens = bm25s.tokenize(
            [query],
            token_pattern=WORD_PATTERN,
            stopwords="en",
            stemmer=self.stemmer,
            show_progress=False,
            return_ids=False,
        )
        return [term for term in tokens[0] if term in self.bm25.vocab_dict]

    def scores(self, query: str) -> np.ndarray:
        """Return the query's score of every text, (D,)."""
        terms = self.terms(query)
        return self.bm25.get_scores(terms) if terms else np.zeros(self.size, dtype=np.float32)

    def parts(self, query: str) -> dict[str, np.ndarray]:
        """Return what each term of a query adds to the scores of all texts, (D,) each."""
        terms = self.terms(query)
        return {term: terms.count(term) * self.bm25.get_scores([term]) for term in dict.fromkeys(terms)}

    def words(self, text: str) -> list[tuple[str, int, int]]:
        """Return the stem and the span of every word of a text that counts."""
        matches = [match for match in re.finditer(WORD_PATTERN, text) if match.group().lower() not in STOPWORDS_EN]
        stems = self.stemmer.stemWords([match.group().lower() for match in matches])
        return [(stem, *match.span()) for stem, match in zip(stems, matches, strict=True)]


def top_k(scores: np.ndarray, depth: int) -> list[int]:
    """Return indices of the best `depth` scores above zero, best first; ties by index."""
    if depth == 0 or len(scores) == 0:
        return []
    picked = np.argpartition(-scores, min(depth, len(scores)) - 1)[:depth]
    return [int(index) for index in sorted(picked, key=lambda index: (-scores[index], index)) if scores[index] > 0]
