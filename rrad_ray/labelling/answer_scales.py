"""Tell which end of its numbers an answer calls the best: `from 1 (best) to 5 (worst)`, `lower is better`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rrad_ray.labelling.answer_grades import grade_of
from rrad_ray.labelling.answer_words import ANY_NAME, BEST_END, COST, WORST_END

_LOWER = (
    r"(?:lower|smaller|lowest|smallest|fewer|niedrigere?|kleinere?|menor|m[aá]s baj[oa]s?|"
    r"plus (?:bas(?:se)?|petite?)s?)"
)
_BETTER = (
    r"(?:better|best|(?:the )?(?:more|most) (?:relevan|simil)|closer|closest|besser|meilleure?s?|mieux|mejor|"
    r"(?:plus|más) (?:pertinent|relevant)|greater relevance|higher relevance)"
)
_LOWER_IS_BETTER = re.compile(
    rf"\b{_LOWER}\b(?:[ ]\w+){{0,2}}[ ]?(?:is|are|means?|indicates?|ist|sind|est|sont|es|son|=|→|->)[ ]?"
    rf"(?:\w+ )??{_BETTER}|\b(?:the|je) {_LOWER}\b(?:[ ]\w+){{0,3}},? (?:the|desto|umso) {_BETTER}|"
    r"越[低小少]\s?(?:则|則|就|表示)?\s?越(?:好|相[关關]|接近)|(?:低い|小さい)ほど|(?:낮을|작을)\s?수록",
    re.IGNORECASE,
)
_HIGHER_IS_WORSE = re.compile(
    r"\b(?:higher|larger|greater|bigger)\b(?:[ ]\w+){0,2}[ ]?(?:is|are|means?|indicates?|=)[ ]?(?:\w+ )?"
    r"(?:worse|less relev|weaker)|"
    r"\bthe (?:higher|larger|greater|bigger)\b(?:[ ]\w+){0,3},? the (?:worse|less|weaker)",
    re.IGNORECASE,
)
# `1 = most relevant`, `from 1 (best) to 5 (worst)`, `(1: sehr gut)`; a document's number stands behind other words.
_BEFORE_END = (
    r"(?:\A|[(\[,;:/、–-]|(?<=[가-힣])[ ]|[从從到]|\b(?:where|with|from|of|to|and|gets?|score|grade|rating|"
    r"note|scale|a|und|von|bis|mit|et|des?|da|à|al?|y|e|от|до|і|и|від)\b)"
)
_SAID = (
    r"(?:[(=]|(?<=[ ])(?:is|means?|being|for|meaning|ist|est|es|è|é)[ ]|:(?=[^()\n]{1,60}[)\"])|"
    r"[分点점]?(?:が|は|是|为|表示|이|가|은|는)?(?=[\u3040-\u9fff\uac00-\ud7a3]))"
)
_END = re.compile(
    rf"{_BEFORE_END}[ ]{{0,2}}[\"'*_]{{0,3}}(?P<number>\d{{1,3}})[\"'*_]{{0,3}}[ ]?{_SAID}[ ]?(?:the )?"
    r"(?P<words>[^\W\d_][^,;:、()\[\]{}|<>\n\d]{1,40})",
    re.IGNORECASE | re.MULTILINE,
)
# What is said of the scale stands before the documents, or in brackets of its own: `(1 is best)`.
_DOCUMENT = re.compile(rf"\[(?:{ANY_NAME}\s?)?\d{{1,18}}\]|{ANY_NAME}[ #]{{0,2}}\d", re.IGNORECASE)
_ASIDE = re.compile(r"\([^()\n]*(?:=|\b(?:is|means|ist|est|es)\b)[^()\n]*\)")
_ABOUT_THE_QUERY = re.compile(
    r"(?:^|(?<=[.!?:] ))(?:the )?(?:user's )?(?:query|question)\b[^.\n]*", re.IGNORECASE | re.MULTILINE
)
_WORD = re.compile(r"[^\W\d_]+")
_BEST, _BAD = 4.0, 1.0  # grades of words


def lowest_is_best(text: str, values: Sequence[float]) -> bool:
    """Tell whether a text with the scores `values` of documents says that the lowest one is the best."""
    text = _ABOUT_THE_QUERY.sub("", text)
    if _LOWER_IS_BETTER.search(text) or _HIGHER_IS_WORSE.search(text):
        return True
    said = "\n".join(map(_beside_documents, text.split("\n")))
    ends = [(int(end["number"]), _grade(end["words"])) for end in _END.finditer(said)]
    graded = {number: grade for number, grade in ends if grade is not None}
    if len(graded) > 1:
        return graded[min(graded)] > graded[max(graded)]
    for number, grade in graded.items():  # 1 is the best end of 0 to 1 too
        return grade <= _BAD < number if number > 1 else grade >= _BEST and number < max(values, default=0.0)
    return False


def _beside_documents(line: str) -> str:
    document = _DOCUMENT.search(line)
    return " ".join([line[: document.start()], *_ASIDE.findall(line, document.start())]) if document else line


def _grade(words: str) -> float | None:
    """Return the grade of an end of a scale: superlatives in more languages than verdicts have."""
    if WORST_END.search(words) or BEST_END.search(words):
        return _BAD if WORST_END.search(words) else _BEST
    return grade_of(words)


def leads_to_costs(text: str, start: int) -> bool:
    """Tell whether what introduces the documents at `start` calls their numbers distances or other costs."""
    lead = text[:start].rstrip(" \t\n*-•").rpartition("\n")[2].strip(" \t*_#")
    return lead.endswith(":") and any(map(COST.fullmatch, (lead.rstrip(" :"), *_WORD.findall(lead))))
