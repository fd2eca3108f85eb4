"""Parse listwise answers, as real models write them, into orders.

RRADistill takes a document that the answer leaves out as irrelevant: a hard negative, below every ranked one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rrad_ray.labelling.answer_chains import (
    CUT,
    GRADED,
    NUMBERED,
    REVERSED,
    SORTED,
    Rank,
    Reading,
    best_reading,
    is_echo,
)
from rrad_ray.labelling.answer_doubts import DOTS, PASSED_OVER, contradiction, passes_over
from rrad_ray.labelling.answer_headings import under_headings, with_remarks
from rrad_ray.labelling.answer_places import places_apart
from rrad_ray.labelling.answer_records import read_records
from rrad_ray.labelling.answer_refusals import ranks_none
from rrad_ray.labelling.answer_text import final_text, without_counts, without_item_tags
from rrad_ray.labelling.answer_tokens import BRACKETED, find_mentions, outside
from rrad_ray.labelling.answer_words import (
    ANY_NAME,
    COUNTER,
    EXAMPLE,
    INITIAL,
    MARKER,
    NEGATIVE,
    PROSE,
)

_AS_ASKED = re.compile(r"\s*\[\d{1,6}\](?:\s*>\s*\[\d{1,6}\])*\s*")
# An answer that is nothing but one document's name, by itself or announced: `문서 3`, `Passage 3.`, `최종 순위: 3번`
_ONE_NAME = re.compile(
    rf"(?P<lead>[^\d\n]{{0,120}}[:=]|)[\W_]{{0,20}}(?:(?:{ANY_NAME}|第)\s?#?(?P<named>\d{{1,18}})\s?{COUNTER}?|"
    rf"(?P<counted>\d{{1,18}})\s?{COUNTER})[\W_]*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+")
_ENDS_WITH_ONE = re.compile(r"[:=][ \t*_]*\[[^\[\]]{1,30}\][ \t.*_]*\Z")
# A bracket that is not closed, a `<` among them only where none compares; or a sign that nothing follows.
_OPENED = r"(?:[\[({]|(?:\A|(?<=[>,;:\n])|(?<=[>,;:\n] ))<)\s*\w{0,12}\s*#?\d{0,6}"
_WORST_ONLY = "worst first, and cut off before the best"
CUT_OFF = re.compile(rf"(?:{_OPENED}|(?<![\w/-])[<>]|[>,;]\s*{DOTS})\s*\Z")
_OPENS = (":", ">", "=")
_WORSE = re.compile(r"\b(?:worse|worst|less|least|weaker|weakest|inferior|lower|lowest)\b", re.IGNORECASE)
SET_ASIDE = "other identifiers set aside"
_NOTES = {"named": "named without brackets", "bare": "plain numbers"}


@dataclass(frozen=True)
class ParsedOrder:
    """An answer's order of the documents shown; indices are 0-based positions in the order shown.

    `ranked` (best first) and `missing` (left out) are disjoint and hold every shown document between them. `repairs`
    says what reading the answer took. An answer with a `rejection`, the reason why it is no order, ranks nothing.
    """

    ranked: tuple[int, ...]
    missing: tuple[int, ...]
    repairs: tuple[str, ...] = ()
    rejection: str = ""

    @property
    def rejected(self) -> bool:
        return bool(self.rejection)

    @property
    def kind(self) -> str:
        """`ok`, `repaired` or `rejected`."""
        return "rejected" if self.rejection else "repaired" if self.repairs else "ok"

    @property
    def status(self) -> str:
        """The kind with its reasons, as a table keeps it: `ok`, `repaired: HOW` or `rejected: WHY`."""
        why = self.rejection or ", ".join(self.repairs)
        return f"{self.kind}: {why}" if why else self.kind


def parse_answer(answer: str, n: int) -> ParsedOrder:
    """Parse the answer to a prompt that showed `n` documents as [1] .. [n] into an order. Never raises.

    The order is what the answer ends with or announces: its thinking, examples and remarks on single documents are
    set aside. An answer is rejected if it has no identifiers, has a single one amid prose although several documents
    were shown, contradicts itself, mentions documents without comparing them, or echoes the
    passages in the order shown (well formed, but no ranking).
    """
    if _AS_ASKED.fullmatch(answer):
        return counted_order([int(number) for number in _NUMBER.findall(answer)], n, ())
    text, thought = final_text(answer)
    repairs = ["thinking removed"] if thought else []
    text = under_headings(with_remarks(places_apart(without_counts(text))))
    records = read_records(text, n)
    text = without_item_tags(text)
    if records is not None:
        listed = not {SORTED, NUMBERED, GRADED}.isdisjoint(records.repairs)
        passed_over = passes_over(text, records, n, GRADED in records.repairs, not listed)
        problem = records.problem or (PASSED_OVER if passed_over else "")
        return counted_order(records.numbers, n, (*repairs, *records.repairs), problem)
    reading = best_reading(CUT_OFF.sub("", text), n) or _one_name(text)
    if reading is None:
        return rejected_order(n, "no identifiers")
    repairs += reading.repairs
    if _leaves_unread(text, reading, n):
        repairs.append(SET_ASIDE)
    if reading.notation in _NOTES:
        repairs.append(_NOTES[reading.notation])
    if CUT not in repairs and CUT_OFF.search(text):
        repairs.append(CUT)
    problem = reading.problem or worthless(text, reading, n) or contradiction(text, reading, n)
    return counted_order(reading.numbers, n, tuple(repairs), problem)


def _leaves_unread(text: str, reading: Reading, n: int) -> bool:
    """Tell whether a text has more identifiers in brackets than a reading of such has taken."""
    bracketed = sum(len(mention.numbers) for kind in BRACKETED for mention in find_mentions(text, kind, n))
    return reading.notation in BRACKETED and bracketed > len(reading.numbers)


def _one_name(text: str) -> Reading | None:
    """Return the reading of a text that is nothing but one document's name; None for another text."""
    match = _ONE_NAME.fullmatch(text)
    if match is None:
        return None
    lead = match["lead"]
    if lead and (not MARKER.search(lead) or any(words.search(lead) for words in (NEGATIVE, EXAMPLE, INITIAL))):
        return None
    return Reading(Rank.LIST, "named", match.end("lead"), (int(match["named"] or match["counted"]),))


def counted_order(numbers: Sequence[int], n: int, repairs: tuple[str, ...], problem: str = "") -> ParsedOrder:
    """Return the order of the numbers in an answer.

    Numbers that count the documents from 0 are read so where all of them are there, and else not at all: taken as
    they stand, each would be another document's.
    """
    if problem or 0 not in numbers or not set(numbers) <= set(range(n)):
        return _parsed_order(numbers, n, repairs, problem)
    if len(set(numbers)) < max(n, 2):
        return rejected_order(n, "counts from 0")
    return _parsed_order([number + 1 for number in numbers], n, (*repairs, "counted from 0"))


def _parsed_order(numbers: Sequence[int], n: int, repairs: tuple[str, ...], problem: str = "") -> ParsedOrder:
    """Return the order of identifiers: each document once, by its first place."""
    ranked = list(dict.fromkeys(number - 1 for number in numbers if 1 <= number <= n))
    if problem or not ranked:
        return rejected_order(n, problem or "no identifiers")
    if len(ranked) < n and {CUT, REVERSED} <= set(repairs):
        return rejected_order(n, _WORST_ONLY)
    outside = sum(not 1 <= number <= n for number in numbers)
    counts = ((outside, "out of range"), (len(numbers) - outside - len(ranked), "repeated"))
    missing = tuple(sorted(set(range(n)) - set(ranked)))
    return ParsedOrder(tuple(ranked), missing, (*repairs, *(f"{count} {what}" for count, what in counts if count)))


def cut_short(order: ParsedOrder) -> ParsedOrder:
    """Return the order of an answer that its limit of tokens has ended, whatever it ends with: documents that it has
    not come to are not left out."""
    if order.rejected or not order.missing or CUT in order.repairs:
        return order
    if REVERSED in order.repairs:
        return rejected_order(len(order.ranked) + len(order.missing), _WORST_ONLY)
    return replace(order, repairs=(*order.repairs, CUT))


def rejected_order(n: int, why: str) -> ParsedOrder:
    """Return what an answer over `n` documents says that is no order, and why."""
    return ParsedOrder((), tuple(range(n)), rejection=why)


def _numbers_beside(text: str, reading: Reading, n: int) -> bool:
    """Tell whether a text introduces other plain numbers as it may documents: `Rank #1: 3, Rank #2: 1`."""
    rest = outside(text, [(mention.start, mention.end) for mention in find_mentions(text, "named", n)])
    introduced = (each for each in find_mentions(rest, "bare", n) if rest[: each.start].rstrip().endswith(_OPENS))
    return any(1 <= number <= n and number not in reading.numbers for each in introduced for number in each.numbers)


def worthless(text: str, reading: Reading, n: int) -> str:
    """Return the reason why a reading ranks nothing; empty if it is a ranking."""
    if reading.notation == "bare" and 2 * sum(number > n for number in reading.numbers) > len(reading.numbers):
        return "numbers of which most are no document's"
    known = [number for number in reading.numbers if number <= n]
    if reading.notation == "round" and len(set(known)) < len(known) < len(reading.numbers):
        return "numbers of places, documents and others in round brackets"
    if reading.notation == "bare" and len(set(reading.numbers)) == 1 and _numbers_beside(text, reading, n):
        return "one number among others"
    if len(set(reading.numbers)) == 1 and n > 2 and reading.rank < Rank.MARKED and len(PROSE.findall(text)) > 3:
        return "one identifier in prose"
    if len(set(reading.numbers)) == 1 and n == 2 and reading.rank < Rank.MARKED and _WORSE.search(text):
        return "one of two, said to be the worse one"
    if reading.rank == Rank.MENTIONS and ranks_none(text):
        return "mentions beside a refusal"
    if reading.rank == Rank.EXAMPLE:
        return "only an example of an order"
    line = text.rstrip().rpartition("\n")[2]  # "Answer: [3]", below an order
    single = find_mentions(line, "square", n) if len(reading.numbers) > 1 and _ENDS_WITH_ONE.search(line) else []
    if len(single) == 1 and MARKER.search(line[: single[0].start]) and single[0].numbers[0] not in reading.numbers:
        return "an order that leaves out what the answer names"
    return "echo of the input" if is_echo(text, reading) else ""
