"""Config of long documents, for all stages that score texts."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from rrad_ray.config.base import CHECKED, Count, CountOrNone, require


@dataclass(frozen=True, config=CHECKED)
class ChunksConfig:
    """Long documents in chunks: each is scored as a document is, and the best one speaks for its document."""

    tokens: CountOrNone = 0
    """Tokens of a chunk, by the model's tokenizer; a document that is no longer stays whole. 0: no chunks, long
    documents are cut."""
    overlap: CountOrNone = 0
    """Tokens that a chunk has in common with the one before it."""
    most: Count = 16
    """The most chunks of a document, from its start; the text after them is not read."""

    def __post_init__(self) -> None:
        fits = self.overlap < self.tokens or not self.overlap
        require(fits, "chunks.overlap", self.overlap, "must be below chunks.tokens")

    def check_within(self, key: str, limit: int) -> None:
        """Raise `KeyProblem` for chunks that would be cut to the `limit` of another key."""
        want = f"a chunk would be cut to {key}={limit}: write at most that, or raise {key}"
        require(self.tokens <= limit, "chunks.tokens", self.tokens, want)
