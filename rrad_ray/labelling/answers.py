"""Parse listwise answers, as real models write them, into orders.

RRADistill takes a document that the answer leaves out as irrelevant: a hard negative, below every ranked one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
class ParsedOrder:
    """An answer's order of the `n` documents shown; indices are 0-based positions in the order shown.

    `ranked` (best first) and `missing` (left out) are disjoint and hold every shown document between them. `status`
    is `ok`, `repaired: HOW` or `rejected: WHY`; a rejected answer ranks nothing.
    """

    ranked: tuple[int, ...]
    missing: tuple[int, ...]
    status: str

    @property
    def rejected(self) -> bool:
        return self.status.startswith("rejected")


def parse_answer(answer: str, n: int) -> ParsedOrder:
    """Parse the answer to a prompt that showed `n` documents as [1] .. [n] into an order. Never raises.

    An answer is rejected if it has no identifiers, if it has a single one amid prose although several documents were
    shown, or if it echoes the passages in the order shown (well formed, but no ranking).
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
        return ParsedOrder((), tuple(range(n)), f"rejected: {why}")
    missing = tuple(index for index in range(n) if index + 1 not in seen)
    return ParsedOrder(tuple(ranked), missing, f"repaired: {', '.join(repairs)}" if repairs else "ok")


def _identifiers(text: str) -> tuple[list[int], list[str]]:
    """Return the identifiers of an answer without its thinking, in their order, and the repairs that reading took."""
    from_json = _from_json(text)
    if from_json is not None:
        return from_json, ["JSON"]
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
    """Return the identifiers of an answer that is a JSON list or an object that holds one; None of any other answer.

    The JSON may stand in a code fence.
    """
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
    """Return the identifier in a member of a JSON list (`3`, `"[3]"`, `{"passage": 3, ...}`); None if it has none."""
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
    """Return the reason why an answer ranks nothing; empty if it is a ranking."""
    if not ranked:
        return "no identifiers"
    if len(ranked) == 1 and n > 2 and len(_PROSE.findall(text)) > 3:
        return "one identifier in prose"
    first = _BRACKETED.search(text)
    between = len(_PROSE.findall(text[first.start() :])) if first else 0
    if len(ranked) > 1 and list(ranked) == list(range(len(ranked))) and between > 3 * len(ranked):
        return "echo of the input"
    return ""
