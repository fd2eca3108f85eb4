"""Prompts for the judge (listwise, likelihood, reasons), and the orders and windows in which they show documents."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Templates of likelihood prompts: the text before and after the document. The query's tokens follow and are scored.
LIKELIHOOD = {
    # Query likelihood as in Sachan et al., "Improving Passage Retrieval with Zero-Shot Question Generation" (UPR).
    "question": ("Passage: ", "\nPlease write a question based on this passage.\nQuestion:"),
    "summary": ("Documentation:\n", "\n\nIn one sentence, this does the following:"),
    "search": ("Document: ", "\nA search query that this document answers:"),
}

# The labels before a query and before its document in a decoder's input; a space and the text follow each.
PAIR = ("Query:", "\nDocument:")

TOO_LONG = "prompt too long"  # the category of prompts that were not asked


class TooLong(ValueError):
    """A prompt has no room for a single token of a document."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(f"{TOO_LONG}: {detail}")


@dataclass(frozen=True)
class Span:
    """A tokenized likelihood prompt; the query's tokens are `ids[start:]`. `cut`: the document was truncated."""

    ids: list[int]
    start: int
    cut: bool = False


def likelihood(
    before: Sequence[int], doc: Sequence[int], between: Sequence[int], query: Sequence[int], cut: bool = False
) -> Span:
    """Join tokenized pieces into a prompt whose query starts at a known token.

    The pieces are tokenized one by one, so that `start` does not depend on how a tokenizer merges text across them.
    """
    ids = [*before, *doc, *between]
    return Span([*ids, *query], len(ids), cut)


class LikelihoodPlan:
    """A maker of tokenized likelihood prompts: one for each document of a query.

    Documents are truncated to `doc_tokens`, queries to `query_tokens`. `limit`: the most tokens that the model takes;
    a document is cut below `doc_tokens` where its prompt would be longer.
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
        """Return one span for each text. Raises `TooLong` if not one token of a document fits the model."""
        query_ids = self._ids(f" {query}")[: self.query_tokens]
        around = len(self.before) + len(self.between) + len(query_ids)
        room = self.doc_tokens if self.limit is None else min(self.doc_tokens, self.limit - around)
        if room < 1:
            raise TooLong(f"{around} tokens without the document, the model takes {self.limit}")
        docs = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [
            likelihood(self.before, doc[:room], self.between, query_ids, len(doc[: self.doc_tokens]) > room)
            for doc in docs
        ]


def mean_logprob(logprobs: Sequence[float | None], start: int) -> float:
    """Return the mean of the log-probabilities from token `start` on: the judge's score, in nats per token.

    A token without a log-probability (None) does not count. Raises `ValueError` if none has one.
    """
    values = [value for value in logprobs[start:] if value is not None]
    if not values:
        raise ValueError("the query has no tokens")
    return sum(values) / len(values)


def clicked(title: str, summary: str) -> str:
    """Return the text of a clicked document for DisRanker's continued pre-training: its summary below its title.

    `retrieve` joins title and text likewise. The query before it is labelled as in `PAIR`; the wording is ours.
    """
    return "\n".join(part for part in (title, summary) if part.strip())


def orders(n: int, repeats: int, seed: int) -> list[list[int]]:
    """Return for each of `repeats` calls a random order in which to show `n` documents, the same for the same seed.

    An order is repeated only once all permutations are used: the same prompt again would only get the same answer.
    """
    source = random.Random(seed)
    planned: list[list[int]] = []
    while len(planned) < repeats:
        order = source.sample(range(n), n)
        if order not in planned or len(planned) >= math.factorial(min(n, 10)):
            planned.append(order)
    return planned


def windows(n: int, window: int, step: int) -> list[tuple[int, int]]:
    """Return RankGPT's sliding windows over `n` documents, [start, stop) each, from the bottom up (Sun et al., 2023).

    100 documents, window 20, step 10 make 9 calls, each of which needs the answer to the one before. The last window
    starts at the top whatever the step, as in RankLLM.
    """
    bounds, stop = [], n
    while stop > 0:
        start = max(0, stop - window)
        bounds.append((start, stop))
        stop = stop - step if start else 0
    return bounds


def written(order: Sequence[int]) -> str:
    """Write 0-based indices as a listwise answer: (1, 0) as `[2] > [1]`."""
    return " > ".join(f"[{index + 1}]" for index in order)


def permutation_regex(n: int) -> str:
    """Return the grammar of an answer over `n` documents, as a regular expression for vLLM's structured output.

    It allows 1 to `n` identifiers, each in range. A regular expression that forbade repeated identifiers would be too
    large; `answers.parse_answer` drops them.
    """
    identifier = f"\\[({'|'.join(str(number) for number in range(1, n + 1))})\\]"
    return f"{identifier}( > {identifier}){{0,{n - 1}}}"


def reason_prompt(query: str, text: str, rank: int, n: int) -> list[dict[str, str]]:
    """Return chat messages that ask a smaller LLM why a document has its rank (from 1; 0: it was left out).

    RRADistill, label generation, step 5; the wording is ours.
    """
    verdict = f"ranked {rank} of {n} documents" if rank else "left out as not relevant"
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
    """Return the largest common length in tokens to which documents can be truncated so that their sum fits `limit`.

    Documents that are shorter stay whole, so the longest ones lose first. 0 if not even one token of each fits.
    """
    low, high = 0, max(lengths, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def listwise_prompt(query: str, texts: Sequence[str]) -> list[dict[str, str]]:
    """Return chat messages that ask for an order: RankGPT's instruction (Sun et al., 2023), in one user turn.

    As in RRADistill, one call shows one short list. Identifiers count from 1, in the order shown.
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
