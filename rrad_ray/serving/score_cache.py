"""Scores that were given lately: what one model has said of a query and a text is not asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence

from cachetools import LRUCache

Scored = tuple[float, int]  # the score of a pair, and the tokens that were read for it


class ScoreCache:
    """The scores of at most `entries` pairs; what was asked for longest ago goes first. 0 keeps none.

    `seen(known, asked)` hears how many of a request's pairs were known and how many were not. For one event loop.
    """

    def __init__(self, entries: int, seen: Callable[[int, int], None] = lambda known, asked: None) -> None:
        self.kept: LRUCache[bytes, Scored] = LRUCache(entries)
        self.seen = seen

    async def __call__(
        self,
        scope: str,
        queries: Sequence[str],
        texts: Sequence[str],
        score: Callable[[Sequence[int]], Awaitable[Sequence[Scored]]],
    ) -> Sequence[Scored]:
        """What is known of each pair in this scope (who scores, and how). `score(places)` is asked for the others,
        each once; it is not called where there are none. Raises what `score` raises, and then remembers nothing."""
        if not self.kept.maxsize:
            return await score(range(len(texts)))
        keys = _digests(scope, queries, texts)
        found = {key: self.kept[key] for key in keys if key in self.kept}
        missing = {key: place for place, key in enumerate(keys) if key not in found}
        if missing:
            fresh = dict(zip(missing, await score(list(missing.values())), strict=True))
            self.kept.update(fresh)
            found |= fresh
        self.seen(len(keys) - len(missing), len(missing))
        return [found[key] for key in keys]


def _digests(scope: str, queries: Sequence[str], texts: Sequence[str]) -> list[bytes]:
    """16 bytes that stand for a pair in its scope, so that what is kept does not grow with the texts."""
    found, heads = [], dict[str, hashlib.blake2b]()
    for query, text in zip(queries, texts):
        if query not in heads:  # the lengths say where each of them ends
            head = f"{len(scope)} {len(query)} {scope}{query}"
            heads[query] = hashlib.blake2b(head.encode(), digest_size=16)
        digest = heads[query].copy()
        digest.update(text.encode())
        found.append(digest.digest())
    return found
