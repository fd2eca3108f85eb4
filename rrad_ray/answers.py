"""Listwise answers, as real models write them, into orders; and orders into targets.

RRADistill reads a document that the answer leaves out as judged irrelevant: a hard negative, below every ranked one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_BRACKETED = re.compile(r"[\[(【［]\s*(?:passage|document|doc)?\s*#?(\d{1,6})\s*[\])】］]", re.IGNORECASE)
_LIST = re.compile(r"""['"]?\d{1,6}['"]?(?:\s*[,>\n]\s*['"]?\d{1,6}['"]?)+""")
_NUMBER = re.compile(r"\d{1,6}")
_ENUMERATED = re.compile(r"^\s*\d{1,3}\s*[.)]\s+(?=[\[(【［])", re.MULTILINE)
_PROSE = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Order:
    """What an answer says about the `n` documents shown; indices are 0-based places in the order shown.

    `ranked` and `missing` have no common member and hold every shown document between them. `status` is `ok`,
    `repaired: HOW` or `rejected: WHY`; a rejected answer ranks nothing.
    """

    ranked: tuple[int, ...]
    missing: tuple[int, ...]
    status: str

    @property
    def rejected(self) -> bool:
        return self.status.startswith("rejected")


def parse(answer: str, n: int) -> Order:
    """The order in an answer to a prompt that showed `n` documents as [1] .. [n]. Never raises.

    Rejected: no identifiers; a single one where several were shown and prose around it; an echo of the passages
    in the order shown (well formed, and worth nothing).
    """
    repairs = []
    text = _THINK.sub(" ", answer)
    if text != answer:
        repairs.append("thinking removed")
    if _ENUMERATED.search(text):
        text = _ENUMERATED.sub("", text)
        repairs.append("numbered list")
    numbers = [int(match) for match in _BRACKETED.findall(text)]
    if len(numbers) < 2 and (lists := _LIST.findall(text)):
        numbers = [int(match) for match in _NUMBER.findall(max(lists, key=len))]
        repairs.append("plain numbers")
    ranked: list[int] = []
    outside = doubled = 0
    for number in numbers:
        if not 1 <= number <= n:
            outside += 1
        elif number - 1 in ranked:
            doubled += 1
        else:
            ranked.append(number - 1)
    return _verdict(text, ranked, n, outside, doubled, repairs)


def _verdict(text: str, ranked: list[int], n: int, outside: int, doubled: int, repairs: list[str]) -> Order:
    everything = tuple(range(n))
    prose = len(_PROSE.findall(text))
    if not ranked:
        return Order((), everything, "rejected: no identifiers")
    if len(ranked) == 1 and n > 2 and prose > 3:
        return Order((), everything, "rejected: one identifier in prose")
    first = _BRACKETED.search(text)
    between = len(_PROSE.findall(text[first.start() :])) if first else 0
    if len(ranked) > 1 and ranked == list(range(len(ranked))) and between > 3 * len(ranked):
        return Order((), everything, "rejected: echo of the input")
    if outside:
        repairs.append(f"{outside} out of range")
    if doubled:
        repairs.append(f"{doubled} repeated")
    missing = tuple(index for index in everything if index not in ranked)
    return Order(tuple(ranked), missing, f"repaired: {', '.join(repairs)}" if repairs else "ok")


def targets(order: Order, shown: Sequence[int]) -> tuple[list[float], list[bool]]:
    """Targets and missing flags in the candidates' own order, for an answer over `shown` (candidate indices).

    The first of m ranked documents gets m, the last 1, a missing one 0: ties among missing documents make no pairs.
    """
    values, missing = [0.0] * len(shown), [True] * len(shown)
    for place, index in enumerate(order.ranked):
        values[shown[index]] = float(len(order.ranked) - place)
        missing[shown[index]] = False
    return values, missing
