"""What an online test found: metrics, lifts, segments, looks and preference, as the content of `report.json`.

The metrics are those that DisRanker and RRADistill's relatives report online; the formulas are our reading.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rrad_ray.config import ExperimentConfig
from rrad_ray.evaluation.metrics import by_length
from rrad_ray.evaluation.statistics import (
    Lift,
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

# Title, definition, and whether more of it is better.
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

SHARES = (1 / 3, 2 / 3)  # of the pages, up to which queries are head and torso


def per_unit(traffic: Traffic, metric: str, mask_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of a metric for each unit with a page in the mask, (U,) and (U,)."""
    unit, size = traffic.unit_P[mask_P], len(traffic.units)
    ones = np.ones(len(unit))
    values: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
        "page_ctr": (traffic.clicked_P[mask_P], ones),
        "user_ctr": (traffic.clicked_P[mask_P], ones),
        "ctr_at_k": (traffic.clicked_k_P[mask_P], ones),
        "dwell": (traffic.dwell_P[mask_P], traffic.dwelt_P[mask_P]),
        "reformulation": (traffic.reformulated_P[mask_P], ones),
    }
    there = np.bincount(unit, minlength=size) > 0
    x, y = (np.bincount(unit, weights=value, minlength=size)[there] for value in values[metric])
    return (x / y, np.ones(len(x))) if metric == "user_ctr" else (x, y)


def rate_of(traffic: Traffic, metric: str, variant: str, mask_P: np.ndarray | None = None) -> Rate:
    """A variant's metric, over all its pages or those in the mask."""
    own_P = traffic.variant_P == traffic.variants.index(variant)
    return rate(*per_unit(traffic, metric, own_P if mask_P is None else own_P & mask_P))


def segments(traffic: Traffic) -> dict[str, dict[str, np.ndarray]]:
    """Pages by length of the query in words, and by how often the experiment saw it: masks, (P,).

    Head: queries that, with all that came at least as often, make up at most a third of the pages; torso: two thirds;
    tail: the others. What came once is tail, and queries that came equally often are never parted.
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
    """The content of `report.json`; what could not be measured is None."""
    shown, clicked = list(exposures), list(clicks)
    traffic, left = join_traffic(shown, clicked, cfg)
    times = traffic.time_P
    content: TestContent = {
        "name": cfg.name, "design": cfg.design, "control": cfg.against, "treatments": cfg.treatments,
        "alpha": cfg.alpha, "pages": len(times), "units": len(traffic.units),
        "events": {"exposures": len(shown), "clicks": len(clicked), "left_out": dict(left)},
        "period": [float(times.min()), float(times.max())] if len(times) else [],
    }  # fmt: skip
    if cfg.design == "interleave":
        return _plain(content | {"preference": preference(traffic, cfg)})
    served = {(page["variant"], page["model"]): None for page in shown if page["experiment"] == cfg.name}
    models = {variant: [model for name, model in served if name == variant] for variant in cfg.variants}
    return _plain(content | compared(traffic, cfg) | {"models": models})


def _plain(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compared(traffic: Traffic, cfg: ExperimentConfig) -> TestContent:
    """The part of an A/B test."""
    units = {
        variant: len(np.unique(traffic.unit_P[traffic.variant_P == place]))
        for place, variant in enumerate(cfg.variants)
    }
    p = mismatch(list(units.values()), list(cfg.variants.values()))
    return {
        "metric": cfg.metric,
        "metrics": {name: _meaning(name, cfg) for name in METRICS},
        "variants": [_variant(traffic, variant, units[variant], cfg) for variant in cfg.variants],
        "mismatch": {"p": p, "found": p < cfg.mismatch_p, "below": cfg.mismatch_p},
        "lifts": _lifts(traffic, cfg),
        "segments": _segments(traffic, cfg),
        "looks": {variant: _looks(traffic, variant, cfg) for variant in cfg.treatments},
        "needed": needed(cfg, design_effect(traffic, cfg)),
    }


def _meaning(name: str, cfg: ExperimentConfig) -> TestContent:
    title, definition, more_is_better = METRICS[name]
    values = dataclasses.asdict(cfg)
    return {"title": title.format(**values), "definition": definition.format(**values), "up": more_is_better}


def _variant(traffic: Traffic, variant: str, units: int, cfg: ExperimentConfig) -> TestContent:
    found: dict[str, TestContent] = {}
    for metric in METRICS:
        value = rate_of(traffic, metric, variant)
        low, high = normal_interval(value, cfg.alpha)
        found[metric] = {"mean": value.value, "low": low, "high": high}
    pages = int((traffic.variant_P == traffic.variants.index(variant)).sum())
    return {"variant": variant, "weight": cfg.variants[variant], "units": units, "pages": pages, "metrics": found}


def _pair(
    traffic: Traffic, metric: str, variant: str, cfg: ExperimentConfig, mask_P: np.ndarray | None = None
) -> tuple[Rate, Rate]:
    """The treatment's rate and the control's; not measured where one has fewer than `min_units` units."""
    found = rate_of(traffic, metric, variant, mask_P), rate_of(traffic, metric, cfg.against, mask_P)
    few = min(each.units for each in found) < cfg.min_units
    return tuple(each._replace(value=math.nan) if few else each for each in found)  # type: ignore[return-value]


def _said(found: Lift) -> TestContent:
    return {"lift": found.lift, "low": found.low, "high": found.high, "p": found.p}


def _corrected(rows: list[TestContent]) -> list[TestContent]:
    """Holm over all that are read side by side."""
    return [{**row, "holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]


def _lifts(traffic: Traffic, cfg: ExperimentConfig) -> list[TestContent]:
    """Every metric of every treatment, with both readings. The metric that decides is a family of its own for Holm,
    over the treatments: naming it beforehand is what spares it from paying for the others."""
    deciding, others = list[TestContent](), list[TestContent]()
    for variant in cfg.treatments:
        for metric in METRICS:
            pair = _pair(traffic, metric, variant, cfg)
            peeked = _said(always_valid(*pair, cfg.alpha, abs(cfg.expect.lift)))
            row = {"variant": variant, "metric": metric, **_said(lift(*pair, cfg.alpha)), "always": peeked}
            (deciding if metric == cfg.metric else others).append(row)
    return _corrected(deciding) + _corrected(others)


def _segments(traffic: Traffic, cfg: ExperimentConfig) -> list[TestContent]:
    """The deciding metric by segment; a family of its own for Holm."""
    rows = []
    for variant in cfg.treatments:
        for kind, parts in segments(traffic).items():
            for name, mask_P in parts.items():
                pair = _pair(traffic, cfg.metric, variant, cfg, mask_P)
                where = {"variant": variant, "kind": kind, "segment": name, "pages": int(mask_P.sum())}
                rows.append({**where, **_said(lift(*pair, cfg.alpha))})
    return _corrected(rows)


def _looks(traffic: Traffic, variant: str, cfg: ExperimentConfig) -> list[TestContent]:
    """Always-valid readings of the deciding metric, evenly in time; `p` is the lowest so far, which a person who had
    stopped there could have quoted."""
    if not len(traffic.time_P):
        return []
    first, last = traffic.time_P.min(), traffic.time_P.max()
    rows, lowest = [], 1.0
    for moment in np.linspace(first, last, cfg.looks + 1)[1:]:
        until_P = traffic.time_P <= moment
        found = always_valid(*_pair(traffic, cfg.metric, variant, cfg, until_P), cfg.alpha, abs(cfg.expect.lift))
        if not math.isnan(found.p):
            lowest = min(lowest, found.p)
            rows.append({"time": float(moment), "pages": int(until_P.sum()), **_said(found), "p": lowest})
    return rows


def design_effect(traffic: Traffic, cfg: ExperimentConfig) -> float:
    """How many times a coin's variance a page of the control has, as units come back; NaN without clicks."""
    found = rate_of(traffic, "page_ctr", cfg.against)
    pages = int((traffic.variant_P == traffic.variants.index(cfg.against)).sum())
    coin = found.value * (1 - found.value) / max(pages, 1)
    return found.variance / coin if coin > 0 else math.nan


def needed(cfg: ExperimentConfig, measured: float = math.nan) -> TestContent:
    """How many pages each variant needs for the lift that `expect` names; `measured`: the design effect of traffic
    that is there. With several treatments the level is divided among them, which is Holm's first step."""
    expect, control = cfg.expect, cfg.variants[cfg.against]
    treatments = [variant for variant in cfg.treatments if cfg.variants[variant] > 0] if control > 0 else []
    pages: dict[str, int] = {}
    for variant in treatments:
        own, theirs = pages_needed(
            expect.ctr,
            expect.lift,
            cfg.alpha / len(treatments),
            expect.power,
            cfg.variants[variant] / control,
            expect.design_effect,
        )
        pages[variant], pages[cfg.against] = theirs, max(own, pages.get(cfg.against, 0))
    return {"pages": pages, **dataclasses.asdict(expect), "measured_design_effect": measured}


def traffic_plan(cfg: ExperimentConfig) -> list[str]:
    """How much traffic the config's test needs, for people."""
    expect, chance = cfg.expect, f"with power {cfg.expect.power:g} at level {cfg.alpha:g}"
    if cfg.design == "interleave":
        count = preferences_needed(expect.preference, cfg.alpha, expect.power)
        return [f"{count:,} units with a preference, to find that {expect.preference:.1%} prefer one side, {chance}"]
    pages = needed(cfg)["pages"]
    what = f"a lift of {expect.lift:+.1%} on a page CTR of {expect.ctr:.1%}"
    lines = [f"{variant}: {count:,} pages" for variant, count in pages.items()]
    return [*lines, f"{sum(pages.values()):,} in all, to find {what} {chance}"]


def preference(traffic: Traffic, cfg: ExperimentConfig) -> TestContent:
    """The part of an interleaved test: a page goes to the team with more clicked documents, a unit to the variant
    with more pages. Units are tested, as a unit's pages are alike; ties are told and left out of the test."""
    page_P = np.sign(traffic.won_P)
    unit_U = np.sign(np.bincount(traffic.unit_P, weights=page_P, minlength=len(traffic.units)))
    pages, units = _tally(page_P), _tally(unit_U)
    found = sign_test(units["wins"], units["losses"], cfg.alpha)
    return {"treatment": cfg.treatments[0], "pages": pages, "units": units, **found._asdict()}


def _tally(signs: np.ndarray) -> dict[str, int]:
    return {"wins": int((signs > 0).sum()), "losses": int((signs < 0).sum()), "ties": int((signs == 0).sum())}
