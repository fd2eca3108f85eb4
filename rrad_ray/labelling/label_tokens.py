"""The tokens whose logits are scores: labels that grade a document, and identifiers of documents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rrad_ray import prompts
from rrad_ray.errors import InvalidInput


def label_tokens(tokenizer: Any, labels: Iterable[str]) -> list[int]:
    """Return the token of each label. Raises `ValueError` for one that is several tokens, or another's token."""
    tokens: dict[int, str] = {}
    for label in labels:
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] in tokens or ids[0] == tokenizer.unk_token_id:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            problem = f"the tokenizer writes the label {label!r} as {pieces}: no token of its own"
            raise InvalidInput(problem, "take labels that are one token each, such as yes and no, or digits")
        tokens[ids[0]] = label
    return list(tokens)


def identifiers(tokenizer: Any, count: int, form: str = "[{number}]") -> tuple[int, tuple[int, ...]]:
    """Return the index of the number among the tokens of `[1]`, and the token of each number from 1 to `count`.

    FIRST (Reddy et al., 2024) reads one token for each document. Its authors use letters; here documents keep the
    identifiers that `judge` shows, of this form. Of numbers there are as many as the tokenizer writes in one token: 9
    where every digit is a token (SmolLM2, Qwen), 999 where three digits are one (Llama 3). Raises `ValueError` for
    more.
    """
    first, *others = [
        tokenizer(prompts.identifier(form, number), add_special_tokens=False)["input_ids"]
        for number in range(1, max(count, 2) + 1)
    ]
    at = next((index for index, pair in enumerate(zip(first, others[0])) if pair[0] != pair[1]), 0)
    for number, ids in enumerate(others, 2):
        if [*ids[:at], *ids[at + 1 :]] != [*first[:at], *first[at + 1 :]]:
            names = " and ".join(prompts.identifier(form, each) for each in (number, 1))
            problem = f"the tokenizer writes {names} with more than one token's difference"
            raise InvalidInput(f"{problem}, so FIRST takes at most {number - 1} documents", "set docs_per_query")
    return at, tuple(ids[at] for ids in (first, *others))


def endpoint_logprobs(top: Sequence[tuple[str, float]], labels: Mapping[str, float]) -> list[float]:
    """Return the log-probability of each label among an endpoint's likeliest tokens, `top`.

    Tokens that differ in white space and case alone (` Yes`, `yes`) are one label, or in white space alone where case
    is what parts the labels (`A`, `a`). A label that is not among them gets the least of the log-probabilities, which
    its own cannot exceed. Raises `ValueError` where none is.
    """
    fold = str.casefold if len({label.casefold() for label in labels}) == len(labels) else str
    by_label: dict[str, list[float]] = {fold(label): [] for label in labels}
    for token, logprob in top:
        by_label.get(fold(token.strip()), []).append(logprob)
    if not any(by_label.values()):
        likely = ", ".join(repr(token) for token, _ in top[:5])
        problem = f"none of the labels {', '.join(labels)} is among the {len(top)} likeliest tokens ({likely})"
        raise InvalidInput(problem, "say in the template that the answer is a label alone; switch thinking off")
    least = min(logprob for _, logprob in top)
    return [_log_sum(logprobs) if logprobs else least for logprobs in by_label.values()]


def _log_sum(logprobs: Sequence[float]) -> float:
    highest = max(logprobs)
    if highest == -math.inf:
        return highest
    return highest + math.log(math.fsum(math.exp(logprob - highest) for logprob in logprobs))
