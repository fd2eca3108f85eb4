"""Read lists under headings that grade them: `**Most relevant:**`, with `- [3]` and `- [1]` below."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rrad_ray.labelling.answer_grades import grade_of
from rrad_ray.labelling.answer_words import ANY_NAME, RANK_WORD

_NAMED = rf"{ANY_NAME}[ #]{{0,2}}\d{{1,18}}(?!\w)"
_ID = rf"(?:(?:{ANY_NAME}\s?)?\[(?:{ANY_NAME}\s?)?#?\d{{1,18}}\]|\(\d{{1,3}}\)|{_NAMED})"
# A heading is marked as one, or ends with a colon: `### Tier 1`, `1. **Most relevant**`, `Partly relevant:`.
_HEADING = re.compile(
    r"[ \t>]*+(?:#{1,6}[ \t]+)?(?:\d{1,2}[.)][ \t]+|[A-Z][.)][ \t]+)?[*_]{0,3}"
    r"(?P<name>[^\W\d_][^\[\]*_:\n]{0,70})[*_]{0,3}[:：]?[*_]{0,3}[ \t]*"
)
_MARKED = re.compile(r"[ \t>]*(?:#|(?:\d{1,2}[.)][ \t]+)?(?:\*\*|__))|.*[:：][ \t*_]*\Z")
_ITEM = re.compile(
    r"[ \t>]*+[*•●\-–—+]*+[ \t]*+(?:\d{1,3}[.)][ \t]+)?[*_`]*+"
    rf"(?P<ids>{_ID}(?:[*_`]{{0,3}}[ \t]{{0,3}}[,&/][ \t]{{0,3}}[*_`]{{0,3}}{_ID}){{0,40}}+)(?P<rest>[^\n]*)",
    re.IGNORECASE,
)
_ANY_ID = re.compile(_ID, re.IGNORECASE)
_COUNTED = re.compile(
    rf"(?:tier|level|group|{RANK_WORD})[ .#-]{{0,2}}\d{{1,3}}(?:[ ]*(?:\([^()\n]{{1,40}}\)|[-–—:].{{1,40}}))?",
    re.IGNORECASE,
)
_MOST_BELOW = 5
_BULLETS = " \t*•●-–—+"
_DASHED = re.compile(r"(?P<count>.*?\d)[ ]*[-–—:][ ]*(?P<remark>.{1,40})")


def with_remarks(text: str) -> str:
    """Return a text in which what stands indented below a document stands behind it: `- [3] - Score: 9/10; ...`."""
    joined: list[str] = []
    item, below = -1, 0  # the last line with a document alone, and how many have been joined to it
    for line in text.split("\n"):
        alone = _ITEM.fullmatch(line)
        if alone and not alone["rest"].strip(" \t*_`:.,"):
            item, below = len(joined), 0
        elif item >= 0 and below < _MOST_BELOW and _is_below(line, joined[item]):
            joined[item] = f"{joined[item].rstrip(' :')}{'; ' if below else ' - '}{line.strip(_BULLETS)}"
            below += 1
            continue
        elif line.strip():
            item = -1
        joined.append(line)
    return "\n".join(joined)


def _is_below(line: str, item: str) -> bool:
    """Tell whether a line is indented deeper than the document's above it, and names no document."""
    indent, own = len(line) - len(line.lstrip(" \t")), len(item) - len(item.lstrip(" \t"))
    return bool(line.strip()) and indent > own and not _ANY_ID.search(line)


@dataclass
class _Block:
    """A heading's name, and the identifiers of the lines below it."""

    name: str
    ids: list[str] = field(default_factory=list)


def under_headings(text: str) -> str:
    """Return a text with lists under headings in the headings' lines: `Most relevant: [3], [1]`.

    A text whose lists do not all stand under headings that grade or count them is returned as it is.
    """
    if "\n" not in text:
        return text
    joined: list[str | _Block] = []
    block: _Block | None = None
    for line in text.split("\n"):
        item, heading = _ITEM.fullmatch(line), _heading(line)
        if heading:
            block = _Block(heading)
            joined.append(block)
        elif item and block and not _ANY_ID.search(item["rest"]):
            block.ids += _ANY_ID.findall(item["ids"])
        elif _ANY_ID.search(line):
            return text
        elif line.strip():
            block = None if block and block.ids else block
            joined.append(line)
    blocks = [block for block in joined if isinstance(block, _Block) and block.ids]
    if len(blocks) < 2:
        return text
    return "\n".join(line if isinstance(line, str) else f"{line.name}: {', '.join(line.ids)}" for line in joined)


def _heading(line: str) -> str:
    """Return the name of a heading that grades or counts what is below it; empty for another line."""
    heading = _HEADING.fullmatch(line)
    if heading is None or not _MARKED.match(line):
        return ""
    name = heading["name"].strip()
    if _COUNTED.fullmatch(name):
        return _DASHED.sub(r"\g<count> (\g<remark>)", name)
    return name if grade_of(name) is not None else ""
