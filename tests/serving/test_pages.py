"""The page that answers a request: order, shown scores, interleaving, and the exposure that is logged of it."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.config import IDENTITY
from rrad_ray.serving import pages
from rrad_ray.serving.documents import text_digest
from rrad_ray.serving.fusing import ModelScores
from rrad_ray.serving.pages import RankedPage
from rrad_ray.serving.requests import ScoringRequest

REQUEST = ScoringRequest(["q"] * 3, ["a", "b", "c"], doc_ids=["A", "B", "A"])


def request(count: int, top_n: int = 0) -> ScoringRequest:
    return ScoringRequest(["q"] * count, [str(index) for index in range(count)], top_n=top_n)


def test_a_models_page_is_ordered_by_raw_scores_and_shows_their_sigmoid_unless_raw_ones_are_wanted() -> None:
    page = pages.scored_page(REQUEST, "small", ModelScores("student", [0.0, 60.0, 900.0], 7, "used"))
    assert page == RankedPage(
        "student", "small", [0.5, math.nextafter(1.0, 0.0), 1.0], [2, 1, 0], 7, first_stage="used"
    )
    wanted = ScoringRequest(["q"] * 2, ["a", "b"], raw=True, top_n=1)
    raw = pages.scored_page(wanted, "", ModelScores("student", [-3.0, 2.0], 7))
    assert (raw.scores, raw.order) == ([-3.0, 2.0], [1])


def test_the_identity_page_keeps_the_order_and_its_scores_fall_evenly() -> None:
    page = pages.identity_page(request(4, top_n=2), "control")
    assert page == RankedPage(IDENTITY, "control", [1.0, 0.75, 0.5, 0.25], [0, 1])
    assert pages.identity_page(request(4), "").order == [0, 1, 2, 3]
    assert pages.identity_page(request(0), "").order == []


@given(st.integers(1, 8), st.integers(0, 9), st.integers())
def test_an_interleaved_page_mixes_both_and_says_whose_each_document_is(count: int, top_n: int, seed: int) -> None:
    orders = [random.Random(f"{seed} {name}").sample(range(count), count) for name in "ab"]
    both = [RankedPage(name, name, [0.0] * count, order, 5) for name, order in zip("ab", orders)]
    page = pages.interleaved_page(request(count, top_n), ["old", "new"], both, str(seed))
    assert (page.model, page.variant, page.tokens) == ("old + new", "", 10)
    assert len(page.order) == len(set(page.order)) == len(page.teams) == min(top_n or count, count)
    assert page.order[0] == orders[["old", "new"].index(page.teams[0])][0]
    shown = [page.scores[index] for index in page.order]
    assert shown == pytest.approx([1 - rank / len(shown) for rank in range(len(shown))])
    assert all(page.scores[index] == 0.0 for index in set(range(count)) - set(page.order))
    assert page == pages.interleaved_page(request(count, top_n), ["old", "new"], both, str(seed))
    without = dataclasses.replace(both[1], first_stage="missing")
    mixed = pages.interleaved_page(request(count, top_n), ["old", "new"], [both[0], without], str(seed))
    assert (page.first_stage, mixed.first_stage) == ("", "missing")


def test_an_exposure_has_what_the_unit_sees_with_distinct_ids() -> None:
    page = RankedPage("student", "new", [0.1, 0.2, 0.3], [2, 1, 0], teams=["new", "old", "new"])
    row = pages.exposure_row(REQUEST, page, experiment="test", unit="u", request_id="r", time=5.0)
    assert row == {
        **{"request_id": "r", "experiment": "test", "unit": "u", "variant": "new", "query": "q"},
        **{"doc_ids": ["A", "B", "A#2"], "teams": ["new", "old", "new"], "time": 5.0, "model": "student"},
    }


def test_a_document_without_an_id_is_logged_by_a_digest_of_its_text() -> None:
    page = RankedPage("student", "new", [0.1, 0.2], [1, 0])
    for doc_ids, expected in (["A", ""], [text_digest("b"), "A"]), (None, [text_digest("b"), text_digest("a")]):
        request = ScoringRequest(["q"] * 2, ["a", "b"], doc_ids=doc_ids)
        row = pages.exposure_row(request, page, experiment="test", unit="u", request_id="r", time=5.0)
        assert row["doc_ids"] == expected


@given(st.lists(st.floats(allow_nan=False), max_size=8), st.integers(0, 9))
def test_the_best_come_first_and_ties_in_the_order_of_the_request(scores: list[float], top_n: int) -> None:
    order = pages.best_first(scores, top_n)
    assert len(order) == len(set(order)) == min(top_n or len(scores), len(scores))
    keys = [(-scores[index], index) for index in order]
    assert keys == sorted(keys)
    left = set(range(len(scores))) - set(order)
    assert all(scores[index] <= scores[order[-1]] for index in left if order)


@given(st.floats(allow_nan=False))
def test_the_sigmoid_is_in_0_to_1_symmetric_and_never_overflows(score: float) -> None:
    value = pages.sigmoid(score)
    assert 0 <= value <= 1
    assert pages.sigmoid(-score) == pytest.approx(1 - value, abs=1e-12)
    if abs(score) < 30:
        assert math.log(value / (1 - value)) == pytest.approx(score, abs=1e-2)


def test_order_holds_where_the_sigmoid_saturates() -> None:
    scores = [60.0, 900.0, -2000.0, 60.0]
    order = pages.best_first(scores)
    assert order == [1, 0, 3, 2]
    assert [pages.sigmoid(scores[index]) for index in order] == [1, 1, 1, 0]


@given(
    st.lists(st.one_of(st.floats(-1e9, 1e9), st.sampled_from([0.0, 1e-20, 40.0, 45.0, -800.0, -900.0])), max_size=9)
)
def test_different_scores_are_shown_as_different_ones_in_the_same_order_also_where_the_sigmoid_saturates(
    scores: list[float],
) -> None:
    shown = pages.sigmoids(scores)
    assert all(0 <= value <= 1 for value in shown)
    assert shown == pytest.approx([pages.sigmoid(score) for score in scores], abs=1e-12)
    for one, first in zip(scores, shown):
        assert [(one > other) - (one < other) for other in scores] == [
            (first > other) - (first < other) for other in shown
        ]
