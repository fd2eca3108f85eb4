"""Find the numbers of numbered lines, which are no identifiers."""

from __future__ import annotations

import re

from rrad_ray.labelling.answer_prose import LEADING_MARKS
from rrad_ray.labelling.answer_tokens import NOTATIONS
from rrad_ray.labelling.answer_words import RANK_WORD

_LABEL = re.compile(
    rf"^{LEADING_MARKS}(?:(?P<word>{RANK_WORD})[ ]?)?#?(?P<number>\d{{1,3}})"
    r"(?P<suffix>st|nd|rd|th|位|위|等|名|순위)?[ *_]{0,4}(?P<mark>[.):|=→\-–—])[ \t*_]*",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER_NEXT = re.compile(r"[\"'`*_]*\d{1,6}(?!\w|[./:]\d)")

LineLabel = tuple[int, bool]  # the number of a line, and whether it is called a rank


def without_labels(text: str, notation: str) -> tuple[str, dict[int, LineLabel]]:
    """Replace the numbers of numbered lines by spaces (`1. [3]`, `Rank 2: 5`, `(3) [1]`).

    Returns the text, and by each such line's start its number and whether it is called a rank.
    """
    labels: dict[int, LineLabel] = {}
    spans = []
    for match in _LABEL.finditer(text):
        line_end = text.find("\n", match.end())
        is_rank = bool(match["word"]) or match["suffix"] in ("位", "위", "等", "名", "순위")
        if not is_rank and match["mark"] not in (".)|" if notation == "bare" else ".):|"):
            continue
        if notation == "round" and match["mark"] == ")" and "(" in match[0]:
            continue
        if notation == "bare":
            follows = bool(_NUMBER_NEXT.match(text, match.end())) and (is_rank or match[0][-1] in " \t")
        else:
            line = text[match.end() : line_end if line_end >= 0 else len(text)]
            follows = NOTATIONS[notation].search(line) is not None
        if follows:
            labels[match.start()] = int(match["number"]), is_rank
            spans.append(match.span())
    if notation == "bare" and len(labels) < 2:
        return text, {}
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text, labels
