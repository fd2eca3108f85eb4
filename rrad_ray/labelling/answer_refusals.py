"""Tell where an answer names documents or orders only to say that it gives none: "I cannot say whether [1] > [2] is
better than [2] > [1]", "None of [1], [2] is relevant", "not [1] > [2]"."""

from __future__ import annotations

import re

# What gives an order all the same: "None is a good answer, but [2] > [1]".
_BUT = re.compile(
    r"\b(?:but|however|still|yet|though|although|nevertheless|so|my|instead|aber|mais|pero)\b|[:;]|"
    "但|不过|しかし|하지만|그러나",
    re.IGNORECASE,
)
_COMMA = re.compile(r"(?<![\])\d]),")  # not of a list of identifiers
_UNABLE = re.compile(
    r"\b(?:(?:can ?no|could no|won['’]|can['’]|couldn['’])t|unable to|not able to|will not|refuse to|decline to|"
    r"(?:impossible|hard|difficult) to)\s(?:\w+\s){0,2}?(?:say|tell|determine|decide|rank|order|provide|give|output|"
    r"produce|judge|choose|answer|return|write|state|help|assist|comply|compare|evaluate|sort|rate|score|classify)\b|"
    r"\bne (?:peux|saurais|pouvons) pas|\bno (?:puedo|podemos|es posible)\b|\bnão (?:posso|consigo)\b|"
    r"\bnon posso\b|\bkann (?:\w+\s){0,2}?(?:nicht|keine)\b|\bне (?:могу|можем|можу)\b|无法|無法|不能|"
    r"\bkan (?:niet|inte|ikke)\b|\bnie mog[ęe]\b|không thể|\btidak (?:dapat|bisa)\b|لا (?:أستطيع|يمكنني)|ไม่สามารถ|"
    r"söyleyemem|karar veremem",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(
    r"\b(?:whether|neither|none|weder|keines?|ob|ni|aucune?s?|ninguno|"
    r"(?:unclear|unsure|uncertain|not (?:clear|sure|certain)|(?:don['’]t|do not) know)\s(?:if|which))\b",
    re.IGNORECASE,
)
_BEHIND = re.compile(
    r"[^.。\n]{0,200}?(?:(?:판단|결정|말|평가|선택|비교|정렬|나열|제공|매길|정할)(?:할)?\s?수(?:가|는)?\s?없|"
    "(?:判断|決定|決め|順位付け|並べ替え|評価|比較|提供)[^。\n]{0,6}(?:できま?せん|できない|られ)|"
    "わかりません|分かりません|"
    "(?:^|[^\\w])nicht (?:bewerten|ordnen|sortieren|vergleichen|beurteilen|einordnen)|"
    "(?:无法|無法|不能)(?:判断|确定|確定|决定))"
)

# What takes an order back that stands behind it, or before it: "[1] > [2] is wrong", "not [1] > [2]".
_NOT = re.compile(
    r"(?:\b(?:not|never|instead of|rather than|unlike|nicht|statt|anstatt|anstelle von|pas|plutôt que|au lieu de|"
    r"en lugar de|en vez de|al posto di|invece di|em vez de|вместо|не)|n['’]t(?: be)?|而不是|不是|代替)[\W_]*\Z|"
    r"(?:\b(?:no|non|nie|niet|não|inte|ikke)|ليس)\s+\Z",
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"[^.!?\n\[\d]{0,40}?\b(?:(?:is|was|would be|seems|looks)\s(?:\w+\s)?(?:wrong|incorrect|mistaken|backwards?|"
    r"not (?:right|correct)|reversed|a mistake)|isn['’]t (?:right|correct)|ist falsch|est faux|es incorrecto)\b|"
    "[^。\n\\[\\d]{0,20}?(?:是错|是不对|不正确|は(?:間違|誤)|은 틀|는 틀|은 잘못|는 잘못)|"
    r"\s?(?:[でじ](?:は|ゃ)?なく|[이가] 아니|değil)",
    re.IGNORECASE,
)
# A change in words of the order before it, which would have to be carried out: "Edit: swap 1 and 3".
_SOON = 300  # characters: a text of many orders is not read to its end for each
_CHANGE = re.compile(
    r"(?:^|[.;:,(!?\n][ \t]*|\b(?:please|should|would|['’]d|let['’]?s|let me|must|but|actually|then)[ \t]+)"
    r"(?:actually,? )?(?:swap|switch|exchange|interchange|flip|reverse|move)\b[^.\n]{0,30}"
    r"(?:\[?\d|\b(?:order|ranking|that|them)\b)",
    re.IGNORECASE,
)
# What changes an order behind it: `Correction: [4] should come before [2].`
_CORRECTS = re.compile(
    r"\bswap(?:ped|ping)?\b|"
    r"\bshould (?:actually )?(?:come|be|go|rank|stand|be (?:placed|ranked)) (?:before|above|ahead|higher)\b|"
    r"\bcorrection\b|更正|应(?:该)?(?:排)?在|정정|訂正|앞에 (?:와야|있어야)|より前に",
    re.IGNORECASE,
)
# None of the documents is relevant, or none can be ranked.
_NONE = re.compile(
    r"\bnone of the\b|\bno (?:passage|document|text)s? (?:is|are|answers?)\b|\b(?:cannot|can't|unable|sorry)\b|"
    r"\bkeine?[rs]? (?:der|dieser)\b|\baucun\w* (?:des|de ces|passage|document)\b|\bningun[oa] de\b|ни один|не могу|"
    r"没有(?:任何|一个|相关)|都不相关|均不|无法|無法|抱歉|없습니다|할 수 없|죄송|どれも|いずれも|できません|申し訳",
    re.IGNORECASE,
)


def takes_back(lead: str, text: str, end: int) -> bool:
    """Tell whether the words around an order say that it is none: "not [1] > [2] but", "[1] > [2] would be wrong"."""
    return _NOT.search(lead) is not None or _WRONG.match(text, end) is not None


def changes(text: str, end: int) -> bool:
    """Tell whether what follows an order that ends at `end` soon changes it in words."""
    return _CHANGE.search(text, end, end + _SOON) is not None


def corrects(clause: str) -> bool:
    """Tell whether a clause behind an order says what should be changed in it: "Correction: [4] before [2]"."""
    return _CORRECTS.search(clause) is not None


def ranks_none(text: str) -> bool:
    """Tell whether a text says somewhere that none of the documents is relevant, or that none can be ranked."""
    return _NONE.search(text) is not None


def refuses(before: str, text: str, end: int) -> bool:
    """Tell whether a sentence gives no order of the identifiers in it, or calls none of them relevant.

    `before`: what stands in it before them. They end at `end` of `text`: in Korean and Japanese, the verb is behind.
    """
    last = _BUT.split(before)[-1]
    doubts = _UNDECIDED.search(last) or _UNABLE.search(_COMMA.split(last)[-1])
    return doubts is not None or _BEHIND.match(text, end) is not None
