"""Read the order out of an answer's text: from its chains of identifiers, its lists of lines, or its first mentions.

What an answer's marker announces ("Final ranking:", `<answer>`, 排名) comes before a chain with comparators, that
before a plain list, and first mentions come last: there is no chain to read then.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

from rrad_ray.labelling.answer_labels import LineLabel, without_labels
from rrad_ray.labelling.answer_prose import (
    BLANK,
    LOOK_AROUND,
    is_compared,
    is_refused,
    is_set_aside,
    lead_of,
    said_order,
)
from rrad_ray.labelling.answer_refusals import changes, takes_back
from rrad_ray.labelling.answer_tokens import (
    BRACKETED,
    NOTATIONS,
    Mention,
    find_mentions,
    gap_between,
    is_part,
    joined_numbers,
    one_order,
    turned_round,
)
from rrad_ray.labelling.answer_words import (
    ALTERNATIVE,
    ANNOUNCEMENT,
    ANY_NAME,
    BESIDE_ORDER,
    COMPARISON,
    EQUALLY,
    EXAMPLE,
    FINALLY,
    IN_FORMAT,
    INITIAL,
    MARKER,
    NEXT,
    OR,
    ORDINALS,
    PROSE,
    RETRACTION,
    WORST_FIRST,
    WORST_FIRST_BEHIND,
    is_negative,
)

# Repairs that matter to what is done with an order.
CUT, REVERSED = "cut off", "worst first"
NUMBERED, SORTED, GRADED = "numbered list", "sorted by score or rank", "graded in words"

_ITEM = re.compile(rf"[ \t>*_#|•●\-–+\"'`]*+(?:{ANY_NAME}[ \t]*)?+[*_]*+\Z", re.IGNORECASE)
_WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]{3,}")  # writing whose words have no spaces between them
_AFTER_BARE = re.compile(r"[ \t*_|.,;]*\Z|[.):][ \t]")
_DASH = re.compile(r"[ \t*_]*[-–—][ \t*_]*")
_LINE_END = re.compile(r"[ \t.,!*_`\"'}\])|]*(?:\Z|\n|</|<\|)")
_INTRODUCES = re.compile(r"(?:[:=]|\b(?:is|are|be)|[은는为是は])[ \t*_\"'`{\[(]*\Z")


class Rank(IntEnum):
    """The weight of a reading: a higher one is preferred."""

    EXAMPLE, MENTIONS, LIST, CHAIN, MARKED = range(5)


@dataclass(frozen=True)
class Reading:
    """An order read from a part of the text, identifiers best first; or the `problem` why it says none."""

    rank: Rank
    notation: str
    start: int
    numbers: tuple[int, ...]
    repairs: tuple[str, ...] = ()
    problem: str = ""
    is_list: bool = False

    @property
    def preference(self) -> tuple[bool, int, int, int]:
        """Return the key of the best reading: more than one identifier, then rank, notation, and lateness."""
        return len(self.numbers) > 1, self.rank, -list(NOTATIONS).index(self.notation), self.start


def best_reading(text: str, n: int) -> Reading | None:
    """Return the reading that counts most of an answer over `n` documents; None if nothing can be read."""
    readings = _all_readings(text, n)
    if not readings:
        return None
    best = max(readings, key=lambda reading: reading.preference)
    equals = [reading for reading in readings if (reading.rank, reading.notation) == (best.rank, best.notation)]
    # `[3] > [1] > [2]. Clearly [3] > [2]`: what repeats a part of an order is a remark on it.
    whole = [reading for reading in equals if is_part(best.numbers, reading.numbers)]
    best = max(whole, key=lambda reading: len(reading.numbers))
    others = [reading.numbers for reading in equals if not {*reading.numbers} <= {*best.numbers}]
    if best.rank == Rank.CHAIN and others and not _are_disjoint(equals):  # `[3] > [1]`, `[1] > [2]`
        joined = one_order([reading.numbers for reading in equals])
        best = replace(best, numbers=joined or best.numbers, problem="" if joined else "orders that are not one")
    if best.rank in (Rank.LIST, Rank.CHAIN) and _are_disjoint(equals):  # levels, such as "Partly relevant: [1], [4]"
        equals.sort(key=lambda reading: reading.start)
        numbers = [number for reading in equals for number in reading.numbers]
        best = replace(best, start=equals[0].start, numbers=tuple(numbers))
    return best


def _all_readings(text: str, n: int) -> list[Reading]:
    """Return the readings of a text in every notation that matters; first mentions only where there is no other.

    Echoes are left out, unless there is nothing else.
    """
    announced = ANNOUNCEMENT.search(text) is not None
    readings, mentions = list[Reading](), list[Reading]()
    for notation in NOTATIONS:
        unlabelled, labels = without_labels(text, notation)
        mentioned = find_mentions(unlabelled, notation, n)
        if mentioned:
            readings += _chains(unlabelled, notation, mentioned, n)
            readings += _lists(unlabelled, notation, mentioned, labels)
            if notation in BRACKETED or (notation == "named" and len(mentioned) > 1):
                mentions += _mentions(unlabelled, notation, mentioned)
        if any(reading.rank == Rank.MARKED or (reading.rank == Rank.CHAIN and not announced) for reading in readings):
            break
    usable = [reading for reading in readings if not is_echo(text, reading) and not _is_last(text, reading)]
    if not any(reading.rank > Rank.EXAMPLE for reading in usable):
        readings += mentions
        usable += [reading for reading in mentions if not is_echo(text, reading)]
    return usable or readings


def _is_last(text: str, reading: Reading) -> bool:
    """Tell whether a single identifier is the last of several in prose: `[3] comes first, then [1]. Finally: [2]`."""
    lead = lead_of(text, reading.start, 0)
    if len(reading.numbers) > 1 or not FINALLY.search(lead) or ANNOUNCEMENT.search(FINALLY.sub("", lead)):
        return False
    before = text[: reading.start]
    return NEXT.search(before) is not None or ORDINALS[0].search(before) is not None


def is_echo(text: str, reading: Reading) -> bool:
    """Tell whether a list or the mentions repeat the passages in the order shown, with their texts: no ranking."""
    listed = reading.is_list or reading.rank in (Rank.MENTIONS, Rank.LIST)
    in_order = len(reading.numbers) > 1 and list(reading.numbers) == list(range(1, len(reading.numbers) + 1))
    rest = text[reading.start :]
    words = len(PROSE.findall(rest))
    if reading.is_list:
        words += sum(map(len, _WITHOUT_SPACES.findall(rest))) // 2
    return listed and in_order and words > 3 * len(reading.numbers)


def _are_disjoint(readings: Sequence[Reading]) -> bool:
    numbers = [number for reading in readings for number in set(reading.numbers)]
    return len(readings) > 1 and len(numbers) == len(set(numbers))


def _ranked(rank: Rank, lead: str) -> Rank:
    if (EXAMPLE.search(lead) and not IN_FORMAT.search(lead)) or ALTERNATIVE.search(lead):
        return Rank.EXAMPLE
    if BESIDE_ORDER.search(lead):
        return rank
    return Rank.MARKED if MARKER.search(lead) and not INITIAL.search(lead) else rank


def _chains(text: str, notation: str, mentions: Sequence[Mention], n: int) -> Iterator[Reading]:
    """Give the order of each run of mentions that only comparators, commas and the like stand between."""
    start = 0
    for index, mention in enumerate(mentions):
        following = mentions[index + 1] if index + 1 < len(mentions) else None
        if following is None or gap_between(text[mention.end : following.start]) is None:
            run = mentions[start : index + 1]
            reading = _chain(text, notation, run, mentions[start - 1].end if start else 0, n)
            if reading is not None:
                yield reading
            start = index + 1


def _chain(text: str, notation: str, run: Sequence[Mention], floor: int, n: int) -> Reading | None:
    gaps = [text[one.end : two.start] for one, two in itertools.pairwise(run)]
    numbers, kinds = joined_numbers([mention.numbers for mention in run], [mention.gaps for mention in run], gaps, n)
    start, end = run[0].start, run[-1].end
    lead = lead_of(text, start, floor)
    if is_negative(lead) or is_refused(text, start, end) or takes_back(lead, text, end):
        return None
    if floor and is_compared(text[floor:start]):
        return None
    compares = "more" in kinds or "less" in kinds
    if compares and (OR.match(text, end) or (floor and OR.fullmatch(text, floor, start))):
        return Reading(Rank.CHAIN, notation, start, tuple(numbers), problem="several orders, and none is chosen")
    rank = _ranked(Rank.CHAIN if compares else Rank.LIST, lead)
    begins = _INTRODUCES.search(lead) or BLANK.match(text, text.rfind("\n", 0, start) + 1, start)
    behind = WORST_FIRST_BEHIND.match(text, end)
    alone = (_LINE_END.match(text, end) or behind) and (rank == Rank.MARKED or begins)
    if rank == Rank.CHAIN and alone and floor and RETRACTION.search(text[max(floor, start - LOOK_AROUND) : start]):
        rank = Rank.MARKED
    if not alone and (len(numbers) < 2 or not compares or (notation == "bare" and len(numbers) < 3)):
        return None
    if len(numbers) == 1 and rank != Rank.MARKED and not _INTRODUCES.search(lead) and _has_words(text):
        return None
    if "more" in kinds and "less" in kinds:
        return Reading(rank, notation, start, tuple(numbers), problem="both > and < in one order")
    turned = behind or WORST_FIRST.search(lead)
    if "more" in kinds and turned:
        return Reading(rank, notation, start, tuple(numbers), problem="worst first, but with >")
    if len(numbers) > 1 and changes(text, end):
        return Reading(rank, notation, start, tuple(numbers), problem="an order that is changed in words")
    if not compares and len(numbers) == n > 1 and EQUALLY.search(lead):
        return Reading(rank, notation, start, tuple(numbers), problem="documents that are called equal")
    repairs = [CUT] if run[-1].cut else []
    if "less" in kinds or ("more" not in kinds and turned):
        numbers = turned_round(numbers, kinds, "less" if "less" in kinds else "comma")
        repairs.append(REVERSED)
    return Reading(rank, notation, start, tuple(numbers), tuple(repairs))


@lru_cache(maxsize=2)  # asked for every identifier of a text: once is enough
def _has_words(text: str) -> bool:
    return PROSE.search(text) is not None


@dataclass(frozen=True)
class _Item:
    """A line that begins with an identifier; `label`: its number in the list, 0 without; `rest`: its other words."""

    start: int
    end: int
    numbers: tuple[int, ...]
    label: int
    is_rank: bool
    rest: str


def _lists(
    text: str, notation: str, mentions: Sequence[Mention], labels: Mapping[int, LineLabel]
) -> Iterator[Reading]:
    """Give the order of each list whose lines begin with an identifier, after a number, a bullet or nothing."""
    group: list[_Item] = []
    for item in _items(text, notation, mentions, labels):
        if group and not _continues(text, group[-1], item):
            yield from _listed(text, notation, group)
            group = []
        group.append(item)
    yield from _listed(text, notation, group)


def _items(text: str, notation: str, mentions: Sequence[Mention], labels: Mapping[int, LineLabel]) -> Iterator[_Item]:
    """Give the lines that begin with an identifier; a line with a comparator is a chain and none of them."""
    line_end = -1
    for index, mention in enumerate(mentions):
        start = text.rfind("\n", 0, mention.start) + 1
        if mention.start < line_end or not _ITEM.match(text[start : mention.start]):
            continue
        line_end = text.find("\n", mention.end) % (len(text) + 1)
        numbers, end = list(mention.numbers), mention.end
        for following in mentions[index + 1 :]:
            kind = gap_between(text[end : following.start]) if following.end <= line_end else None
            if (
                kind == "comma"
                and _DASH.fullmatch(text, end, following.start)
                and PROSE.search(text, following.end, line_end)
            ):
                break  # a remark that begins with another document: `1. [2] - [3] covers less`
            if kind in ("more", "less"):
                numbers = []
            if kind in ("more", "less", None):
                break
            numbers += following.numbers
            end = following.end
        rest = text[end:line_end]
        if numbers and not {"more", "less"} & set(mention.gaps) and (notation != "bare" or _AFTER_BARE.match(rest)):
            yield _Item(start, line_end, tuple(numbers), *labels.get(start, (0, False)), rest)


def _continues(text: str, before: _Item, item: _Item) -> bool:
    """Tell whether a line goes on with the list of the line before it."""
    if item.label:
        return before.label > 0 and (item.label > before.label or item.is_rank)
    return not before.label and not text[before.end : item.start].strip(" \t\n|:-")


def _listed(text: str, notation: str, group: Sequence[_Item]) -> Iterator[Reading]:
    """Give the order of a list of lines, unless it is said to be of irrelevant documents."""
    while len(group) > 1 and not group[0].label and is_negative(group[0].rest) and not is_negative(group[-1].rest):
        group = group[1:]  # `[4] and [5] are not relevant.`, above the order
    if len(group) < 2:
        return
    ordered = sorted(group, key=lambda item: item.label) if all(item.is_rank for item in group) else list(group)
    numbers = [number for item in ordered for number in item.numbers]
    lead = lead_of(text, group[0].start, 0)
    titled = notation == "bare" and any(PROSE.search(item.rest) for item in group)
    if not numbers or is_negative(lead) or (titled and numbers == sorted(numbers)):
        return
    repairs = [NUMBERED] if group[0].label else []
    if WORST_FIRST.search(lead):
        numbers = numbers[::-1]
        repairs.append(REVERSED)
    yield Reading(_ranked(Rank.LIST, lead), notation, group[0].start, tuple(numbers), tuple(repairs), is_list=True)


def _mentions(text: str, notation: str, mentions: Sequence[Mention]) -> Iterator[Reading]:
    """Give the order that prose says of what it mentions, without those in a sentence that calls them irrelevant."""
    used: list[Mention] = []
    for mention in mentions:
        if not is_set_aside(text, mention):
            used.append(mention)
    numbers = tuple(number for mention in used for number in mention.numbers)
    if numbers:
        said = said_order(text, used) if len(set(numbers)) > 1 else numbers
        reading = Reading(Rank.MENTIONS, notation, used[0].start, said or numbers, ("read from prose",))
        if not said and not is_echo(text, reading):
            problem = "comparisons in prose" if COMPARISON.search(text) else "mentions in no order"
            reading = replace(reading, problem=problem)
        elif not COMPARISON.search(text) and EQUALLY.search(text, used[-1].end, used[-1].end + LOOK_AROUND):
            reading = replace(reading, problem="documents that are called equal")
        yield reading
