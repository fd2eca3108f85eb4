"""Click models: simulated clicks are as frequent as the models' closed forms say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import click_models

GRADES = np.array([[0, 2, 1, 0], [1, 0, 0, 2]])
ATTRACTION = click_models.attraction(GRADES, 2)
PAGES = 200_000


def many(attraction_PN: np.ndarray) -> np.ndarray:
    return np.repeat(attraction_PN, PAGES, axis=0)


def test_attraction_runs_from_noise_to_ceiling_along_errs_gain() -> None:
    assert click_models.attraction(np.array([[0, 1, 2]]), 2, 0.1, 0.7).tolist() == [pytest.approx([0.1, 0.3, 0.7])]


def test_position_based_clicks_are_as_frequent_as_the_closed_form_says() -> None:
    examined = click_models.examination(4)
    assert examined == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    clicks = click_models.position_based_clicks(many(ATTRACTION), examined, np.random.default_rng(0))
    frequency = clicks.reshape(2, PAGES, 4).mean(axis=1)
    assert frequency == pytest.approx(click_models.position_based(ATTRACTION, examined), abs=0.005)
    assert click_models.position_based(ATTRACTION, examined)[0] == pytest.approx(
        [0.1, 0.45, (0.1 + 0.8 / 3) / 3, 0.025]
    )
    any_click = clicks.any(axis=1).reshape(2, PAGES).mean(axis=1)
    assert any_click == pytest.approx(click_models.page_ctr(ATTRACTION, examined), abs=0.005)


@pytest.mark.parametrize("satisfied", [1.0, 0.6, 0.0])
def test_cascade_clicks_are_as_frequent_as_the_closed_form_says(satisfied: float) -> None:
    clicks = click_models.cascade_clicks(many(ATTRACTION), satisfied, np.random.default_rng(1))
    frequency = clicks.reshape(2, PAGES, 4).mean(axis=1)
    assert frequency == pytest.approx(click_models.cascade(ATTRACTION, satisfied), abs=0.005)


def test_the_cascade_model_by_hand_ends_with_the_first_click() -> None:
    first = click_models.cascade(np.array([[0.5, 0.2, 0.9]]))[0]
    assert first == pytest.approx([0.5, 0.5 * 0.2, 0.5 * 0.8 * 0.9])
    clicks = click_models.cascade_clicks(many(ATTRACTION), 1.0, np.random.default_rng(2))
    assert clicks.sum(axis=1).max() == 1


def test_a_crowd_clicks_as_its_willingness_says_and_pages_of_a_user_are_alike() -> None:
    x, y = click_models.crowd(ATTRACTION, click_models.examination(4), 60_000, 3.0, np.random.default_rng(3))
    assert y.mean() == pytest.approx(4, abs=0.05)
    factors = np.random.default_rng(4).beta(*click_models.WILLING, 4000)[:, None, None]
    true = (
        1 - np.prod(1 - factors * click_models.position_based(ATTRACTION, click_models.examination(4)), axis=2)
    ).mean()
    assert x.sum() / y.sum() == pytest.approx(true, abs=0.01)
    share = x.sum() / y.sum()
    assert (x - share * y).var() > 1.1 * share * (1 - share) * y.mean()
