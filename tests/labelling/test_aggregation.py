"""Several orders of one query's documents become targets: Borda, Copeland, missing documents, confidence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray import prompts
from rrad_ray.labelling.aggregation import PRIOR, Verdict, aggregate
from rrad_ray.labelling.answers import ParsedOrder, parse_answer


def test_targets_stand_in_the_candidates_own_order() -> None:
    # Shown as [1] = candidate 2, [2] = candidate 0, [3] = candidate 3, [4] = candidate 1.
    verdict = aggregate([parse_answer("[3] > [1]", 4)], [[2, 0, 3, 1]])
    assert verdict == Verdict([0.0, 0.0, 1.0, 2.0], [True, True, False, False], [1.0] * 4, ["ok"])


def test_a_rejected_answer_makes_no_preference_and_has_no_voice() -> None:
    alone = aggregate([parse_answer("no", 3)], [[2, 0, 1]])
    assert (alone.targets, alone.missing, alone.rejected) == ([0.0] * 3, [True] * 3, True)
    both = aggregate([parse_answer("no", 3), parse_answer("[2] > [1] > [3]", 3)], [[0, 1, 2], [2, 0, 1]])
    assert (both.targets, both.rejected) == ([3.0, 1.0, 2.0], False)
    assert both.statuses == ["rejected: no identifiers", "ok"]


def _orders(*texts: str, n: int = 3) -> tuple[list[ParsedOrder], list[list[int]]]:
    return [parse_answer(text, n) for text in texts], [list(range(n)) for _ in texts]


def test_borda_counts_the_documents_beaten_and_confidence_the_preferences_kept() -> None:
    verdict = aggregate(*_orders("[1] > [2] > [3]", "[1] > [3] > [2]", "[2] > [1] > [3]"))
    # Documents beaten: 2 + 2 + 1, 1 + 0 + 2, 0 + 1 + 0; less the lowest, by three answers, plus 1.
    assert verdict.targets == pytest.approx([1 + 4 / 3, 1 + 2 / 3, 1.0])
    # Document 1 stands above 2 in two answers of three and above 3 in all; 2 above 3 in two.
    assert verdict.confidence == pytest.approx([(2 / 3 + 1) / 2, (2 / 3 + 2 / 3) / 2, (1 + 2 / 3) / 2])
    assert verdict.missing == [False] * 3


def test_copeland_is_moved_less_by_an_answer_gone_astray() -> None:
    texts = ["[1] > [2] > [3] > [4]"] * 3 + ["[2] > [3] > [4] > [1]"] * 2
    borda, copeland = (aggregate(*_orders(*texts, n=4), method=method) for method in ("borda", "copeland"))
    assert borda.targets[1] > borda.targets[0], "two answers of five drag the first document down"
    assert copeland.targets == [4.0, 3.0, 2.0, 1.0], "the majority puts it first"


def test_a_document_that_most_answers_leave_out_is_missing_below_every_ranked_one() -> None:
    verdict = aggregate(*_orders("[3] > [1]", "[1] > [3]", "[1] > [3] > [2]"))
    assert verdict.missing == [False, True, False]
    assert verdict.targets[1] == 0.0 < min(verdict.targets[0], verdict.targets[2])


def test_append_puts_left_out_documents_last_in_the_candidates_order_as_rankgpt_does() -> None:
    orders, _ = _orders("[3]", n=4)
    verdict = aggregate(orders, [[3, 1, 0, 2]], missing="append")
    assert (verdict.targets, verdict.missing) == ([4.0, 3.0, 2.0, 1.0], [False] * 4)


@pytest.mark.parametrize("missing", ["negative", "append"])
def test_an_answer_that_is_cut_off_leaves_no_document_out(missing: str) -> None:
    cut = parse_answer("[3] > [1] > [", 4)
    assert (cut.ranked, cut.status) == ((2, 0), "repaired: cut off")
    second = 1.0 if missing == "negative" else 2.0  # appended, it comes before the last one
    verdict = aggregate([cut], [[0, 1, 2, 3]], method="borda", missing=missing)
    assert (verdict.targets, verdict.missing) == ([3.0, second, 4.0, 1.0], [False] * 4)
    twice = aggregate([cut, cut], [[0, 1, 2, 3]] * 2, method="borda", missing="negative")
    assert (twice.targets[1], twice.missing) == (twice.targets[3], [False] * 4)


def test_an_order_from_the_worst_that_is_cut_off_does_not_come_to_the_best_and_is_none() -> None:
    cut = parse_answer("From worst to best: [3], [1], [", 4)
    assert cut.status == "rejected: worst first, and cut off before the best"


@given(st.data(), st.integers(1, 8), st.integers(1, 4), st.sampled_from(["borda", "copeland"]))
def test_missing_documents_are_tied_below_every_ranked_one_and_repeats_of_one_answer_change_nothing(
    data: st.DataObject, n: int, repeats: int, method: str
) -> None:
    shown = data.draw(st.permutations(range(n)))
    ranked = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1))
    order = ParsedOrder(tuple(ranked), tuple(index for index in range(n) if index not in ranked))
    verdict = aggregate([order] * repeats, [shown] * repeats, method=method)
    best_first = [verdict.targets[shown[index]] for index in ranked]
    assert best_first == pytest.approx([float(len(ranked) - rank) for rank in range(len(ranked))])
    assert {verdict.targets[index] for index in range(n) if verdict.missing[index]} <= {0.0}
    assert sum(verdict.missing) == n - len(ranked)
    assert verdict.confidence == pytest.approx([1.0] * n)


@given(st.data(), st.integers(2, 7), st.integers(2, 5), st.sampled_from(["borda", "copeland"]))
def test_a_document_above_another_in_every_answer_is_above_it_in_the_end(
    data: st.DataObject, n: int, repeats: int, method: str
) -> None:
    rankings = [data.draw(st.permutations(range(n))) for _ in range(repeats)]
    verdict = aggregate([ParsedOrder(tuple(r), ()) for r in rankings], [list(range(n))] * repeats, method=method)
    for i in range(n):
        for j in range(n):
            if all(r.index(i) < r.index(j) for r in rankings):
                assert verdict.targets[i] > verdict.targets[j]
    assert all(0.0 <= value <= 1.0 for value in verdict.confidence)


def test_without_answers_there_is_nothing_to_reject() -> None:
    assert aggregate([], []) == Verdict([], [], [], [])
    assert not aggregate([], []).rejected


def test_one_document_is_ranked_with_full_confidence_by_any_number_of_answers() -> None:
    for repeats in (1, 2, 3):
        verdict = aggregate([parse_answer("[1]", 1)] * repeats, [[0]] * repeats)
        assert (verdict.targets, verdict.missing, verdict.confidence) == ([1.0], [False], [1.0])


def test_a_tie_is_kept_by_answers_that_are_evenly_split_and_broken_by_those_that_agree() -> None:
    split = aggregate(*_orders("[1] > [2]", "[2] > [1]", n=2))
    assert (split.targets, split.confidence) == ([1.0, 1.0], [1.0, 1.0])
    # Each of documents 1 and 2 is left out by two of three answers: both are missing, tied at 0, and the one answer
    # that ranks document 1 stands above two ties of half a win each.
    both = aggregate(*_orders("[3]", "[3]", "[3] > [1]"))
    assert both.targets == [0.0, 0.0, 1.0]
    share = (1 + 0.5 + 0.5) / 3
    assert both.confidence[0] == pytest.approx((1 - abs(2 * share - 1) + 1.0) / 2)


def test_bradley_terry_counts_whom_a_document_beats_and_gives_win_probabilities() -> None:
    orders, _ = _orders("[1] > [2]", "[1] > [2]", "[1] > [2]", "[2] > [1]", n=2)
    verdict = aggregate(orders, [[0, 1]] * 4, method="bradley_terry")
    gap = verdict.targets[0] - verdict.targets[1]
    # Of the model with its prior: 3 wins of 4, strengths s and -s, 4 (3/4 - sigmoid(2 s)) = PRIOR s.
    assert 4 * (0.75 - 1 / (1 + math.exp(-gap))) == pytest.approx(PRIOR * gap / 2, abs=1e-4)
    assert verdict.confidence == pytest.approx([1 / (1 + math.exp(-gap))] * 2, abs=1e-4)
    assert verdict.targets[1] == 1.0
    # In blocks {1, 2}, {2, 3}, {3, 4}, documents 1 and 3 win one meeting of one and one of two; 1 beats the winner 2.
    orders, _ = _orders("[1] > [2]", "[1] > [2]", "[1] > [2]", n=2)
    chain = aggregate(orders, [[0, 1], [1, 2], [2, 3]], method="bradley_terry")
    assert sorted(range(4), key=lambda index: -chain.targets[index]) == [0, 1, 2, 3]
    assert aggregate(orders, [[0, 1], [1, 2], [2, 3]]).targets == pytest.approx([4.0, 2.5, 2.5, 1.0])


@given(st.data(), st.integers(3, 40), st.integers(2, 8), st.integers(2, 4))
def test_blocks_of_a_perfect_teacher_put_every_document_above_those_that_it_beats(
    data: st.DataObject, n: int, size: int, repeats: int
) -> None:
    worth = data.draw(st.permutations(range(n)))
    blocks = prompts.block_design(n, size, repeats)
    orders = [
        ParsedOrder(tuple(sorted(range(len(block)), key=lambda place: -worth[block[place]])), ()) for block in blocks
    ]
    for method in ("borda", "copeland", "bradley_terry"):
        verdict = aggregate(orders, blocks, method=method)
        assert not verdict.rejected
        assert min(verdict.targets) == pytest.approx(1.0)
        assert all(0 <= value <= 1 for value in verdict.confidence)
        if method == "bradley_terry":
            best, worst = worth.index(n - 1), worth.index(0)
            assert verdict.targets[best] > verdict.targets[worst]


def test_a_document_in_no_usable_answer_rejects_the_query_rather_than_becoming_a_negative() -> None:
    orders = [parse_answer("[1] > [2]", 2), parse_answer("no", 2)]
    verdict = aggregate(orders, [[0, 1], [2, 3]], method="bradley_terry")
    assert (verdict.rejected, verdict.rejection) == (True, "rejected: 2 documents stand in no usable answer")
    assert not aggregate(orders, [[0, 1], [0, 1]]).rejected


def test_documents_left_out_of_most_of_their_blocks_are_missing() -> None:
    orders = [parse_answer("[1]", 2), parse_answer("[2] > [1]", 2), parse_answer("[1]", 2)]
    verdict = aggregate(orders, [[0, 1], [0, 2], [2, 1]], method="bradley_terry")
    assert verdict.missing == [False, True, False]
    assert verdict.targets[1] == 0.0 < 1.0 <= min(verdict.targets[0], verdict.targets[2])
