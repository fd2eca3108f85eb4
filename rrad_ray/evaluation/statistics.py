"""Statistical inference: bootstrap and paired tests over queries; rates, lifts and sequential tests over users.

Pages of one user are alike, so in an online test the user is the unit that was drawn at random, and the unit of every
variance here. Suffix _U: one entry for each unit of one variant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize


def bootstrap_interval(values: Sequence[Any], statistic: Any = np.mean, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap percentile interval of a statistic over queries; NaN with fewer than two.

    `values`: (Q,) or (Q, C); queries, axis 0, are resampled 2,000 times.
    """
    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return math.nan, math.nan
    picks = np.random.default_rng(seed).integers(0, len(data), size=(2000, len(data)))
    with np.errstate(invalid="ignore"):  # between two infinite values, as of PNR, an interval ends nowhere
        low, high = np.percentile([statistic(data[pick]) for pick in picks], [2.5, 97.5])
    return float(low), float(high)


def paired_p(a: Sequence[float], b: Sequence[float], alternative: str = "two-sided") -> float:
    """Return the p-value of a paired t-test over queries that `a` and `b` have the same mean; 1 if they are equal.

    NaN with fewer than two queries. Where all queries differ by the same amount, which leaves no variance to test
    with, it is that of the sign test.
    """
    if len(a) < 2:
        return math.nan
    if np.allclose(a, b):
        return 1.0
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if np.ptp(differences) < 1e-9:
        wins = int((differences > 0).sum())
        return float(stats.binomtest(wins, len(differences), alternative=alternative).pvalue)
    return float(stats.ttest_rel(a, b, alternative=alternative).pvalue)


class Rate(NamedTuple):
    """A ratio of two means over units, the variance of that estimate, and the number of units."""

    value: float
    variance: float
    units: int


class Lift(NamedTuple):
    """A variant's relative lift over the control, its interval and p-value; NaN where one cannot be computed."""

    lift: float
    low: float
    high: float
    p: float


class Preference(NamedTuple):
    """The share of units that prefer the treatment, among those with a preference, its interval and p-value."""

    share: float
    low: float
    high: float
    p: float


NO_LIFT = Lift(math.nan, math.nan, math.nan, math.nan)  # cannot be computed


def rate(x_U: np.ndarray, y_U: np.ndarray) -> Rate:
    """Return sum(x) / sum(y) over units, such as clicked pages over pages, with the delta method's variance.

    A unit's x and y are correlated, and units differ in how many pages they see (Deng, Knoblich and Lu, KDD 2018).
    NaN with fewer than two units or if sum(y) is 0.
    """
    n, total = len(x_U), y_U.sum()
    if n < 2 or total == 0:
        return Rate(math.nan, math.nan, n)
    value = x_U.sum() / total
    residual_U = x_U - value * y_U  # sums to 0: its mean square is var(x) - 2 R cov(x, y) + R^2 var(y)
    return Rate(float(value), float(n / (n - 1) * (residual_U @ residual_U) / total**2), n)


def normal_interval(estimate: Rate, alpha: float) -> tuple[float, float]:
    """Return the normal interval of a rate at level 1 - alpha."""
    half = special.ndtri(1 - alpha / 2) * math.sqrt(estimate.variance)
    return estimate.value - half, estimate.value + half


def lift(treatment: Rate, control: Rate, alpha: float) -> Lift:
    """Return the relative lift, its interval and two-sided p-value, valid for one reading at a time fixed before."""
    z = _z(treatment, control)
    p = 2 * float(special.ndtr(-abs(z)))
    return NO_LIFT if math.isnan(z) else _lift(treatment, control, special.ndtri(1 - alpha / 2), p)


def always_valid(treatment: Rate, control: Rate, alpha: float, scale: float) -> Lift:
    """Return the relative lift with an interval and p-value that stay valid under continuous monitoring.

    One may look at any time and stop at any time: with probability 1 - alpha every interval, at all looks, contains
    the true lift, and without a true lift p never falls below alpha.

    This is the mixture sequential probability ratio test with a normal prior of standard deviation `scale` on the
    lift (Johari, Koomen, Pekelis and Walsh, KDD 2017). Their sample size is here the information, 1 / variance, as
    a unit brings several pages. Later pages of a unit resemble its earlier ones, so looks are more alike than with
    independent samples, and the test is conservative. Variances are estimated: the guarantee holds once there are
    enough units for the normal approximation, not before.
    """
    z = _z(treatment, control)
    if math.isnan(z):
        return NO_LIFT
    noise = (treatment.variance + control.variance) / control.value**2
    if noise == 0:
        return Lift(treatment.value / control.value - 1, math.nan, math.nan, 1.0)
    spread = scale**2
    log_growth = math.log((noise + spread) / noise)
    reach = math.sqrt((noise + spread) / spread * (log_growth - 2 * math.log(alpha)))
    log_p = log_growth / 2 - z**2 * spread / (2 * (noise + spread))
    return _lift(treatment, control, reach, min(1.0, math.exp(min(log_p, 0.0))))


def _z(treatment: Rate, control: Rate) -> float:
    """Return the difference of two rates in standard errors; NaN if one was not measured or the control's is 0."""
    if math.isnan(treatment.value) or math.isnan(control.value) or control.value == 0:
        return math.nan
    error = math.sqrt(treatment.variance + control.variance)
    difference = treatment.value - control.value
    return difference / error if error else 0.0 if difference == 0 else math.inf


def _lift(treatment: Rate, control: Rate, reach: float, p: float) -> Lift:
    """Return the lift with Fieller's interval: all ratios within `reach` standard errors.

    The interval (also in Deng, Knoblich and Lu) contains 0 exactly where p is above alpha. It has no ends, NaN, where
    the control could as well be 0.
    """
    (t, t_var, _), (c, c_var, _) = treatment, control
    square = reach**2
    a, b, last = c**2 - square * c_var, t * c, t**2 - square * t_var
    if a <= 0:
        return Lift(t / c - 1, math.nan, math.nan, p)
    root = math.sqrt(max(b**2 - a * last, 0.0))
    return Lift(t / c - 1, (b - root) / a - 1, (b + root) / a - 1, p)


def mismatch(units: Sequence[int], weights: Sequence[float]) -> float:
    """Return the p-value of the sample ratio mismatch test: chi-square that the weights drew these numbers of units.

    Where it is tiny, units were lost on one side and no other figure can be trusted (Fabijan et al., KDD 2019).
    Variants of weight 0 are left out. NaN if fewer than two variants are left, or no units.
    """
    drawn = [(count, weight) for count, weight in zip(units, weights, strict=True) if weight > 0]
    counts, shares = np.array(drawn, dtype=float).T
    if len(counts) < 2 or counts.sum() == 0:
        return math.nan
    return float(stats.chisquare(counts, counts.sum() * shares / shares.sum()).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple testing (Holm, 1979); NaN stays NaN and does not count as a test."""
    corrected = np.array(p_values, dtype=float)
    known = np.isfinite(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return corrected.tolist()


def pages_needed(
    ctr: float, relative: float, alpha: float, power: float, ratio: float = 1.0, design_effect: float = 1.0
) -> tuple[int, int]:
    """Return the pages of control and treatment (`ratio` times as many) that detect a relative lift of page CTR.

    Two-sided, with this power, by Cohen's h. `design_effect`: the variance of the page CTR in this traffic, where
    units come back, divided by the binomial variance; 1 if every page is of another unit.
    """
    effect = proportion_effectsize(ctr * (1 + relative), ctr)
    pages = NormalIndPower().solve_power(abs(effect), alpha=alpha, power=power, ratio=ratio) * design_effect
    return math.ceil(pages), math.ceil(ratio * pages)


def preferences_needed(share: float, alpha: float, power: float) -> int:
    """Return the units with a preference that the sign test needs to detect that this share prefers one side.

    By Cohen's h, as in `pages_needed`.
    """
    effect = proportion_effectsize(share, 0.5)
    return math.ceil(NormalIndPower().solve_power(abs(effect), alpha=alpha, power=power, ratio=0))


def sign_test(wins: int, losses: int, alpha: float) -> Preference:
    """Test if more units prefer the treatment than the control: the exact binomial sign test, two-sided.

    Ties carry no information on which one is better and are left out. The interval is Wilson's. NaN without units.
    """
    if wins + losses == 0:
        return Preference(math.nan, math.nan, math.nan, math.nan)
    test = stats.binomtest(wins, wins + losses)
    interval = test.proportion_ci(1 - alpha, method="wilson")
    return Preference(wins / (wins + losses), float(interval.low), float(interval.high), float(test.pvalue))
