"""Read lines that each give a document with its score, rank or grade, in numbers or in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrad_ray.labelling.answer_chains import Rank, best_reading
from rrad_ray.labelling.answer_words import ANY_NAME, GRADES, NEGATIVE

RANK = re.compile(r"rank(?:ing)?|position|place|#|no\.?|order|排名|名次|順位|순위", re.IGNORECASE)
SCORE = re.compile(
    r"(?:\w+[ _])?(?:score|rating|grade|probability|points?|confidence)|relevan(?:ce|cy)(?:[ _]\w+)?|"
    "分数|得分|相关性|相關性|相关度|スコア|関連度|関連性|点数|점수|관련도|관련성",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(-?\d{1,9}(?:\.\d{1,9})?)\s*(?:/\s*\d{1,5}|%|points?|stars?|点|分|점)?")
_SCORED = re.compile(
    rf"^[ \t*•\-–|]*+(?:\d{{1,3}}[.)][ \t]+)?[*_]*+(?:{ANY_NAME}\s?)?[\[(]?(?P<id>\d{{1,18}})[\])]?[*_]*"
    r"[ \t]*[:=,;|(\-–—→]+[ \t(*_]*"
    r"(?:(?P<name>[^\W\d][^\W\d_]*(?:[ _][^\W\d_]+)?)[ \t*_]*[:=]?[ \t*_]*)?(?P<value>-?\d{1,9}(?:\.\d{1,9})?)"
    r"(?P<unit>[ \t]*/[ \t]*\d{1,5}|[ \t]*%|[ \t]*(?:points?|stars?|点|分|점))?[ \t)*_.,;|]*$",
    re.IGNORECASE | re.MULTILINE,
)
_PLACE = r"(?P<place>\d{1,3})(?:st|nd|rd|th|位|위|名)"
_BRACKETED = rf"\[(?:{ANY_NAME}\s?)?(?P<id>\d{{1,18}})\]"
_PLACE_FIRST = re.compile(rf"(?<!\w){_PLACE}[ \t*_]*[:.\-–=→)]?[ \t*_]*{_BRACKETED}", re.IGNORECASE)
_PLACE_LAST = re.compile(
    rf"(?:\[|{ANY_NAME}\s?)(?P<id>\d{{1,18}})\]?[ \t*_]*[(:=\-–→]*[ \t*_]*"
    rf"(?:(?:rank|place|position)[ :#]{{0,2}}(?P<rank>\d{{1,3}})|{_PLACE})(?!\w)",
    re.IGNORECASE,
)
_GRADED = re.compile(
    rf"^[ \t*•\-–]*+(?:\d{{1,3}}[.)][ \t]+)?(?:{ANY_NAME}\s?)?\[(?P<id>\d{{1,18}})\][*_]*[ \t]*[:=|(\-–—→]++[ \t*_]*"
    r"(?:relevance[ :]*)?(?P<words>[^\n]{1,200})$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Records:
    """An order read from data: identifiers, best first; or the `problem` why it says none."""

    numbers: Sequence[int]
    repairs: tuple[str, ...]
    problem: str = ""


def read_lines(text: str, n: int) -> Records | None:
    """Return the order that the lines of an answer over `n` documents give by places, scores or grades, else None."""
    return _by_place(text, n) or _by_score(text, n) or _by_grade(text, n)


def has_chain(text: str, n: int) -> bool:
    """Tell whether a text has an order of its own, in words: it comes before tables and scores beside it."""
    reading = best_reading(text, n)
    return reading is not None and reading.rank >= Rank.CHAIN


def value_of(item: Any) -> float | None:
    """Return the score or rank in a value (`9`, `"9/10"`, `"85 %"`); None if it has none."""
    if isinstance(item, int | float) and not isinstance(item, bool):
        return float(item) if abs(item) < 1e300 and not math.isnan(item) else None
    if not isinstance(item, str):
        return None
    match = _VALUE.fullmatch(item.strip(" *_"))
    return float(match[1]) if match else grade_of(item)


def grade_of(words: str) -> float | None:
    """Return the grade that words begin with ("Highly relevant", "Low", 不相关), the better the higher; else None."""
    start = re.split(r"[,.;:(–—]| - |\b(?:because|since|as|but)\b", words.strip(" *_"), maxsplit=1)[0]
    if len(start.split()) > 4:
        return None
    if NEGATIVE.search(start):
        return 0.0
    return next((float(4 - index) for index, grade in enumerate(GRADES) if grade.search(start)), None)


def _by_score(text: str, n: int) -> Records | None:
    """Return the order of lines that each give a document and its score or rank; None without such lines."""
    lines = list(_SCORED.finditer(text))
    if len(lines) < 2 or has_chain(_SCORED.sub("", text), n):
        return None
    names = {(line["name"] or "").lower() for line in lines}
    values = [float(line["value"]) for line in lines]
    numbers = [int(line["id"]) for line in lines]
    if all(RANK.fullmatch(name) for name in names):
        order = sorted(range(len(lines)), key=values.__getitem__)
    elif (
        all(name and SCORE.fullmatch(name) for name in names)
        or all(line["unit"] for line in lines)
        or any("." in line["value"] for line in lines)
        or set(values) != set(range(1, len(lines) + 1))
    ):
        order = sorted(range(len(lines)), key=lambda index: -values[index])
    else:
        return Records((), (), "numbers that may be ranks or scores")
    return Records([numbers[index] for index in order], ("sorted by score or rank",))


def _by_place(text: str, n: int) -> Records | None:
    """Return the order of documents with their places: `1st: [2], 2nd: [3]`, `[1] (rank 3), [2] = 1st`."""
    for pattern in (_PLACE_FIRST, _PLACE_LAST):
        groups = [match.groupdict() for match in pattern.finditer(text)]
        by_place = {int(group.get("rank") or group["place"]): int(group["id"]) for group in groups}
        if len(by_place) == len(groups) > 1 and not has_chain(pattern.sub("", text), n):
            return Records([by_place[rank] for rank in sorted(by_place)], ("sorted by score or rank",))
    return None


def _by_grade(text: str, n: int) -> Records | None:
    """Return the order of lines that each give a document and a grade in words; None without such lines."""
    lines = [(int(line["id"]), grade_of(line["words"])) for line in _GRADED.finditer(text)]
    if len(lines) < 2 or any(grade is None for _, grade in lines) or has_chain(_GRADED.sub("", text), n):
        return None
    return Records([number for number, _ in sorted(lines, key=lambda line: -(line[1] or 0.0))], ("graded in words",))
