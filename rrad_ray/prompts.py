"""What the judge is asked: listwise and likelihood prompts, and the plan of which documents to show in what order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# A likelihood prompt in two pieces around the document; the query's tokens follow the second and are scored.
LIKELIHOOD = {
    # Query likelihood as in Sachan et al., "Improving Passage Retrieval with Zero-Shot Question Generation" (UPR).
    "question": ("Passage: ", "\nPlease write a question based on this passage.\nQuestion:"),
    "summary": ("Documentation:\n", "\n\nIn one sentence, this does the following:"),
    "search": ("Document: ", "\nA search query that this document answers:"),
}


@dataclass(frozen=True)
class Span:
    """A tokenized likelihood prompt; the query's tokens are `ids[start:]`."""

    ids: list[int]
    start: int


def likelihood(before: Sequence[int], doc: Sequence[int], between: Sequence[int], query: Sequence[int]) -> Span:
    """Joins tokenized pieces, so that where the query begins does not depend on how a tokenizer merges text."""
    ids = [*before, *doc, *between]
    return Span([*ids, *query], len(ids))


def mean_logprob(logprobs: Sequence[float | None], start: int) -> float:
    """The mean of the log-probabilities from `start` on: the judge's score, in nats per token."""
    values = [value for value in logprobs[start:] if value is not None]
    if not values:
        raise ValueError("the query has no tokens")
    return sum(values) / len(values)


def orders(n: int, repeats: int, seed: int) -> list[list[int]]:
    """Which order to show `n` documents in, for each of `repeats` calls; planned up front, the same for a seed."""
    source = random.Random(seed)
    return [source.sample(range(n), n) for _ in range(repeats)]


def listwise(query: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Chat messages that ask for an order: RankGPT's instruction (Sun et al., 2023), in one user turn.

    RRADistill sends one short list in one call; identifiers are 1-based, in the order shown.
    """
    passages = "\n".join(f"[{number}] {' '.join(text.split())}" for number, text in enumerate(texts, 1))
    example = " > ".join(f"[{number}]" for number in (2, 1, 3) if number <= len(texts))
    return [
        {"role": "system", "content": "You rank passages by their relevance to a search query."},
        {
            "role": "user",
            "content": f"Search query: {query}\n\n{passages}\n\n"
            f"Search query: {query}\nRank the {len(texts)} passages above by relevance to the search query, "
            "the most relevant first. Leave out passages that are not relevant. "
            f"Answer with identifiers only, like {example}.",
        },
    ]
