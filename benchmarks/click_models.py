"""Click models: simulated users' clicks on rankings with qrels, and the events that an endpoint would log.

Pure functions of arrays and a NumPy generator. Shapes: P pages, N positions, best first; Q queries, U users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rrad_ray.config import ExperimentDesign
from rrad_ray.online.assignment import assign_variant, interleave
from rrad_ray.rows import ClickEvent, Exposure

WILLING = (1.0, 1.0)  # the Beta distribution, uniform, of each user's own factor on P(click)


def attraction(grades_PN: np.ndarray, highest: int, noise: float = 0.1, ceiling: float = 0.9) -> np.ndarray:
    """Return P(a document is clicked once it is read), (P, N).

    `noise` for a document of grade 0, `ceiling` for one of the highest grade, and between them by ERR's gain
    (2^grade - 1) / 2^highest (Chapelle et al., CIKM 2009), stretched to reach 1.
    """
    gain = (2.0**grades_PN - 1) / (2.0**highest - 1)
    return noise + (ceiling - noise) * gain


def examination(positions: int, steepness: float = 1.0) -> np.ndarray:
    """Return P(a position is examined), (N,): position^-steepness.

    As in position-based click models (Craswell, Zoeter, Taylor and Ramsey, WSDM 2008; the book of Chuklin, Markov and
    de Rijke, 2015).
    """
    return np.arange(1, positions + 1, dtype=float) ** -steepness


def position_based(attraction_PN: np.ndarray, examination_N: np.ndarray) -> np.ndarray:
    """Return P(click), (P, N), of the position-based model: examined and attractive, independently by position."""
    return attraction_PN * examination_N


def position_based_clicks(
    attraction_PN: np.ndarray, examination_N: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """Draw clicks from the position-based model, (P, N)."""
    return draw.random(attraction_PN.shape) < position_based(attraction_PN, examination_N)


def cascade(attraction_PN: np.ndarray, satisfied: float = 1.0) -> np.ndarray:
    """Return P(click), (P, N), of users who read from the top and stop after a click with probability `satisfied`.

    1 is the cascade model (Craswell et al., WSDM 2008); with less than 1 they may go on to more clicks.
    """
    goes_on_PN = np.cumprod(1 - satisfied * attraction_PN, axis=1)
    read_PN = np.concatenate([np.ones_like(goes_on_PN[:, :1]), goes_on_PN[:, :-1]], axis=1)
    return attraction_PN * read_PN


def cascade_clicks(attraction_PN: np.ndarray, satisfied: float, draw: np.random.Generator) -> np.ndarray:
    """Draw clicks from the cascade model, (P, N)."""
    liked_PN = draw.random(attraction_PN.shape) < attraction_PN
    stops_PN = liked_PN & (draw.random(attraction_PN.shape) < satisfied)
    before_PN: np.ndarray = np.cumsum(stops_PN, axis=1) - stops_PN  # stops above this position
    return liked_PN & (before_PN == 0)


def page_ctr(attraction_PN: np.ndarray, examination_N: np.ndarray) -> np.ndarray:
    """Return P(any click), (P,), in the position-based model."""
    return 1 - np.prod(1 - position_based(attraction_PN, examination_N), axis=1)


def crowd(
    attraction_QN: np.ndarray, examination_N: np.ndarray, units: int, more_pages: float, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw each user's number of pages with a click and number of pages, (U,) and (U,), in the position-based model.

    Each of the `units` users has 1 + Poisson(`more_pages`) of the Q queries, at random, and a factor of their own on
    P(click), from `WILLING`.
    """
    pages_U = 1 + draw.poisson(more_pages, units)
    unit_P = np.repeat(np.arange(units), pages_U)
    willing_P = draw.beta(*WILLING, units)[unit_P]
    shown_PN = willing_P[:, None] * attraction_QN[draw.integers(len(attraction_QN), size=len(unit_P))]
    clicked_P = position_based_clicks(shown_PN, examination_N, draw).any(axis=1)
    return np.bincount(unit_P, weights=clicked_P, minlength=units), pages_U.astype(float)


# ---- events -------------------------------------------------------------------------------------------------

ClickModel = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # attraction (P, N) -> clicks (P, N)


@dataclass(frozen=True)
class Need:
    """A query with qrels, and each variant's ranking for it, best first."""

    query: str
    grades: Mapping[str, int]
    runs: Mapping[str, Sequence[str]]


def visit(
    needs: Sequence[Need],
    cfg: ExperimentDesign,
    units: int,
    behave: ClickModel,
    draw: np.random.Generator,
    *,
    depth: int = 10,
    days: float = 7.0,
    begin: float = 1.7e9,
) -> tuple[list[Exposure], list[ClickEvent]]:
    """Simulate the visits of `units` users and return the endpoint's log, in the order of users.

    A user has a factor of their own on P(click), from `WILLING`, so that pages of one user are alike; has 1 +
    Poisson(2) needs, the first of `needs` more often than the last (Zipf); and after a page without a click half of
    the time asks again with one more word. Clicks are drawn by `behave`; they last about 40 s on a document with a
    grade above 0, 8 s on another.
    """
    highest = max(grade for need in needs for grade in need.grades.values())
    popular = 1 / np.arange(1, len(needs) + 1)
    exposures: list[Exposure] = []
    clicks: list[ClickEvent] = []
    for number in range(units):
        unit, willing = f"user-{number}", draw.beta(*WILLING)
        moment = begin + draw.random() * days * 86400
        for which in draw.choice(len(needs), size=1 + draw.poisson(2), p=popular / popular.sum()):
            need, query = needs[which], needs[which].query
            for _ in range(2):
                page = _page(f"{unit}-{len(exposures)}", unit, query, need, moment, depth, cfg)
                grades = np.array([[need.grades.get(doc, 0) for doc in page["doc_ids"]]])
                chosen = np.flatnonzero(behave(willing * attraction(grades, highest), draw)[0])
                exposures.append(page)
                clicks += [_click(page, int(index), int(grades[0, index]), draw) for index in chosen]
                moment += 30 + draw.exponential(60)
                if len(chosen) or draw.random() < 0.5:
                    break
                query = f"{query} example"
    return exposures, clicks


def _page(
    request: str, unit: str, query: str, need: Need, moment: float, depth: int, cfg: ExperimentDesign
) -> Exposure:
    """Return the page that a user is shown for a need: their variant's ranking, or an interleaved one."""
    variant, teams = assign_variant(unit, cfg), list[str]()
    docs = list(need.runs[variant][:depth])
    if cfg.design == "interleave":
        names = [cfg.against, *cfg.treatments]
        docs, drafted = interleave(need.runs[names[0]], need.runs[names[1]], request, depth)
        variant, teams = "", [names[team] for team in drafted]
    return Exposure(
        request_id=request, experiment=cfg.name, unit=unit, variant=variant, query=query, doc_ids=docs, teams=teams,
        time=moment, model=variant,
    )  # fmt: skip


def _click(page: Exposure, index: int, grade: int, draw: np.random.Generator) -> ClickEvent:
    """Return a click on the document at an index of the page, with a drawn dwell time."""
    request, doc = page["request_id"], page["doc_ids"][index]
    dwell = float(draw.lognormal(np.log(40 if grade else 8), 0.7))
    return ClickEvent(
        event_id=f"{request}-{index}", request_id=request, doc_id=doc, position=index + 1, dwell_s=dwell,
        time=page["time"] + 2 * (index + 1),
    )  # fmt: skip
