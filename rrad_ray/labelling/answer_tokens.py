"""Find what an answer's text mentions, and what the text between two mentions says of them.

A notation is one way to write identifiers: `[3]`, `(3)`, `passage 3`, a bare `3`. An order is read in one notation.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from rrad_ray.labelling.answer_words import ANY_NAME, COUNTER

_NUMBER = r"#?\d{1,18}"
_ONE = rf"[\"'`]?(?:(?:{ANY_NAME}|id)\s?)?{_NUMBER}[\"'`]?"
_LINK = r"(?:\s{0,20}(?:[,;/|&~→=]|[-–—]{1,2}|>{1,2}=?|<{1,2}=?|\.{2,3}|…|\b(?:and|to)\b)\s{0,20}|\s{1,20})"
_GROUP = rf"\s{{0,20}}({_ONE}(?:{_LINK}{_ONE})*)[.:,]?\s{{0,20}}"

# In the order in which they are preferred. A bare number is none within a word, a decimal, a fraction or a share.
NOTATIONS = {
    "square": re.compile(rf"\[{_GROUP}(?:\]|(?P<cut>\Z))", re.IGNORECASE),
    "curly": re.compile(rf"\{{{_GROUP}\}}", re.IGNORECASE),
    "angle": re.compile(rf"<{_GROUP}>", re.IGNORECASE),
    "round": re.compile(rf"\({_GROUP}\)", re.IGNORECASE),
    "named": re.compile(
        rf"(?:(?<![a-z]){ANY_NAME}\s?|第\s?)#?(\d{{1,18}})(?!\d|\s?[名位])|(?<!\w)(\d{{1,18}})(?=\s?{COUNTER})",
        re.IGNORECASE,
    ),
    "bare": re.compile(r"(?<![\w/%#\[({<.])(?<!\d:)[\"'`]?(\d{1,6})[\"'`]?(?!\w|[./:]\d|\s?%|\s?/)", re.IGNORECASE),
}
OPENING = {"square": "[", "curly": "{", "angle": "<", "round": "("}
BRACKETED = tuple(OPENING)
_NAME_HINT = re.compile(rf"[^\W\d_.][ :=#_.-]{{0,4}}\d|\d\s?{COUNTER}", re.IGNORECASE)  # most texts have no names
_NEAR = 500  # characters
_ID = re.compile(r"\d{1,18}")

_ASIDE = re.compile(r"\([^()\n]{0,80}\)|:\s?-?\d{1,9}(?:\.\d{1,9})?(?:\s?/\s?\d{1,9})?(?=\s*[>,<=→\n])")
_DECORATION = re.compile(rf"[*_`\"'\[\]{{}}#$“”‘’]+|(?<![a-z])(?:{ANY_NAME}|id)(?![a-z])|{COUNTER}|第", re.IGNORECASE)
_ELLIPSIS = re.compile(r"\.{2,}|…")
_GAPS = {
    "more": re.compile(r",?(?:>+=?|-+>|=+>|→+)(?:,?(?:>+=?|→+))?"),
    "less": re.compile(r",?(?:<+=?|<-+)(?:,?<+=?)?"),
    "tie": re.compile(r"=+|~="),
    "comma": re.compile(
        r"[,;/|&+]?(?:and|then|followedby|und|et|y|e|i|и|og|och|en|ve|和|与|與|及|以及|然后|그리고|와|과|및|と|次に)|[,;/|&+]+|[-–—]+|"
    ),
}
_RANGE = re.compile(r"[-–—]|[ ]?(?:~|\.{2,3}|…|\bto\b|\bthrough\b|から|到|至|부터)[ ]?", re.IGNORECASE)


@dataclass(frozen=True)
class Mention:
    """Identifiers written as one, such as `[3]`, `[2, 3]` or `[1-4]`, and where.

    `gaps` has what stands between each number and the next (see `gap_between`); `cut`: the text ends within it.
    """

    start: int
    end: int
    numbers: tuple[int, ...]
    gaps: tuple[str, ...] = ()
    cut: bool = False


def find_mentions(text: str, notation: str, n: int) -> list[Mention]:
    """Return what a text about `n` documents mentions in a notation, in the text's order."""
    mentions: list[Mention] = []
    if OPENING.get(notation, "") not in text or (notation == "named" and not _NAME_HINT.search(text)):
        return mentions
    for match in NOTATIONS[notation].finditer(text):
        inner = next(group for group in match.groups() if group is not None)
        matches = list(_ID.finditer(inner))
        gaps = [inner[one.end() : two.start()] for one, two in itertools.pairwise(matches)]
        ones = [int(match[0]) for match in matches]
        falls = len(ones) == 2 and notation in OPENING and _falls(ones[0], ones[1], _around(text, *match.span()), n)
        numbers, kinds = joined_numbers([(one,) for one in ones], [()] * len(ones), gaps, n, falls)
        cut = match.groupdict().get("cut") is not None
        if cut:  # `[3, 1` may have been `[3, 12]`
            numbers, kinds = numbers[:-1], kinds[:-1]
        if numbers:
            mentions.append(Mention(match.start(), match.end(), tuple(numbers), tuple(kinds), cut))
    return mentions


def _around(text: str, start: int, end: int) -> str:
    """Return what stands near a mention, without it: a text of many mentions is not read whole for each."""
    return text[max(0, start - _NEAR) : start] + "\n" + text[end : end + _NEAR]


def _falls(first: int, last: int, rest: str, n: int) -> bool:
    """Tell whether `[4-1]` may be a range: no document between is named in the rest of the text."""
    between = range(last + 1, min(first, n + 1))
    return first > last and not any(int(match[0]) in between for match in _ID.finditer(rest))


def joined_numbers(
    numbers: list[tuple[int, ...]], kinds: list[tuple[str, ...]], gaps: list[str], n: int, falls: bool = False
) -> tuple[list[int], list[str]]:
    """Join numbers that stand beside each other, with the texts between them: ranges are filled in, at most up to n.

    A dash makes a range of two ascending numbers (`1-4`), unless every gap is one (`2-3-1` is an order); and of two
    descending ones where other gaps compare (`[5] > [4] - [1]`) or where the pair `falls`.
    """
    every = len(gaps) > 1 and all(_RANGE.fullmatch(gap.strip(" ")) for gap in gaps)
    kinds_between = [gap_between(gap) for gap in gaps]
    compares = "more" in kinds_between or "less" in kinds_between  # `[5] > [1] - [4]`
    all_numbers, all_kinds = list(numbers[0]), list(kinds[0])
    for gap, kind, more, inner in zip(gaps, kinds_between, numbers[1:], kinds[1:], strict=True):
        first, last = all_numbers[-1], more[0]
        if not every and first < last and _RANGE.fullmatch(gap.strip(" ") if compares else gap):
            between = range(first + 1, min(last, n + 1))
            all_numbers += between
            all_kinds += ["tie"] * (len(between) + 1)
        elif (
            (compares or falls) and not every and first > last + 1 and _RANGE.fullmatch(gap.strip(" "))
        ):  # `[5] > [4] - [1]`
            between = range(min(first - 1, n), last, -1)
            all_numbers += between
            all_kinds += ["comma"] * (len(between) + 1)
        else:
            all_kinds.append(kind or "comma")
        all_numbers += more
        all_kinds += inner
    return all_numbers, all_kinds


def turned_round(numbers: Sequence[int], kinds: Sequence[str], at: str) -> list[int]:
    """Reverse an order; documents that no comparator parts keep their order."""
    groups = [[numbers[0]]]
    for kind, number in zip(kinds, numbers[1:], strict=True):
        if kind == at:
            groups.append([number])
        else:
            groups[-1].append(number)
    return [number for group in reversed(groups) for number in group]


def is_part(numbers: Sequence[int], of: Sequence[int]) -> bool:
    """Tell whether numbers stand in this order among others."""
    others = iter(of)
    return all(number in others for number in numbers)


def one_order(orders: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the only order of all numbers that agrees with every one of `orders`; empty if there is no such."""
    above = TopologicalSorter[int]()
    for order in orders:
        for better, worse in itertools.pairwise(order):
            above.add(worse, better)
    joined: list[int] = []
    try:
        above.prepare()
    except CycleError:
        return ()
    while above.is_active():
        ready = above.get_ready()
        if len(ready) > 1:
            return ()
        joined += ready
        above.done(*ready)
    return tuple(joined)


def gap_between(text: str) -> str | None:
    """Return what the text between two mentions says of them: more, less, tie or comma; None if it ends a chain."""
    if len(text) > 200:
        return None
    bare = _ASIDE.sub(" ", text) if "(" in text or ":" in text else text
    bare = _ELLIPSIS.sub("", _DECORATION.sub(" ", bare))
    compact = "".join(bare.lower().split())
    kind = next((kind for kind, pattern in _GAPS.items() if pattern.fullmatch(compact)), None)
    if kind == "comma" and "\n" in text and compact[:1] in ("", "-", "–", "—", "|", "+"):
        return None  # without a comma, the next line is an item of a list
    if kind is None and _RANGE.fullmatch(text):
        return "comma"
    return kind


def outside(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return what stands around spans of a text, which come in order, a line for each piece."""
    starts, ends = (0, *(end for _, end in spans)), (*(start for start, _ in spans), len(text))
    return "\n".join(text[start:end] for start, end in zip(starts, ends, strict=True))
