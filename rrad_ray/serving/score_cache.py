"""An LRU cache of scores: a pair that a model has scored lately is not scored again."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from cachetools import LRUCache


class Scored(NamedTuple):
    """The score of a pair, the tokens that were read for it and, of a model that reads chunks, the characters [start,
    end) of the text's best one; empty for others."""

    score: float
    tokens: int
    chunk: Sequence[int] = ()


class ScoreCache:
    """The scores of the `entries` pairs that were requested last; 0 keeps none.

    `on_lookup(hits, misses)` is called once for each request, with counts of pairs. All calls have to come from one
    event loop.
    """

    def __init__(self, entries: int, on_lookup: Callable[[int, int], None] = lambda hits, misses: None) -> None:
        self.entries: LRUCache[bytes, Scored] = LRUCache(entries)
        self.on_lookup = on_lookup

    async def __call__(
        self,
        scope: str,
        queries: Sequence[str],
        texts: Sequence[str],
        score: Callable[[Sequence[int]], Awaitable[Sequence[Scored]]],
    ) -> Sequence[Scored]:
        """Return the score of each pair (queries[i], texts[i]) in a scope: who scores, and how.

        `score(indices)` scores the pairs that are not known, a repeated pair once; it is not called if all are known.
        What it raises is passed on, and nothing of the request is then remembered.
        """
        if not self.entries.maxsize:
            return await score(range(len(texts)))
        keys = _digests(scope, queries, texts)
        known = {key: self.entries[key] for key in keys if key in self.entries}
        missing = {key: index for index, key in enumerate(keys) if key not in known}
        if missing:
            fresh = dict(zip(missing, await score(list(missing.values())), strict=True))
            self.entries.update(fresh)
            known |= fresh
        self.on_lookup(len(keys) - len(missing), len(missing))
        return [known[key] for key in keys]


def _digests(scope: str, queries: Sequence[str], texts: Sequence[str]) -> list[bytes]:
    """Return the cache key of each pair: 16 bytes, so that the cache does not grow with the texts."""
    digests, heads = [], dict[str, hashlib.blake2b]()
    for query, text in zip(queries, texts):
        if query not in heads:  # the lengths say where each of them ends
            head = f"{len(scope)} {len(query)} {scope}{query}"
            heads[query] = hashlib.blake2b(head.encode(), digest_size=16)
        digest = heads[query].copy()
        digest.update(text.encode())
        digests.append(digest.digest())
    return digests
