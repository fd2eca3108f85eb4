"""Docstrings taken apart: NumPy, Google and Sphinx style, and the signatures that C functions begin with."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence

MAX_BODY, MAX_DESCRIPTION, MAX_ITEM = 85, 45, 12  # words

HEADING = re.compile(
    r"(args?|arguments|parameters|params|returns?|yields|raises|examples?|example usage|usage|notes?|warnings?|shape|"
    r"attributes|references|see also|inputs?|outputs?|keyword (?:args|arguments)|kwargs|variables|methods)\s*::?",
    re.IGNORECASE,
)

PARAMETERS = re.compile(r"(other )?param(eter)?s|(keyword )?arg(ument)?s?")

RETURNS = re.compile(r"returns?|yields")

CALL = re.compile(r"[\w.]+\s*\((.*?)\)\s*(?:(?:-{1,2}>|--|=>)\s*(.*)|:)?$")

FIELD = re.compile(r":param\s+(?:[^:]*\s)?(\w+):\s*(.*)")

SENTENCE = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)(?<!approx)(?<!resp)(?<!\bal)(?<!\b\w)[.!?](?:\s|$)")


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A docstring taken apart; all parts are plain text."""

    summary: str
    body: str
    signature: str
    see_also: tuple[str, ...]


def parse_docstring(raw: str) -> Docstring:
    """Take a docstring apart: NumPy, Google and Sphinx style, and the signatures that C functions begin with."""
    signature, lines = _leading_signature(inspect.cleandoc(raw).splitlines())
    sections = _sections(list(_prose(lines)))
    first, *others = (_plain(text) for text in re.split(r"\n\s*\n", "\n".join(sections.get("", [])).strip()))
    summary = _first_sentence(first)
    description = _clip(" ".join([first[len(summary) :], *others]), MAX_DESCRIPTION)
    returns = [_block(text) for heading, text in sections.items() if RETURNS.fullmatch(heading)]
    returned = _first_sentence(_plain(returns[0])) if returns else ""
    body = " ".join(part for part in (description, returned and f"Returns: {_clip(returned, MAX_ITEM)}") if part)
    parameters = [_items(text) for heading, text in sections.items() if PARAMETERS.fullmatch(heading)]
    for name, text in (item for items in parameters for item in items):
        line = f"{name}: {_clip(text, MAX_ITEM)}"
        if text and len(body.split()) + len(line.split()) <= MAX_BODY:
            body = f"{body}\n{line}".strip()
    summary = re.sub(r"[,;]?(\s(where|such that|as follows|e\.g\.?|i\.e\.?))?:$", "", summary).strip('" .')
    return Docstring(summary, body, signature, _see_also(sections.get("see also", [])))


def _leading_signature(lines: list[str]) -> tuple[str, list[str]]:
    """Return the arguments that a C function's docstring begins with, and the lines after them."""
    signature = ""
    while lines and re.match(r"[\w.]+\s*\(|$", lines[0]):
        head = lines[0].strip()
        taken = 1
        while head.count("(") > head.count(")") and taken < len(lines):
            head, taken = f"{head} {lines[taken].strip()}", taken + 1
        match = CALL.match(head)
        if head and not match:
            break
        lines = lines[taken:]
        if match:
            # A ufunc tells the names of its own arguments only in a second line, after NumPy's `x1, x2, /, ...`.
            signature = match[1] if not signature or "casting=" in signature else signature
            if not any(lines):  # "D.pop(k) -> v, remove the key and return its value" says all in one line
                lines = [match[2] or ""]
                break
    return _clip(re.sub(r"(, /)?, out=None, \*, where=True.*", "", signature), 24), lines


def _prose(lines: Sequence[str]) -> Iterator[str]:
    """Return the lines without doctests, literal blocks and directives."""
    skip: int | None = None  # lines that are indented deeper than this belong to what is left out
    doctest = False
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        doctest = text.startswith(">>>") or (doctest and bool(text))
        if text and skip is not None and indent <= skip:
            skip = None
        if doctest or skip is not None:
            continue
        if text.startswith(".. ") or text.endswith("::"):
            skip = indent
        if not text.startswith(".. "):
            yield line


def _sections(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines by lower-case heading; running text stands under the empty heading."""
    sections: dict[str, list[str]] = defaultdict(list)
    heading, indented = "", False
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        text, outer = line.strip(), line[:1].strip() != ""
        if outer and re.fullmatch(r"[-=~]{3,}", following.strip()):
            heading, indented = text.lower().rstrip(":"), False
        elif outer and HEADING.fullmatch(text):
            heading, indented = text.lower().rstrip(": "), True
        elif field := FIELD.match(text):
            sections["args"].append(f"    {field[1]}: {field[2]}")
        elif not re.match(r"[-=~]{3,}$|:(type|returns?|rtype|raises?)\b", text):
            if outer and indented:  # an indented section ends where the indent does
                heading, indented = "", False
            sections[heading].append(line)
    return sections


def _items(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return the parameters and the first sentence on each."""
    items: list[tuple[str, list[str]]] = []
    google = "".join(lines)[:1] == " "  # there the text follows the colon, in NumPy style the type does
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        match = re.match(r"([`*\w][\w, *`]*?)\s*(?:\([^)]*\)\s*)?(?::\s*(.*))?$", line)
        if match:
            items.append((match[1].replace("`", ""), [match[2] or ""] if google else []))
        elif items:
            items[-1][1].append(line.strip())
    return [(name, _first_sentence(_plain(" ".join(text)))) for name, text in items]


def _block(lines: Sequence[str]) -> str:
    """Return the text of a section, without NumPy's `name : type` lines."""
    return " ".join([line for line in lines if line.startswith(" ")] or lines)


def _see_also(lines: Sequence[str]) -> tuple[str, ...]:
    targets = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if line and not line.startswith(" "):
            targets += [_plain(name).strip(" ,.") for name in re.split(r"\s:\s|\s:$", line)[0].split(",")]
    return tuple(name for name in targets if re.fullmatch(r"[\w.]+", name))


MARKUP = [
    (r"\[\w+\]_|<https?:[^>]*>|https?://\S+|[=\-~^+]{4,}|(?<!\S)#\.(?=\s)", ""),
    (r"(?::[\w:]+:)?`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1"),
    (r":[\w:]+:`[~!](?:[\w.]*\.)?([^`]*)`", r"\1"),
    (r"(?::[\w:]+:)?``([^`]*)``", r"\1"),
    (r"(?::[\w:]+:)?`([^`]*)`_{0,2}", r"\1"),
    (r"\\(?:text\w*|math\w+|operatorname|frac|left|right|big|Big)\b", ""),
    (r"\\([\w*|`])|\\", r"\1"),
    (r"\{(\w+)\}", r"\1"),
    (r"\*\*(\w[^*]*)\*\*", r"\1"),
    (r"(?<![\w*])\*(\w[^*]*)\*(?!\w)", r"\1"),
    (r"<[^<>]* at 0x[^<>]*>", "..."),
    (r"::(?=\s|$)", ":"),
    (r"(?<!\S)~(?=\w)", ""),
]


def _plain(text: str) -> str:
    """Return running text without markup, on one line."""
    text = " ".join(text.split())
    for pattern, replacement in MARKUP:
        text = re.sub(pattern, replacement, text)
    return " ".join(text.split())


def _first_sentence(text: str) -> str:
    match = SENTENCE.search(text)
    return text[: match.start() + 1] if match else text


def _clip(text: str, words: int) -> str:
    pieces = text.split()
    return " ".join(pieces[:words]) + (" ..." if len(pieces) > words else "")
