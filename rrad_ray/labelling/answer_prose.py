"""The words around identifiers: those that introduce them, refuse them, or say which one is better."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from rrad_ray.labelling.answer_refusals import refuses
from rrad_ray.labelling.answer_tokens import Mention, gap_between, one_order
from rrad_ray.labelling.answer_words import ABOVE, BEGINS_WORST, BELOW, FINALLY, NEXT, UNSURE, is_negative

LEADING_MARKS = r"[ \t>*_#|•●\-–+\"'`(\[{]*"
BLANK = re.compile(rf"{LEADING_MARKS}\Z")
CLAUSE_END = re.compile(r"[.!?;](?=[)\]\"'*_]{0,3}(?:\s|\Z))|\n")
LOOK_AROUND = 160  # characters around identifiers in which words about them may stand
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[^\W\d_]")
# Between documents with no word between them: `]) > [`, `/> > <doc `, `\n#2 `, `\n2/3: `.
_WORDLESS = re.compile(r"(?:[^\w<]|<[a-z]{1,12}\s|\n[ \t]*(?:#\d{1,3}(?=\s)|\d{1,3}/\d{1,3}:))*")

# `[1] comes last, [3] first`: the place of the one before, where `[1], and last [3]` is that of the one behind.
_PLACED_LAST = re.compile(r"(?<![a-zà-ÿ])(?:last|zuletzt|最后|最後)[ \t*_]*[,;.、，。]", re.IGNORECASE)


def lead_of(text: str, start: int, floor: int) -> str:
    """Return what introduces the text at `start`: the sentence before it in its line, else the last line with words.

    `floor` is where the mention before it ends.
    """
    before = text[max(floor, start - LOOK_AROUND) : start]
    line = before.rpartition("\n")[2]
    if BLANK.match(line) and "\n" in before:
        head = before[: len(before) - len(line)].rstrip()
        line = head.rpartition("\n")[2]
        if _sets_aside(line, names=0 < floor >= start - LOOK_AROUND and line == head):
            return ""
    sentence = CLAUSE_END.split(line)[-1]
    return sentence if _LETTER.search(sentence) else ""


def _sets_aside(line: str, names: bool) -> bool:
    """Tell whether a line above an order is no introduction of it: it calls documents that it names irrelevant.

    `names`: one stands before it, in the same line.
    """
    named = names or _DIGIT.search(line) is not None
    return named and is_negative(line) and not line.rstrip(" \t*_").endswith(":")


def clause_around(text: str, mention: Mention) -> str:
    """Return the words around a mention: what introduces it, and the rest of its clause."""
    stop = CLAUSE_END.search(text, mention.end, mention.end + LOOK_AROUND)
    return lead_of(text, mention.start, 0) + text[mention.end : stop.start() if stop else mention.end + LOOK_AROUND]


def is_refused(text: str, start: int, end: int) -> bool:
    """Tell whether the sentence around identifiers says that no order can be given, or that none is relevant."""
    sentence = CLAUSE_END.split(text[max(0, start - 600) : start])[-1]  # with another order in it, perhaps
    return refuses(sentence, text, end)


def is_set_aside(text: str, mention: Mention) -> bool:
    """Tell whether the words around a mention call it irrelevant, or say that no order can be given."""
    return is_negative(clause_around(text, mention)) or is_refused(text, mention.start, mention.end)


def is_compared(gap: str) -> bool:
    """Tell whether what stands between two documents compares them (`[1] should be ranked below [2]`)."""
    return len(gap) <= LOOK_AROUND and (ABOVE.search(gap) or BELOW.search(gap)) is not None


def said_order(text: str, mentions: Sequence[Mention]) -> tuple[int, ...]:
    """Return the only order that the words between mentions give (`[2] is better than [1]`, `[2], then [1]`).

    Empty where they give none: other words between two documents say nothing about which one is the better, nor does
    one comparison about the next.
    """
    pairs = [(one, two, text[one.end : two.start]) for one, two in itertools.pairwise(mentions)]
    compares = any(is_compared(gap) for *_, gap in pairs)
    if not compares and BEGINS_WORST.search(lead_of(text, mentions[0].start, 0)):
        return ()  # "the least relevant is [3], then [1], then [2]"
    orders, says = [mentions[0].numbers], compares
    for one, two, gap in pairs:
        better, worse = one.numbers[-1], two.numbers[0]
        orders.append(two.numbers)
        if is_compared(gap):
            if UNSURE.search(lead_of(text, one.start, 0) + gap):
                return ()
            orders.append((worse, better) if BELOW.search(gap) else (better, worse))
        elif NEXT.search(gap) or FINALLY.search(_PLACED_LAST.sub("", gap)):
            orders.append((better, worse))
            says = True
        elif gap_between(gap) is None and not _WORDLESS.fullmatch(gap):
            if better != worse:
                return ()
        elif not (compares and CLAUSE_END.search(gap)):
            orders.append((better, worse))
    order = one_order([order for order in orders if len(set(order)) == len(order)])
    if set(order) != {number for mention in mentions for number in mention.numbers}:
        return ()
    return order if says or list(order) != sorted(order) else ()
