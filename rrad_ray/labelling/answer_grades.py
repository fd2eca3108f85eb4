"""Read grades in words ("Highly relevant", "very low", 部分相关): adjectives, what strengthens them, negations."""

from __future__ import annotations

import re

from rrad_ray.labelling.answer_words import NEGATIVE, any_of

_EDGE = " \t*_`\"'|"
_START = re.compile(r"[,.;:(–—/|]| - |\b(?:because|since|(?<!not )as|but)\b")
_BEST = any_of(
    r"\b(?:perfect|perfectly|ideal|ideally|best|top|exact|exactly|highest|most|optimal|essential|critical)\b",
    r"\b(?:perfekt\w*|parfaite?(?:ment)?|perfect[ao]|perfeit[ao]|perfett[ao]|идеальн\w*|наиболее|najbardziej|meest)\b",
    *("最", "가장", "완벽", "完璧", "完美"),
)
_FULL = any_of(
    r"\b(?:excellent|exceptional|outstanding|superb|fully|complete|completely|entire|entirely|total|totally|crucial)\b",
    r"\b(?:vollständig|völlig|exzellent|ausgezeichnet|complètement|completamente|entièrement|totalement|excelente)\b",
    r"\b(?:eccellente|полностью|целиком|w pełni|całkowicie|volledig|tamamen)\b",
    *("完全", "완전", "优秀", "優秀", "탁월", "훌륭", "전적"),
)
_EXTREME = any_of(
    r"\b(?:extremely|äußerst|extrem|extrêmement|extremadamente|extremamente|estremamente|крайне|чрезвычайно)\b",
    *("极", "極", "극히", "극도"),
)
_VERY = any_of(
    r"\b(?:very|highly|strongly|deeply|hugely|really|closely|directly|definitely|clearly|so|particularly|especially)\b",
    r"\b(?:sehr|besonders|très|muy|molto|muito|bardzo|zeer|erg|çok|rất|sangat|очень|весьма|особо|дуже)\b",
    *("非常", "很", "十分", "太", "とても", "大変", "あまり", "매우", "아주", "대단히", "그다지", "별로", "बहुत"),
)
_HIGH = any_of(
    r"\b(?:high|strong|direct|great|important|hoch|hohe\w*|stark\w*|direkt\w*|élevée?s?|forte?|alta|alto|elevad[ao])\b",
    r"\b(?:directe?|direct[ao]|fuerte|высок\w*|сильн\w*|прям\w*|wysok\w*|siln\w*|hoog|hoge|sterk\w*|yüksek|güçlü)\b",
    r"\b(?:cao|tinggi)\b|عالي|उच्च",
    *("高", "높", "强", "強", "강[한함하]", "直接", "직접", r"큼|큰|큽|크[다고]"),
)
_QUITE = any_of(r"\b(?:quite|bastante|oldukça|sangat)\b", "かなり", "相当", "상당", "꽤")
_FAIRLY = any_of(
    r"\b(?:fairly|mostly|largely|generally|reasonably|rather|broadly|ziemlich|weitgehend|überwiegend|größtenteils)\b",
    r"\b(?:assez|plutôt|abbastanza|довольно|достаточно|в основном|dość|tamelijk|khá|cukup)\b",
    *("比较", "較", "较", "偏", "基本", "대체로", "대부분", "비교적"),
)
_GOOD = any_of(
    r"\b(?:good|relevant|useful|helpful|related|match|matches|on[- ]topic)\b",
    r"\b(?:pertinente?s?|relevante?s?|gut|hilfreich|utile?|útil|passend)\b",
    r"\b(?:релевантн\w*|полезн\w*|trafn\w*|istotn\w*|ilgili|rilevant\w*|liên quan|relevan|nuttig|belangrijk)\b",
    *("相关", "相關", "関連", "関係", "관련", "有用", "好", "ذو صلة", "प्रासंगिक"),
)
_DOES = any_of(r"\b(?:answers?|address(?:es)?|covers|fits?|solves)\b")
_MEDIUM = any_of(
    r"\b(?:medium|moderate|moderately|partial|partially|partly|somewhat|fair|average|mixed|ok|okay|maybe|mid)\b",
    r"\b(?:possibly|perhaps|middle|mittel\w*|teilweise|mäßig|moyen(?:ne)?|partiellement|parcialmente)\b",
    r"\b(?:media|medio|more or less)\b",
    *(
        r"中(?:等|度|程度|间|間)|中(?=[高低])|中(?!\w)",
        "중간",
        r"중(?!\w)",
        "보통",
        "部分",
        "부분",
        "일부",
        "어느 ?정도",
    ),
    *("一般", "やや", "ある程度", "普通", "可能", "한정적"),
    r"\b(?:средн\w*|частично|częściowo|średni\w*|gemiddeld|matig|deels|parzialmente|m[ée]di[ao]|orta|kısmen|sedang)\b",
    *("trung bình", "một phần", "sebagian", "متوسط", "جزئي", "मध्यम", "आंशिक"),
)
_LOW = any_of(
    r"\b(?:low|lower|slight|slightly|weak|weakly|marginal|marginally|poor|poorly|less|little|limited)\b",
    r"\b(?:tangential|tangentially|loosely|niedrig|gering\w*|schwach|wenig|faible|peu|baja|bajo|débil|poco|escas[ao])\b",
    *(
        "低",
        "낮",
        "약간",
        "조금",
        "적은|적음",
        "거의",
        "略",
        "稍",
        "弱",
        "약[한함하]",
        "少し",
        "少な",
        "わずか",
        "薄い",
    ),
    r"\b(?:низк\w*|слаб\w*|мало|nisk\w*|mało|słab\w*|laag|lage|zwak|weinig|basso|bassa|baix[ao]|pouco)\b",
    r"\b(?:düşük|az|thấp|rendah)\b|منخفض|निम्न",
)
_BARELY = any_of(
    r"\b(?:barely|minimal|minimally|scarcely|unlikely|far from|kaum|guère|nauwelijks|kurang)\b|"
    r"\b(?:едва|ledwo|appena|apenas)\b"
)
_LEAST = any_of(r"\b(?:least|lowest|worst|bottom)\b")
_NOT = re.compile(
    r"\b(?:not|no|non|never|nicht|kein\w*|pas|ne|не|нет|нимало|nada|nunca|nie|não|niet|geen|ikke|inte|tidak|bukan|không)\b|"
    r"\b(?:değil|aucun\w*|nullement|(?:per )?niente|nulla|ni)\b|n't\b|不|没|沒|無|无|未|"
    "ない|なく|くな|않|없|아니|못|ليس|غير|नहीं|ไม่",
    re.IGNORECASE,
)
# Not all of it: `not fully relevant`, 不完全相关.
_NOT_ALL = re.compile(
    rf"(?:\b(?:not|nicht|pas|no|non|не|nie|não|niet)\b[ ]|n't[ ]|不)(?:{_FULL.pattern})", re.IGNORECASE
)
_NOT_ONLY = re.compile(r"\bnot (?:only|just|merely)\b|不仅|不僅", re.IGNORECASE)
_NOT_BAD = re.compile("不(?:错|錯|差|低|小|少)")
_YES = any_of(
    "yes|y|yep|true|t|ja|oui|s[ií]|是|是的|对|對|有|はい|あり|예|네|그렇다|있음|맞음",
    "да|так|tak|evet|sim|có|ya|نعم|हाँ|हां|ใช่",
)
_NO = any_of(
    "no|n|nope|false|f|none|nein|non|否|不是|不|没有|無|无|いいえ|なし|아니오|아니요|아니다|없음|아님",
    "not|not at all|wrong|useless|bad|unhelpful|worthless|zero|no match|毫无关系",
    "нет|ні|nie|hayır|não|không|tidak|nee|nej|nei|لا|नहीं|ไม่",
)


def grade_of(words: str) -> float | None:
    """Return the grade that words begin with ("Highly relevant", "Low", 不相关), from 0 to 5, the best; else None."""
    start = _START.split(words.strip(_EDGE), maxsplit=1)[0].strip()
    if not start or len(start.split()) > 4 or len(start) > 40:
        return None
    start = _NOT_BAD.sub("好", start)
    says = {start, start.split()[0]} if len(start.split()[0]) > 1 else {start}
    if NEGATIVE.search(start) or _NOT.search(start) or any(map(_NO.fullmatch, says)):
        return _negated(start)
    return 3.0 if any(map(_YES.fullmatch, says)) else _unnegated(start)


def is_bare(words: str) -> bool:
    """Tell whether words that begin with a grade say nothing more."""
    return not "".join(_START.split(words.strip(_EDGE), maxsplit=1)[1:]).strip(_EDGE + ").")


def _negated(words: str) -> float | None:
    """Return the grade of words with a negation: what is denied to be very good or wholly good is not denied to be
    good at all; None where a middle or a low grade is denied."""
    if _NOT_ALL.search(words):
        return 1.5
    if _NOT_ONLY.search(words):
        return None
    if _BARELY.search(words) or any(strong.search(words) for strong in (_VERY, _HIGH, _BEST)):
        return 0.75 if not _LOW.search(words) else None
    if NEGATIVE.search(words) or _GOOD.search(words) or _DOES.search(words) or _NO.fullmatch(words):
        return 0.0
    if _MEDIUM.search(words) or _LOW.search(words):
        return None
    first = words.split()[0]
    return 0.0 if _NO.fullmatch(first) and first.casefold() != "not" else None  # `Not as complete`


def _unnegated(words: str) -> float | None:
    """Return the grade of words without a negation: the adjective's, moved by what strengthens or weakens it."""
    says = {name: kind.search(words) is not None for name, kind in _KINDS.items()}
    strong = says["high"] or says["full"]
    # What weakens comes first: "slightly relevant", "very low".
    scale = (
        (0.3, says["least"] or (says["low"] and (says["best"] or says["extreme"]))),
        (0.5, says["low"] and (says["very"] or says["full"])),
        (1.5, says["low"] and says["medium"]),
        (1.2, says["low"] and says["fairly"]),
        (1.0, says["low"]),
        (0.75, says["barely"]),
        (3.0, says["medium"] and strong),
        (2.0, says["medium"]),
        (3.5, says["fairly"] and strong),
        (2.6, says["fairly"] and (says["good"] or _FAIRLY.fullmatch(words) is not None)),
        (5.0, says["best"]),
        (4.8, says["extreme"] and strong),
        (4.5, says["full"] or (says["high"] and says["very"]) or (says["good"] and says["extreme"])),
        (4.2, says["high"] and says["quite"]),
        (4.0, says["high"] or (says["very"] and (says["good"] or says["does"]))),
        (4.0, _VERY.fullmatch(words) is not None),
        (3.5, says["good"] and says["quite"]),
        (3.0, says["good"]),
    )
    return next((grade for grade, holds in scale if holds), None)


_KINDS = {
    "least": _LEAST,
    "low": _LOW,
    "barely": _BARELY,
    "medium": _MEDIUM,
    "fairly": _FAIRLY,
    "quite": _QUITE,
    "very": _VERY,
    "extreme": _EXTREME,
    "good": _GOOD,
    "does": _DOES,
    "high": _HIGH,
    "full": _FULL,
    "best": _BEST,
}
