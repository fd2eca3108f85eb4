"""What the judge is asked."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.labelling.answers import parse_answer
from rrad_ray.prompts import (
    block_design,
    clicked,
    fit_tokens,
    likelihood,
    mean_logprob,
    orders,
    permutation_regex,
    windows,
    written,
)


@given(st.integers(0, 30), st.integers(0, 5), st.integers())
def test_orders_are_permutations_and_the_same_for_a_seed(n: int, repeats: int, seed: int) -> None:
    planned = orders(n, repeats, seed)
    assert len(planned) == repeats
    assert all(sorted(order) == list(range(n)) for order in planned)
    assert orders(n, repeats, seed) == planned


def test_orders_differ_between_repeats_and_seeds_and_move_every_document() -> None:
    planned = orders(10, 200, 0)
    assert len({tuple(order) for order in planned}) == 200
    assert orders(10, 1, 1) != orders(10, 1, 2)
    first = [order[0] for order in planned]
    assert set(first) == set(range(10))
    assert max(first.count(index) for index in range(10)) < 50


def test_a_likelihood_prompt_is_its_pieces_and_the_query_starts_after_them() -> None:
    span = likelihood([1, 2], [3, 4, 5], [6], [7, 8])
    assert span.ids == [1, 2, 3, 4, 5, 6, 7, 8]
    assert span.start == 6
    assert span.ids[span.start :] == [7, 8]
    assert likelihood([1], [], [2], [3]).start == 2


def test_the_mean_is_over_the_querys_tokens_only() -> None:
    assert mean_logprob([None, -9.0, -9.0, -1.0, -2.0], 3) == -1.5
    assert mean_logprob([None, -1.0, None, -3.0], 0) == -2.0
    with pytest.raises(ValueError, match="no tokens"):
        mean_logprob([None, -1.0], 2)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_the_grammar_takes_every_order_that_the_parser_reads_and_no_number_out_of_range(n: int) -> None:
    grammar = permutation_regex(n)
    answer = " > ".join(f"[{number}]" for number in range(n, 0, -1))
    assert re.fullmatch(grammar, answer)
    assert parse_answer(answer, n).status == "ok"
    assert re.fullmatch(grammar, "[1]")
    for wrong in (f"[{n + 1}]", "[0]", "", "[1] >", f"{answer} > [1]", "sure: [1]"):
        assert not re.fullmatch(grammar, wrong)


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 300))
def test_documents_are_cut_to_the_largest_common_length_that_fits(lengths: list[int], limit: int) -> None:
    cut = fit_tokens(lengths, limit)
    assert sum(min(length, cut) for length in lengths) <= limit
    if cut < max(lengths, default=0):
        assert sum(min(length, cut + 1) for length in lengths) > limit


@given(st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))))
def test_an_order_is_written_as_the_answer_that_the_parser_reads_back(order: list[int]) -> None:
    assert parse_answer(written(order), len(order)).ranked == tuple(order)
    assert re.fullmatch(permutation_regex(len(order)), written(order))


@given(st.integers(0, 200), st.integers(1, 30), st.data())
def test_windows_slide_from_the_bottom_to_the_top_without_a_gap(n: int, window: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, window))
    bounds = windows(n, window, step)
    assert {index for start, stop in bounds for index in range(start, stop)} == set(range(n))
    assert all(0 < stop - start <= window for start, stop in bounds)
    if bounds:
        assert (bounds[0][1], bounds[-1][0]) == (n, 0)
    for (below, _), (start, stop) in pairwise(bounds):
        assert start < below <= stop, "the next window takes the best of this one further up"


def test_a_clicked_document_is_its_title_above_its_summary_and_an_empty_part_leaves_no_line() -> None:
    assert clicked("a title", "a summary") == "a title\na summary"
    assert clicked("a title", " ") == "a title"
    assert clicked("", "a summary") == "a summary"


@given(st.integers(2, 60), st.integers(2, 12), st.integers(2, 4))
def test_blocks_hold_every_item_equally_often_and_join_all_of_them(n: int, size: int, repeats: int) -> None:
    blocks = block_design(n, size, repeats)
    assert Counter(item for block in blocks for item in block) == dict.fromkeys(range(n), repeats)
    assert len(blocks) == repeats * math.ceil(n / size)
    assert all(len(set(block)) == len(block) <= size for block in blocks)
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    if size >= math.ceil(n / size):
        joined = {0}
        for _ in range(n):
            joined |= {item for block in blocks if joined & set(block) for item in block}
        assert joined == set(range(n))


def test_blocks_of_a_square_repeat_no_pair() -> None:
    met = Counter(pair for block in block_design(100, 10, 2) for pair in itertools.combinations(sorted(block), 2))
    assert max(met.values()) == 1
