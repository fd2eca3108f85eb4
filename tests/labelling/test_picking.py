"""Which queries are picked for labels: exact values of disagreement, and shares drawn by the seed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.errors import InvalidInput
from rrad_ray.labelling.picking import picked_indices, rank_disagreement, scores_by
from tests.fixtures import row_of


@pytest.mark.parametrize(
    ("scores", "others", "expected"),
    [
        ([3.0, 2.0, 1.0], [0.3, 0.2, 0.1], 0.0),
        ([3.0, 2.0, 1.0], [0.1, 0.2, 0.3], 2.0),
        # Swapped at the top: pairs weigh 1/(rank+1) each in sum, (1 + 1/2), (1 + 1/3), (1/2 + 1/3): -9 + 8 + 5 of 22.
        ([3.0, 2.0, 1.0], [2.0, 3.0, 1.0], 1 - 4 / 22),
        ([3.0, 2.0, 1.0], [3.0, 1.0, 2.0], 1 - 12 / 22),
        ([3.0, 2.0, 1.0], [3.0, math.nan, 2.0], 1 - 12 / 22),
        ([1.0], [5.0], 0.0),
        ([], [], 0.0),
        ([3.0, 2.0], [1.0, 1.0], 1.0),
        ([3.0, 2.0], [math.nan, math.nan], 1.0),
    ],
)
def test_disagreement_counts_the_top_most_and_a_score_that_is_missing_last(
    scores: list[float], others: list[float], expected: float
) -> None:
    assert rank_disagreement(scores, others) == pytest.approx(expected)
    assert rank_disagreement(others, scores) == pytest.approx(expected)


@given(st.lists(st.integers(0, 3), max_size=30), st.floats(0.01, 1.0), st.integers(0, 5))
def test_the_share_that_is_worth_most_is_picked_whatever_the_order_of_the_rows(
    worth: list[int], share: float, seed: int
) -> None:
    names = [f"q{number}" for number in range(len(worth))]
    picked = picked_indices(names, worth, share, seed)
    assert picked == sorted(set(picked))
    assert len(picked) == math.ceil(share * len(worth))
    others = {*range(len(worth))} - {*picked}
    assert not picked or not others or min(worth[index] for index in picked) >= max(worth[index] for index in others)
    turned = picked_indices(names[::-1], worth[::-1], share, seed)
    assert {names[::-1][index] for index in turned} == {names[index] for index in picked}


def test_equal_queries_are_drawn_by_the_seed() -> None:
    names = [f"q{number}" for number in range(40)]
    one, again, other = (picked_indices(names, [0.0] * 40, 0.25, seed) for seed in (0, 0, 1))
    assert one == again != other


def test_a_source_that_a_row_lacks_is_named() -> None:
    with pytest.raises(
        InvalidInput, match=r"query q1 has no source 'splade' among bm25; name one of them in pick\.against"
    ):
        scores_by(row_of("q1", ["a", "b"]), "splade", "pick.against")
