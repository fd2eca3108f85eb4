"""Queries made of a collection's own documents: sentences of theirs, whose first-stage scores are free labels.

A student that has few queries to learn the first stage's scores from learns them from these (the inverse cloze task,
Lee et al., 2019, with the sentence left in its document).
"""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Iterable

from rrad_ray.data.collection import Query
from rrad_ray.tables.sampling import draw_hash

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？\u0964\u0965\u06d4\u061f\u1362\u1367\u104b\u17d4])|\n")

SHORTEST, LONGEST = 4, 16  # words of a sentence that asks something, and of a query
LETTERS = 3  # that count as a word in scripts that do not part words


def document_queries(documents: Iterable[tuple[str, str]], count: int, seed: int) -> list[Query]:
    """Return unlabelled queries of at most `count` (id, text) documents, drawn by hash of the id: the same ones
    whatever the documents' order. A document without a sentence of some words gives none."""

    def drawn() -> Iterable[tuple[str, str, str]]:
        for doc_id, text in documents:
            if sentence := first_sentence(text):
                yield draw_hash(seed, doc_id), doc_id, sentence

    return [
        Query(f"document:{doc_id}", text, "unlabelled", {}) for _, doc_id, text in heapq.nsmallest(count, drawn())
    ]


def _unquoted(sentence: str) -> str:
    """Return a sentence without the punctuation around it. Vowel signs, which end words in India, are none."""
    inside = [index for index, char in enumerate(sentence) if unicodedata.category(char)[0] in "LMN"]
    return sentence[inside[0] : inside[-1] + 1] if inside else ""


def first_sentence(text: str) -> str:
    """Return a text's first sentence or line of at least four words, cut to sixteen; empty if it has none."""
    for sentence in SENTENCE_END.split(text):
        words = _unquoted(sentence).split()
        if words and len(words) < SHORTEST:  # such as a Chinese sentence
            letters = "".join(words)
            if not letters.isascii() and len(letters) >= SHORTEST * LETTERS:
                return " ".join(words)[: LONGEST * LETTERS]
        elif words:
            return " ".join(words[:LONGEST])
    return ""
