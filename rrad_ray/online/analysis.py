"""The analysis of an online test: metrics, lifts, segments, looks and preference, as the content of `report.json`.

The metrics are those that DisRanker and RRADistill's relatives report online; the formulas are our reading.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig, TrafficConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.metrics import by_length
from rrad_ray.evaluation.statistics import (
    Rate,
    always_valid,
    holm,
    lift,
    mismatch,
    normal_interval,
    pages_needed,
    preferences_needed,
    rate,
    sign_test,
)
from rrad_ray.online.traffic import Inside, Traffic
from rrad_ray.online.traffic_join import JoinedTraffic

TestContent = dict[str, Any]

# Each metric's title, its definition, and True if a higher value is better.
METRICS = {
    "page_ctr": ("page CTR", "share of pages on which at least one document was clicked", True),
    "user_ctr": ("user CTR", "mean over units of each unit's own page CTR: every user counts once", True),
    "ctr_at_k": ("CTR@{k}", "share of pages on which one of the first {k} documents was clicked", True),
    "dwell": ("dwell", "seconds on a clicked document, mean over clicks whose dwell is known", True),
    "reformulation": (
        "query reformulation",
        "share of pages without a click that the same unit's next query follows within {reformulation_s:g} s, "
        "another one that shares a word with it",
        False,
    ),
}

SHARES = (1 / 3, 2 / 3)  # cumulative shares of the pages at which head and torso end


# The arrays of each metric's numerator and denominator over pages; None: each page counts 1.
VALUES: dict[str, tuple[str, str | None]] = {
    "page_ctr": ("clicked_P", None),
    "user_ctr": ("clicked_P", None),
    "ctr_at_k": ("clicked_k_P", None),
    "dwell": ("dwell_P", "dwelt_P"),
    "reformulation": ("reformulated_P", None),
}


def per_unit(traffic: Traffic, metric: str, inside: Inside) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric's numerator and denominator, (U,) and (U,), for each unit with a page inside the mask."""
    above, below = VALUES[metric]
    pieces = list[tuple[np.ndarray, np.ndarray]]()
    for span in traffic.spans():
        mask, first = inside(span), int(traffic.unit_P[span.start])
        unit = traffic.unit_P[span][mask] - first
        counts = np.bincount(unit)
        x = np.bincount(unit, weights=traffic.arrays[above][span][mask])
        y = np.bincount(unit, weights=traffic.arrays[below][span][mask]) if below else counts.astype(float)
        pieces.append((x[counts > 0], y[counts > 0]))
    x, y = (np.concatenate([np.zeros(0), *(piece[side] for piece in pieces)]) for side in (0, 1))
    return (x / y, np.ones(len(x))) if metric == "user_ctr" else (x, y)


def rate_of(traffic: Traffic, metric: str, variant: str, inside: Inside | None = None) -> Rate:
    """Return a variant's metric over all its pages, or over those inside the mask."""
    return rate(*per_unit(traffic, metric, traffic.of_variant(variant, inside)))


def segments(traffic: Traffic) -> dict[str, dict[str, Inside]]:
    """Split pages by the query's length in words and by its frequency in the experiment: masks.

    A query is head if it and all queries at least as frequent make up at most a third of the pages, torso if at most
    two thirds, else tail. Queries of equal frequency are never split, so what came once is tail.
    """
    frequencies, counts = traffic.frequencies()
    shares = np.cumsum(counts) / max(traffic.pages, 1)
    heads, torsos = (frequencies[shares <= share] for share in SHARES)
    head, torso = (int(least.min(initial=np.iinfo(np.int64).max)) for least in (heads, torsos))
    frequency = traffic.frequency_P
    lengths = by_length(np.zeros(0))
    return {
        "query length": {name: partial(_of_length, traffic, name) for name in lengths},
        "query frequency": {
            "head": lambda span: frequency[span] >= head,
            "torso": lambda span: (frequency[span] >= torso) & (frequency[span] < head),
            "tail": lambda span: frequency[span] < torso,
        },
    }


def _of_length(traffic: Traffic, name: str, span: slice) -> np.ndarray:
    return by_length(traffic.words_P[span])[name]


def analyse(joined: JoinedTraffic, cfg: ExperimentConfig) -> TestContent:
    """Return the content of `report.json`; what could not be measured is None."""
    traffic = joined.traffic
    content: TestContent = {
        "name": cfg.name, "design": cfg.design, "control": cfg.against, "treatments": cfg.treatments,
        "alpha": cfg.alpha, "pages": traffic.pages, "units": traffic.units,
        "events": {**joined.events, "left_out": dict(joined.left_out)}, "period": traffic.period(),
    }  # fmt: skip
    if cfg.design == "interleave":
        return tables.finite(content | {"preference": preference(traffic, cfg)})
    return tables.finite(content | compared(traffic, cfg) | {"models": dict(joined.models)})


def compared(traffic: Traffic, cfg: ExperimentConfig) -> TestContent:
    """Return the report's part on an A/B test."""
    units = {variant: rate_of(traffic, "page_ctr", variant).units for variant in cfg.variants}
    p = mismatch(list(units.values()), list(cfg.variants.values()))
    return {
        "metric": cfg.metric,
        "metrics": {name: _meaning(name, cfg) for name in METRICS},
        "variants": [_variant(traffic, variant, units[variant], cfg) for variant in cfg.variants],
        "mismatch": {"p": p, "detected": p < cfg.mismatch_p, "below": cfg.mismatch_p},
        "lifts": _lifts(partial(_pair, traffic), cfg),
        "segments": _segments(traffic, cfg),
        "looks": {variant: _looks(traffic, variant, cfg) for variant in cfg.treatments},
        "needed": needed(cfg, design_effect(traffic, cfg)),
    }


def _meaning(name: str, cfg: ExperimentConfig) -> TestContent:
    """Return a metric's title and definition with the config's values in them."""
    title, definition, more_is_better = METRICS[name]
    values = dataclasses.asdict(cfg)
    return {"title": title.format(**values), "definition": definition.format(**values), "up": more_is_better}


def _variant(traffic: Traffic, variant: str, units: int, cfg: ExperimentConfig) -> TestContent:
    """Return a variant's weight, its numbers of units and pages, and each metric with its interval."""
    metrics: dict[str, TestContent] = {}
    for metric in METRICS:
        value = rate_of(traffic, metric, variant)
        low, high = normal_interval(value, cfg.alpha)
        metrics[metric] = {"mean": value.value, "low": low, "high": high}
    pages = traffic.count(traffic.of_variant(variant))
    return {"variant": variant, "weight": cfg.variants[variant], "units": units, "pages": pages, "metrics": metrics}


def _pair(
    traffic: Traffic, metric: str, variant: str, cfg: ExperimentConfig, inside: Inside | None = None
) -> tuple[Rate, Rate]:
    """Return the treatment's rate and the control's; NaN if either has fewer than `min_units` units."""
    treatment, control = (rate_of(traffic, metric, name, inside) for name in (variant, cfg.against))
    if min(treatment.units, control.units) < cfg.min_units:
        return treatment._replace(value=math.nan), control._replace(value=math.nan)
    return treatment, control


def _pages(traffic: Traffic, variant: str, cfg: ExperimentConfig, inside: Inside) -> int:
    """Return how many pages of a treatment and of the control are inside."""
    return sum(traffic.count(traffic.of_variant(name, inside)) for name in (variant, cfg.against))


def _corrected(rows: list[TestContent]) -> list[TestContent]:
    """Add Holm's correction over these rows, which are read side by side."""
    return [{**row, "holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]


def _lifts(
    pair_of: Callable[[str, str, ExperimentConfig], tuple[Rate, Rate]], cfg: ExperimentConfig
) -> list[TestContent]:
    """Return the lift of every metric of every treatment, for one reading and always-valid; `pair_of` is `_pair` of
    the traffic.

    For Holm's correction the deciding metric, over the treatments, is a family of its own: it was named beforehand,
    so it need not pay for the others.
    """
    deciding, others = list[TestContent](), list[TestContent]()
    for variant in cfg.treatments:
        for metric in METRICS:
            pair = pair_of(metric, variant, cfg)
            always = always_valid(*pair, cfg.alpha, abs(cfg.expect.lift))._asdict()
            row = {"variant": variant, "metric": metric, **lift(*pair, cfg.alpha)._asdict(), "always": always}
            (deciding if metric == cfg.metric else others).append(row)
    return _corrected(deciding) + _corrected(others)


def _segments(traffic: Traffic, cfg: ExperimentConfig) -> list[TestContent]:
    """Return the deciding metric's lift by segment; for Holm's correction they are a family of their own."""
    rows = []
    for variant in cfg.treatments:
        for kind, parts in segments(traffic).items():
            for name, inside in parts.items():
                pair = _pair(traffic, cfg.metric, variant, cfg, inside)
                labels = {
                    "variant": variant,
                    "kind": kind,
                    "segment": name,
                    "pages": _pages(traffic, variant, cfg, inside),
                }
                rows.append({**labels, **lift(*pair, cfg.alpha)._asdict()})
    return _corrected(rows)


def _looks(traffic: Traffic, variant: str, cfg: ExperimentConfig) -> list[TestContent]:
    """Return always-valid readings of the deciding metric, evenly spaced in time.

    `p` is the lowest so far: a person who had stopped at it could have quoted it.
    """
    if not traffic.pages:
        return []
    (first, last), rows, lowest = traffic.period(), [], 1.0
    for moment in np.linspace(first, last, cfg.looks + 1)[1:]:
        until = partial(_until, traffic, moment)
        reading = always_valid(*_pair(traffic, cfg.metric, variant, cfg, until), cfg.alpha, abs(cfg.expect.lift))
        if not math.isnan(reading.p):
            lowest = min(lowest, reading.p)
            pages = _pages(traffic, variant, cfg, until)
            rows.append({"time": float(moment), "pages": pages, **reading._asdict(), "p": lowest})
    return rows


def _until(traffic: Traffic, moment: float, span: slice) -> np.ndarray:
    return traffic.time_P[span] <= moment


def design_effect(traffic: Traffic, cfg: ExperimentConfig) -> float:
    """Return the variance of the control's page CTR, whose units come back, over the binomial variance.

    NaN without clicks.
    """
    ctr = rate_of(traffic, "page_ctr", cfg.against)
    pages = traffic.count(traffic.of_variant(cfg.against))
    binomial = ctr.value * (1 - ctr.value) / max(pages, 1)
    return ctr.variance / binomial if binomial > 0 else math.nan


def needed(cfg: TrafficConfig, measured: float = math.nan) -> TestContent:
    """Return the pages that each variant needs to detect the lift of `expect`.

    With several treatments the level is divided among them, which is Holm's first step. `measured`: the design
    effect of the traffic analysed, to report beside the expected one.
    """
    expect, control = cfg.expect, cfg.variants[cfg.against]
    treatments = [variant for variant in cfg.treatments if cfg.variants[variant] > 0] if control > 0 else []
    pages: dict[str, int] = {}
    for variant in treatments:
        control_pages, treatment_pages = pages_needed(
            expect.ctr,
            expect.lift,
            cfg.alpha / len(treatments),
            expect.power,
            cfg.variants[variant] / control,
            expect.design_effect,
        )
        pages[variant], pages[cfg.against] = treatment_pages, max(control_pages, pages.get(cfg.against, 0))
    return {"pages": pages, **dataclasses.asdict(expect), "measured_design_effect": measured}


def traffic_plan(cfg: TrafficConfig) -> list[str]:
    """Return lines for the user that say how much traffic the config's test needs.

    Raises `RradError` where the weights leave nothing to compare.
    """
    expect, chance = cfg.expect, f"with power {cfg.expect.power:g} at level {cfg.alpha:g}"
    if cfg.design == "interleave":
        count = preferences_needed(expect.preference, cfg.alpha, expect.power)
        return [f"{count:,} units with a preference, to find that {expect.preference:.1%} prefer one side, {chance}"]
    pages = needed(cfg)["pages"]
    if not pages:
        problem = f"{cfg.variants} shows the control '{cfg.against}', or all that it is compared with, to nobody"
        raise RradError("variants", problem, "give the control and one other variant a weight above 0")
    effect = f"a lift of {expect.lift:+.1%} on a page CTR of {expect.ctr:.1%}"
    lines = [f"{variant}: {count:,} pages" for variant, count in pages.items()]
    return [*lines, f"{sum(pages.values()):,} in all, to find {effect} {chance}"]


def preference(traffic: Traffic, cfg: ExperimentConfig) -> TestContent:
    """Return the report's part on an interleaved test.

    A page goes to the team with more clicked documents, a unit to the variant with more pages. The test is over
    units, as pages of one unit are alike; ties are reported and left out of the test.
    """
    pages, units = Counter(TALLY), Counter(TALLY)
    for span in traffic.spans():
        page_P, unit_P = np.sign(traffic.won_P[span]), traffic.unit_P[span] - traffic.unit_P[span.start]
        pages.update(_tally(page_P))
        units.update(_tally(np.sign(np.bincount(unit_P, weights=page_P))))
    test = sign_test(units["wins"], units["losses"], cfg.alpha)
    return {"treatment": cfg.treatments[0], "pages": dict(pages), "units": dict(units), **test._asdict()}


TALLY = {"wins": 0, "losses": 0, "ties": 0}


def _tally(signs: np.ndarray) -> dict[str, int]:
    """Count positive signs as wins, negative ones as losses, zeros as ties."""
    return {"wins": int((signs > 0).sum()), "losses": int((signs < 0).sum()), "ties": int((signs == 0).sum())}
