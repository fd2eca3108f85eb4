"""Read answers by a template's own regular expression, under the rules of the built-in parser.

A match says less than the parser knows: what it repeats, leaves out or leaves unread is said and judged all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from typing import Any

import regex as regular

from rrad_ray.config import PromptConfig
from rrad_ray.config.template_files import template_place
from rrad_ray.config.templates import OrderTemplate
from rrad_ray.errors import RradError
from rrad_ray.labelling.answer_chains import CUT, Rank, Reading, is_echo
from rrad_ray.labelling.answer_text import spoken_text
from rrad_ray.labelling.answer_tokens import BRACKETED, find_mentions, outside
from rrad_ray.labelling.answer_words import PROSE
from rrad_ray.labelling.answers import (
    CUT_OFF,
    SET_ASIDE,
    ParsedOrder,
    counted_order,
    parse_answer,
    rejected_order,
    worthless,
)

AnswerReader = Callable[[str, int], ParsedOrder]  # an answer and the number of documents shown to an order
READ_S = 1.0  # an answer over which the expression takes longer is rejected
SHOWN = (3, 1, 2, 12, 30)  # documents, to try a template's form of answers with; identifiers change their length
MOST_SHOWN = 1000  # no prompt has room for more
_FIXED_NUMBER = re.compile(r"(?<!\d)\d{1,4}(?!\d)")


def answer_reader(pattern: str) -> AnswerReader:
    """Return the reader of answers by a regular expression; empty: the built-in parser.

    Each match of its group `id` is one document, best first: a number, or a letter (A is 1). Or its group `order` is
    the part of the answer, of the last match, that the built-in parser reads. Readers never raise.
    """
    return partial(_read, regular.compile(pattern)) if pattern else parse_answer


def check_template(cfg: PromptConfig) -> None:
    """Raise `RradError` unless answers of the form that the config's template asks for are read as what they say.

    Orders of one, of some and of all documents are tried, where few and where many are shown: `[1] ~ [3]` is a range
    to the parser, while `[2] ~ [1] ~ [3]` is an order, and the 12 of "12 passages" is a document where 12 are shown.
    """
    misread = _misread(cfg.prompt) if cfg.task == "order" else None
    if misread is None:
        return
    answer, n, parsed = misread
    pattern = cfg.prompt.regex
    how = f"the template's regex {pattern!r}" if pattern else "the built-in parser"
    read = " > ".join(str(index + 1) for index in parsed.ranked) or f"nothing ({parsed.rejection})"
    documents = f"{n} document{'s' if n > 1 else ''}"
    remedy = "write `identifier`, `joiner` and `answer` as the prompt asks for them, or a `regex` with (?P<id>...)"
    where = template_place(cfg.template, _blamed(cfg.prompt))
    raise RradError(where, f"{how} reads {read} from an answer over {documents} as asked for: {answer!r}", remedy)


def _misread(template: OrderTemplate) -> tuple[str, int, ParsedOrder] | None:
    """Return the first answer in a template's own form that is not read as what it says, how many documents it is
    about, and what is read; None if there is none."""
    read = answer_reader(template.regex)
    # A number in the form's own words can pass for a document's where that many are shown.
    words = _FIXED_NUMBER.findall(" ".join((template.identifier, template.joiner, template.answer)))
    for n in dict.fromkeys((*SHOWN, *(int(number) for number in words if 0 < int(number) <= MOST_SHOWN))):
        for order in _orders(n):
            answer = template.written(order)
            parsed = read(answer, n)
            if parsed.ranked != order:
                return answer, n, parsed
    return None


def _orders(n: int) -> list[tuple[int, ...]]:
    """Return orders of all, of some and of one of `n` documents."""
    last, every = n - 1, tuple(range(n))
    some = ((0, 2), (0, last), (last, 0), (last - 1, last), (0,), (1,), (last,))
    orders = dict.fromkeys(((1, 0, 2), every, every[::-1], *some))
    return [order for order in orders if set(order) <= set(every) and len(set(order)) == len(order)]


def _blamed(template: OrderTemplate) -> str:
    """Return the key of a template that keeps its answers from being read: the one whose default would mend it."""
    if template.regex:
        return "regex"
    defaults: dict[str, Any] = {each.name: each.default for each in fields(template)}
    keys = ("joiner", "answer", "identifier")
    mended = (key for key in keys if _misread(replace(template, **{key: defaults[key]})) is None)
    return next(mended, "identifier")


def _read(pattern: Any, answer: str, n: int) -> ParsedOrder:
    text, thought = spoken_text(answer)
    repairs: tuple[str, ...] = ("thinking removed",) if thought else ()
    try:
        matches = list(pattern.finditer(text, timeout=READ_S))
    except TimeoutError:
        return rejected_order(n, f"the template's regex takes more than {READ_S:g} s")
    if "order" in pattern.groupindex:
        return _part(text, [match.span("order") for match in matches if match["order"] is not None], n, repairs)
    spans = [(match.span(), match["id"]) for match in matches if match["id"] is not None]
    if not spans:
        return rejected_order(n, "no match of the template's regex")
    numbers = tuple(_number(name) for _, name in spans)
    (start, _), (_, end) = spans[0][0], spans[-1][0]
    reading = Reading(Rank.MENTIONS, "square", start, numbers)
    talks = any(PROSE.search(text[one[1] : two[0]]) for (one, _), (two, _) in pairwise(spans))
    problem = "echo of the input" if talks and is_echo(text, reading) else ""
    if len(set(numbers)) == 1:
        problem = worthless(text, reading, n)
    repairs += _set_aside(text, [span for span, _ in spans], n)
    if CUT_OFF.search(text, end):
        repairs += (CUT,)
    return counted_order(numbers, n, repairs, problem)


def _part(text: str, spans: list[tuple[int, int]], n: int, repairs: tuple[str, ...]) -> ParsedOrder:
    """Return the order that the parser reads in the last of some parts of a text."""
    if not spans:
        return rejected_order(n, "no match of the template's regex")
    start, end = spans[-1]
    parsed = parse_answer(text[start:end], n)
    if parsed.rejected:
        return parsed
    if SET_ASIDE not in parsed.repairs:
        repairs += _set_aside(text, spans[-1:], n)
    return ParsedOrder(parsed.ranked, parsed.missing, (*repairs, *parsed.repairs))


def _set_aside(text: str, spans: list[tuple[int, int]], n: int) -> tuple[str, ...]:
    """Return `SET_ASIDE` where a text has identifiers in brackets outside the spans that are read."""
    rest = outside(text, spans)
    return (SET_ASIDE,) if any(find_mentions(rest, kind, n) for kind in BRACKETED) else ()


def _number(name: str) -> int:
    """Return the number of a document that an answer names, by a number or a capital letter; -1: it names none."""
    name = name.strip()
    if name.isdecimal() and len(name) <= 18:
        return int(name)
    if not (name.isascii() and name.isupper() and name.isalpha() and len(name) <= 3):
        return -1
    number = 0
    for letter in name:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number
