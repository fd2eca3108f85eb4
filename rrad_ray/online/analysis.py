"""The analysis of an online test: metrics, lifts, segments, looks and preference, as the content of `report.json`.

The metrics are those that DisRanker and RRADistill's relatives report online; the formulas are our reading.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig, TrafficConfig
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
from rrad_ray.online.traffic import Traffic, join_traffic
from rrad_ray.rows import ClickEvent, Exposure

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


def per_unit(traffic: Traffic, metric: str, mask_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric's numerator and denominator, (U,) and (U,), for each unit with a page in the mask."""
    unit, size = traffic.unit_P[mask_P], len(traffic.units)
    ones = np.ones(len(unit))
    values: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
        "page_ctr": (traffic.clicked_P[mask_P], ones),
        "user_ctr": (traffic.clicked_P[mask_P], ones),
        "ctr_at_k": (traffic.clicked_k_P[mask_P], ones),
        "dwell": (traffic.dwell_P[mask_P], traffic.dwelt_P[mask_P]),
        "reformulation": (traffic.reformulated_P[mask_P], ones),
    }
    present = np.bincount(unit, minlength=size) > 0
    x, y = (np.bincount(unit, weights=value, minlength=size)[present] for value in values[metric])
    return (x / y, np.ones(len(x))) if metric == "user_ctr" else (x, y)


def rate_of(traffic: Traffic, metric: str, variant: str, mask_P: np.ndarray | None = None) -> Rate:
    """Return a variant's metric over all its pages, or over those in the mask."""
    own_P = traffic.variant_P == traffic.variants.index(variant)
    return rate(*per_unit(traffic, metric, own_P if mask_P is None else own_P & mask_P))


def segments(traffic: Traffic) -> dict[str, dict[str, np.ndarray]]:
    """Split pages by the query's length in words and by its frequency in the experiment: masks, (P,).

    A query is head if it and all queries at least as frequent make up at most a third of the pages, torso if at most
    two thirds, else tail. Queries of equal frequency are never split, so what came once is tail.
    """
    words, frequency = traffic.words_P, traffic.frequency_P
    ranks, counts = np.unique(-frequency, return_counts=True)
    share_P = (np.cumsum(counts) / max(len(frequency), 1))[np.searchsorted(ranks, -frequency)]
    head, torso = share_P <= SHARES[0], share_P <= SHARES[1]
    return {
        "query length": by_length(words),
        "query frequency": {"head": head, "torso": torso & ~head, "tail": ~torso},
    }


def analyse(exposures: Iterable[Exposure], clicks: Iterable[ClickEvent], cfg: ExperimentConfig) -> TestContent:
    """Return the content of `report.json`; what could not be measured is None."""
    shown, clicked = list(exposures), list(clicks)
    traffic, left_out = join_traffic(shown, clicked, cfg)
    times = traffic.time_P
    content: TestContent = {
        "name": cfg.name, "design": cfg.design, "control": cfg.against, "treatments": cfg.treatments,
        "alpha": cfg.alpha, "pages": len(times), "units": len(traffic.units),
        "events": {"exposures": len(shown), "clicks": len(clicked), "left_out": dict(left_out)},
        "period": [float(times.min()), float(times.max())] if len(times) else [],
    }  # fmt: skip
    if cfg.design == "interleave":
        return tables.finite(content | {"preference": preference(traffic, cfg)})
    served = {(page["variant"], page["model"]): None for page in shown if page["experiment"] == cfg.name}
    models = {variant: [model for name, model in served if name == variant] for variant in cfg.variants}
    return tables.finite(content | compared(traffic, cfg) | {"models": models})


def compared(traffic: Traffic, cfg: ExperimentConfig) -> TestContent:
    """Return the report's part on an A/B test."""
    units = {
        variant: len(np.unique(traffic.unit_P[traffic.variant_P == index]))
        for index, variant in enumerate(cfg.variants)
    }
    p = mismatch(list(units.values()), list(cfg.variants.values()))
    return {
        "metric": cfg.metric,
        "metrics": {name: _meaning(name, cfg) for name in METRICS},
        "variants": [_variant(traffic, variant, units[variant], cfg) for variant in cfg.variants],
        "mismatch": {"p": p, "detected": p < cfg.mismatch_p, "below": cfg.mismatch_p},
        "lifts": _lifts(traffic, cfg),
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
    pages = int((traffic.variant_P == traffic.variants.index(variant)).sum())
    return {"variant": variant, "weight": cfg.variants[variant], "units": units, "pages": pages, "metrics": metrics}


def _pair(
    traffic: Traffic, metric: str, variant: str, cfg: ExperimentConfig, mask_P: np.ndarray | None = None
) -> tuple[Rate, Rate]:
    """Return the treatment's rate and the control's; NaN if either has fewer than `min_units` units."""
    treatment, control = (rate_of(traffic, metric, name, mask_P) for name in (variant, cfg.against))
    if min(treatment.units, control.units) < cfg.min_units:
        return treatment._replace(value=math.nan), control._replace(value=math.nan)
    return treatment, control


def _corrected(rows: list[TestContent]) -> list[TestContent]:
    """Add Holm's correction over these rows, which are read side by side."""
    return [{**row, "holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]


def _lifts(traffic: Traffic, cfg: ExperimentConfig) -> list[TestContent]:
    """Return the lift of every metric of every treatment, for one reading and always-valid.

    For Holm's correction the deciding metric, over the treatments, is a family of its own: it was named beforehand,
    so it need not pay for the others.
    """
    deciding, others = list[TestContent](), list[TestContent]()
    for variant in cfg.treatments:
        for metric in METRICS:
            pair = _pair(traffic, metric, variant, cfg)
            always = always_valid(*pair, cfg.alpha, abs(cfg.expect.lift))._asdict()
            row = {"variant": variant, "metric": metric, **lift(*pair, cfg.alpha)._asdict(), "always": always}
            (deciding if metric == cfg.metric else others).append(row)
    return _corrected(deciding) + _corrected(others)


def _segments(traffic: Traffic, cfg: ExperimentConfig) -> list[TestContent]:
    """Return the deciding metric's lift by segment; for Holm's correction they are a family of their own."""
    rows = []
    for variant in cfg.treatments:
        for kind, parts in segments(traffic).items():
            for name, mask_P in parts.items():
                pair = _pair(traffic, cfg.metric, variant, cfg, mask_P)
                labels = {"variant": variant, "kind": kind, "segment": name, "pages": int(mask_P.sum())}
                rows.append({**labels, **lift(*pair, cfg.alpha)._asdict()})
    return _corrected(rows)


def _looks(traffic: Traffic, variant: str, cfg: ExperimentConfig) -> list[TestContent]:
    """Return always-valid readings of the deciding metric, evenly spaced in time.

    `p` is the lowest so far: a person who had stopped at it could have quoted it.
    """
    if not len(traffic.time_P):
        return []
    first, last = traffic.time_P.min(), traffic.time_P.max()
    rows, lowest = [], 1.0
    for moment in np.linspace(first, last, cfg.looks + 1)[1:]:
        until_P = traffic.time_P <= moment
        reading = always_valid(*_pair(traffic, cfg.metric, variant, cfg, until_P), cfg.alpha, abs(cfg.expect.lift))
        if not math.isnan(reading.p):
            lowest = min(lowest, reading.p)
            rows.append({"time": float(moment), "pages": int(until_P.sum()), **reading._asdict(), "p": lowest})
    return rows


def design_effect(traffic: Traffic, cfg: ExperimentConfig) -> float:
    """Return the variance of the control's page CTR, whose units come back, over the binomial variance.

    NaN without clicks.
    """
    ctr = rate_of(traffic, "page_ctr", cfg.against)
    pages = int((traffic.variant_P == traffic.variants.index(cfg.against)).sum())
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
    """Return lines for the user that say how much traffic the config's test needs."""
    expect, chance = cfg.expect, f"with power {cfg.expect.power:g} at level {cfg.alpha:g}"
    if cfg.design == "interleave":
        count = preferences_needed(expect.preference, cfg.alpha, expect.power)
        return [f"{count:,} units with a preference, to find that {expect.preference:.1%} prefer one side, {chance}"]
    pages = needed(cfg)["pages"]
    effect = f"a lift of {expect.lift:+.1%} on a page CTR of {expect.ctr:.1%}"
    lines = [f"{variant}: {count:,} pages" for variant, count in pages.items()]
    return [*lines, f"{sum(pages.values()):,} in all, to find {effect} {chance}"]


def preference(traffic: Traffic, cfg: ExperimentConfig) -> TestContent:
    """Return the report's part on an interleaved test.

    A page goes to the team with more clicked documents, a unit to the variant with more pages. The test is over
    units, as pages of one unit are alike; ties are reported and left out of the test.
    """
    page_P = np.sign(traffic.won_P)
    unit_U = np.sign(np.bincount(traffic.unit_P, weights=page_P, minlength=len(traffic.units)))
    pages, units = _tally(page_P), _tally(unit_U)
    test = sign_test(units["wins"], units["losses"], cfg.alpha)
    return {"treatment": cfg.treatments[0], "pages": pages, "units": units, **test._asdict()}


def _tally(signs: np.ndarray) -> dict[str, int]:
    """Count positive signs as wins, negative ones as losses, zeros as ties."""
    return {"wins": int((signs > 0).sum()), "losses": int((signs < 0).sum()), "ties": int((signs == 0).sum())}
