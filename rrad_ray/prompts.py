"""What the judge is asked: listwise and likelihood prompts, and the plan of which documents to show in what order."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A likelihood prompt in two pieces around the document; the query's tokens follow the second and are scored.
LIKELIHOOD = {
    # Query likelihood as in Sachan et al., "Improving Passage Retrieval with Zero-Shot Question Generation" (UPR).
    "question": ("Passage: ", "\nPlease write a question based on this passage.\nQuestion:"),
    "summary": ("Documentation:\n", "\n\nIn one sentence, this does the following:"),
    "search": ("Document: ", "\nA search query that this document answers:"),
}

# What stands before a query and before its document where a decoder reads both: a space and the text follow each.
PAIR = ("Query:", "\nDocument:")

TOO_LONG = "prompt too long"  # how the reason begins why a prompt was not asked


class TooLong(ValueError):
    """A prompt has no room for a single token of a document."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{TOO_LONG}: {found}")


@dataclass(frozen=True)
class Span:
    """A tokenized likelihood prompt; the query's tokens are `ids[start:]`. `cut`: the document did not fit whole."""

    ids: list[int]
    start: int
    cut: bool = False


def likelihood(
    before: Sequence[int], doc: Sequence[int], between: Sequence[int], query: Sequence[int], cut: bool = False
) -> Span:
    """Joins tokenized pieces, so that where the query begins does not depend on how a tokenizer merges text."""
    ids = [*before, *doc, *between]
    return Span([*ids, *query], len(ids), cut)


class LikelihoodPlan:
    """Tokenized likelihood prompts of a query over documents; a document is cut to `doc_tokens`, a query likewise.

    `limit`: how many tokens the model takes; a document is cut below `doc_tokens` where its prompt would be longer.
    """

    def __init__(
        self, tokenizer: Any, template: str, doc_tokens: int, query_tokens: int, limit: int | None = None
    ) -> None:
        if template not in LIKELIHOOD:
            raise ValueError(f"template={template!r}: choose one of {', '.join(LIKELIHOOD)}")
        self.tokenizer, self.doc_tokens, self.query_tokens, self.limit = tokenizer, doc_tokens, query_tokens, limit
        self.before, self.between = (self._ids(text) for text in LIKELIHOOD[template])

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def __call__(self, query: str, texts: Sequence[str]) -> list[Span]:
        """One span for each text; `TooLong` if the model has no room for a single token of a document."""
        wanted = self._ids(f" {query}")[: self.query_tokens]
        around = len(self.before) + len(self.between) + len(wanted)
        room = self.doc_tokens if self.limit is None else min(self.doc_tokens, self.limit - around)
        if room < 1:
            raise TooLong(f"{around} tokens without the document, the model takes {self.limit}")
        docs = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [
            likelihood(self.before, doc[:room], self.between, wanted, len(doc[: self.doc_tokens]) > room)
            for doc in docs
        ]


def mean_logprob(logprobs: Sequence[float | None], start: int) -> float:
    """The mean of the log-probabilities from `start` on: the judge's score, in nats per token."""
    values = [value for value in logprobs[start:] if value is not None]
    if not values:
        raise ValueError("the query has no tokens")
    return sum(values) / len(values)


def clicked(title: str, summary: str) -> str:
    """The clicked document of DisRanker's continued pre-training: its summary below its title, as `retrieve` joins
    title and text. The query before it stands as in `PAIR`; the wording is ours."""
    return "\n".join(part for part in (title, summary) if part.strip())


def orders(n: int, repeats: int, seed: int) -> list[list[int]]:
    """Which order to show `n` documents in, for each of `repeats` calls; planned up front, the same for a seed.

    No order comes twice while there is another: the same prompt again would only get the same answer.
    """
    source = random.Random(seed)
    planned: list[list[int]] = []
    while len(planned) < repeats:
        order = source.sample(range(n), n)
        if order not in planned or len(planned) >= math.factorial(min(n, 10)):
            planned.append(order)
    return planned


def windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """RankGPT's sliding windows over `n` documents, [start, stop) each, from the bottom up (Sun et al., 2023).

    100 documents, window 20, step 10: 9 calls, each of which needs the answer before it. The last one reaches the
    top whatever the step, as RankLLM's does.
    """
    found, stop = [], n
    while stop > 0:
        start = max(0, stop - window)
        found.append((start, stop))
        stop = stop - step if start else 0
    return found


def written(order: Sequence[int]) -> str:
    """0-based indices as an answer: `[2] > [1]`."""
    return " > ".join(f"[{index + 1}]" for index in order)


def permutation_regex(n: int) -> str:
    """The grammar of an answer over `n` documents, as a regular expression for vLLM's structured output.

    Identifiers in range, at most `n` of them. That none comes twice no regular expression of bearable size can say:
    `answers.parse` drops those.
    """
    identifier = f"\\[({'|'.join(str(number) for number in range(1, n + 1))})\\]"
    return f"{identifier}( > {identifier}){{0,{n - 1}}}"


def reason_prompt(query: str, text: str, place: int, n: int) -> list[dict[str, str]]:
    """Chat messages that ask a smaller LLM why a document stands in its place (1-based; 0: it was left out).

    RRADistill, label generation, step 5; the wording is ours.
    """
    verdict = f"ranked {place} of {n} documents" if place else "left out as not relevant"
    return [
        {"role": "system", "content": "You explain the decisions of a search engine, briefly and to the point."},
        {
            "role": "user",
            "content": f"Search query: {query}\n\nDocument: {' '.join(text.split())}\n\n"
            f"An expert has judged this document for the query: it was {verdict}. "
            "Say in one sentence why, naming what the document has or lacks.",
        },
    ]


def fit_tokens(lengths: Sequence[int], limit: int) -> int:
    """The largest number of tokens to cut every document to, so that together they keep within `limit`.

    The longest documents lose first; 0 if not even one token of each fits.
    """
    left = list(lengths)
    low, high = 0, max(left, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in left) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def listwise_prompt(query: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Chat messages that ask for an order: RankGPT's instruction (Sun et al., 2023), in one user turn.

    RRADistill sends one short list in one call; identifiers are 1-based, in the order shown.
    """
    passages = "\n".join(f"[{number}] {' '.join(text.split())}" for number, text in enumerate(texts, 1))
    example = written([index for index in (1, 0, 2) if index < len(texts)])
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
