"""Read what an answer says of one document: a score, a place, or a grade in words, letters, stars or signs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrad_ray.labelling.answer_grades import grade_of
from rrad_ray.labelling.answer_words import (
    COST,
    LAST,
    ORDINALS,
    RANK,
    RANK_WORD,
    SCORE,
    SCORE_LEVELS,
)

_EDGE = " \t*_`\"'|"
_NAME = re.compile(r"(?P<name>[^\W\d][^\W\d_]*(?:[ _][^\W\d_]+){0,2})[ \t*_]*[:=][ \t*_]*")
_SCORE_NAME = re.compile(r"(?P<name>[^\W\d][^\W\d_]*)[ \t*_]+(?=-?\d)")  # `score 4, but old`
_FIGURE = re.compile(r"(?P<name>[^\W\d][^\W\d_]*(?:[ _][^\W\d_]+)?)[ \t:=*_]+(?=-?\d)")
_VERDICT_NAME = re.compile(r"(?:is )?relevant|verdict|answer|label|match|判定|判断|판단|판정", re.IGNORECASE)
_REMARK = r"(?=[ \t*_]*(?:\Z|[-–—,;:(|)]|\.(?!\d)|\b(?:because|since|as|but|weil|car|porque)\b))"
_UNIT = r"[ \t]*(?:(?:/|out of|of)[ \t]*\d{1,5}(?![\d.])|%|(?:points?|pts?|stars?)\b|点|分|점|星|별|つ星)"
_NUMBER = re.compile(rf"(?P<value>-?\d{{1,9}}(?:[.,]\d{{1,9}})?)(?:(?P<unit>{_UNIT})|{_REMARK})", re.IGNORECASE)
_DIGIT_PLACE = re.compile(
    rf"(?:{RANK_WORD}[ ]?#?|#)(?P<named>\d{{1,3}})(?!\d|[ ]?(?:/|%|分|点|점))|"
    r"(?P<place>\d{1,3})(?:st|nd|rd|th|位|위|등|名|순위)(?![^\W_])",
    re.IGNORECASE,
)
_STARS = re.compile(r"[★⭐🌟✪●■⬛☆✩✰○□⬜½]{1,10}")
_SIGNS = (("◎", 4.0), ("✅✔✓☑👍🟢⭕○🆗", 3.0), ("⚠🟡△▲🤔😐", 2.0), ("🟠", 1.0), ("❌✗✘✖×🚫👎🔴⛔", 0.0))
_LETTER = re.compile(rf"(?P<letter>[A-FS])(?P<sign>[+\-−]?){_REMARK}")
MAY_BE_RANKS = "numbers that may be ranks or scores"
MOST_BARE = 100.0  # a larger number without a unit is a year or a title's, not a score


@dataclass(frozen=True)
class Appraisal:
    """A verdict that an answer gives on a document.

    `kind`: score, number (without a unit: a rank or a score), place, grade (0 to 4), letter or stars.

    Of places and of numbers that are ranks the lowest `value` is the best, of everything else the highest.
    """

    kind: str
    value: float


@dataclass(frozen=True)
class Records:
    """An order read from data: identifiers, best first; or the `problem` why it says none."""

    numbers: Sequence[int]
    repairs: tuple[str, ...]
    problem: str = ""


def verdict_of(item: Any) -> Appraisal | None:
    """Return what a value or the words after an identifier say of a document; None if it is not understood."""
    if isinstance(item, bool):
        return Appraisal("grade", 3.0 if item else 0.0)
    if isinstance(item, int | float):
        return Appraisal("number", float(item)) if abs(item) < 1e300 and not math.isnan(item) else None
    if not isinstance(item, str):
        return None
    whole = _from_best_name(item.replace("\ufe0f", "").strip(_EDGE))
    named, plain = _NAME.match(whole), _SCORE_NAME.match(whole)
    if named is None and plain and any(kind.fullmatch(plain["name"]) for kind in (RANK, SCORE, COST)):
        named = plain
    if named is None:
        return _verdict(whole)
    name, rest = named["name"], whole[named.end() :]
    verdict = _verdict(rest)
    if (RANK.fullmatch(name) or COST.fullmatch(name)) and verdict is not None and verdict.kind in ("number", "score"):
        return Appraisal("place", verdict.value)
    if SCORE.fullmatch(name) or _VERDICT_NAME.fullmatch(name):
        if verdict is not None and verdict.kind == "number":
            verdict = Appraisal("score", verdict.value)
        return verdict or _verdict(whole)
    return _verdict(whole) or verdict


def score_level(name: str) -> int:
    """Return how far behind others a score of this name counts, from 0: an overall one, one of relevance, a score."""
    return next((level for level, kind in enumerate(SCORE_LEVELS) if kind.fullmatch(name)), len(SCORE_LEVELS))


def _from_best_name(words: str) -> str:
    """Return words from the figure on that counts most: `relevance 2` of `confidence 0.9, relevance 2`."""
    named = [match for match in _FIGURE.finditer(words) if SCORE.fullmatch(match["name"])]
    if len(named) < 2:
        return words
    best = min(named, key=lambda match: score_level(match["name"]))
    return words if best is named[0] else words[best.start() :]


def by_merit(verdicts: Sequence[Appraisal | None], ranks: bool = False) -> list[int] | None:
    """Return the places of verdicts, the best one's first; None if one is not understood or they do not compare.

    `ranks`: their numbers are ranks. Equal verdicts keep their order; of yes and no, a no is left out: not relevant.
    """
    known = [verdict for verdict in verdicts if verdict is not None]
    kinds = {"score" if verdict.kind == "number" else verdict.kind for verdict in known}
    rising = kinds == {"place"} or (ranks and kinds <= {"place", "score"})
    if len(known) < len(verdicts) or not (rising or len(kinds) == 1):
        return None
    order = sorted(range(len(known)), key=lambda index: known[index].value if rising else -known[index].value)
    binary = kinds == {"grade"} and {verdict.value for verdict in known} == {0.0, 3.0}
    return [index for index in order if known[index].value] if binary else order


def value_of(item: Any) -> float | None:
    """Return what a value says of a document, the better the higher (`9`, `"9/10"`, `"85 %"`); None if nothing."""
    verdict = verdict_of(item)
    if verdict is None:
        return None
    return -verdict.value if verdict.kind == "place" else verdict.value


def _verdict(words: str) -> Appraisal | None:
    rank = _place(words)
    if rank is not None:
        return Appraisal("place", rank)
    sign = next((value for signs, value in _SIGNS if words[:1] and words[0] in signs), None)
    stars = _STARS.match(words)
    if stars and (sign is None or len(stars[0]) > 1):
        filled = sum(stars[0].count(star) for star in "★⭐🌟✪●■⬛")
        return Appraisal("stars", filled + 0.5 * stars[0].count("½"))
    if sign is not None:
        return Appraisal("grade", sign)
    number = _NUMBER.match(words)
    if number is not None:
        value = float(number["value"].replace(",", "."))
        if number["unit"]:
            return Appraisal("score", value)
        return Appraisal("number", value) if abs(value) <= MOST_BARE else None
    letter = _LETTER.match(words)
    if letter is not None:
        value = 7.0 if letter["letter"] == "S" else 6.0 - "ABCDEF".index(letter["letter"])
        return Appraisal("letter", value + {"+": 0.3, "": 0.0}.get(letter["sign"], -0.3))
    grade = grade_of(words)
    return None if grade is None else Appraisal("grade", grade)


def _place(words: str) -> float | None:
    """Return the place that words begin with (`1st`, `rank 2`, `third`, 第一, 첫째, `last`), else None."""
    digits = _DIGIT_PLACE.match(words)
    if digits is not None:
        return float(digits["named"] or digits["place"])
    rank = next((float(rank) for rank, word in enumerate(ORDINALS, 1) if word.match(words)), None)
    return math.inf if rank is None and LAST.match(words) else rank
