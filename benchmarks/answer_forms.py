"""Forms in which models write a ranking, put together from their parts, each with the order that it means."""

from __future__ import annotations

import random
from dataclasses import dataclass

# {d}: the document; {r}: its rank; {o}: the rank in letters; {s}: a score from 10 down; {n}: another document.
DOCUMENTS = (
    *("[{d}]", "**[{d}]**", "Document {d}", "Passage [{d}]", "`[{d}]`", "[Document {d}]"),
    *("문서 {d}", "文档{d}", "({d})"),
)
PLACES = (
    *("", "- ", "• ", "{r}. ", "**{r}.** ", "{r}) ", "({r}) ", "#{r} ", "#{r}: ", "Rank {r}: ", "Rank {r} - "),
    *("{o}: ", "{r}위: ", "第{r}名:", "{r}位:", "Platz {r}: ", "Rang {r}: ", "Puesto {r}: ", "Top {r}: "),
)
REMARKS = (
    *("", " - it explains the topic well", " (relevance: {s})", " — {s}/10", ": covers part of it", " ({s} points)"),
    *(" - more detailed than {n}", " – published in 2019, 3 pages", " (2019)", " - Windows {s}", ": **{s}0%**"),
    *("\n   - Score: {s}/10\n   - Reason: covers it", "\n   Relevance: {s}/10"),
)
BETWEEN = ("\n", "\n\n", "; ", ", ")
HEADS = (
    *("", "Here is the ranking from most to least relevant:\n\n", "**Ranking:**\n", "Final ranking:\n"),
    *("최종 순위:\n", "排序结果(从最相关到最不相关):\n", "Rangfolge (relevanteste zuerst):\n"),
    "The {n_shown} passages, best first:\n",
)
TAILS = (
    *("", "\n\nLet me know if you need more!"),
    *("\n\nNote: {n} is only marginally related.", "\n\nI left out the rest."),
)
TIERS = (
    ("**Most relevant:**", "**Somewhat relevant:**"),
    ("### Tier 1", "### Tier 2"),
    ("Highly relevant:", "Partially relevant:"),
    ("最相关:", "部分相关:"),
)
ORDINALS = ("1st", "2nd", "3rd", *(f"{rank}th" for rank in range(4, 31)))
MOST = 6  # documents in an answer: lists that count scores down from 10 hold no more


@dataclass(frozen=True)
class Ranking:
    """An answer, the number of documents that its prompt showed, and the order that it means: numbers, best first."""

    text: str
    shown: int
    order: list[int]


def ranking(number: int) -> Ranking:
    """Return a ranking in a form that is made from its number alone."""
    source = random.Random(number)
    shown = source.randint(3, MOST)
    order = source.sample(range(1, shown + 1), source.choice((shown, shown, max(2, shown - 1))))
    document, place, remark = source.choice(DOCUMENTS), source.choice(PLACES), source.choice(REMARKS)
    between = source.choice(BETWEEN if "\n" not in remark and place not in ("- ", "• ") else BETWEEN[:2])
    other = f"[{source.choice(order)}]"

    def written(rank: int) -> str:
        facts = {"d": order[rank], "r": rank + 1, "o": ORDINALS[rank], "s": 10 - rank, "n": other}
        return (place + document + remark).format(**facts)

    if source.random() < 0.1:  # two lists under headings
        parts, names = source.randint(1, len(order) - 1), source.choice(TIERS)
        halves = (order[:parts], order[parts:])
        lists = ["\n".join(f"- {document.format(d=number)}" for number in half) for half in halves]
        return Ranking("\n\n".join(f"{name}\n{half}" for name, half in zip(names, lists, strict=True)), shown, order)
    body = between.join(map(written, range(len(order))))
    head, tail = source.choice(HEADS).format(n_shown=shown), source.choice(TAILS).format(n=other)
    return Ranking(head + body + tail, shown, order)
