"""Listwise answers, as real models write them, into orders; and several orders of the same documents into one.

RRADistill reads a document that the answer leaves out as judged irrelevant: a hard negative, below every ranked one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MISSING = ("negative", "append")  # what `aggregate` makes of documents that an answer leaves out
METHODS = ("borda", "copeland")
ID_KEYS = ("id", "identifier", "passage", "document", "doc", "passage_id", "document_id", "doc_id", "docid", "index")

_THINK = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_OPEN, _CLOSE = r"[\[(【［{<]", r"[\])】］}>]"
_WORD = r"(?:passage|document|doc|text|item)"
_BRACKETED = re.compile(rf"{_OPEN}\s*{_WORD}?\s*#?(\d{{1,6}})\s*{_CLOSE}", re.IGNORECASE)
_NAMED = re.compile(rf"\b{_WORD}\s*#?(\d{{1,6}})\b", re.IGNORECASE)
_LIST = re.compile(r"""['"]?\d{1,6}['"]?(?:\s*[,>=\n]\s*['"]?\d{1,6}['"]?)+""")
_NUMBER = re.compile(r"\d{1,6}")
_LINE = re.compile(r"^\s*\d{1,3}\s*[.):]\s*(\d{1,6})\s*$", re.MULTILINE)
_ENUMERATED = re.compile(rf"^\s*\d{{1,3}}\s*[.):]\s+(?=\W{{0,4}}(?:{_OPEN}|{_WORD}))", re.MULTILINE | re.IGNORECASE)
_CUT_OFF = re.compile(rf"(?:{_OPEN}\s*{_WORD}?\s*#?\d{{0,6}}|(?<!\d)>)\s*\Z", re.IGNORECASE)
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
    numbers, how = _identifiers(text)
    repairs += how
    ranked: list[int] = []
    seen: set[int] = set()
    outside = doubled = 0
    for number in numbers:
        if not 1 <= number <= n:
            outside += 1
        elif number in seen:
            doubled += 1
        else:
            seen.add(number)
            ranked.append(number - 1)
    if outside:
        repairs.append(f"{outside} out of range")
    if doubled:
        repairs.append(f"{doubled} repeated")
    why = _worthless(text, ranked, n)
    if why:
        return Order((), tuple(range(n)), f"rejected: {why}")
    missing = tuple(index for index in range(n) if index + 1 not in seen)
    return Order(tuple(ranked), missing, f"repaired: {', '.join(repairs)}" if repairs else "ok")


def _identifiers(text: str) -> tuple[list[int], list[str]]:
    """The identifiers in an answer without its thinking, as they come, and what had to be mended to read them."""
    found = _from_json(text)
    if found is not None:
        return found, ["JSON"]
    how = []
    lines = _LINE.findall(text)
    if len(lines) > 1:  # `1. 3`, `2. 1`: the second number is the identifier
        return [int(number) for number in lines], ["numbered list"]
    if _ENUMERATED.search(text):
        text = _ENUMERATED.sub("", text)
        how.append("numbered list")
    numbers = [int(match) for match in _BRACKETED.findall(text)]
    if len(numbers) < 2 and len(named := _NAMED.findall(text)) > len(numbers):
        return [int(match) for match in named], [*how, "named without brackets"]
    if len(numbers) < 2 and (lists := _LIST.findall(text)):
        return [int(match) for match in _NUMBER.findall(max(lists, key=len))], [*how, "plain numbers"]
    if numbers and _CUT_OFF.search(text):
        how.append("cut off")
    return numbers, how


def _from_json(text: str) -> list[int] | None:
    """Identifiers of an answer that is JSON, alone or in a code fence: a list, or an object with one in it."""
    body = text.strip()
    if body.startswith("```"):
        body = body.strip("`").partition("\n")[2].strip()
    if body[:1] not in ("[", "{"):
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = next((item for item in value.values() if isinstance(item, list)), None)
    if not isinstance(value, list) or (len(value) < 2 and not isinstance(next(iter(value), None), dict)):
        return None  # `[2]` is an identifier in brackets
    return [number for item in value if (number := _number(item)) is not None]


def _number(item: Any) -> int | None:
    """The identifier in one member of a JSON list: `3`, `"[3]"`, `{"passage": 3, ...}`."""
    if isinstance(item, dict):
        by_name = {str(key).lower(): value for key, value in item.items()}
        item = next((by_name[key] for key in ID_KEYS if key in by_name), None)
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if isinstance(item, bool) or not isinstance(item, int | str):
        return None
    digits = _NUMBER.findall(str(item)[:20])
    return int(digits[0]) if len(digits) == 1 else None


def _worthless(text: str, ranked: Sequence[int], n: int) -> str:
    """Why an answer says nothing, or an empty string."""
    if not ranked:
        return "no identifiers"
    if len(ranked) == 1 and n > 2 and len(_PROSE.findall(text)) > 3:
        return "one identifier in prose"
    first = _BRACKETED.search(text)
    between = len(_PROSE.findall(text[first.start() :])) if first else 0
    if len(ranked) > 1 and list(ranked) == list(range(len(ranked))) and between > 3 * len(ranked):
        return "echo of the input"
    return ""


# ---- orders into targets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What all answers about a query's `n` documents say together, in the candidates' own order.

    `targets`: higher is better. The worst ranked document has 1, a missing one 0: ties among missing documents make
    no pairs. `confidence[i]`, from 0 to 1: the share of the answers' preferences about document i that the targets
    keep (1 where one answer speaks). `statuses`: one for each answer. `rejected`: there are answers, and none says
    anything.
    """

    targets: list[float]
    missing: list[bool]
    confidence: list[float]
    statuses: list[str]

    @property
    def rejected(self) -> bool:
        return bool(self.statuses) and all(status.startswith("rejected") for status in self.statuses)


def aggregate(
    orders: Sequence[Order],
    shown: Sequence[Sequence[int]],
    *,
    method: str = "borda",
    missing: str = "negative",
) -> Verdict:
    """One verdict from several orders of the same documents; `shown[r]` are the candidates as call r showed them.

    `borda`: a document's mean number of documents that it beats, ties at the bottom count half (Borda count over
    weak orders). `copeland`: how many documents it beats in a majority of the answers (Copeland's method): an answer
    that has gone astray moves it less. A document that most answers leave out is missing, whatever the others say.
    `missing="append"` puts documents left out behind the ranked ones, in the order shown, as RankGPT does: none is
    then missing. Rejected answers have no voice.
    """
    statuses = [order.status for order in orders]
    heard = [
        _in_candidates(order, places, missing)
        for order, places in zip(orders, shown, strict=True)
        if not order.rejected
    ]
    n = len(shown[0]) if shown else 0
    if not heard:
        return Verdict([0.0] * n, [True] * n, [0.0] * n, statuses)
    if len(heard) == 1:
        return _single(heard[0], n, statuses)
    left_out = [2 * sum(index not in ranked for ranked in heard) > len(heard) for index in range(n)]
    wins = _wins(heard, n)
    points = [_points(row, number, len(heard), method) for number, row in enumerate(wins)]
    lowest = min((point for point, gone in zip(points, left_out, strict=True) if not gone), default=0.0)
    targets = [0.0 if gone else 1.0 + point - lowest for point, gone in zip(points, left_out, strict=True)]
    return Verdict(targets, left_out, _confidence(wins, targets, len(heard)), statuses)


def _in_candidates(order: Order, shown: Sequence[int], missing: str) -> dict[int, int]:
    """Candidate index -> place, of the ranked documents."""
    ranked = [*order.ranked, *order.missing] if missing == "append" else order.ranked
    return {shown[index]: place for place, index in enumerate(ranked)}


def _single(ranked: dict[int, int], n: int, statuses: list[str]) -> Verdict:
    targets, missing = [0.0] * n, [True] * n
    for index, place in ranked.items():
        targets[index], missing[index] = float(len(ranked) - place), False
    return Verdict(targets, missing, [1.0] * n, statuses)


def _wins(heard: Sequence[dict[int, int]], n: int) -> list[list[float]]:
    """wins[i][j]: in how many orders document i stands above j; a tie counts half."""
    wins = [[0.0] * n for _ in range(n)]
    for ranked in heard:
        places = [ranked.get(index, n) for index in range(n)]
        for i, mine in enumerate(places):
            row = wins[i]
            for j, other in enumerate(places):
                if i != j:
                    row[j] += 1.0 if mine < other else 0.5 if mine == other else 0.0
    return wins


def _points(row: Sequence[float], number: int, voices: int, method: str) -> float:
    others = [value for index, value in enumerate(row) if index != number]
    if method == "borda":
        return sum(others) / voices
    half = voices / 2
    return sum(1.0 if value > half else 0.5 if value == half else 0.0 for value in others)


def _confidence(wins: Sequence[Sequence[float]], targets: Sequence[float], voices: int) -> list[float]:
    """For each document: the mean share of the answers that order it and another one as the targets do."""
    n, found = len(targets), []
    for i in range(n):
        kept = 0.0
        for j in range(n):
            if i == j:
                continue
            share = wins[i][j] / voices
            kept += (
                share if targets[i] > targets[j] else 1 - share if targets[i] < targets[j] else 1 - abs(2 * share - 1)
            )
        found.append(kept / (n - 1) if n > 1 else 1.0)
    return found
