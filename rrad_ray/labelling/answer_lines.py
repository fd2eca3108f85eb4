"""Read lines that each give a document with its score, rank or grade, in numbers or in words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rrad_ray.labelling.answer_chains import GRADED, SORTED, Rank, best_reading
from rrad_ray.labelling.answer_grades import grade_of, is_bare
from rrad_ray.labelling.answer_places import NOUN, by_counted_label, by_place, has_chain
from rrad_ray.labelling.answer_scales import leads_to_costs, lowest_is_best
from rrad_ray.labelling.answer_tokens import find_mentions, gap_between, outside
from rrad_ray.labelling.answer_verdicts import (
    MAY_BE_RANKS,
    MOST_BARE,
    Appraisal,
    Records,
    by_merit,
    verdict_of,
)
from rrad_ray.labelling.answer_words import (
    ANNOUNCEMENT,
    ANY_NAME,
    COST,
    INITIAL,
    LAST,
    NEXT,
    ORDINALS,
    PROSE,
    RANK,
    SCORE,
)

_SCORED = re.compile(
    rf"^[ \t*•\-–|]*+(?P<label>\d{{1,3}}[.)][ \t]+)?[*_]*+(?:{ANY_NAME}\s?)?[\[(]?(?P<id>\d{{1,18}})[\])]?[*_]*"
    r"[ \t]*[:=,;|(\-–—→]+[ \t(*_]*"
    r"(?:(?P<name>[^\W\d][^\W\d_]*(?:[ _][^\W\d_]+)?)[ \t*_]*[:=]?[ \t*_]*)?(?P<value>-?\d{1,9}(?:\.\d{1,9})?)"
    r"(?P<unit>[ \t]*/[ \t]*\d{1,5}|[ \t]*%|[ \t]*(?:points?|stars?|点|分|점))?[ \t)*_.,;|]*$",
    re.IGNORECASE | re.MULTILINE,
)
# A score right behind an identifier, wherever it stands: `Most relevant: [3] (9/10)`.
_SCORED_AMID = re.compile(
    r"\[(?P<id>\d{1,18})\][ \t]*+[:=(–-]+[ \t]*+"
    r"\d{1,5}(?:\.\d{1,5}|[ \t]*/[ \t]*\d{1,5}|[ \t]*%|(?=[ \t).,;|]*(?:\n|\Z)))"
)
_SCORE_FIRST = re.compile(
    r"^[ \t*•\-–—#_]*+(?P<name>[^\W\d][^\W\d_]*(?:[ _][^\W\d_]+)?)?[ \t:=*_]*(?P<value>\d{1,5}(?:\.\d{1,5})?)"
    r"(?P<unit>[ \t]*/[ \t]*\d{1,5}|[ \t]*%|[ \t]*(?:points?|stars?|点|分|점))?[ \t*_]*[:=\-–—→]++[ \t*_]*"
    rf"(?P<ids>(?:\[|{ANY_NAME}\s?)[^\n]{{1,300}})$",
    re.IGNORECASE | re.MULTILINE,
)
_IDENTIFIER = (
    rf"(?:\[(?:{ANY_NAME}\s?)?#?(?P<square>\d{{1,18}})\]|\((?P<round>\d{{1,18}})\)|"
    rf"{ANY_NAME}\s?[\[(]?(?P<named>\d{{1,18}})[\])]?(?!\w)|(?P<bare>\d{{1,18}})(?=[*_]*[ \t]?[:=|]))"
)
_LINE = re.compile(
    rf"^[ \t*•\-–—|#+_`\"']*+(?:(?P<label>\d{{1,3}})[.)][ \t]+)?[*_`\"']*+{_IDENTIFIER}[*_`\"']*+"
    r"(?P<joint>[ \t]*[:=,|(\-–—→]*+)(?P<words>[^\n]{0,300})$",
    re.IGNORECASE | re.MULTILINE,
)
# `[1]: No, [2]: Yes`: documents with verdicts beside each other in a line.
_BESIDE = re.compile(r"\[#?(?P<id>\d{1,18})\][ \t]*[:=(\-–—]++(?P<words>[^\[\]\n<>]{1,60}+)(?=[\[\n]|\Z)")
_TIER = re.compile(
    r"^[ \t*•\-–—#_]*+(?P<name>[^\W\d][^\[\]\d:\n]{0,60}+):[ \t*_]*(?P<ids>[^\n]{1,300})$", re.MULTILINE
)
_STEP = (
    f"(?:(?P<best>(?:the )?(?:best|most relevant|top){NOUN}|最好的?|最佳的?|最相关的?)|"
    f"(?P<middle>(?:the )?middle{NOUN}|in[ -]?between|中间的?|중간)|"
    f"(?P<worst>(?:the )?(?:worst|least relevant|bottom){NOUN}|最差的?|最不相关的?)|"
    + "|".join(f"(?P<p{rank}>{word.pattern})" for rank, word in enumerate(ORDINALS, 1))
    + (f"|(?P<next>{NEXT.pattern})|(?P<last>{LAST.pattern}))")
)
_GLUE = (
    r"(?:[ \t]{0,2}(?:place|one|should|would|must|comes?|goes|go|be|is|was|are|ranked|placed|put|ranks?|to|best|"
    r"most relevant|the|in|at|as|"
    r"[은는로是為为はがに:=,\-–→]|으로)){0,4}"
)
_ENDS = r"(?=[*_]*\s*(?:[.,;)]|\Z|\n|and\b|이고|です))"
_PLACED = rf"\[(?:{ANY_NAME}\s?)?(?P<id>\d{{1,18}})\]"
_STEP_FIRST = re.compile(rf"(?<![^\W_]){_STEP}{_GLUE}[ \t*_]{{0,3}}{_PLACED}{_ENDS}", re.IGNORECASE)
_STEP_LAST = re.compile(rf"{_PLACED}{_GLUE}[ \t(]{{0,2}}{_STEP}{_ENDS}", re.IGNORECASE)
NOT_UNDERSTOOD = "verdicts that are not understood"
AGAINST_ITS_ORDER = "grades against the order of their list"


def read_lines(text: str, n: int) -> Records | None:
    """Return the order that the lines of an answer over `n` documents give by places, scores or grades, else None."""
    readers = (by_place, by_counted_label, _by_step, _by_score, _by_score_first, _by_tier, _by_verdict)
    for read in (*readers, _by_verdict_beside):
        records = read(text, n)
        if records is not None:
            return records
    return None


def _by_score(text: str, n: int) -> Records | None:
    """Return the order of lines that each give a document and its score or rank; None without such lines."""
    lines = list(_SCORED.finditer(text))
    rest = _SCORED.sub("", text)
    remarked = (verdict_of(line.words) for line in _verdict_lines(rest))  # with a remark behind the score, perhaps
    if len(lines) < 2 or any(remarked) or has_chain(rest, n):
        return None
    numbers = [int(line["id"]) for line in lines]
    if not {int(one["id"]) for one in _SCORED_AMID.finditer(text)} <= {*numbers}:
        return Records((), (), "scores on lines of more than one form")
    names = {(line["name"] or "").lower() for line in lines}
    values = [float(line["value"]) for line in lines]
    if not all(line["unit"] for line in lines) and not _may_be_verdicts(names, values):
        if all(line["label"] for line in lines) or values == sorted(values, reverse=True):
            return None  # a list, with what its documents are about: `1. [3] - Windows 7`, `2. [1] (2019)`
        return Records((), (), "numbers that may be no scores")
    rising = all(RANK.fullmatch(name) or COST.fullmatch(name) for name in names)
    if rising or lowest_is_best(text, values) or leads_to_costs(text, lines[0].start()):
        order = sorted(range(len(lines)), key=values.__getitem__)
    elif (
        all(name and SCORE.fullmatch(name) for name in names)
        or all(line["unit"] for line in lines)
        or any("." in line["value"] for line in lines)
        or set(values) != set(range(1, len(lines) + 1))
    ):
        order = sorted(range(len(lines)), key=lambda index: -values[index])
    else:
        return Records((), (), MAY_BE_RANKS)
    return Records([numbers[index] for index in order], (SORTED,))


def _may_be_verdicts(names: Iterable[str], values: Iterable[float]) -> bool:
    """Tell whether numbers behind documents, with these names or none, may be scores or ranks."""
    known = [any(kind.fullmatch(name) for kind in (RANK, SCORE, COST)) for name in names if name]
    return all(known) and (any(known) or all(abs(value) <= MOST_BARE for value in values))


def _by_score_first(text: str, n: int) -> Records | None:
    """Return the order of lines that each give a score and its documents (`Score 9: [2]`, `5/10: [1], [3]`)."""
    lines = [(line, best_reading(line["ids"], n)) for line in _SCORE_FIRST.finditer(text)]
    values = [float(line["value"]) for line, _ in lines]
    named = all(line["unit"] or SCORE.fullmatch((line["name"] or "").strip()) for line, _ in lines)
    bare = all(not line["name"] and not line["unit"] for line, _ in lines)
    counted = (bare or values[:1] == [1.0]) and all(
        two == one + 1 for one, two in itertools.pairwise(values)
    )  # a numbered list
    if len(lines) < 2 or counted or not (named or bare) or len(set(values)) < len(values):
        return None
    if best_reading(_SCORE_FIRST.sub("", text), n) is not None:
        return None
    if bare and set(values) == set(range(1, len(values) + 1)):
        return Records((), (), MAY_BE_RANKS)
    sign = 1 if lowest_is_best(_SCORE_FIRST.sub("", text), values) else -1
    scored = sorted(zip(values, lines, strict=True), key=lambda each: sign * each[0])
    readings = [reading for _, (_, reading) in scored if reading is not None]
    if len(readings) < len(lines) or any(reading.problem for reading in readings):
        return None
    return Records([number for reading in readings for number in reading.numbers], (SORTED,))


def _by_step(text: str, n: int) -> Records | None:
    """Return the order of documents with places in words: `First: [3], then [1]; finally [2]`, 首先是[3].

    None unless every identifier in brackets has such a place, only the first one may go without.
    """
    mentions = [mention for mention in find_mentions(text, "square", n) if len(mention.numbers) == 1]
    if len(mentions) < 2 or len(mentions) != text.count("["):
        return None
    steps: list[tuple[int, dict[str, str | None]]] = []
    for pattern in (_STEP_FIRST, _STEP_LAST):
        known = {number for number, _ in steps}
        steps += [
            (match.end("id"), match.groupdict()) for match in pattern.finditer(text) if match.end("id") not in known
        ]
    ordered = sorted(steps, key=lambda step: step[0])
    if any(one["worst"] and two["next"] for (_, one), (_, two) in itertools.pairwise(ordered)):
        return Records((), (), "worst first, in words")
    if all(groups["next"] for _, groups in steps):
        return None  # a text that goes on in one direction is read from its prose
    placed = _places(ordered)
    without = [mention.numbers[0] for mention in mentions if mention.numbers[0] not in placed]
    worst = min((end for end, groups in steps if groups["worst"]), default=len(text))
    best = any(groups["best"] for _, groups in steps)
    if best and any(mention.start > worst and mention.numbers[0] in without for mention in mentions):
        return Records((), (), "documents behind the worst one")
    if without == [mentions[0].numbers[0]] and 1.0 not in placed.values():
        placed[without[0]] = 1.0
    elif without:
        return None
    values = list(placed.values())
    if len(placed) != len(mentions) or len(set(values)) < len(values):
        return None
    return Records(sorted(placed, key=placed.__getitem__), (SORTED,))


def _places(steps: Sequence[tuple[int, dict[str, str | None]]]) -> dict[int, float]:
    """Return each identifier's place; `then` goes on from the place before it."""
    placed: dict[int, float] = {}
    rank = 1.0
    for _, groups in steps:
        number = int(groups["id"] or 0)
        if groups["middle"] or groups["worst"] or groups["last"]:
            placed[number] = 1e9 if groups["middle"] else float("inf")
            continue
        named = next((index for index in range(1, len(ORDINALS) + 1) if groups[f"p{index}"]), None)
        rank = 1.0 if groups["best"] else float(named) if named else rank + 0.01
        placed.setdefault(number, rank)
    return placed


def _by_tier(text: str, n: int) -> Records | None:
    """Return the order of lines that each give a grade and its documents (`Partly relevant: [1], [4]`)."""
    tiers = []
    for line in _TIER.finditer(text):
        reading = best_reading(line["ids"], n) if "[" in line["ids"] else None
        if reading is not None:
            whole = len(reading.numbers) == sum(len(one.numbers) for one in find_mentions(line["ids"], "square", n))
            if reading.problem or not whole or (grade := grade_of(line["name"])) is None:
                return None
            tiers.append((grade, reading.numbers))
    if len(tiers) < 2 or best_reading(_TIER.sub("", text), n) is not None:
        return None
    tiers.sort(key=lambda tier: -tier[0])
    return Records([number for grade, numbers in tiers if grade for number in numbers], (GRADED,))


@dataclass(frozen=True)
class _Line:
    """A line that begins with an identifier; `words` stand behind it, or in the line below; `label`: its number."""

    start: int
    end: int
    number: int
    label: str
    joint: str
    words: str


def _by_verdict(text: str, n: int) -> Records | None:
    """Return the order of lines that each give a document and a verdict on it; None without such lines.

    Documents in the order shown with short verdicts, of which one is not understood, are no order.
    """
    lines = list(_verdict_lines(text))
    if len(lines) < 2 or _has_order(text, lines, n):
        return None
    numbers, verdicts = [line.number for line in lines], [verdict_of(line.words) for line in lines]
    shown = numbers == list(range(1, len(lines) + 1))
    before = text[: lines[0].start].rstrip().rpartition("\n")[2]
    chosen = any(line.label for line in lines) or (ANNOUNCEMENT.search(before) and not INITIAL.search(before))
    records = _judged(numbers, verdicts, text)
    if records is not None:
        graded = GRADED in records.repairs and all(line.joint.strip() for line in lines)
        if graded and not shown and not _falls(verdicts):
            # What grades a list's documents against their order may be the first words of remarks.
            bare = all(is_bare(line.words) for line in lines)
            return None if chosen and not bare else Records((), (), AGAINST_ITS_ORDER)
        if shown and records.problem == MAY_BE_RANKS:
            return records
        return None if chosen and not graded and (records.problem or not shown) else records
    differ = len({line.words for line in lines}) > 1
    apart = all(line.joint.strip() or not PROSE.search(line.words) for line in lines)
    short = sum(len(PROSE.findall(line.words)) for line in lines) <= 3 * len(lines)
    if shown and differ and apart and short and not chosen and best_reading(_others(text, lines), n) is None:
        return Records((), (), NOT_UNDERSTOOD)
    return None


def _falls(verdicts: Sequence[Appraisal | None]) -> bool:
    """Tell whether each verdict is no better than the one before it."""
    values = [verdict.value for verdict in verdicts if verdict is not None]
    return values == sorted(values, reverse=True)


def _judged(numbers: Sequence[int], verdicts: Sequence[Appraisal | None], text: str) -> Records | None:
    """Return the documents of a text by their verdicts; None where these are not understood."""
    known = [verdict for verdict in verdicts if verdict is not None]
    counted = {verdict.kind for verdict in known} <= {"number", "score"}
    values = {verdict.value for verdict in known}
    first = min((one.start() for one in _BESIDE.finditer(text)), default=0)
    rising = counted and (lowest_is_best(text, sorted(values)) or leads_to_costs(text, first))
    order = by_merit(verdicts, ranks=rising)
    if order is None:
        return None
    if not rising and all(verdict.kind == "number" for verdict in known) and values == set(range(1, len(known) + 1)):
        return Records((), (), MAY_BE_RANKS)
    if len(known) > 1 and len(values) == 1:
        return Records((), (), "the same verdict on every document")
    how = GRADED if known[0].kind == "grade" else SORTED
    return Records([numbers[index] for index in order], (how,))


def _verdict_lines(text: str) -> Iterator[_Line]:
    """Give the lines with a document and words behind it, or below it where every document's words stand so."""
    matches = list(_LINE.finditer(text))
    below = []
    for index, match in enumerate(matches):
        number = int(next(match[name] for name in ("square", "round", "named", "bare") if match[name]))
        words, end = match["words"].strip(" \t*_|"), match.end()
        if words:
            yield _Line(match.start(), end, number, match["label"] or "", match["joint"], words)
            continue
        rest = text[end : matches[index + 1].start() if index + 1 < len(matches) else end + 200].strip()
        if rest and len(rest) < 200:
            stop = text.index(rest, end) + len(rest)
            below.append(_Line(match.start(), stop, number, match["label"] or "", ":", rest))
    if len(below) == len(matches):
        yield from below


def _others(text: str, lines: Sequence[_Line]) -> str:
    """Return a text without the lines."""
    return outside(text, [(line.start, line.end) for line in lines])


def _has_order(text: str, lines: Sequence[_Line], n: int) -> bool:
    """Tell whether the lines are parts of chains, or an order of its own stands beside them."""
    for line in lines:
        mention = next(iter(find_mentions(line.words, "square", n)), None)
        gap = line.joint + (line.words[: mention.start] if mention else "")
        if line.words[:1] in "<>" or (mention and gap_between(gap) is not None):
            return True
    reading = best_reading(_others(text, lines), n)
    return reading is not None and (
        reading.rank >= Rank.CHAIN or (reading.rank == Rank.LIST and len(reading.numbers) > 1)
    )


def _by_verdict_beside(text: str, n: int) -> Records | None:
    """Return the order of documents with verdicts beside each other (`[1]: No, [2]: Yes`); None without such."""
    pairs = list(_BESIDE.finditer(text))
    if len(pairs) < 2 or len(pairs) != text.count("[") or has_chain(_BESIDE.sub("", text), n):
        return None
    words = [re.sub(r"(?:[,;/.)\s]|\band)+\Z", "", pair["words"]) for pair in pairs]
    numbers, verdicts = [int(pair["id"]) for pair in pairs], [verdict_of(word) for word in words]
    records = _judged(numbers, verdicts, text)
    if records and GRADED in records.repairs and numbers != sorted(numbers) and not _falls(verdicts):
        return None if "\n" in text[pairs[0].start() : pairs[-1].start()] else Records((), (), AGAINST_ITS_ORDER)
    return records
