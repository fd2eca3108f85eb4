"""Scores become probabilities by a slope and an offset; what these are worth is measured on other queries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation import fusion
from rrad_ray.evaluation.calibration import calibrated, calibration, expected_error, platt
from rrad_ray.evaluation.measures import Scores
from tests.fixtures import row_of

Split = tuple[list[dict[str, Any]], Scores]


def drawn(queries: int, seed: int, slope: float = 2.0, offset: float = -1.5) -> Split:
    """Queries of eight documents, each relevant with the probability sigmoid(slope * score + offset)."""
    source, rows, scores = np.random.default_rng(seed), [], []
    for number in range(queries):
        values = source.normal(size=8)
        relevant = np.flatnonzero(source.random(8) < expit(slope * values + offset))
        ids = [f"{number}-{index}" for index in relevant]
        rows.append({**row_of(str(number), ["text"] * 8), "qrel_ids": ids, "qrel_grades": [1] * len(ids)})
        scores.append(values.tolist())
    return rows, scores


def test_slope_and_offset_are_those_of_the_most_likely_probabilities() -> None:
    source = np.random.default_rng(0)
    scores = source.normal(300.0, 20.0, size=400)
    relevant = source.random(400) < expit((scores - 310) / 10)
    yes, no = relevant.sum(), (~relevant).sum()
    targets = np.where(relevant, (yes + 1) / (yes + 2), 1 / (no + 2))
    offset, slope = sm.GLM(targets, sm.add_constant(scores), family=sm.families.Binomial()).fit().params
    assert platt(scores, relevant) == pytest.approx((slope, offset), rel=1e-5)


def test_scores_that_part_the_classes_have_a_finite_slope() -> None:
    slope, offset = platt(np.arange(40.0), np.arange(40) >= 20)
    assert 0 < slope < 100
    assert slope * 19.5 + offset == pytest.approx(0, abs=1e-3)


def test_the_expected_calibration_error_is_the_mean_gap_of_ten_bins() -> None:
    probabilities, relevant = np.array([0.05, 0.15, 0.15, 0.95, 1.0]), np.array([False, True, False, True, True])
    assert expected_error(probabilities, relevant) == pytest.approx((0.05 + 0.7 + 0.05) / 5)


def test_a_student_that_is_sure_of_everything_is_calibrated_in_the_same_order() -> None:
    dev, dev_scores = drawn(200, seed=1)
    test, test_scores = drawn(200, seed=2)
    sure = [[[6.0 * value + 4.0 for value in values] for values in split] for split in (dev_scores, test_scores)]
    fit = calibration(dev, sure[0], test, sure[1])
    assert fit["slope"] == pytest.approx(2.0 / 6.0, rel=0.1)
    assert fit["offset"] == pytest.approx(-1.5 - 4.0 * 2.0 / 6.0, rel=0.1)
    assert fit["ece_before"] > 0.3
    assert fit["ece_after"] < 0.03
    for values in sure[1]:
        assert np.argsort(values).tolist() == np.argsort(fit["slope"] * np.asarray(values) + fit["offset"]).tolist()


def test_the_threshold_is_devs_best_f1_and_its_verdicts_are_counted_on_the_other_split() -> None:
    def split(relevant: list[list[int]], scores: Scores) -> Split:
        rows = [
            {
                **row_of(f"{q}", ["text"] * 3),
                "qrel_ids": [f"{q}-{index}" for index in ids],
                "qrel_grades": [1] * len(ids),
            }
            for q, ids in enumerate(relevant)
        ]
        return rows, scores

    # On dev the documents with 2 and more are relevant, but for one of them: the best F1 is at 2.
    dev = split([[0, 1]] * 11 + [[0]], [[3.0, 2.0, 0.0]] * 12)
    test = split([[0], [1], [], [2], []], [[3.0, 1, 0], [2.0, 2, 0], [1.0, 1, 0], [1.0, 1, 0], [2.0, 0, 0]])
    fit = calibration(*dev, *test)
    assert fit["threshold"] == pytest.approx(expit(2.0 * fit["slope"] + fit["offset"]))
    assert fit["relevant"] == {"precision": 2 / 4, "recall": 2 / 3}
    assert fit["nothing"] == {"precision": 1 / 2, "recall": 1 / 2}  # said of the third and fourth query
    dev_only = calibration(*dev, *dev)
    assert dev_only["nothing"] == {"precision": None, "recall": None}


def test_too_few_documents_of_a_kind_and_an_order_that_would_turn_are_refused() -> None:
    dev, scores = drawn(200, seed=1)
    turned = [[-value for value in values] for values in scores]
    with pytest.raises(InvalidInput, match="its order would turn round; judge more queries of dev, or set calibrate"):
        calibration(dev, turned, dev, turned)
    unjudged = [{**row, "qrel_ids": [], "qrel_grades": []} for row in dev[:5]]
    with pytest.raises(InvalidInput, match="dev has 0 relevant candidates and 40 others, and 10 of each are needed"):
        calibration(unjudged, scores[:5], dev, scores)
    assert calibrated(unjudged, scores[:5], dev, scores)["uncalibrated"].startswith("dev has 0 relevant")
    assert calibrated([], [], dev, scores) == {}


def test_a_document_without_a_score_counts_as_below_all_others() -> None:
    dev, scores = drawn(40, seed=1)
    holes = [[*values[:-1], float("nan")] for values in scores]
    lowest = [[*values[:-1], min(values[:-1]) - 1] for values in scores]
    assert calibrated(dev, holes, dev, holes) == calibrated(dev, lowest, dev, lowest)


def test_an_infinite_score_is_none_as_it_is_in_a_fusion() -> None:
    assert fusion.unscored_last([math.inf, 1.0, -math.inf, math.nan, 2.0]) == [0.0, 1.0, 0.0, 0.0, 2.0]
