"""Exposures and clicks joined: what happened on each page of results, as arrays. P pages, U units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rrad_ray.config import ExperimentConfig
from rrad_ray.rows import ClickEvent, Exposure


@dataclass(frozen=True)
class Traffic:
    """One entry a page, in the order of `unit_P` and then of time."""

    variants: list[str]  # of the config; `variant_P` counts along it
    units: list[str]
    unit_P: np.ndarray
    variant_P: np.ndarray  # -1: interleaved
    time_P: np.ndarray  # seconds since 1970
    clicked_P: np.ndarray  # whether any document was clicked
    clicked_k_P: np.ndarray  # whether one of the first k was
    dwell_P: np.ndarray  # seconds, summed over the clicks whose dwell is known
    dwelt_P: np.ndarray  # how many clicks these are
    reformulated_P: np.ndarray
    words_P: np.ndarray  # of the query
    frequency_P: np.ndarray  # pages of the same query, compared in lower case and without punctuation
    won_P: np.ndarray  # interleaved: clicked documents of the treatment's team less those of the control's


def join_traffic(
    exposures: Iterable[Exposure], clicks: Iterable[ClickEvent], cfg: ExperimentConfig
) -> tuple[Traffic, Counter[str]]:
    """The experiment's traffic, and how many events were left out for each reason."""
    left = Counter[str]()
    shown = _pages(exposures, cfg, left)
    on_page = _clicks(clicks, shown, cfg, left)
    pages = sorted((page for page in shown.values() if page), key=lambda page: (page["unit"], page["time"]))
    units = {unit: number for number, unit in enumerate(dict.fromkeys(page["unit"] for page in pages))}
    places = {variant: number for number, variant in enumerate(cfg.variants)}
    queries = [tuple(re.findall(r"\w+", page["query"].lower())) for page in pages]
    frequency = Counter(queries)
    found = [on_page.get(page["request_id"], []) for page in pages]
    known = [[click["dwell_s"] for click in list_ if click["dwell_s"] == click["dwell_s"]] for list_ in found]
    clicked = np.array([bool(list_) for list_ in found], dtype=bool)
    traffic = Traffic(
        variants=list(cfg.variants),
        units=list(units),
        unit_P=np.array([units[page["unit"]] for page in pages], dtype=np.int64),
        variant_P=np.array([places[page["variant"]] if not page["teams"] else -1 for page in pages], dtype=np.int64),
        time_P=np.array([page["time"] for page in pages], dtype=float),
        clicked_P=clicked,
        clicked_k_P=np.array([any(click["position"] <= cfg.k for click in list_) for list_ in found], dtype=bool),
        dwell_P=np.array([sum(seconds) for seconds in known], dtype=float),
        dwelt_P=np.array([len(seconds) for seconds in known], dtype=np.int64),
        reformulated_P=reformulated(pages, queries, clicked, cfg.reformulation_s),
        words_P=np.array([len(words) for words in queries], dtype=np.int64),
        frequency_P=np.array([frequency[words] for words in queries], dtype=np.int64),
        won_P=np.array([_credit(page, list_, cfg.against) for page, list_ in zip(pages, found)], dtype=np.int64),
    )
    return traffic, left


def _pages(exposures: Iterable[Exposure], cfg: ExperimentConfig, left: Counter[str]) -> dict[str, Exposure | None]:
    """Pages by request; None for those that are left out, so that their clicks are not called strays."""
    shown: dict[str, Exposure | None] = {}
    seen: dict[str, set[str]] = {}
    for page in exposures:
        if page["request_id"] in shown:
            left["exposure that came twice"] += 1
            continue
        reason = _foreign(page, cfg)
        if reason:
            left[reason] += 1
        shown[page["request_id"]] = None if reason else page
        if not reason and not page["teams"]:
            seen.setdefault(page["unit"], set()).add(page["variant"])
    torn = {unit for unit, variants in seen.items() if len(variants) > 1}
    for request, kept in shown.items():
        if kept and kept["unit"] in torn:
            left["page of a unit that saw several variants"] += 1
            shown[request] = None
    return shown


def _foreign(page: Exposure, cfg: ExperimentConfig) -> str:
    if page["experiment"] != cfg.name:
        return "page of another experiment"
    if bool(page["teams"]) != (cfg.design == "interleave"):
        return "page of another design"
    named = page["teams"] or [page["variant"]]
    return "" if set(named) <= set(cfg.variants) else "page of a variant that the config does not name"


def _clicks(
    clicks: Iterable[ClickEvent], shown: dict[str, Exposure | None], cfg: ExperimentConfig, left: Counter[str]
) -> dict[str, list[ClickEvent]]:
    """The clicks on each page that counts."""
    events: set[str] = set()
    on_page: dict[str, list[ClickEvent]] = {}
    for click in clicks:
        request = click["request_id"]
        page = shown.get(request)
        docs = page["doc_ids"] if page else []
        if click["event_id"] in events:
            left["click that came twice"] += 1
        elif request not in shown:
            left["click without an exposure"] += 1
        elif page is None:
            left["click on a page that is left out"] += 1
        elif click["doc_id"] not in docs:
            left["click on a document that was not shown"] += 1
        elif docs.index(click["doc_id"]) + 1 != click["position"]:
            left["click on a document that stood at another position"] += 1
        else:
            on_page.setdefault(request, []).append(click)
        events.add(click["event_id"])
    return on_page


def _credit(page: Exposure, clicks: Sequence[ClickEvent], control: str) -> int:
    """Clicked documents of the treatment less those of the control; a document counts once."""
    teams = dict(zip(page["doc_ids"], page["teams"]))
    return sum(-1 if teams[doc] == control else 1 for doc in {click["doc_id"] for click in clicks} if doc in teams)


def reformulated(
    pages: Sequence[Exposure], queries: Sequence[tuple[str, ...]], clicked_P: np.ndarray, within_s: float
) -> np.ndarray:
    """Whether each page, (P,), was given up: nothing on it was clicked, and the unit's next query, within so many
    seconds, is another one that shares a word with it.

    That users rewrite a query when its results do not satisfy them: Hassan, Shi, Craswell and Ramsey, CIKM 2013.
    Shared words and time as the signs of a rewritten query: Huang and Efthimiadis, CIKM 2009. The exact rule is ours.
    """
    given_up = np.zeros(len(pages), dtype=bool)
    for place in range(len(pages) - 1):
        page, after = pages[place], pages[place + 1]
        if clicked_P[place] or page["unit"] != after["unit"] or after["time"] - page["time"] > within_s:
            continue
        words, later = queries[place], queries[place + 1]
        given_up[place] = words != later and not set(words).isdisjoint(later)
    return given_up
