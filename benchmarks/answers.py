"""Generated answers through the parser: does any raise, invent a document, double one or lose one, how long do they
take, and of rankings in forms that models write, how many are read as another order than they mean?

An answer is made from its number alone, so that one that did harm can be made again: `answer(NUMBER)`. It is an order
in a form that models write, or pieces of several, cut, repeated, shuffled and strewn with what stands in answers.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

from benchmarks import harness
from benchmarks.answer_forms import ranking
from rrad_ray.labelling.answers import parse_answer

CHUNK = 2_000
HARMS = ("raised", "invented", "doubled", "lost")
FORMS: dict[str, Callable[[list[int]], str]] = {
    "chain": lambda order: " > ".join(f"[{number}]" for number in order),
    "worst first": lambda order: " < ".join(f"[{number}]" for number in order[::-1]),
    "list": lambda order: "\n".join(f"{rank}. [{number}] says it" for rank, number in enumerate(order, 1)),
    "bullets": lambda order: "\n".join(f"- Passage {number}" for number in order),
    "numbers": lambda order: ", ".join(map(str, order)),
    "wide": lambda order: "、".join(f"【{number}】" for number in order),
    "one bracket": lambda order: f"[{', '.join(map(str, order))}]",
    "ties": lambda order: " > ".join(f"[{number}]" if number % 3 else f"[{number}] = [1]" for number in order),
    "json": lambda order: json.dumps({"ranking": order}),
    "scores": lambda order: json.dumps([{"id": number, "score": -rank} for rank, number in enumerate(order)]),
    "table": lambda order: "| Rank | Passage |\n|-|-|" + "".join(f"\n|{i}|[{n}]|" for i, n in enumerate(order, 1)),
    "xml": lambda order: "".join(f"<doc><id>{n}</id><rank>{i}</rank></doc>" for i, n in enumerate(order, 1)),
    "pairs": lambda order: ". ".join(f"[{one}] is better than [{two}]" for one, two in pairwise(order)),
    "Korean": lambda order: "최종 순위: " + ", ".join(f"문서 {number}번" for number in order),
    "Chinese": lambda order: "排名：" + "，".join(f"第{number}篇" for number in order),
}  # fmt: skip
STREWN = [
    *"[](){}<>.,:;#=~|*\"'`-/\\\n\t 0123456789", "【", "】", "［", "］", "。", "、", "\u200b", "\u0661", "²", "\x00",
    "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "RANKING: ", "Final answer: ", "排名：", "순위: ",
    "```json\n", "```", '{"ranking": ', "[1]", "[2] > ", "[3-1]", "[0]", "[99999999999999999999]", "1. ", "Passage ",
    "None of the passages is relevant. ", "I cannot rank them. ", "irrelevant: ", "least relevant to most relevant: ",
]  # fmt: skip


def answer(number: int) -> tuple[str, int]:
    """Return a generated answer and the number of documents that its prompt showed, 1 to 30."""
    source = random.Random(number)
    shown = source.randint(1, 30)
    pieces = [_piece(source, shown) for _ in range(source.choice((1, 1, 1, 2, 3, 5)))]
    text = source.choice(("\n\n", " ", "")).join(pieces)
    for _ in range(source.choice((0, 0, 1, 3, 12))):
        at = source.randint(0, len(text))
        text = text[:at] + source.choice(STREWN) + text[at + source.choice((0, 0, 1, 4)) :]
    return (text[: source.randint(0, len(text))] if source.random() < 0.2 else text), shown


def _piece(source: random.Random, shown: int) -> str:
    if source.random() < 0.15:
        return "".join(source.choices(STREWN, k=source.randint(1, 40)))
    numbers = source.sample(range(1, shown + 1), source.randint(1, shown))
    if source.random() < 0.2:  # documents that were not shown, or are named again
        numbers.insert(source.randint(0, len(numbers)), source.choice((0, shown + 1, 10**18, *numbers)))
    return source.choice(list(FORMS.values()))(numbers)


def fault(text: str, shown: int) -> tuple[str, str]:
    """Return what is wrong with the order read from an answer, empty for nothing, and its kind: `ok`, ..."""
    try:
        order = parse_answer(text, shown)
    except Exception as error:
        return f"raised {type(error).__name__}", ""
    listed = [*order.ranked, *order.missing]
    if not all(0 <= index < shown for index in listed):
        return "invented", order.kind
    if len(set(listed)) < len(listed):
        return "doubled", order.kind
    return ("lost" if len(listed) < shown else ""), order.kind


def rankings_read(first: int) -> tuple[Counter[str], list[int]]:
    """Return how many rankings of a chunk are right, wrong or rejected, and the numbers of the wrong ones."""
    kinds, wrong = Counter[str](), []
    for number in range(first, first + CHUNK):
        given = ranking(number)
        order = parse_answer(given.text, given.shown)
        right = [index + 1 for index in order.ranked] == given.order
        kinds["rejected" if order.rejected else "right" if right else "wrong"] += 1
        wrong += [] if order.rejected or right else [number]
    return kinds, wrong


def _chunk(first: int) -> tuple[Counter[str], Counter[str], float, float, int]:
    """Return faults, kinds, seconds, and the seconds and number of the slowest answer, of a chunk from `first` on."""
    faults, kinds, total, longest, slowest = Counter[str](), Counter[str](), 0.0, 0.0, first
    for number in range(first, first + CHUNK):
        text, shown = answer(number)
        began = time.process_time()
        wrong, kind = fault(text, shown)
        seconds = time.process_time() - began
        total += seconds
        kinds[kind] += 1
        if wrong:
            faults[wrong] += 1
            print(f"{wrong}: answer({number}): {text!r}", file=sys.stderr)
        if seconds > longest:
            longest, slowest = seconds, number
    return faults, kinds, total, longest, slowest


def bench(quick: bool, scratch: str) -> harness.Result:
    count, rankings = (20_000, 4_000) if quick else (1_000_000, 100_000)
    faults, kinds, total, longest, slowest = Counter[str](), Counter[str](), 0.0, 0.0, 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for wrong, read, seconds, most, number in pool.map(_chunk, range(0, count, CHUNK)):
            faults, kinds, total = faults + wrong, kinds + read, total + seconds
            longest, slowest = max((longest, slowest), (most, number))
        meant, misread = Counter[str](), list[int]()
        for kinds_of, wrong_ones in pool.map(rankings_read, range(0, rankings, CHUNK)):
            meant, misread = meant + kinds_of, misread + wrong_ones
    figures: dict[str, float] = dict.fromkeys(HARMS, 0)
    for harm, n in faults.items():
        figures[harm.partition(" ")[0]] += n
    figures |= {"answers_per_s": count / total, "longest_ms": longest * 1000}
    figures |= {f"rankings_{kind}": meant[kind] / rankings for kind in ("right", "rejected", "wrong")}
    rows = [{"read": kind or "not at all", "answers": n, "share": n / count} for kind, n in kinds.most_common()]
    return harness.Result(figures, rows, {"answers": count, "slowest": slowest, "misread": misread[:10]})


if __name__ == "__main__":
    harness.main("answers", bench)
