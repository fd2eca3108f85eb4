"""The making of prompts for the judge: placeholders filled in, tokens counted, the orders and windows of documents.

The words are in `templates/prompts`, a file for each template (`config.templates`).
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrad_ray.control_tokens import ControlTokens

# {name} in a template; {{name}} writes the braces themselves. Other braces, such as those of JSON, are text.
PLACEHOLDER = re.compile(r"\{\{\s*(?P<braces>[^\W\d]\w*)\s*\}\}|\{\s*(?P<name>[^\W\d]\w*)\s*\}")

# The labels before a query and before its document in a decoder's input; a space and the text follow each.
PAIR = ("Query:", "\nDocument:")

_OTHER_BRACKETS = str.maketrans("[]<>{}【】()", "()()()()[]")
DRAWS = 32  # that each round of a block design is chosen from

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

    `pieces`: the text before the document, that between document and query, and the white space before the query.
    Documents are truncated to `doc_tokens`, queries to `query_tokens`; control tokens in either are text. `limit`:
    the most tokens that the model takes; a document is cut below `doc_tokens` where its prompt would be longer.
    """

    def __init__(
        self,
        tokenizer: Any,
        pieces: tuple[str, str, str],
        doc_tokens: int,
        query_tokens: int,
        limit: int | None = None,
    ) -> None:
        self.doc_tokens, self.query_tokens, self.limit = doc_tokens, query_tokens, limit
        before, between, self.lead = pieces
        self.control = ControlTokens(tokenizer)
        self.before, self.between = self.control.ids([before, between])

    def __call__(self, query: str, texts: Sequence[str]) -> list[Span]:
        """Return one span for each text. Raises `TooLong` if not one token of a document fits the model."""
        query_ids, *docs = self.control.ids(
            [f"{self.lead}{self.control.guarded(query)}", *map(self.control.guarded, texts)]
        )
        query_ids = query_ids[: self.query_tokens]
        around = len(self.before) + len(self.between) + len(query_ids)
        room = self.doc_tokens if self.limit is None else min(self.doc_tokens, self.limit - around)
        if room < 1:
            raise TooLong(f"{around} tokens without the document, the model takes {self.limit}")
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


@functools.cache
def block_design(n: int, size: int, repeats: int) -> list[list[int]]:
    """Return overlapping blocks of at most `size` of `n` items, each item in `repeats` of them (JointRank, 2025).

    Each of the `repeats` rounds splits all items into the fewest blocks, as even as can be. Of some random splits the
    one is taken that joins the most items by common blocks, so that all can be compared, and then repeats the fewest
    pairs. The same for the same numbers.
    """
    source, blocks, met = random.Random(f"{n}:{size}:{repeats}"), list[list[int]](), set[tuple[int, int]]()
    count = math.ceil(n / size)
    for _ in range(repeats):
        last = blocks[-count:]
        splits = []
        for number in range(DRAWS):
            items = source.sample(range(n), n)
            if last and number % 2:  # deal each block of the round before out to all blocks of this one
                items = [item for block in last for item in source.sample(block, len(block))]
            splits.append([items[start::count] for start in range(count)])
        best = min(splits, key=lambda split: (_groups(n, [*blocks, *split]), len(met & _pairs(split))))
        blocks, met = [*blocks, *best], met | _pairs(best)
    return blocks


def _pairs(blocks: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    return {pair for block in blocks for pair in itertools.combinations(sorted(block), 2)}


def _groups(n: int, blocks: Sequence[Sequence[int]]) -> int:
    """Return the number of groups of items that no block joins."""
    group = list(range(n))
    for block in blocks:
        joined = {group[item] for item in block}
        group = [min(joined) if each in joined else each for each in group]
    return len(set(group))


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


def placeholders(text: str) -> list[str]:
    """Return the names of a template's placeholders, in their order."""
    return [match["name"] for match in PLACEHOLDER.finditer(text) if match["name"]]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a template with values in place of its placeholders; braces in the values stay as they are."""
    return PLACEHOLDER.sub(lambda match: values[match["name"]] if match["name"] else f"{{{match['braces']}}}", text)


def identifier(form: str, number: int) -> str:
    """Write a document's number, from 1, in a form with {number} or {letter}: A to Z, then AA, AB and so on."""
    letters, rest = "", number
    while rest > 0:
        rest, letter = divmod(rest - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return fill(form, {"number": str(number), "letter": letters})


def unclaimed(text: str, form: str) -> str:
    """Return a text in which nothing is written as an identifier of this form: it gets other brackets.

    RankLLM likewise writes `[3]` in a document as `(3)`. A form without brackets, such as `{number}`, stays.
    """
    before, after = (re.escape(part) for part in _around(form))
    symbol = "[A-Z]{1,3}" if placeholders(form) == ["letter"] else r"\d{1,9}"
    return re.sub(rf"{before}\s*{symbol}\s*{after}", lambda match: match[0].translate(_OTHER_BRACKETS), text)


def permutation_regex(n: int, form: str = "[{number}]", joiner: str = " > ", answer: str = "{order}") -> str:
    """Return the grammar of an answer over `n` documents, as a regular expression for vLLM's structured output.

    It allows 1 to `n` identifiers, each in range. A regular expression that forbade repeated identifiers would be too
    large; `answers.parse_answer` drops them. `form`, `joiner` and `answer`: how an answer is written
    (`OrderTemplate`).
    """
    [name] = placeholders(form)
    symbols = [identifier(f"{{{name}}}", number) for number in range(1, n + 1)]
    before, after = (_literal(part) for part in _around(form))
    one = f"{before}({'|'.join(symbols)}){after}"
    head, tail = (_literal(part) for part in _around(answer))
    return f"{head}{one}({_literal(joiner)}{one}){{0,{n - 1}}}{tail}"


def _around(text: str) -> tuple[str, str]:
    """Return what stands before and after a template's only placeholder."""
    [match] = [each for each in PLACEHOLDER.finditer(text) if each["name"]]
    return fill(text[: match.start()], {}), fill(text[match.end() :], {})


def _literal(text: str) -> str:
    """Return the regular expression of a text, in the few escapes that all grammars know."""
    return re.sub(r"[\\.^$*+?{}\[\]|()]", r"\\\g<0>", text).replace("\n", "\\n")


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
