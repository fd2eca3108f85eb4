"""Listwise answers, as real models write them, are parsed into orders."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rrad_ray.labelling.answers import ParsedOrder, parse_answer

PASSAGES = ["the built-in sum function adds numbers", "sort orders a list in place", "open returns a file object"]


@pytest.mark.parametrize(
    ("answer", "n", "ranked", "status"),
    [
        # as asked
        ("[2] > [1] > [3]", 3, (1, 0, 2), "ok"),
        ("[1] > [2] > [3]", 3, (0, 1, 2), "ok"),
        ("  [3]>[1]\n", 3, (2, 0), "ok"),
        ("[2]", 3, (1,), "ok"),
        ("[10] > [2] > [1]", 10, (9, 1, 0), "ok"),
        # prose around
        ("The ranking is: [2] > [1] > [3]. I hope this helps you with your search!", 3, (1, 0, 2), "ok"),
        (
            "[2] is the best answer to the query, then [3], which is only partly about it.",
            3,
            (1, 2),
            "repaired: read from prose",
        ),
        # brackets of all kinds
        ("(2) > (1)", 3, (1, 0), "ok"),
        ("【2】>【1】", 3, (1, 0), "ok"),
        ("［2］ > ［1］", 3, (1, 0), "ok"),
        ("[ 2 ] > [ #1 ]", 3, (1, 0), "ok"),
        ("[Passage 2] > [doc 1] > [Document 3]", 3, (1, 0, 2), "ok"),
        ("**[3]** > **[1]**", 3, (2, 0), "ok"),
        # repeated, out of range, missing
        ("[2] > [1] > [2] > [2]", 3, (1, 0), "repaired: 2 repeated"),
        ("[4] > [2] > [0] > [1]", 3, (1, 0), "repaired: 2 out of range"),
        ("[7] > [2] > [1] > [2]", 3, (1, 0), "repaired: 1 out of range, 1 repeated"),
        ("[3] > [999999]", 3, (2,), "repaired: 1 out of range"),
        # other forms
        ("1. [3]\n2. [1]\n3. [2]", 3, (2, 0, 1), "repaired: numbered list"),
        ("Top 1: [3]; Top 2: [1]; Top 3: [2]", 3, (2, 0, 1), "repaired: numbered list"),
        ("Platz 1: [3], Platz 2: [1], Platz 3: [2]", 3, (2, 0, 1), "repaired: numbered list"),
        ("The order is: Rang 1: [3]. Rang 2: [1]. Rang 3: [2].", 3, (2, 0, 1), "repaired: numbered list"),
        ("1) [3] Python's sort\n2) [1] sum", 3, (2, 0), "repaired: numbered list"),
        ("1. 3\n2. 1\n3. 2", 3, (2, 0, 1), "repaired: numbered list, plain numbers"),
        ("1. **[3]** fits best\n2. **[1]** less", 3, (2, 0), "repaired: numbered list"),
        ("1. Passage 3 - x\n2. Passage 1", 3, (2, 0), "repaired: numbered list, named without brackets"),
        ("Passage 3 > Passage 1", 3, (2, 0), "repaired: named without brackets"),
        ("[2, 1, 3]", 3, (1, 0, 2), "repaired: JSON"),
        ('{"ranking": [3, 1]}', 3, (2, 0), "repaired: JSON"),
        ('["[3]", "[1]"]', 3, (2, 0), "repaired: JSON"),
        ('[{"id": 3, "score": 9}, {"id": 1, "score": 2}]', 3, (2, 0), "repaired: JSON"),
        ('{"query": "x", "order": [{"passage": 2}]}', 3, (1,), "repaired: JSON"),
        ("Here it is: {3} > {1}", 3, (2, 0), "ok"),
        ("3 = 1 > 2", 3, (2, 0, 1), "repaired: plain numbers"),
        ("2 > 1 > 3", 3, (1, 0, 2), "repaired: plain numbers"),
        ("2, 1", 3, (1, 0), "repaired: plain numbers"),
        ("```json\n[3, 2, 1]\n```", 3, (2, 1, 0), "repaired: JSON"),
        # thinking
        ("<think>[3] > [2] maybe?</think>[1] > [2]", 3, (0, 1), "repaired: thinking removed"),
        ("<THINK>\n[3]\n</THINK>\n\n[2] > [1]", 3, (1, 0), "repaired: thinking removed"),
        ("<think>a</think>[2]<think>[3]</think> > [1]", 3, (1, 0), "repaired: thinking removed"),
        # cut off
        ("[3] > [1] > [", 3, (2, 0), "repaired: cut off"),
        ("[3] > [1] > [2", 3, (2, 0), "repaired: cut off"),
        ("[3] > [1] >", 3, (2, 0), "repaired: cut off"),
    ],
)
def test_an_answer_is_read_as_the_order_it_means(answer: str, n: int, ranked: tuple[int, ...], status: str) -> None:
    order = parse_answer(answer, n)
    assert (order.ranked, order.status) == (ranked, status)
    assert order.missing == tuple(index for index in range(n) if index not in ranked)
    assert not order.rejected


@pytest.mark.parametrize(
    ("answer", "n", "why"),
    [
        ("", 3, "no identifiers"),
        ("   \n", 3, "no identifiers"),
        ("I cannot rank these passages.", 3, "no identifiers"),
        ("Both were written in 2024.", 3, "no identifiers"),
        ("[17] > [0]", 3, "no identifiers"),
        ("[1] > [2]", 0, "no identifiers"),
        ("<think>[2] > [1], so the answer is", 3, "no identifiers"),
        ("The passage that answers this query best is [2].", 3, "one identifier in prose"),
        (" ".join(f"[{n}] {text}" for n, text in enumerate(PASSAGES, 1)), 3, "echo of the input"),
        ("\n".join(f"[{n}] {text}" for n, text in enumerate(PASSAGES[:2], 1)) + "\n[3", 3, "echo of the input"),
    ],
)
def test_an_answer_that_says_nothing_is_rejected_and_ranks_nothing(answer: str, n: int, why: str) -> None:
    assert parse_answer(answer, n) == ParsedOrder((), tuple(range(n)), rejection=why)
    assert parse_answer(answer, n).rejected


@pytest.mark.parametrize(
    ("answer", "ranked"),
    [
        ("[2] is better than [1].", (1, 0)),
        ("[1] is worse than [2].", (1, 0)),
        ("[1] is less relevant than [2].", (1, 0)),
        ("[1] should be ranked below [2].", (1, 0)),
        ("[2] should be ranked above [1].", (1, 0)),
        ("I prefer [2] over passage [1].", (1, 0)),
        ("[1] is beaten by [2].", (1, 0)),
        ("[3] beats [1], and [1] beats [2].", (2, 0, 1)),
        ("[1] ranks lower than [2], and [2] ranks lower than [3].", (2, 1, 0)),
        ("[3] is more relevant than [1], followed by [2].", (2, 0, 1)),
        ("Tied for first: [2] and [3]. Then [1].", (1, 2, 0)),
        ("([3], [1]) > [2]", (2, 0, 1)),
    ],
)
def test_prose_is_read_as_its_comparisons_say_whichever_document_it_names_first(
    answer: str, ranked: tuple[int, ...]
) -> None:
    assert parse_answer(answer, max(ranked) + 1).ranked == ranked


@pytest.mark.parametrize(
    "answer",
    [
        # requests and refusals that name documents
        "I can't help with ranking passages [1] and [2].",
        "Could you provide passages [1], [2] and [3]?",
        "Passages [1], [2] and [3] are missing from your message.",
        "Es tut mir leid, ich kann [2] und [1] nicht bewerten.",
        "Je ne peux pas classer [2], [1] et [3].",
        "Lo siento, no puedo clasificar [2], [1] y [3].",
        "Не могу ранжировать [2], [1] и [3].",
        "申し訳ありませんが、[2]、[1]、[3]を順位付けできません。",
        "죄송하지만 [2], [1], [3]의 순위를 매길 수 없습니다.",
        # sentences that compare nothing, or take it back
        "[2] covers the context of the war, and [1] its causes.",
        "[2], not [1].",
        "[1] was written after [2].",
        "I don't think that [2] is better than [1].",
        "[3] is better than [1], and [2] is better than [1].",
        "[3] beats [1], and [1] beats [3].",
        "[1] beats [2] more often than [3]",
        "[1] 5/10, [2] 1/10, [3] 9/10",
        "[1] gets 3 points; [2] gets 9 points; [3] gets 5 points",
        # one number among others
        "<ranking><rank>3</rank><rank>1</rank><rank>2</rank></ranking>",
        "Rank #1: 3, Rank #2: 1, Rank #3: 2",
    ],
)
def test_prose_that_says_no_order_is_rejected_whatever_it_mentions(answer: str) -> None:
    assert parse_answer(answer, 3).rejected


RELATIONS = {"is better than": 1, "beats": 1, "ranks above": 1, "is preferable to": 1, "ranks ahead of": 1}
RELATIONS |= {"is worse than": -1, "loses to": -1, "ranks below": -1, "is inferior to": -1, "is outranked by": -1}


@given(st.integers(2, 12).flatmap(lambda n: st.permutations(range(n))), st.data())
def test_a_chain_of_comparisons_is_the_order_that_they_say(order: list[int], data: st.DataObject) -> None:
    said = []
    for better, worse in itertools.pairwise(order):
        words, sign = data.draw(st.sampled_from(sorted(RELATIONS.items())))
        first, second = (better, worse)[::sign]
        said.append(f"[{first + 1}] {words} [{second + 1}].")
    parsed = parse_answer(" ".join(data.draw(st.permutations(said))), len(order))
    assert parsed.rejected or parsed.ranked == tuple(order)


def test_passages_copied_out_in_another_order_are_an_order() -> None:
    text = "\n".join(f"[{number}] {PASSAGES[number - 1]}" for number in (3, 1, 2))
    assert parse_answer(text, 3).ranked == (2, 0, 1)


def test_an_enumeration_does_not_pass_for_identifiers() -> None:
    # Were the numbers 1. and 2. read too, the order would begin with documents 1 and 2.
    assert parse_answer("1. [5] first\n2. [4] second", 5).ranked == (4, 3)


tokens = st.sampled_from(
    [
        *"[](){}<>.,:#>【】［］\n\t 0123456789",
        " > ",
        "[1]",
        "[2]",
        "(3)",
        "[12]",
        "<think>",
        "</think>",
        "1. ",
        "passage ",
        "[doc 2",
    ]
)
messy = st.one_of(st.text(max_size=80), st.lists(tokens, max_size=40).map("".join))


@given(answer=messy, n=st.integers(0, 20))
@example(answer="[٣] > [1] > [²]", n=5)
@example(answer="[1" * 50, n=3)
def test_any_text_gives_an_order_that_holds_every_document_once(answer: str, n: int) -> None:
    order = parse_answer(answer, n)
    assert sorted([*order.ranked, *order.missing]) == list(range(n))
    assert list(order.missing) == sorted(order.missing)
    assert re.fullmatch(r"ok|repaired: .+|rejected: .+", order.status)
    assert order.rejected == (not order.ranked)
    assert order.rejected == order.status.startswith("rejected")
    assert parse_answer(answer, n) == order


@given(st.integers(1, 30).flatmap(lambda n: st.permutations(range(n))), st.integers(0, 30))
def test_an_order_written_as_asked_comes_back(order: list[int], keep: int) -> None:
    kept = tuple(order[: max(1, min(keep, len(order)))])
    parsed = parse_answer(" > ".join(f"[{index + 1}]" for index in kept), len(order))
    assert (parsed.ranked, parsed.status) == (kept, "ok")


@pytest.mark.parametrize("unit", ["[", "\n", " ", "[ ", "1,", "1. ", "<think>", "[1]", "1", "*", "| 1 "])
def test_a_model_that_repeats_itself_without_end_does_not_stall_the_parser(unit: str) -> None:
    began = time.process_time()
    parse_answer(unit * (6000 // len(unit)), 20)
    assert time.process_time() - began < 15.0, "a stall takes minutes, on a busy machine too"


NOISE = ["Final ranking: ", "not relevant: ", "<answer>", " < ", "(1)", "\n- ", "| ", "Rank 1: ", "</reasoning>"]
NOISE += ["<think>", "</think>", "Sure! ", "```", "[", "]", "1", "\n", "∞", "[99]", "[1] ", "the "]


def _mess(source: random.Random, n: int) -> str:
    """Return a broken answer: an order in one of many forms, with noise in it, and cut off now and then."""
    order = source.sample(range(0, n + 3), source.randint(0, n + 2))
    form = source.choice(["[{}]", "({})", "{}", "Passage {}", "[doc {}]", "**[{}]**", "{}.", "【{}】", '"{}"', "[{}"])
    joint = source.choice([" > ", ">", ", ", "\n", " = ", " and then ", "; ", "", " < ", " → ", "、", "\n- ", " | "])
    pieces = [form.replace("{}", str(number)) for number in order]
    if source.random() < 0.3:
        pieces = [f"{number}. {piece}" for number, piece in enumerate(pieces, 1)]
    text = joint.join(pieces)
    if source.random() < 0.2:
        text = json.dumps(source.choice([order, {"ranking": order}, [{"id": number} for number in order], text]))
    for _ in range(source.randint(0, 3)):
        noise = source.choice(NOISE)
        at = source.randint(0, len(text))
        text = text[:at] + noise + text[at:]
    return text[: source.randint(0, len(text))] if source.random() < 0.2 else text


@pytest.mark.parametrize(
    ("answer", "n", "ranked", "status"),
    [
        ("[0] > [2] > [1]", 3, (0, 2, 1), "repaired: counted from 0"),
        ("[2] > [0]", 3, (), "rejected: counts from 0"),
        ("[3] > [0] > [1] > [2]", 3, (2, 0, 1), "repaired: 1 out of range"),
        ('{"ranking": [1, 0]}', 2, (1, 0), "repaired: JSON, counted from 0"),
        ('[{"id": 0, "score": 0.2}, {"id": 1, "score": 0.9}]', 2, (1, 0), "repaired: JSON, counted from 0"),
        ("0", 1, (), "rejected: counts from 0"),
    ],
)
def test_an_order_that_counts_from_0_is_read_so_where_it_is_whole_and_not_at_all_elsewhere(
    answer: str, n: int, ranked: tuple[int, ...], status: str
) -> None:
    order = parse_answer(answer, n)
    assert (order.ranked, order.status) == (ranked, status)


@pytest.mark.parametrize("count", [20_000, pytest.param(250_000, marks=pytest.mark.slow)])
def test_messy_answers_never_raise_and_never_invent_double_or_lose_a_document(count: int) -> None:
    source = random.Random(0)
    kinds: Counter[str] = Counter()
    for _ in range(count // 8):
        n = source.randint(0, 20)
        for answer in [_mess(source, n) for _ in range(8)]:
            order = parse_answer(answer, n)
            ranked, missing = set(order.ranked), set(order.missing)
            assert (len(ranked), len(missing)) == (len(order.ranked), len(order.missing)), answer
            assert not ranked & missing, answer
            assert ranked | missing == set(range(n)), answer
            if "-" not in answer:  # makes ranges
                first = 0 if "counted from 0" in order.repairs else 1
                assert {index + first for index in ranked} <= set(map(int, re.findall(r"\d{1,18}", answer))), answer
            kinds[order.kind] += 1
    assert min(kinds[kind] for kind in ("ok", "repaired", "rejected")) > count // 50, kinds
