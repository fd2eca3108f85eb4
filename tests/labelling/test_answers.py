"""Listwise answers as real models write them, and the targets that they become."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rrad_ray.labelling.aggregation import Verdict, aggregate
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
        ("[2] is the best answer to the query, then [3], which is only partly about it.", 3, (1, 2), "ok"),
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
        ("1) [3] Python's sort\n2) [1] sum", 3, (2, 0), "repaired: numbered list"),
        ("1. 3\n2. 1\n3. 2", 3, (2, 0, 1), "repaired: numbered list"),
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
    assert parse_answer(answer, n) == ParsedOrder((), tuple(range(n)), f"rejected: {why}")
    assert parse_answer(answer, n).rejected


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
    found = parse_answer(" > ".join(f"[{index + 1}]" for index in kept), len(order))
    assert (found.ranked, found.status) == (kept, "ok")


@pytest.mark.parametrize("unit", ["[", "\n", " ", "[ ", "1,", "1. ", "<think>", "[1]", "1"])
def test_a_model_that_repeats_itself_without_end_does_not_stall_the_parser(unit: str) -> None:
    began = time.process_time()
    parse_answer(unit * (6000 // len(unit)), 20)
    assert time.process_time() - began < 3.0


NOISE = ["<think>", "</think>", "Sure! ", "```", "[", "]", "1", "\n", "∞", "[99]", "[1] ", "the "]


def _mess(source: random.Random, n: int) -> str:
    """An answer as a bad day of some model has it: an order in one of many forms, then cut, doubled and sprinkled."""
    order = source.sample(range(0, n + 3), source.randint(0, n + 2))
    form = source.choice(["[{}]", "({})", "{}", "Passage {}", "[doc {}]", "**[{}]**", "{}.", "【{}】", '"{}"', "[{}"])
    joint = source.choice([" > ", ">", ", ", "\n", " = ", " and then ", "; ", ""])
    pieces = [form.replace("{}", str(number)) for number in order]
    if source.random() < 0.3:
        pieces = [f"{place}. {piece}" for place, piece in enumerate(pieces, 1)]
    text = joint.join(pieces)
    if source.random() < 0.2:
        text = json.dumps(source.choice([order, {"ranking": order}, [{"id": number} for number in order], text]))
    for _ in range(source.randint(0, 3)):
        noise = source.choice(NOISE)
        place = source.randint(0, len(text))
        text = text[:place] + noise + text[place:]
    return text[: source.randint(0, len(text))] if source.random() < 0.2 else text


def test_a_million_messy_answers_never_raise_and_never_invent_double_or_lose_a_document() -> None:
    source = random.Random(0)
    kinds: Counter[str] = Counter()
    for _ in range(1_000_000 // 8):
        n = source.randint(0, 20)
        for answer in [_mess(source, n) for _ in range(8)]:
            order = parse_answer(answer, n)
            ranked, missing = set(order.ranked), set(order.missing)
            assert (len(ranked), len(missing)) == (len(order.ranked), len(order.missing)), answer
            assert not ranked & missing, answer
            assert ranked | missing == set(range(n)), answer
            kinds[order.status.partition(":")[0]] += 1
    assert min(kinds[kind] for kind in ("ok", "repaired", "rejected")) > 50_000, kinds


# ---- orders into targets ------------------------------------------------------------------------------------


def test_targets_stand_in_the_candidates_own_order() -> None:
    # Shown as [1] = candidate 2, [2] = candidate 0, [3] = candidate 3, [4] = candidate 1.
    found = aggregate([parse_answer("[3] > [1]", 4)], [[2, 0, 3, 1]])
    assert found == Verdict([0.0, 0.0, 1.0, 2.0], [True, True, False, False], [1.0] * 4, ["ok"])


def test_a_rejected_answer_makes_no_preference_and_has_no_voice() -> None:
    alone = aggregate([parse_answer("no", 3)], [[2, 0, 1]])
    assert (alone.targets, alone.missing, alone.rejected) == ([0.0] * 3, [True] * 3, True)
    both = aggregate([parse_answer("no", 3), parse_answer("[2] > [1] > [3]", 3)], [[0, 1, 2], [2, 0, 1]])
    assert (both.targets, both.rejected) == ([3.0, 1.0, 2.0], False)
    assert both.statuses == ["rejected: no identifiers", "ok"]


def _orders(*texts: str, n: int = 3) -> tuple[list[ParsedOrder], list[list[int]]]:
    return [parse_answer(text, n) for text in texts], [list(range(n)) for _ in texts]


def test_borda_counts_the_documents_beaten_and_confidence_the_preferences_kept() -> None:
    found = aggregate(*_orders("[1] > [2] > [3]", "[1] > [3] > [2]", "[2] > [1] > [3]"))
    # Documents beaten: 2 + 2 + 1, 1 + 0 + 2, 0 + 1 + 0; less the lowest, by three answers, plus 1.
    assert found.targets == pytest.approx([1 + 4 / 3, 1 + 2 / 3, 1.0])
    # Document 1 stands above 2 in two answers of three and above 3 in all; 2 above 3 in two.
    assert found.confidence == pytest.approx([(2 / 3 + 1) / 2, (2 / 3 + 2 / 3) / 2, (1 + 2 / 3) / 2])
    assert found.missing == [False] * 3


def test_copeland_is_moved_less_by_an_answer_gone_astray() -> None:
    texts = ["[1] > [2] > [3] > [4]"] * 3 + ["[2] > [3] > [4] > [1]"] * 2
    borda, copeland = (aggregate(*_orders(*texts, n=4), method=method) for method in ("borda", "copeland"))
    assert borda.targets[1] > borda.targets[0], "two answers of five drag the first document down"
    assert copeland.targets == [4.0, 3.0, 2.0, 1.0], "the majority puts it first"


def test_a_document_that_most_answers_leave_out_is_missing_below_every_ranked_one() -> None:
    found = aggregate(*_orders("[3] > [1]", "[1] > [3]", "[1] > [3] > [2]"))
    assert found.missing == [False, True, False]
    assert found.targets[1] == 0.0 < min(found.targets[0], found.targets[2])


def test_append_puts_left_out_documents_last_in_the_order_shown_as_rankgpt_does() -> None:
    orders, _ = _orders("[3]", n=4)
    found = aggregate(orders, [[3, 1, 0, 2]], missing="append")
    assert (found.targets, found.missing) == ([4.0, 2.0, 1.0, 3.0], [False] * 4)


@given(st.data(), st.integers(1, 8), st.integers(1, 4), st.sampled_from(["borda", "copeland"]))
def test_missing_documents_are_tied_below_every_ranked_one_and_repeats_of_one_answer_change_nothing(
    data: st.DataObject, n: int, repeats: int, method: str
) -> None:
    shown = data.draw(st.permutations(range(n)))
    ranked = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1))
    order = ParsedOrder(tuple(ranked), tuple(index for index in range(n) if index not in ranked), "ok")
    found = aggregate([order] * repeats, [shown] * repeats, method=method)
    best_first = [found.targets[shown[index]] for index in ranked]
    assert best_first == pytest.approx([float(len(ranked) - place) for place in range(len(ranked))])
    assert {found.targets[index] for index in range(n) if found.missing[index]} <= {0.0}
    assert sum(found.missing) == n - len(ranked)
    assert found.confidence == pytest.approx([1.0] * n)


@given(st.data(), st.integers(2, 7), st.integers(2, 5), st.sampled_from(["borda", "copeland"]))
def test_a_document_above_another_in_every_answer_is_above_it_in_the_end(
    data: st.DataObject, n: int, repeats: int, method: str
) -> None:
    rankings = [data.draw(st.permutations(range(n))) for _ in range(repeats)]
    found = aggregate([ParsedOrder(tuple(r), (), "ok") for r in rankings], [list(range(n))] * repeats, method=method)
    for i in range(n):
        for j in range(n):
            if all(r.index(i) < r.index(j) for r in rankings):
                assert found.targets[i] > found.targets[j]
    assert all(0.0 <= value <= 1.0 for value in found.confidence)
