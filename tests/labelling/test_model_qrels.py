"""A model's grades as qrels: rounding, agreement against figures worked out by hand, and the sentence in reports."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy.stats import kendalltau

from rrad_ray.labelling.model_qrels import agreement, describe_qrels, judged_pairs, whole_grades

GRADED: dict[str, Any] = {
    "doc_ids": ["a", "b", "c", "d"],
    "judge_scores": [0.49, 0.5, 2.4999, 3.0],
    "qrel_ids": ["b", "elsewhere", "d"],
    "qrel_grades": [2, 1, 0],
}


def test_an_expected_grade_becomes_the_nearest_whole_one_and_the_higher_at_the_half() -> None:
    assert whole_grades(GRADED) == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_people_and_model_are_compared_where_both_have_judged_or_where_people_judge_relevant_ones_only() -> None:
    assert judged_pairs(GRADED, "drop") == [(2, 1), (0, 3)]
    assert judged_pairs(GRADED, "negative") == [(0, 0), (2, 1), (0, 2), (0, 3)]
    nobody = {**GRADED, "qrel_ids": [], "qrel_grades": []}
    assert judged_pairs(nobody, "negative") == [], "a query that nobody has judged says nothing of people"


def test_kappa_is_cohens_and_kendall_is_that_of_scipy() -> None:
    # Cohen (1960): 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: agreed .7, by chance .5, so .4.
    pairs = [(1, 2)] * 20 + [(1, 1)] * 5 + [(0, 3)] * 10 + [(0, 0)] * 15
    figures = agreement(pairs, [0, 1, 2, 3])
    assert figures["judgments"] == 50
    assert figures["kappa"] == pytest.approx(0.4)
    assert "kappa_grades" not in figures, "people gave one grade above 0"
    assert figures["kendall"] == pytest.approx(kendalltau(*zip(*pairs, strict=True)).statistic)
    graded = agreement([(0, 0), (1, 1), (2, 2), (2, 0)], [0, 1, 2])
    # Agreed 3/4; by chance 1/4 x 2/4 + 1/4 x 1/4 + 2/4 x 1/4 = 5/16.
    assert graded["kappa_grades"] == pytest.approx((3 / 4 - 5 / 16) / (1 - 5 / 16))


def test_what_cannot_be_said_of_raters_who_always_say_the_same_is_left_out() -> None:
    assert agreement([(1, 1)] * 9, [0, 1]) == {"judgments": 9}
    assert not math.isnan(agreement([(1, 1), (1, 0)], [0, 1])["kappa"])


def test_the_sentence_says_whose_qrels_they_are_and_what_is_known_of_their_worth() -> None:
    figures = {"judgments": 1200, "kappa": 0.414, "kendall": -0.5}
    assert describe_qrels("m", {"test": 1300, "dev": 7}, 1200, figures) == (
        "the qrels of 7 dev and 1,300 test queries are by the model m, not by people; "
        "on 1,200 documents that people have judged too: Cohen's kappa 0.41, Kendall's tau-b -0.50"
    )
    unknown = "people have judged 12 of its documents: how far they agree is not known"
    assert describe_qrels("m", {"test": 1}, 12, {}).endswith(unknown)
    assert describe_qrels("m", {"test": 1}, 12, {"judgments": 12}).endswith(unknown), "no figure can be computed"
    assert "people have judged none of its documents" in describe_qrels("m", {"test": 1}, 0, {})
