"""Long documents in chunks: each is scored by itself, and the best one speaks for its document (MaxP: Dai and Callan,
2019)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrad_ray.config.chunks import ChunksConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.languages.scripts import word_spans


@dataclass(frozen=True)
class Chunked:
    """The chunks of several documents, one behind the other: of each its text, the index of its document (`owners`)
    and its characters in it. Every document has one at least."""

    texts: list[str]
    owners: list[int]
    spans: list[list[int]]

    def best(self, scores: Sequence[float]) -> list[int]:
        """Return the index of each document's best chunk by the scores of all chunks."""
        return best_indices(self.owners, scores)


def best_indices(owners: Sequence[int], scores: Sequence[float]) -> list[int]:
    """Return the index of each owner's best score, the first of equal ones; a score that is no number counts as the
    best, so that it is noticed."""
    chosen: dict[int, int] = {}
    for index, owner in enumerate(owners):
        if owner not in chosen or _key(scores[index]) > _key(scores[chosen[owner]]):
            chosen[owner] = index
    return list(chosen.values())


def _key(score: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(score) else (False, score)


class Chunker:
    """Documents to chunks of so many tokens. Without a tokenizer, as for an endpoint's model, words are the tokens,
    as `first_words` counts them.

    Several threads may use one. Raises `InvalidInput` for a tokenizer that does not say where its tokens stand.
    """

    def __init__(self, tokenizer: Any, cfg: ChunksConfig) -> None:
        self.cfg, self.tokenizer = cfg, None
        if tokenizer is not None and cfg.tokens:
            if not tokenizer.is_fast:
                raise InvalidInput("its tokenizer has no offsets", "use a model with a fast tokenizer, or no chunks")
            # Of its own: a fast tokenizer keeps the truncation of its last call, and this one never cuts.
            self.tokenizer = copy.deepcopy(tokenizer)
            self.tokenizer.model_max_length = 10**9  # no warning of texts that are longer

    def __call__(self, texts: Sequence[str], limit: int = 0) -> Chunked:
        """Return the chunks of texts; a text of one chunk stays as it is. `limit`: tokens of a text that are read at
        all; 0: all of them."""
        spans = [self._spans(text, offsets, limit) for text, offsets in zip(texts, self._offsets(texts), strict=True)]
        flat = [
            (text[start:end], owner, [start, end])
            for owner, (text, each) in enumerate(zip(texts, spans, strict=True))
            for start, end in each
        ]
        return Chunked(*map(list, zip(*flat, strict=True))) if flat else Chunked([], [], [])

    def _offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Return the characters of each token of each text; none where no chunks are wanted."""
        if not self.cfg.tokens or not texts:
            return [[] for _ in texts]
        if self.tokenizer is None:
            return [word_spans(text) for text in texts]
        options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
        return list(self.tokenizer(list(texts), truncation=False, **options)["offset_mapping"])

    def _spans(self, text: str, offsets: Sequence[tuple[int, int]], limit: int) -> list[list[int]]:
        """Return the characters of a text's chunks."""
        count = min(len(offsets), limit or len(offsets))
        if len(offsets) <= self.cfg.tokens and count == len(offsets):
            return [[0, len(text)]]
        starts = range(0, max(count - self.cfg.overlap, 1), self.cfg.tokens - self.cfg.overlap)[: self.cfg.most]
        ends = [min(start + self.cfg.tokens, count) for start in starts]
        return [[offsets[start][0], offsets[end - 1][1]] for start, end in zip(starts, ends, strict=True)]


class ChunkRanker:
    """A student that scores long documents by their best chunk, and others as it does without chunks.

    Raises `InvalidInput` for chunks that the student cannot read whole.
    """

    def __init__(self, ranker: Any, cfg: ChunksConfig) -> None:
        """`ranker`: a `Ranker`."""
        if cfg.tokens >= ranker.max_length:
            problem = f"it reads {ranker.max_length} tokens of query and document, and chunks.tokens={cfg.tokens}"
            raise InvalidInput(problem, "lower chunks.tokens, and leave room for the query")
        self.ranker, self.chunker = ranker, Chunker(ranker.tokenizer, cfg)

    @property
    def parameters_count(self) -> int:
        """The number of the model's weights."""
        return int(self.ranker.parameters_count)

    def best_chunks(self, queries: Sequence[str], texts: Sequence[str]) -> tuple[list[float], list[list[int]]]:
        """Return the scores of pairs, query i with text i, and of each text the characters [start, end) of the chunk
        that has its score: without chunks, all of it."""
        split = self.chunker(texts)
        scores = self.ranker.score_pairs([queries[owner] for owner in split.owners], split.texts)
        best = split.best(scores)
        return [scores[index] for index in best], [split.spans[index] for index in best]

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the scores of a query's documents, in input order."""
        return self.best_chunks([query] * len(texts), texts)[0]
