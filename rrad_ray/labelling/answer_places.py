"""Read documents by their places: `1st: [2], 2nd: [3]`, `Tier 1: [3]; Tier 2: [1], [2]`."""

from __future__ import annotations

import math
import re

from rrad_ray.labelling.answer_chains import NUMBERED, SORTED, Rank, best_reading
from rrad_ray.labelling.answer_grades import grade_of
from rrad_ray.labelling.answer_verdicts import MAY_BE_RANKS, Records
from rrad_ray.labelling.answer_words import (
    ANNOUNCEMENT,
    ANY_NAME,
    LAST,
    NEGATIVE,
    RANK,
    RANK_WORD,
    SCORE,
    WORST_FIRST,
    is_negative,
)

_NAMED = rf"{ANY_NAME}[ #]{{0,2}}\d{{1,18}}(?![\w\]])"
# A document's name with a list behind it is the label of this list: `Result 1: [3]`.
_BRACKETED = rf"(?:{ANY_NAME}\s?)?\[(?:{ANY_NAME}\s?)?\d{{1,18}}\]"
_ID = rf"(?:{_BRACKETED}|{_NAMED}(?![ \t*_]{{0,3}}[:=→–-]?[ \t*_]{{0,3}}\[\d{{1,3}}\]))"
_JOINED = r"[ \t]{0,3}+(?:(?:,[ ]?and\b|,|&|=|~|(?:and|und|et|y)\b)[ \t]{0,3}+)?"
_MORE = rf"(?:{_JOINED}{_ID}){{0,40}}+"
_LIST = rf"{_ID}{_MORE}"
_NUMBER = re.compile(r"\d{1,18}")
_PLACE_END = r"(?=[ \t*_]*(?:[;,.|)\n]|\Z))"
_SUFFIX = r"(?:st|nd|rd|th|er|ère|re|ème|eme|e|o|a|\.?[ºª°]|位|위|等|등|名|순위|번째|番目)"
_PLACE = (
    r"第?(?P<place>\d{1,3})(?:(?:\.|[ºª°]|-?[а-яa-z]{1,3})?[ ]?(?:platz|place|puesto|lugar|posto|miejsce|plaats|sıra|"
    rf"место|місце)|{_SUFFIX})"
)
_REMARK = r"[ \t*_]*+(?:\([^()\[\]\n]{1,40}\)[ \t*_]*+)?"
_SCORE = (
    r"(?:[ \t*_]*+(?:(?:->|[→=|:–-])[ \t]*+\(?\d{1,3}(?:\.\d{1,4})?(?:[ \t]?(?:/[ \t]?\d{1,3}|%))?|"
    r"\(?\d{1,3}(?:\.\d{1,4}|[ \t]?/[ \t]?\d{1,3}|[ \t]?%))\)?)?"
)
_PLACE_FIRST = re.compile(
    rf"(?<!\w)(?:{_PLACE}{_REMARK}[:.\-–=→)]?|"
    rf"(?:rank(?:ing)?|position)[ _]?#?(?P<rank>\d{{1,3}}){_REMARK}[:=→–-])"
    rf"[ \t*_]*+(?P<ids>{_ID}(?:{_MORE}{_PLACE_END})?){_SCORE}",
    re.IGNORECASE,
)
_IS = r"(?:(?:is|was|as|at|in|on|comes?|goes|gets?|takes?|placed|the)[ ]){0,3}"
_PLACE_LAST = re.compile(
    rf"(?P<ids>(?:{_LIST}|{ANY_NAME}\s?\d{{1,18}}(?![\]\d])))[ \t*_]*+[(:=\-–→]*[ \t*_]*+{_IS}"
    rf"(?:(?:rank(?:ed|s)?|place|position|number|no\.)[ :#]{{0,2}}(?P<rank>\d{{1,3}})|{_PLACE})(?!\w)",
    re.IGNORECASE,
)
NOUN = "(?: (?:match|passage|document|result|tier|place))?"  # behind "best" and "last"
_AT_LAST = re.compile(
    rf"(?<![^\W_])(?:{LAST.pattern}){NOUN}[ \t:=*_–-]*(?P<ids>{_ID})",
    re.IGNORECASE,
)
_AT_FIRST = re.compile(
    r"(?<![^\W_])(?:best|top|first|winner|most relevant)(?: (?:match|passage|document|result|one))?"
    rf"[ \t:=*_–-]*(?:is[ ])?(?P<ids>{_ID})",
    re.IGNORECASE,
)
_CODE = re.compile(r"`{1,3}(\[[^\[\]`\n]{1,30}\])`{1,3}")
_TWICE = re.compile(rf"(\[(\d{{1,18}})\])[ \t]?\({ANY_NAME}\s?\2\)", re.IGNORECASE)  # `[3] (passage 3)`
_OUT_OF = re.compile(r"\[(\d{1,3}) ?/ ?(\d{1,3})\]")  # a score: `[8/10]`
_DOTTED = re.compile(r"\[[ ]?(\d{1,6})[.:;,][ ]?\]")  # `[3.]`
# `(1) Document 4`, `#1 [2]`: the number of a line, with a document behind it.
_LINE_COUNT = re.compile(
    rf"^[ \t*_]*(?:\((?=\d{{1,3}}\))|#)(?P<number>\d{{1,3}})\)?[ \t*_:]+(?={_BRACKETED}|{_NAMED}|\(\d{{1,3}}\))",
    re.IGNORECASE | re.MULTILINE,
)
# A line of a list that may count down: `4. [2]`, `#4 Document 2`, `(4) [2]`.
_DOWN_COUNT = re.compile(
    r"^[ \t*_>•\-–]*(?:\((\d{1,3})\)|#(\d{1,3})[.:)]?|(\d{1,3})[.)])[ \t*_:]+"
    rf"(?=(?P<id>[*_]*(?:{_BRACKETED}|{_NAMED}|\(\d{{1,3}}\))))",
    re.IGNORECASE | re.MULTILINE,
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n|\Z")
_LISTS = re.compile(rf"{_LIST}{_PLACE_END}", re.IGNORECASE)
_LABEL = re.compile(r"[ \t*_,;.|)/]*(?P<name>[^\[\]\n;|]*[\w)])[ \t*_]*(?P<mark>[:=→–-])?[ \t*_]*")
_BETWEEN = re.compile(r"[ \t*_,;.|)/]*")
_COUNT_LABEL = re.compile(rf"[^\W\d_]{{0,20}}[ .#-]{{0,2}}第?\d{{1,3}}{_SUFFIX}?", re.IGNORECASE)
_LONGEST_LABEL = 60
# A line of one list whose label has a number: `Tier 1: [3], [1]`, `Choice 2 = [1]`, `Rank 1 [3]`.
_COUNTED = re.compile(
    r"^[ \t*•\-–—#>_|]*+(?:(?P<word>[^\W\d_]{1,20}(?:[ ][^\W\d_]{1,20})?)[ .#-]{0,2})?(?P<number>\d{1,3})[ \t*_]*"
    rf"(?:\((?P<remark>[^()\[\]\n]{{1,40}})\))?[ \t*_]*[:=.)→–-]?[ \t*_]*(?P<ids>{_LIST}){_SCORE}"
    r"(?:[ \t*_]*\([^()\[\]\n]{1,40}\))?[ \t.;,|*_]*$",
    re.IGNORECASE | re.MULTILINE,
)
_NAME = re.compile(ANY_NAME, re.IGNORECASE)


def places_apart(text: str) -> str:
    """Return a text with a line for each of the lists that stand in one, each with a label of its own.

    Identifiers in code (`` `[2]` ``) are plain, and what counts lines in brackets or behind `#` is no document.
    """
    text = _TWICE.sub(r"\1", _DOTTED.sub(r"[\1]", _CODE.sub(r"\1", text)))
    most = [score[2] for score in _OUT_OF.finditer(text)]
    if len(most) > 1 and len(set(most)) == 1:
        text = _OUT_OF.sub(r"(\1/\2)", text)
    counts = [int(line["number"]) for line in _LINE_COUNT.finditer(text)]
    if len(counts) > 1 and counts == list(range(1, len(counts) + 1)):
        text = _LINE_COUNT.sub(r"\g<number>. ", text)
    return "\n".join(map(_apart, _counted_up(text).split("\n")))


def _counted_up(text: str) -> str:
    """Return a text with a list that counts down to the best, `2. [1]`, `1. [3]`, as one that counts up from it."""
    lines = list(_DOWN_COUNT.finditer(text))
    counts = [int(line[1] or line[2] or line[3]) for line in lines]
    if len(counts) < 2 or counts != list(range(len(counts), 0, -1)):
        return text
    if [number for line in lines for number in _ids(line["id"])] == counts:
        return text  # the numbers may be the documents'
    end = _BLANK_LINE.search(text, lines[-1].end())
    stop = end.start() if end else len(text)
    bounds = [line.start() for line in lines[1:]] + [stop]
    items = [text[line.end() : bound].rstrip("\n") for line, bound in zip(lines, bounds, strict=True)]
    head = text[: lines[0].start()]
    if not WORST_FIRST.search(head):  # what is said to be worst first is turned round where it is read
        items.reverse()
    return head + "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1)) + text[stop:]


def _apart(line: str) -> str:
    """Return a line of lists with a label before each (`Tier 1: [3]; Tier 2: [1], [2]`) as a line for each; another
    line, or one with a list that is announced as the answer behind others, as it is."""
    if line.count("[") < 2 and line.count(":") < 2:
        return line
    lists = list(_LISTS.finditer(line))
    starts = [0, *(each.end() for each in lists)]
    labels = [_LABEL.fullmatch(line, start, each.start()) for start, each in zip(starts, lists, strict=False)]
    known = [label for label in labels if label]
    if len(known) < max(2, len(lists)) or not _BETWEEN.fullmatch(line, starts[-1]):
        return line
    lead, _, first = known[0]["name"].rpartition(": ")
    names = [first, *(label["name"] for label in known[1:])]
    counted = [_COUNT_LABEL.fullmatch(name) is not None for name in names]
    announced = any(ANNOUNCEMENT.search(name) for name, one in zip(names[1:], counted[1:], strict=True) if not one)
    numbers = [number for each in lists for number in _ids(each[0])]
    alike = all(counted) or all(label["mark"] for label in known)
    if not alike or announced or max(map(len, names)) > _LONGEST_LABEL or len(set(numbers)) < len(numbers):
        return line
    apart = [f"{name}: {each[0]}" for name, each in zip(names, lists, strict=True)]
    return "\n".join([f"{lead}:", *apart] if lead else apart)


def by_place(text: str, n: int) -> Records | None:
    """Return the order of documents with their places: `1st: [2], 2nd: [3]`, `[1] (rank 3), [2] = 1st`."""
    for pattern in (_PLACE_FIRST, _PLACE_LAST):
        groups = [match.groupdict() for match in pattern.finditer(text)]
        by_rank = {float(group.get("rank") or group["place"]): _ids(group["ids"]) for group in groups}
        rest = pattern.sub("", text)
        if len(by_rank) == len(groups) > 1 and not has_chain(rest, n):
            for words, rank in ((_AT_LAST, math.inf), (_AT_FIRST, 1.0)):
                named = [match for match in words.finditer(rest) if rank not in by_rank]
                if len(named) == 1:
                    by_rank[rank] = _ids(named[0]["ids"])
            if min(by_rank) > 1:
                return Records((), (), "places without the first")
            numbers = [number for rank in sorted(by_rank) for number in by_rank[rank]]
            return Records(numbers, (SORTED,)) if len(set(numbers)) == len(numbers) else None
    return None


def by_counted_label(text: str, n: int) -> Records | None:
    """Return the order of lists with labels that count: `Tier 1: [3]`, `Tier 2: [1], [2]`; None without such.

    Labels that count downwards, or whose numbers may be scores or documents, are no order.
    """
    lines = list(_COUNTED.finditer(text))
    words = {(line["word"] or "").casefold() for line in lines}
    numbers = [number for line in lines for number in _ids(line["ids"])]
    rest = _COUNTED.sub("", text)
    if len(lines) < 2 or len(words) > 1 or len(set(numbers)) < len(numbers) or has_chain(rest, n):
        return None
    lead = text[: lines[0].start()].rstrip().rpartition("\n")[2]
    word, counts = words.pop(), [int(line["number"]) for line in lines]
    if len(set(counts)) < len(counts) or is_negative(lead) or not (word or any(line["remark"] for line in lines)):
        return None
    if SCORE.fullmatch(word):
        return None if set(counts) != set(range(1, len(counts) + 1)) else Records((), (), MAY_BE_RANKS)
    if _NAME.fullmatch(word) and not ANNOUNCEMENT.fullmatch(word):
        return Records((), (), "numbers that may be places or documents")
    relevant = [line for line in lines if not NEGATIVE.search(line["remark"] or "")]
    if re.fullmatch(RANK_WORD, word, re.IGNORECASE) or RANK.fullmatch(word):
        relevant.sort(key=lambda line: int(line["number"]))
    elif counts != list(range(counts[0], counts[0] + len(counts))) or counts[0] > 1:
        return Records((), (), "labels that do not count up")
    elif WORST_FIRST.search(lead) or _rises([line["remark"] for line in lines]):
        relevant.reverse()
    return Records([number for line in relevant for number in _ids(line["ids"])], (NUMBERED,))


def _rises(remarks: list[str | None]) -> bool:
    """Tell whether the remarks on the first and the last of some lists call the last one the better."""
    grades = [grade_of(remark) for remark in (remarks[0], remarks[-1]) if remark]
    known = [grade for grade in grades if grade is not None]
    return known != sorted(known, reverse=True) or (len(known) == 1 and bool(remarks[0]) and known[0] <= 1.0)


def _ids(ids: str) -> list[int]:
    """Return the identifiers of a list."""
    return list(map(int, _NUMBER.findall(ids)))


def has_chain(text: str, n: int) -> bool:
    """Tell whether a text has an order of its own, in words: it comes before places and scores beside it."""
    reading = best_reading(text, n)
    return reading is not None and reading.rank >= Rank.CHAIN
