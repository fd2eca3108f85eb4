"""Tell which end of its numbers an answer calls the best: `from 1 (best) to 5 (worst)`, `lower is better`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rrad_ray.labelling.answer_verdicts import grade_of
from rrad_ray.labelling.answer_words import COST

_LOWER = (
    r"(?:lower|smaller|lowest|smallest|fewer|niedrigere?|kleinere?|menor|m[aá]s baj[oa]s?|"
    r"plus (?:bas(?:se)?|petite?)s?)"
)
_BETTER = (
    r"(?:better|best|(?:the )?(?:more|most) (?:relevan|simil)|closer|closest|besser|meilleure?s?|mieux|mejor|"
    r"(?:plus|más) (?:pertinent|relevant)|greater relevance|higher relevance)"
)
_LOWER_IS_BETTER = re.compile(
    rf"\b{_LOWER}\b(?:[ ]\w+){{0,2}}[ ]?(?:,|is|are|means?|indicates?|ist|sind|est|sont|es|son|=|→|->)[ ]?"
    rf"(?:\w+ ){{0,1}}?{_BETTER}|\b{_LOWER},? (?:the|desto|umso)? ?{_BETTER}|"
    r"越[低小少]\s?(?:则|則|就|表示)?\s?越(?:好|相[关關]|接近)|(?:低い|小さい)ほど|(?:낮을|작을)\s?수록",
    re.IGNORECASE,
)
# `1 = most relevant`, `from 1 (best) to 5 (worst)`, `(1: sehr gut)`; a document's number stands behind other words.
_END = re.compile(
    r"(?:\A|[(\[,;:/–-]|\b(?:where|with|from|of|to|and|a|von|bis|de|à|al?|mit|score|grade|rating|note|scale)\b|[从從到])"
    r"[ ]{0,2}[\"'*_]{0,3}(?P<number>\d{1,3})[\"'*_]{0,3}[ ]?"
    r"(?:[(=]|(?<=[ ])(?:is|means?|being|for|meaning|ist|est|es)[ ]|:(?=[^()\n]{1,60}[)\"]))[ ]?(?:the )?"
    r"(?P<words>[^\W\d_][^,;:()\[\]{}|<>\n\d]{1,40})",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")
_BEST, _BAD = 4.0, 1.0  # grades of words


def lowest_is_best(text: str, values: Sequence[float]) -> bool:
    """Tell whether a text with the scores `values` of documents says that the lowest one is the best."""
    if _LOWER_IS_BETTER.search(text):
        return True
    ends = [(int(end["number"]), grade_of(end["words"])) for end in _END.finditer(text)]
    graded = {number: grade for number, grade in ends if grade is not None}
    if len(graded) > 1:
        return graded[min(graded)] > graded[max(graded)]
    for number, grade in graded.items():  # 1 is the best end of 0 to 1 too
        return grade <= _BAD < number if number > 1 else grade >= _BEST and number < max(values, default=0.0)
    return False


def leads_to_costs(text: str, start: int) -> bool:
    """Tell whether the line that introduces the lines at `start` calls their numbers distances or other costs."""
    lead = text[:start].rstrip(" \t\n*-•").rpartition("\n")[2].strip(" \t*_#")
    return lead.endswith(":") and any(map(COST.fullmatch, (lead.rstrip(" :"), *_WORD.findall(lead))))
