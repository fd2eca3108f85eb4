"""What chance alone would do: rates clustered by unit, lifts, readings that stay valid for those who peek, and more.

Pages of one user are alike, so the user is what was drawn at random, and the unit of every variance here. Suffix _U:
one entry a unit of one variant.
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
    """95 % bootstrap percentile interval of a statistic over queries. `values`: (Q,) or (Q, C); axis 0 resampled."""
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(data), size=(2000, len(data)))
    low, high = np.percentile([statistic(data[pick]) for pick in picks], [2.5, 97.5])
    return float(low), float(high)


def paired_p(a: Sequence[float], b: Sequence[float], alternative: str = "two-sided") -> float:
    """p-value of a paired t-test over queries that `a` and `b` have the same mean; 1 if they never differ."""
    from scipy.stats import ttest_rel

    if np.allclose(a, b):
        return 1.0
    return float(ttest_rel(a, b, alternative=alternative).pvalue)


class Rate(NamedTuple):
    """A ratio of two means over units, and the variance of that estimate."""

    value: float
    variance: float
    units: int


class Lift(NamedTuple):
    """What a variant's rate has over the control's, relative to the control's; NaN where it cannot be said."""

    lift: float
    low: float
    high: float
    p: float


class Preference(NamedTuple):
    """The share of the units with a preference that prefer the treatment."""

    share: float
    low: float
    high: float
    p: float


NOTHING = Lift(math.nan, math.nan, math.nan, math.nan)


def rate(x_U: np.ndarray, y_U: np.ndarray) -> Rate:
    """sum(x) / sum(y) over units, as clicked pages over pages, with the delta method's variance (Deng, Knoblich and
    Lu, KDD 2018): a unit's x and y hang together, and units differ in how many pages they see."""
    n, total = len(x_U), y_U.sum()
    if n < 2 or total == 0:
        return Rate(math.nan, math.nan, n)
    value = x_U.sum() / total
    residual_U = x_U - value * y_U  # sums to 0: its mean square is var(x) - 2 R cov(x, y) + R^2 var(y)
    return Rate(float(value), float(n / (n - 1) * (residual_U @ residual_U) / total**2), n)


def normal_interval(found: Rate, alpha: float) -> tuple[float, float]:
    """The normal interval of a rate."""
    half = special.ndtri(1 - alpha / 2) * math.sqrt(found.variance)
    return found.value - half, found.value + half


def lift(treatment: Rate, control: Rate, alpha: float) -> Lift:
    """The relative lift, its interval and the two-sided p-value that there is none, for one reading, fixed before."""
    z = _z(treatment, control)
    p = 2 * float(special.ndtr(-abs(z)))
    return NOTHING if math.isnan(z) else _lift(treatment, control, special.ndtri(1 - alpha / 2), p)


def always_valid(treatment: Rate, control: Rate, alpha: float, scale: float) -> Lift:
    """The same for those who look as often as they like and stop when they like: with probability 1 - alpha no
    interval ever leaves out the true lift, and no p ever falls below alpha without one.

    The mixture sequential probability ratio test, with lifts of standard deviation `scale` mixed by a normal (Johari,
    Koomen, Pekelis and Walsh, KDD 2017); what they write in samples is written here in information,
    1 / variance, as units bring several pages. Pages of a unit that is here already are like what it did before, so
    looks are more alike than those of independent samples, and the test errs to the safe side. The variances are
    estimated: it holds once there are enough units for the normal approximation, not before.
    """
    z = _z(treatment, control)
    if math.isnan(z):
        return NOTHING
    noise = (treatment.variance + control.variance) / control.value**2
    if noise == 0:
        return Lift(treatment.value / control.value - 1, math.nan, math.nan, 1.0)
    spread = scale**2
    log_growth = math.log((noise + spread) / noise)
    reach = math.sqrt((noise + spread) / spread * (log_growth - 2 * math.log(alpha)))
    log_p = log_growth / 2 - z**2 * spread / (2 * (noise + spread))
    return _lift(treatment, control, reach, min(1.0, math.exp(min(log_p, 0.0))))


def _z(treatment: Rate, control: Rate) -> float:
    """Standard errors between the two rates; NaN where one of them was not measured or the control's is 0."""
    if math.isnan(treatment.value) or math.isnan(control.value) or control.value == 0:
        return math.nan
    error = math.sqrt(treatment.variance + control.variance)
    difference = treatment.value - control.value
    return difference / error if error else 0.0 if difference == 0 else math.inf


def _lift(treatment: Rate, control: Rate, reach: float, p: float) -> Lift:
    """The interval is Fieller's (in Deng, Knoblich and Lu too): all ratios within `reach` standard errors. It holds 0
    exactly where p is above alpha; it has no ends where the control could as well be 0."""
    (t, t_var, _), (c, c_var, _) = treatment, control
    square = reach**2
    a, b, last = c**2 - square * c_var, t * c, t**2 - square * t_var
    if a <= 0:
        return Lift(t / c - 1, math.nan, math.nan, p)
    root = math.sqrt(max(b**2 - a * last, 0.0))
    return Lift(t / c - 1, (b - root) / a - 1, (b + root) / a - 1, p)


def mismatch(units: Sequence[int], weights: Sequence[float]) -> float:
    """p-value that the weights drew these numbers of units (chi-square; Fabijan et al., KDD 2019): where it is tiny,
    units were lost on one side, and no other figure can be trusted. Variants of weight 0 are not asked."""
    drawn = [(count, weight) for count, weight in zip(units, weights, strict=True) if weight > 0]
    counts, shares = np.array(drawn, dtype=float).T
    if len(counts) < 2 or counts.sum() == 0:
        return math.nan
    return float(stats.chisquare(counts, counts.sum() * shares / shares.sum()).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for having read them all (Holm, 1979); NaN stays, and counts for nothing."""
    corrected = np.array(p_values, dtype=float)
    known = np.isfinite(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return corrected.tolist()


def pages_needed(
    ctr: float, relative: float, alpha: float, power: float, ratio: float = 1.0, design_effect: float = 1.0
) -> tuple[int, int]:
    """Pages of the control and of the treatment (`ratio` times as many) that find a relative lift of a page CTR with
    this power, two-sided, by Cohen's h. `design_effect`: how many times a coin's variance a page has in this traffic,
    since the same units come back; 1 if every page is of another unit."""
    effect = proportion_effectsize(ctr * (1 + relative), ctr)
    pages = NormalIndPower().solve_power(abs(effect), alpha=alpha, power=power, ratio=ratio) * design_effect
    return math.ceil(pages), math.ceil(ratio * pages)


def preferences_needed(share: float, alpha: float, power: float) -> int:
    """Units with a preference that the sign test needs where so large a share of them prefers one side; by Cohen's h,
    as above."""
    effect = proportion_effectsize(share, 0.5)
    return math.ceil(NormalIndPower().solve_power(abs(effect), alpha=alpha, power=power, ratio=0))


def sign_test(wins: int, losses: int, alpha: float) -> Preference:
    """Whether more units prefer the treatment than the control, by the exact binomial sign test, two-sided; ties, who
    say nothing about which one is better, are left out of it. The interval is Wilson's."""
    if wins + losses == 0:
        return Preference(math.nan, math.nan, math.nan, math.nan)
    found = stats.binomtest(wins, wins + losses)
    between = found.proportion_ci(1 - alpha, method="wilson")
    return Preference(wins / (wins + losses), float(between.low), float(between.high), float(found.pvalue))
