"""The words by which answers name documents, announce their order, or say that documents are not relevant."""

from __future__ import annotations

import re


def _any(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


def _compiled(*words: str) -> re.Pattern[str]:
    return re.compile(_any(*words), re.IGNORECASE)


_DOCUMENT = _any(
    *(r"(?:passage|document|doc|text|item|candidate|result|snippet|article|paragraph|option)s?",),
    *("文档", "文檔", "文書", "文件", "文章", "段落", "文献", "候选", "候補"),
    *("ドキュメント", "テキスト", "パッセージ", "記事", "문서", "단락", "지문", "본문", "구절", "문단", "후보"),
    *("dokument", "passagem", "documento", "texte", "texto", "pasaje", "absatz"),
)
_BY_NUMBER = _any("ids?", r"no\.?", "numbers?", "identifier", "编号", "番号", "번호", "号")
# A document's name, before its number: `Document ID: 3`, `passage no. 3`, `doc_3`, 文档编号3.
ANY_NAME = rf"(?:{_DOCUMENT}(?:[ _-]?{_BY_NUMBER})?[ ]?[:=#_-]?|\bids?[ ]?[:=#])"
COUNTER = _any("번", "号", "篇")  # behind the number: 3번

_ANNOUNCES = _any(
    *(r"\b(?:re-?)?rank(?:ed|ing|ings|[ -]order)?\b", r"\b(?:order(?:ed|ing)?|sort(?:ed|ing)?)\b", r"\bfinal\b"),
    *(r"\banswer\b", r"\boutput\b", r"\bresults?\b", r"\bconclusion\b", r"\b(?:so|therefore|thus|hence)\b", "boxed"),
    *(r"\brangfolge\b", r"\bclassement\b", r"\bclasificaci[oó]n\b", r"\bantwort\b", r"\bréponse\b", r"\brespuesta\b"),
    *("排名", "排序", "顺序", "順序", "排列", "结果", "結果", "答案", "最终", "最終", "结论", "順位", "順番", "回答"),
    *("答え", "並び", "結論", "ランキング", "순위", "순서", "정답", "답변", "결과", "최종", "결론"),
)
ANNOUNCEMENT = re.compile(_ANNOUNCES, re.IGNORECASE)
# What announces an order stands right before it, with no end of a sentence between.
MARKER = re.compile(rf"{_ANNOUNCES}(?:[^.!?\n]|\.(?=\d)){{0,60}}\Z", re.IGNORECASE)

_ABOUT = r"(?:\w+\s){0,2}?(?:relevan|relat|useful|helpful|answer|address)"
NEGATIVE = _compiled(
    *(rf"(?:\b(?:not?|non|never|hardly)|n't)[\s-]{{1,3}}{_ABOUT}", "irrelevan", "unrelated", r"off-?topic"),
    *(
        r"\bexclud",
        r"\bomit",
        r"\bdiscard",
        "left out",
        "nicht relevant",
        "no relevante",
        "non pertinent",
        "hors sujet",
    ),
    *(
        "(?:不|无|無|没有|沒有|非)(?:太)?(?:相关|相關|关联|關聯)",
        "无关",
        "無關",
        "無関係",
        "関連しない",
        "関係[がの]?な",
    ),
    *("関連性?[がのはも]?(?:な[いしく]|薄)", "無関連", r"관련\s?성?\s?[이은도]?\s?(?:없|적)", "무관"),
)
EXAMPLE = _compiled(
    *(r"\b(?:example|instance)s?\b", r"\be\.g\.", r"\bformat\b", r"\btemplate\b", r"\bsuch as\b"),
    *("例えば", "例如", "示例", "格式", "例:", "예시", "형식", "예를", r"\bbeispiel", r"\bexemple", r"\bejemplo"),
)
IN_FORMAT = re.compile(r"\b(?:in|using|with|following)\b[^.\n]{0,40}\bformat\b", re.IGNORECASE)
WORST_FIRST = _compiled(
    *(r"\b(?:least|worst|lowest)\b[^.\n]{0,40}?\b(?:most|best|highest|first)\b", r"\bascending\b"),
    *("从低到高", "由低到高", "从差到好", "升序", "昇順", "低い順", "오름차순", r"낮은\s?순"),
)
# Announces an order that is not the last word; it counts as one without an announcement.
INITIAL = _compiled(r"\b(?:initial|original|input|given|preliminary|tentative|draft)", "初步", "最初", "처음", "초기")
# Grades in words, the best first.
GRADES = (
    _compiled(r"\b(?:high|highly|very|perfect|perfectly|excellent|fully|directly|strong|best)\b", "高", "높", "매우"),
    _compiled(r"\b(?:good|mostly|relevant)\b"),
    _compiled(
        r"\b(?:medium|moderate|moderately|partial|partially|partly|somewhat|fair)\b", "中", "중간", "보통", "部分"
    ),
    _compiled(r"\b(?:low|slight|slightly|weak|weakly|marginal|marginally|poor|barely)\b", "低", "낮"),
)
PROSE = re.compile(r"[^\W\d_]{2,}")  # a word
COMPARISON = _compiled(r"\bthan\b", r"\bals\b", "比", "より", "보다")
