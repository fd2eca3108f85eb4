"""Listwise answers as real models write them, and the targets that they become."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rrad_ray.answers import Order, parse, targets

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
        ("[2, 1, 3]", 3, (1, 0, 2), "repaired: plain numbers"),
        ('{"ranking": [3, 1]}', 3, (2, 0), "repaired: plain numbers"),
        ("2 > 1 > 3", 3, (1, 0, 2), "repaired: plain numbers"),
        ("2, 1", 3, (1, 0), "repaired: plain numbers"),
        ("```json\n[3, 2, 1]\n```", 3, (2, 1, 0), "repaired: plain numbers"),
        # thinking
        ("<think>[3] > [2] maybe?</think>[1] > [2]", 3, (0, 1), "repaired: thinking removed"),
        ("<THINK>\n[3]\n</THINK>\n\n[2] > [1]", 3, (1, 0), "repaired: thinking removed"),
        ("<think>a</think>[2]<think>[3]</think> > [1]", 3, (1, 0), "repaired: thinking removed"),
        # cut off
        ("[3] > [1] > [", 3, (2, 0), "ok"),
        ("[3] > [1] > [2", 3, (2, 0), "ok"),
    ],
)
def test_an_answer_is_read_as_the_order_it_means(answer: str, n: int, ranked: tuple[int, ...], status: str) -> None:
    order = parse(answer, n)
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
    assert parse(answer, n) == Order((), tuple(range(n)), f"rejected: {why}")
    assert parse(answer, n).rejected


def test_passages_copied_out_in_another_order_are_an_order() -> None:
    text = "\n".join(f"[{number}] {PASSAGES[number - 1]}" for number in (3, 1, 2))
    assert parse(text, 3).ranked == (2, 0, 1)


def test_an_enumeration_does_not_pass_for_identifiers() -> None:
    # Were the numbers 1. and 2. read too, the order would begin with documents 1 and 2.
    assert parse("1. [5] first\n2. [4] second", 5).ranked == (4, 3)


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
    order = parse(answer, n)
    assert sorted([*order.ranked, *order.missing]) == list(range(n))
    assert list(order.missing) == sorted(order.missing)
    assert re.fullmatch(r"ok|repaired: .+|rejected: .+", order.status)
    assert order.rejected == (not order.ranked)
    assert order.rejected == order.status.startswith("rejected")
    assert parse(answer, n) == order


@given(st.integers(1, 30).flatmap(lambda n: st.permutations(range(n))), st.integers(0, 30))
def test_an_order_written_as_asked_comes_back(order: list[int], keep: int) -> None:
    kept = tuple(order[: max(1, min(keep, len(order)))])
    found = parse(" > ".join(f"[{index + 1}]" for index in kept), len(order))
    assert (found.ranked, found.status) == (kept, "ok")


@pytest.mark.parametrize("unit", ["[", "\n", " ", "[ ", "1,", "1. ", "<think>", "[1]", "1"])
def test_a_model_that_repeats_itself_without_end_does_not_stall_the_parser(unit: str) -> None:
    began = time.process_time()
    parse(unit * (6000 // len(unit)), 20)
    assert time.process_time() - began < 3.0


# ---- targets ------------------------------------------------------------------------------------------------


def test_targets_stand_in_the_candidates_own_order() -> None:
    # Shown as [1] = candidate 2, [2] = candidate 0, [3] = candidate 3, [4] = candidate 1.
    values, missing = targets(parse("[3] > [1]", 4), [2, 0, 3, 1])
    assert values == [0.0, 0.0, 1.0, 2.0]
    assert missing == [True, True, False, False]


def test_a_rejected_answer_makes_no_preference() -> None:
    assert targets(parse("no", 3), [2, 0, 1]) == ([0.0, 0.0, 0.0], [True, True, True])


@given(st.data(), st.integers(1, 12))
def test_missing_documents_are_tied_below_every_ranked_one_and_ranked_ones_descend(
    data: st.DataObject, n: int
) -> None:
    shown = data.draw(st.permutations(range(n)))
    ranked = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1))
    order = Order(tuple(ranked), tuple(index for index in range(n) if index not in ranked), "ok")
    values, missing = targets(order, shown)
    best_first = [values[shown[index]] for index in ranked]
    assert best_first == sorted(set(best_first), reverse=True)
    left_out = {values[index] for index in range(n) if missing[index]}
    assert len(left_out) <= 1
    assert all(low < best_first[-1] for low in left_out)
    assert sum(missing) == n - len(ranked)
