"""Turn an LLM's answer into the text that speaks: plain characters, without its thinking."""

from __future__ import annotations

import html
import re

# Full-width forms (U+FF01 to U+FF5E) stand for ASCII; what else East Asian answers and mathematics write for it.
_PLAIN: dict[int, int | str] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PLAIN |= {code: f"({code - 0x2460 + 1})" for code in range(0x2460, 0x2474)}  # circled 1 to 20
_PLAIN |= dict.fromkeys(map(ord, "【〔「『〖"), "[") | dict.fromkeys(map(ord, "】〕」』〗"), "]")
_PLAIN |= dict.fromkeys(map(ord, "⟨〈《"), "<") | dict.fromkeys(map(ord, "⟩〉》"), ">")
_PLAIN |= dict.fromkeys(map(ord, "≻≫≥≽⪰⩾›"), ">") | dict.fromkeys(map(ord, "≺≪≤≼⪯⩽‹"), "<")
_PLAIN |= dict.fromkeys(map(ord, "→➔➜➡⟶⇒▶►"), "→") | dict.fromkeys(map(ord, "←⟵⇐"), "<")
_PLAIN |= dict.fromkeys(map(ord, "、・·，،"), ",") | {ord("。"): ". ", ord("\u3000"): " ", ord("\u00a0"): " "}
_PLAIN |= dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), "")  # without a width
_PLAIN |= {ord("≈"): "=", ord("∼"): "~", ord("〜"): "~", ord("\r"): "\n"}
_LATEX = {
    **dict.fromkeys(("succ", "succeq", "gt", "geq", "ge"), ">"),
    **dict.fromkeys(("prec", "preceq", "lt", "leq", "le"), "<"),
    **dict.fromkeys(("rightarrow", "to", "Rightarrow"), "→"),
    **dict.fromkeys(("approx", "sim", "equiv"), "="),
}
_COMMAND = re.compile(rf"\\({'|'.join(_LATEX)})\b")
_ESCAPED = re.compile(r"\\([\[\](){}<>#*_])")

# How models mark the text in which they think. A tag's name may be followed by other words (`<think mode="long">`).
_TAG = (
    r"(?:\w{1,10}:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|scratchpad|reflection|rationale)(?:_\w{1,10})?"
)
_OPENS = (
    rf"<\|?(?:(?:start|begin)_(?:of_)?)?{_TAG}\b[^<>\n]{{0,40}}>|\[THINK\]|◁think▷|"
    r"<\|channel\|>(?:analysis|commentary)"
)
_CLOSES = (
    rf"</{_TAG}\s*>|<\|/{_TAG}\|>|<\|end_(?:of_)?{_TAG}\|>|\[/THINK\]|◁/think▷|"
    r"<\|channel\|>final(?:[^<]{0,20}<\|constrain\|>)?[^<]{0,20}<\|message\|>"
)
_THINKING = re.compile(rf"(?P<closes>{_CLOSES})|(?P<opens>{_OPENS})", re.IGNORECASE)
_ITEM_TAG = re.compile(r"</?(?:br|li|p|ol|ul|div|tr|td|passage|document|doc|item|id)\b[ \t]{0,9}/?>", re.IGNORECASE)
# `1/3` and `1 of 3`, but not the label of a line (`1/3: [2]`).
_OF_SO_MANY = re.compile(
    r"(?<![\w./])(?P<rank>\d{1,3})[ \t]{0,3}(?:/|(?:out )?of\b)[ \t]{0,3}(?P<count>\d{1,3})(?![\w/]|\.\d|[ \t]?:)"
)
# Where a turn ends, and where another begins: what a model goes on to write there is not its answer.
_TURN_ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eot|endoftext|end_of_text|return|eom_id|end_of_turn|end)\|>|<end_of_turn>|</s>|"
    r"<｜end▁of▁sentence｜>|<\|END_OF_TURN_TOKEN\|>",
    re.IGNORECASE,
)
_TURN_BEGINS = re.compile(
    r"<[|｜](?:im_)?(?:user|human|system|assistant|tool|observation|prompter)(?:_TOKEN)?[|｜]>|"
    r"<\|(?:im_start|start_header_id|header_start|start|start_of_role|start_of_turn|"
    r"START_OF_TURN_TOKEN|begin_of_text)\|>|"
    r"<start_of_turn>|\[/?INST\]|<</?SYS>>|\[\|(?:user|human|system|assistant|endofturn)\|\]|<s>|"
    r"\n[ \t]*(?:#{1,6}[ \t]*|\*\*|<)?(?:Human|User|System|Instructions?|Question|Prompt|Search query|Q|"
    r"用户|用戶|使用者|人类|사용자|질문|ユーザー|質問|Benutzer|Frage|Utilisateur|Usuario)>?(?:\*\*)?[ \t]{0,4}[:：]|"
    r"\n[ \t]*#{1,6}[ \t]*(?:Human|User|System|Instructions?|Question|Prompt|Input)[ \t]{0,4}(?:\n|\Z)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d(?!\d|[ \t]+[^\W\d_])")  # `[3]`, but not `the 3 passages`


def final_text(answer: str) -> tuple[str, bool]:
    """Return the answer's text after its thinking in plain characters, and whether any thinking was taken away."""
    text, thought = spoken_text(answer)
    text = html.unescape(text).translate(_PLAIN)
    if "\\" in text:
        text = _ESCAPED.sub(r"\1", _COMMAND.sub(lambda match: _LATEX[match[1]], text))
    return text, thought


def without_item_tags(text: str) -> str:
    """Return a text with a line's end for every tag of a list's item or a document: what is in them is a line."""
    return _ITEM_TAG.sub("\n", text)


def without_counts(text: str) -> str:
    """Return a text with `1`, `2`, `3` for `1/3`, `2/3`, `3/3`, where these are all its shares, in this order: they
    may be places, and scores from the worst to the best hardly are."""
    shares = list(_OF_SO_MANY.finditer(text))
    numbers = [(int(share["rank"]), int(share["count"])) for share in shares]
    if len(shares) < 2 or numbers != [(rank, len(shares)) for rank in range(1, len(shares) + 1)]:
        return text
    return _OF_SO_MANY.sub(lambda share: share["rank"], text)


def spoken_text(answer: str) -> tuple[str, bool]:
    """Return the answer's text after its thinking, otherwise as it was written, and whether any was taken away."""
    text, thought = _without_thinking(answer)
    text = _TURN_ENDS.split(text.lstrip(), maxsplit=1)[0]
    number = _NUMBER.search(text)  # before the first identifier nothing is answered yet
    begin = _TURN_BEGINS.search(text, number.end()) if number else None
    return text[: begin.start()] if begin else text, thought


def _without_thinking(answer: str) -> tuple[str, bool]:
    """Take away what stands between tags, before a closing one without an opening one, and after one left open."""
    if not ("<" in answer or "◁" in answer or "THINK]" in answer.upper()):
        return answer, False
    kept: list[str] = []
    thinks, start = False, 0
    for tag in _THINKING.finditer(answer):
        if tag["opens"] and not thinks:
            kept.append(answer[start : tag.start()])
        elif tag["closes"] and not thinks:
            kept = []  # nested thinking, or the chat template had opened it
        thinks, start = bool(tag["opens"]), tag.end()
    if not thinks:
        kept.append(answer[start:])
    return " ".join(kept), start > 0
