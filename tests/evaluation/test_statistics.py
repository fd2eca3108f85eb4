"""Statistics of online tests: variances against a bootstrap, error rates and power against simulated users."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from benchmarks import click_models
from rrad_ray.config import ExperimentConfig
from rrad_ray.evaluation.statistics import (
    Rate,
    always_valid,
    bootstrap_interval,
    holm,
    lift,
    mismatch,
    normal_interval,
    pages_needed,
    paired_p,
    preferences_needed,
    rate,
    sign_test,
)
from rrad_ray.online.assignment import assign_variant

ALPHA, RUNS, UNITS, MORE_PAGES = 0.05, 1000, 400, 2.0
GRADES = np.random.default_rng(7).choice([0, 1, 2], p=[0.8, 0.15, 0.05], size=(60, 10))
ATTRACTION = click_models.attraction(GRADES, 2)
EXAMINED = click_models.examination(10)


def test_a_rate_and_its_variance_by_hand() -> None:
    clicked = rate(np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 1.0]))
    # 3 clicks of 5 pages; residuals x - 0.6 y = -0.2, 0.8, -0.6, whose squares sum to 1.04; 3 / 2 * 1.04 / 25.
    assert clicked == pytest.approx((0.6, 0.0624, 3))
    assert math.isnan(rate(np.array([1.0]), np.array([2.0])).value)


def test_the_delta_method_agrees_with_a_bootstrap_over_units_where_pages_taken_one_by_one_do_not() -> None:
    draw = np.random.default_rng(0)
    x, y = click_models.crowd(ATTRACTION, EXAMINED, 2000, 4.0, draw)
    estimate = rate(x, y)
    picks = draw.integers(0, len(x), size=(2000, len(x)))
    bootstrap = (x[picks].sum(axis=1) / y[picks].sum(axis=1)).var()
    assert estimate.variance == pytest.approx(bootstrap, rel=0.1)
    assert estimate.value * (1 - estimate.value) / y.sum() < 0.9 * bootstrap


def test_a_lifts_interval_agrees_with_a_bootstrap_over_units() -> None:
    draw = np.random.default_rng(1)
    sides = [click_models.crowd(ATTRACTION * factor, EXAMINED, 800, MORE_PAGES, draw) for factor in (1.0, 0.9)]
    reading = lift(rate(*sides[0]), rate(*sides[1]), ALPHA)
    samples = []
    for x, y in sides:
        picks = draw.integers(0, len(x), size=(4000, len(x)))
        samples.append(x[picks].sum(axis=1) / y[picks].sum(axis=1))
    low, high = np.percentile(samples[0] / samples[1] - 1, [2.5, 97.5])
    assert (reading.low, reading.high) == pytest.approx((low, high), abs=0.008)


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.3])
def test_an_interval_leaves_out_zero_exactly_where_p_is_below_alpha(scale: float) -> None:
    control = Rate(0.3, 0.0001, 500)
    for value in np.linspace(0.2, 0.4, 401):
        treatment = Rate(float(value), 0.00012, 500)
        for reading in (lift(treatment, control, ALPHA), always_valid(treatment, control, ALPHA, scale)):
            assert (reading.p < ALPHA) == (not reading.low <= 0 <= reading.high)
            assert reading.low <= reading.lift <= reading.high


def test_an_always_valid_p_is_where_its_interval_ends_at_zero() -> None:
    treatment, control = Rate(0.33, 0.00009, 500), Rate(0.3, 0.0001, 500)

    def end(alpha: float) -> float:
        return always_valid(treatment, control, alpha, 0.05).low

    assert always_valid(treatment, control, ALPHA, 0.05).p == pytest.approx(brentq(end, 1e-6, 0.999), rel=1e-6)


def test_the_always_valid_p_is_the_mixture_likelihood_ratios_inverse() -> None:
    treatment, control, scale = Rate(0.36, 0.00009, 500), Rate(0.3, 0.0001, 500), 0.07
    estimate, noise = 0.06 / 0.3, math.sqrt(0.00019) / 0.3
    grid = np.linspace(-1, 1, 200_001)
    mixed = stats.norm.pdf(estimate, grid, noise) * stats.norm.pdf(grid, 0, scale)
    ratio = mixed.sum() * (grid[1] - grid[0]) / stats.norm.pdf(estimate, 0, noise)
    assert always_valid(treatment, control, ALPHA, scale).p == pytest.approx(1 / ratio, rel=1e-4)


def test_nothing_measured_is_not_a_number_and_a_control_that_may_be_zero_gives_no_ends() -> None:
    empty, some = rate(np.array([]), np.array([])), Rate(0.1, 0.0001, 100)
    assert all(math.isnan(figure) for figure in lift(some, empty, ALPHA))
    assert all(math.isnan(figure) for figure in always_valid(some, Rate(0.0, 0.0, 100), ALPHA, 0.05))
    vague = lift(some, Rate(0.01, 0.001, 100), ALPHA)
    assert math.isnan(vague.low)
    assert math.isnan(vague.high)
    assert vague.p == pytest.approx(2 * stats.norm.sf(0.09 / math.sqrt(0.0011)))
    assert lift(Rate(0.5, 0.0, 9), Rate(0.5, 0.0, 9), ALPHA)[::3] == (0.0, 1.0)
    assert normal_interval(some, ALPHA) == pytest.approx((0.1 - 0.0196, 0.1 + 0.0196), abs=1e-5)


@pytest.fixture(scope="module")
def same() -> np.ndarray:
    """Return p of A/A runs at 12 looks, (RUNS, 12, 3): one reading's, always-valid, and of pages taken one by one."""
    draw = np.random.default_rng(3)
    looks = np.linspace(120, UNITS, 12).astype(int)
    p_values = np.empty((RUNS, len(looks), 3))
    for run in range(RUNS):
        cfg = ExperimentConfig("", "", name=f"aa-{run}", variants={"a": 1.0, "b": 1.0})
        treated = np.array([assign_variant(str(unit), cfg) == "b" for unit in range(UNITS)])
        x, y = click_models.crowd(ATTRACTION, EXAMINED, UNITS, 6.0, draw)
        for look, n in enumerate(looks):
            treatment, control = (rate(x[:n][side[:n]], y[:n][side[:n]]) for side in (treated, ~treated))
            pages = [y[:n][side[:n]].sum() for side in (treated, ~treated)]
            alone = [
                each._replace(variance=each.value * (1 - each.value) / count)
                for each, count in zip((treatment, control), pages)
            ]
            p_values[run, look] = (
                lift(treatment, control, ALPHA).p,
                always_valid(treatment, control, ALPHA, 0.25).p,
                lift(*alone, ALPHA).p,
            )
    return p_values


def test_equal_variants_are_told_apart_in_five_percent_of_the_runs(same: np.ndarray) -> None:
    assert abs((same[:, -1, 0] < ALPHA).mean() - 0.05) <= 0.015
    assert stats.kstest(same[:, -1, 0], "uniform").pvalue > 0.01


def test_pages_taken_one_by_one_would_tell_equal_variants_apart_too_often(same: np.ndarray) -> None:
    assert (same[:, -1, 2] < ALPHA).mean() > 0.07


def test_who_peeks_is_fooled_by_one_readings_p_and_not_by_the_always_valid_one(same: np.ndarray) -> None:
    assert (same[:, :, 0] < ALPHA).any(axis=1).mean() > 0.12
    assert 0 < (same[:, :, 1] < ALPHA).any(axis=1).mean() <= 0.05


def test_peeking_at_users_who_keep_coming_back_is_safe_too() -> None:
    # Everybody is there from the first look on, and each look has one more page of everybody.
    draw, fooled = np.random.default_rng(5), 0
    for _ in range(400):
        willing = draw.beta(*click_models.WILLING, 400)
        clicked = np.cumsum(draw.random((15, 400)) < 0.5 * willing, axis=0)
        readings = [
            always_valid(
                *(rate(seen[side].astype(float), np.full(200, look + 1.0)) for side in (np.s_[:200], np.s_[200:])),
                ALPHA,
                0.25,
            )
            for look, seen in enumerate(clicked)
        ]
        fooled += min(reading.p for reading in readings) < ALPHA
    assert 0 < fooled / 400 <= 0.05


def test_the_always_valid_intervals_hold_the_true_lift_at_all_looks_at_once() -> None:
    draw, held = np.random.default_rng(4), 0
    true = users_ctr(0.9) / users_ctr(1.0) - 1
    for _ in range(300):
        sides = [click_models.crowd(ATTRACTION * factor, EXAMINED, 800, MORE_PAGES, draw) for factor in (0.9, 1.0)]
        readings = [always_valid(*(rate(x[:n], y[:n]) for x, y in sides), ALPHA, 0.05) for n in range(100, 801, 100)]
        held += not any(reading.low > true or reading.high < true for reading in readings)  # no ends hold everything
    assert held / 300 >= 0.95


def users_ctr(factor: float) -> float:
    """Return the true page CTR of users whose factors on P(click) vary."""
    points = stats.beta.ppf((np.arange(200) + 0.5) / 200, *click_models.WILLING)
    return float(np.mean([click_models.page_ctr(factor * point * ATTRACTION, EXAMINED).mean() for point in points]))


def test_a_test_of_the_planned_size_finds_the_true_lift_with_the_promised_power() -> None:
    draw = np.random.default_rng(6)
    control, treatment = users_ctr(0.85), users_ctr(1.0)
    x, y = click_models.crowd(0.85 * ATTRACTION, EXAMINED, 20_000, MORE_PAGES, draw)
    pilot = rate(x, y)
    effect = pilot.variance * y.sum() / (pilot.value * (1 - pilot.value))
    pages, _ = pages_needed(control, treatment / control - 1, ALPHA, 0.8, design_effect=effect)
    units = round(pages / (1 + MORE_PAGES))
    significant = [
        lift(
            *(rate(*click_models.crowd(f * ATTRACTION, EXAMINED, units, MORE_PAGES, draw)) for f in (1.0, 0.85)),
            ALPHA,
        ).p
        < ALPHA
        for _ in range(600)
    ]
    assert np.mean(significant) == pytest.approx(0.8, abs=0.045)


def test_pages_needed_are_the_textbooks() -> None:
    # (1.959964 + 0.841621)^2 / (2 asin sqrt .33 - 2 asin sqrt .30)^2 * 2
    h = 2 * (math.asin(math.sqrt(0.33)) - math.asin(math.sqrt(0.3)))
    assert pages_needed(0.3, 0.1, 0.05, 0.8)[0] == math.ceil(2 * (1.959964 + 0.841621) ** 2 / h**2)
    control, treatment = pages_needed(0.3, 0.1, 0.05, 0.8, ratio=0.25)
    assert treatment == pytest.approx(control / 4, abs=1)
    assert control > pages_needed(0.3, 0.1, 0.05, 0.8)[0] * 2
    assert pages_needed(0.3, 0.1, 0.05, 0.8, design_effect=2.0)[0] == pytest.approx(2 * 3758, rel=0.01)


def test_preferences_needed_give_the_sign_test_its_power() -> None:
    count = preferences_needed(0.55, 0.05, 0.8)
    wins = np.random.default_rng(0).binomial(count, 0.55, size=1500)
    significant = [sign_test(int(won), count - int(won), ALPHA).p < ALPHA for won in wins]
    assert np.mean(significant) == pytest.approx(0.8, abs=0.03)


def test_a_mismatch_of_shares_is_the_chi_square_test() -> None:
    assert mismatch([520, 480], [1, 1]) == pytest.approx(stats.chi2.sf(1.6, 1))
    assert mismatch([821, 101], [9, 1]) > 0.1
    assert mismatch([5000, 5400], [1, 1]) < 0.001
    assert mismatch([500, 510, 3], [1, 1, 0]) > 0.5
    assert math.isnan(mismatch([0, 0], [1, 1]))


def test_holm_by_hand_and_what_was_not_measured_does_not_count() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    corrected = holm([0.01, math.nan, 0.04, 0.03])
    assert math.isnan(corrected[1])
    assert corrected[::2] == pytest.approx([0.03, 0.06])
    assert holm([]) == []


def test_the_sign_test_is_the_exact_binomial_one() -> None:
    preference = sign_test(9, 1, ALPHA)
    assert preference.p == pytest.approx(2 * 11 / 1024)
    assert preference.share == 0.9
    assert preference.low < 0.9 < preference.high
    assert math.isnan(sign_test(0, 0, ALPHA).p)


def test_a_paired_test_takes_two_queries_and_equal_gains_are_a_sign_test() -> None:
    assert math.isnan(paired_p([1.0], [0.0]))
    assert math.isnan(paired_p([], []))
    assert paired_p([0.3, 0.3], [0.3, 0.3]) == 1.0
    assert paired_p([1.0] * 3, [0.9] * 3) == pytest.approx(0.25)
    assert paired_p([1.0] * 30, [0.0] * 30, "greater") == pytest.approx(0.5**30)
    assert paired_p([0.0] * 30, [1.0] * 30, "greater") == 1.0
    assert all(map(math.isnan, bootstrap_interval([0.5])))
