"""Find what an answer says against the order that is read from it, beside the order itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rrad_ray.labelling.answer_chains import REVERSED, Rank, Reading
from rrad_ray.labelling.answer_prose import CLAUSE_END, LOOK_AROUND, clause_around, is_set_aside, lead_of
from rrad_ray.labelling.answer_refusals import corrects
from rrad_ray.labelling.answer_tokens import find_mentions
from rrad_ray.labelling.answer_verdicts import MAY_BE_RANKS, Records
from rrad_ray.labelling.answer_words import ANY_NAME, WORST_FIRST, is_negative

PASSED_OVER = "documents beside the order"
DOTS = r"(?:\.{2,}|…+|⋯+|⋮)"
_DIGITS = re.compile(r"\d+")
_NAMING = ("square", "curly", "angle", "named")  # a number in round brackets may be a line's, a year or a score
# What announces scores and no order: `Relevance scores: 3, 5, 1`
_SCORES = re.compile(
    r"\b(?:scores?|ratings?|grades?|points|punkte|noten|puntuaci\w+|notes)\b|得分|分数|分數|评分|評分|점수|点数|スコア",
    re.IGNORECASE,
)
_SORTED = re.compile(
    r"\b(?:rank\w*|order\w*|sort\w*|list\w*|by|nach|par|por)\b|排|序|순|順|answer|final", re.IGNORECASE
)
_NAMES_ONE = re.compile(rf"\[\d{{1,18}}\]|{ANY_NAME}\s?\d{{1,18}}", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\((?P<remark>[^()\n]{1,80})\)")
# What is said of a document that an order leaves out, beside the words for irrelevant.
_DISMISSED = re.compile(
    r"\b(?:does|do|did|is|are|was|were)(?: not|n't)\b|\black(?:s|ing)?\b|\bfails? to\b|"
    r"\bignored\b|\bskipped\b|\bnicht\b|\bne \w+ pas\b|\bno (?:es|son|trata|responde|contiene|menciona)\b|"
    r"不(?:涉及|包含|回答|提到|是)|没有|未|않|없|ない|ません",
    re.IGNORECASE,
)
# Documents that an order leaves out but does not leave: `[1] > [2] > ... > [20]`
_AND_SO_ON = re.compile(
    rf"[>,;\n][ \t]*[\[(]?(?:{DOTS}|etc\.?|(?:the )?(?:others|rest)|等等?|기타|등등?|その他|など)[\])]?"
    r"[ \t]*[>,;\n\])]"
)
# What is said of documents beside an order, that puts them below those of it and above what is irrelevant.
_LESS = re.compile(
    r"\b(?:partial\w*|partly|somewhat|slightly|less|lower|next|also|mildly|marginally|loosely|some relevance|"
    r"borderline|tied? for last|teilweise|weniger|partiellement|moins|peut aussi|parcialmente|menos)\b|"
    r"\b(?:частично|менее)\b|"
    r"部分|较低|較低|次之|其次|一定|参考|관련[성도]?[이가]? 낮|부분|일부|다음|다소|덜|"
    "やや|一部|次に|関連性が低|関連が薄",
    re.IGNORECASE,
)
# `[3] > [1] > others`
_AND_OTHERS = re.compile(
    r"[>,][ \t]*(?:and )?(?:the )?(?:others|rest|remaining(?: \w+)?|나머지|其他|其余|其餘|その他|残り)"
    r"[ \t.。]*(?:\n|\Z)",
    re.IGNORECASE,
)
_LABELS = re.compile(r"[^\[\]\n:]{2,60}:[ \t*_]*\Z")
# `Ranks: 2, 4, 1, 3`: a rank for each document in turn, and no order.
_RANKS = re.compile(
    r"\branks\b(?!.*\b(?:best|first|most|top|order)\b)|\brank (?:of|for) (?:each|every|the)\b|\brank positions?\b|"
    r"각 ?(?:문서|단락|구절)\w? ?순위|各(?:个|個)?(?:文[书書档檔章]|段落|ドキュメント).{0,4}(?:排名|順位|名次)",
    re.IGNORECASE,
)
_PLAIN_LIST = re.compile(r"\[?\s*\d{1,6}\s*[,;\n ]")


def contradiction(text: str, reading: Reading, n: int) -> str:
    """Return what a text says around its reading against it; empty if nothing."""
    if REVERSED not in reading.repairs and _called_worst_first(text[reading.start :]):
        return "worst first, as is said behind it"
    behind = _clauses(text[reading.start :]) if reading.rank != Rank.MENTIONS else ()
    if any(_NAMES_ONE.search(clause) for clause in behind if corrects(clause)):
        return "an order that is changed in words"
    lead = lead_of(text, reading.start, 0)
    if reading.rank != Rank.CHAIN and _SCORES.search(lead) and not _SORTED.search(lead):
        return MAY_BE_RANKS
    if reading.rank != Rank.CHAIN and _RANKS.search(lead) and _PLAIN_LIST.match(text, reading.start):
        return MAY_BE_RANKS
    if set(range(1, n + 1)) <= {*reading.numbers}:
        return ""
    if _AND_SO_ON.search(text) or _AND_OTHERS.search(text, reading.start):
        return "an order with '...' in it"
    if passes_over(text[reading.start :], reading, n, by_rank=True):
        return PASSED_OVER
    return PASSED_OVER if reading.rank != Rank.CHAIN and passes_over(_from_order(text, reading), reading, n) else ""


def _clauses(text: str) -> Iterator[str]:
    """Give the clauses of a text, which end with their lines."""
    return (clause for line in text.split("\n") for clause in CLAUSE_END.split(line) if clause)


def _called_worst_first(text: str) -> bool:
    """Tell whether a text from its order on says that the worst comes first: in brackets, or of the list or its order
    (`most relevant last`), and not of a document."""
    for clause in _clauses(text):
        said = [match["remark"] for match in _IN_BRACKETS.finditer(clause)]
        behind = _NAMES_ONE.split(clause)[-1]
        said += [behind] if _SORTED.search(behind) else []
        if any(map(WORST_FIRST.search, said)):
            return True
    return False


def _from_order(text: str, reading: Reading) -> str:
    """Return the part of a text that should be in its reading: of one that a marker announces, what follows it."""
    lead = lead_of(text, reading.start, 0)
    if reading.rank != Rank.MARKED or _DIGITS.search(lead):  # `Rank 5: (3)` announces no whole order
        return text
    announced = lead and text[reading.start - len(lead) : reading.start] == lead  # on its own line
    end = text.find("\n", reading.start) if announced and not reading.is_list else -1
    return text[reading.start - len(lead) : end if end >= 0 else len(text)]


def passes_over(text: str, order: Reading | Records, n: int, by_rank: bool = False, only_less: bool = False) -> bool:
    """Tell whether a text names documents that an order leaves out, without a word that they are not relevant.

    They would be hard negatives, though the text may rank them in a form that is not known here. `by_rank`: tell it
    of those alone that the text calls less relevant, or lists behind a label of their own; `only_less`: the former.
    """
    unread = set(range(1, n + 1)) - {*order.numbers}
    beside = ("round",) if isinstance(order, Reading) and order.notation == "round" else ()
    for notation in (*_NAMING, *beside):
        for mention in find_mentions(text, notation, n):
            if unread.isdisjoint(mention.numbers):
                continue
            clause = clause_around(text, mention)
            own = CLAUSE_END.split(text[mention.end : mention.end + LOOK_AROUND])[0].partition("[")[0]
            if _LESS.search(own) and not is_negative(own):
                return True
            if is_set_aside(text, mention):
                continue
            if _LESS.search(clause):
                return True
            labelled = _LABELS.search(text[max(0, mention.start - LOOK_AROUND) : mention.start])
            if only_less or (by_rank and not labelled):
                continue
            if not _DISMISSED.search(clause):
                return True
    return False
