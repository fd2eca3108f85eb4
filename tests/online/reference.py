"""The analysis of an online test as it was when rows were held in memory: what today's is compared with."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig, ExperimentDesign
from rrad_ray.evaluation.metrics import by_length
from rrad_ray.evaluation.statistics import Rate, always_valid, lift, mismatch, normal_interval, rate, sign_test
from rrad_ray.languages.scripts import query_words, word_count
from rrad_ray.online.analysis import METRICS, SHARES, TestContent, _corrected, _lifts, _meaning, _tally, needed
from rrad_ray.online.event_rows import is_called
from rrad_ray.rows import ClickEvent, Exposure


@dataclass(frozen=True)
class Traffic:
    """The pages that count, as arrays in the order of `unit_P` and then of time."""

    variants: list[str]  # of the config; `variant_P` indexes it
    units: list[str]  # `unit_P` indexes it
    unit_P: np.ndarray
    variant_P: np.ndarray  # -1: interleaved
    time_P: np.ndarray  # seconds since 1970
    clicked_P: np.ndarray  # True if any document was clicked
    clicked_k_P: np.ndarray  # True if one of the first k was clicked
    dwell_P: np.ndarray  # seconds, summed over the clicks whose dwell is known
    dwelt_P: np.ndarray  # the number of these clicks
    reformulated_P: np.ndarray  # True if the page was given up, see `reformulated`
    words_P: np.ndarray  # words of the query
    frequency_P: np.ndarray  # pages of the same query, compared in lower case and without punctuation
    won_P: np.ndarray  # interleaved: clicked documents of the treatment's team less those of the control's


def join_traffic(
    exposures: Iterable[Exposure], clicks: Iterable[ClickEvent], cfg: ExperimentConfig
) -> tuple[Traffic, Counter[str]]:
    """Return the experiment's traffic, and the number of events left out by reason."""
    left_out = Counter[str]()
    shown = _pages(exposures, cfg, left_out)
    by_request = _clicks(clicks, shown, cfg, left_out)
    pages = sorted((page for page in shown.values() if page), key=lambda page: (page["unit"], page["time"]))
    units = {unit: number for number, unit in enumerate(dict.fromkeys(page["unit"] for page in pages))}
    variants = {variant: number for number, variant in enumerate(cfg.variants)}
    queries = [query_words(page["query"]) for page in pages]
    frequency = Counter(queries)
    on_page = [by_request.get(page["request_id"], []) for page in pages]
    dwells = [
        [min(click["dwell_s"], cfg.max_dwell_s) for click in each if not math.isnan(click["dwell_s"])]
        for each in on_page
    ]
    clicked = np.array([bool(each) for each in on_page], dtype=bool)
    traffic = Traffic(
        variants=list(cfg.variants),
        units=list(units),
        unit_P=np.array([units[page["unit"]] for page in pages], dtype=np.int64),
        variant_P=np.array(
            [variants[page["variant"]] if not page["teams"] else -1 for page in pages], dtype=np.int64
        ),
        time_P=np.array([page["time"] for page in pages], dtype=float),
        clicked_P=clicked,
        clicked_k_P=np.array([any(click["position"] <= cfg.k for click in each) for each in on_page], dtype=bool),
        dwell_P=np.array([sum(seconds) for seconds in dwells], dtype=float),
        dwelt_P=np.array([len(seconds) for seconds in dwells], dtype=np.int64),
        reformulated_P=reformulated(pages, queries, clicked, cfg.reformulation_s),
        words_P=np.array([word_count(page["query"]) for page in pages], dtype=np.int64),
        frequency_P=np.array([frequency[words] for words in queries], dtype=np.int64),
        won_P=np.array([_credit(page, each, cfg.against) for page, each in zip(pages, on_page)], dtype=np.int64),
    )
    return traffic, left_out


def _pages(
    exposures: Iterable[Exposure], cfg: ExperimentDesign, left_out: Counter[str]
) -> dict[str, Exposure | None]:
    """Return pages by request; None for one left out, so that its clicks do not count as clicks without exposure."""
    shown: dict[str, Exposure | None] = {}
    seen: dict[str, set[str]] = {}
    for page in exposures:
        if page["request_id"] in shown:
            left_out["exposure that came twice"] += 1
            continue
        reason = _skip_reason(page, cfg)
        if reason:
            left_out[reason] += 1
        shown[page["request_id"]] = None if reason else page
        if not reason and not page["teams"]:
            seen.setdefault(page["unit"], set()).add(page["variant"])
    mixed = {unit for unit, variants in seen.items() if len(variants) > 1}
    for request, kept in shown.items():
        if kept and kept["unit"] in mixed:
            left_out["page of a unit that saw several variants"] += 1
            shown[request] = None
    return shown


def _skip_reason(page: Exposure, cfg: ExperimentDesign) -> str:
    """Return why a page does not belong to the experiment; empty if it does."""
    if page["experiment"] != cfg.name:
        return "page of another experiment"
    if bool(page["teams"]) != (cfg.design == "interleave"):
        return "page of another design"
    named = page["teams"] or [page["variant"]]
    return "" if set(named) <= set(cfg.variants) else "page of a variant that the config does not name"


def _clicks(
    clicks: Iterable[ClickEvent], shown: dict[str, Exposure | None], cfg: ExperimentConfig, left_out: Counter[str]
) -> dict[str, list[ClickEvent]]:
    """Return the clicks on each page that counts, by request."""
    events: set[tuple[str, str]] = set()
    by_request: dict[str, list[ClickEvent]] = {}
    for click in clicks:
        request, event = click["request_id"], (click["request_id"], click["event_id"])
        kept = by_request.get(request, [])
        if event in events:
            left_out["click that came twice"] += 1
        elif reason := _skip_click(click, request in shown, shown.get(request), len(kept), cfg):
            left_out[reason] += 1
        else:
            by_request[request] = [*kept, click]
            events.add(event)  # only what counts: a wrong click does not use up the id of a right one
    return by_request


def _skip_click(click: ClickEvent, known: bool, page: Exposure | None, kept: int, cfg: ExperimentConfig) -> str:
    """Return why a click does not count on its page, which has so many that do; empty if it does."""
    if not known:
        return "click without an exposure"
    if page is None:
        return "click on a page that is left out"
    if click["doc_id"] not in page["doc_ids"]:
        return "click on a document that was not shown"
    if not _stood_at(page["doc_ids"], click):
        return "click on a document that stood at another position"
    if click["time"] > page["time"] + cfg.max_age_s:
        return "click long after its page (max_age_s)"
    return "click beyond those of a page (max_clicks)" if kept >= cfg.max_clicks else ""


def _stood_at(doc_ids: Sequence[str], click: ClickEvent) -> bool:
    """Return true if a page's document at the click's position is the one clicked, or a copy of it by its id."""
    index = click["position"] - 1
    return 0 <= index < len(doc_ids) and is_called(doc_ids[index], click["doc_id"], index)


def _credit(page: Exposure, clicks: Sequence[ClickEvent], control: str) -> int:
    """Return the number of clicked documents of the treatment less that of the control; a document counts once."""
    teams = page["teams"]
    clicked = {click["position"] - 1 for click in clicks} if teams else ()
    return sum(-1 if teams[index] == control else 1 for index in clicked)


def reformulated(
    pages: Sequence[Exposure], queries: Sequence[tuple[str, ...]], clicked_P: np.ndarray, within_s: float
) -> np.ndarray:
    """Return True for each page, (P,), that was given up for a reformulated query.

    Nothing on it was clicked, and the unit's next query, within `within_s` seconds, is another one that shares a word
    with it. Users rewrite a query whose results do not satisfy them: Hassan, Shi, Craswell and Ramsey, CIKM 2013.
    Shared words and time as signs of a rewritten query: Huang and Efthimiadis, CIKM 2009. The exact rule is ours.
    """
    given_up_P = np.zeros(len(pages), dtype=bool)
    for index, (page, after) in enumerate(itertools.pairwise(pages)):
        if clicked_P[index] or page["unit"] != after["unit"] or after["time"] - page["time"] > within_s:
            continue
        words, later = queries[index], queries[index + 1]
        given_up_P[index] = words != later and not set(words).isdisjoint(later)
    return given_up_P


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
        "lifts": _lifts(partial(_pair, traffic), cfg),
        "segments": _segments(traffic, cfg),
        "looks": {variant: _looks(traffic, variant, cfg) for variant in cfg.treatments},
        "needed": needed(cfg, design_effect(traffic, cfg)),
    }


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


def _of_pair(traffic: Traffic, variant: str, cfg: ExperimentConfig) -> np.ndarray:
    numbers = [traffic.variants.index(name) for name in (variant, cfg.against)]
    return np.isin(traffic.variant_P, numbers)


def _segments(traffic: Traffic, cfg: ExperimentConfig) -> list[TestContent]:
    """Return the deciding metric's lift by segment; for Holm's correction they are a family of their own."""
    rows = []
    for variant in cfg.treatments:
        for kind, parts in segments(traffic).items():
            for name, mask_P in parts.items():
                pair = _pair(traffic, cfg.metric, variant, cfg, mask_P)
                labels = {"variant": variant, "kind": kind, "segment": name}
                labels["pages"] = int((mask_P & _of_pair(traffic, variant, cfg)).sum())
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
            pages = int((until_P & _of_pair(traffic, variant, cfg)).sum())
            rows.append({"time": float(moment), "pages": pages, **reading._asdict(), "p": lowest})
    return rows


def design_effect(traffic: Traffic, cfg: ExperimentConfig) -> float:
    """Return the variance of the control's page CTR, whose units come back, over the binomial variance.

    NaN without clicks.
    """
    ctr = rate_of(traffic, "page_ctr", cfg.against)
    pages = int((traffic.variant_P == traffic.variants.index(cfg.against)).sum())
    binomial = ctr.value * (1 - ctr.value) / max(pages, 1)
    return ctr.variance / binomial if binomial > 0 else math.nan


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
