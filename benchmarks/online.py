"""The worth of an online test: false positives, power, and how many times fewer pages interleaving needs.

Users are simulated, over queries with qrels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer
from scipy import stats

from benchmarks import click_models, harness
from rrad_ray.config import ExperimentConfig
from rrad_ray.data.collection import Query
from rrad_ray.data.reader import read_collection
from rrad_ray.evaluation import statistics
from rrad_ray.online.assignment import assign_variant, interleave

DEPTH, ALPHA, POWER, MORE_PAGES = 10, 0.05, 0.8, 2.0
PLANNED = 0.25  # the lift that an A/A run has the size to detect: the scale of the always-valid reading's prior
UNITS, LOOKS, FIRST = 1000, 20, 200  # of an A/A run: users, looks at it, and users at the first look
DRAFTS, WILLING = 16, 20  # for exact figures: interleavings of a query, and points of the users' factor
EXAMINED = click_models.examination(DEPTH)


def bench(quick: bool, scratch: str) -> harness.Result:
    """Measure false positives of A/A runs, and power and pages of A/B and interleaved tests of the planned size."""
    runs = 300 if quick else 1000  # of the tests for power; A/A takes 1,000 either way
    draw = np.random.default_rng(0)
    queries, rankings = judged(2000)
    highest = max(max(query.judged.values()) for query in queries)
    old, new = (click_models.attraction(grades_of(queries, ranking), highest) for ranking in rankings)
    ctr, lifted = (true_ctr(attraction) for attraction in (old, new))
    print(f"{len(queries)} queries, true page CTR {ctr:.4f} against {lifted:.4f}", flush=True)
    aa, peeked, peeked_always = false_positives(old, 1000, draw)
    power, pages = ab_power(old, new, (ctr, lifted), MORE_PAGES, runs, draw)
    power_alone, alone = ab_power(old, new, (ctr, lifted), 0.0, runs, draw)
    mixed, teams = drafted(queries, rankings, highest)
    needed, prefer = interleaved_pages(mixed, teams)
    power_interleaved = interleaved_power(mixed, teams, needed, runs, draw)
    aa_pages = round(UNITS * (1 + MORE_PAGES))
    table = [
        ("A/A, one reading", aa_pages, aa),
        (f"A/A, {LOOKS} looks, one reading's p", aa_pages, peeked),
        (f"A/A, {LOOKS} looks, always-valid", aa_pages, peeked_always),
        ("A/B, users come back, as planned", pages, power),
        ("A/B, each page another user's, as planned", alone, power_alone),
        ("interleaved, each page another user's, as planned", needed, power_interleaved),
    ]
    rows = [dict(zip(("what", "pages", "difference found"), row, strict=True)) for row in table]
    figures = {
        "aa_false_positives": aa,
        "aa_always_valid": peeked_always,
        "power": power,
        "power_interleaved": power_interleaved,
        "interleaving_times_fewer": alone / needed,
    }
    settings = {
        "queries": len(queries), "runs": runs, "page_ctr": ctr, "lift": lifted / ctr - 1, "preference": prefer,
    }  # fmt: skip
    return harness.Result(figures, rows, settings)


def judged(limit: int) -> tuple[list[Query], list[list[list[str]]]]:
    """Return queries with qrels, and the rankings of two rankers: BM25 over words as they are, and over stems."""
    collection = read_collection(harness.collection())
    queries = [query for query in collection.queries if query.judged and max(query.judged.values()) > 0][:limit]
    ids, rankings = list(collection.corpus), []
    for stemmer in (None, Stemmer.Stemmer("english")):
        index = bm25s.BM25()
        index.index(_words(list(collection.corpus.values()), stemmer), show_progress=False)
        tokens = _words([query.text for query in queries], stemmer)
        indices, _ = index.retrieve(tokens, k=DEPTH, show_progress=False)
        rankings.append([[ids[doc] for doc in row] for row in indices])
    return queries, rankings


def _words(texts: list[str], stemmer: Stemmer.Stemmer | None) -> bm25s.tokenization.Tokenized:
    """Tokenize texts without English stop words."""
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)


def grades_of(queries: Sequence[Query], ranking: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the grades of each query's ranking, (Q, N), best first."""
    return np.array([[query.judged.get(doc, 0) for doc in docs] for query, docs in zip(queries, ranking)])


def willingness() -> np.ndarray:
    """Return equally likely points of the users' factor, (W,)."""
    return stats.beta.ppf((np.arange(WILLING) + 0.5) / WILLING, *click_models.WILLING)


def true_ctr(attraction_QN: np.ndarray) -> float:
    """Return the exact page CTR over queries and users."""
    return float(
        np.mean([click_models.page_ctr(factor * attraction_QN, EXAMINED).mean() for factor in willingness()])
    )


def false_positives(attraction_QN: np.ndarray, runs: int, draw: np.random.Generator) -> tuple[float, float, float]:
    """Return the shares of A/A runs in which a difference is found.

    By one reading, by stopping at the first look with p below alpha, and by stopping so with the always-valid p.
    """
    hits = np.zeros(3)
    for run in range(runs):
        cfg = ExperimentConfig("", "", name=f"aa-{run}", variants={"a": 1.0, "b": 1.0})
        treated = np.array([assign_variant(str(unit), cfg) == "b" for unit in range(UNITS)])
        clicked, pages = click_models.crowd(attraction_QN, EXAMINED, UNITS, MORE_PAGES, draw)
        looks = np.linspace(FIRST, UNITS, LOOKS).astype(int)
        mixes = [(treated[:n], clicked[:n], pages[:n]) for n in looks]
        pairs = [(statistics.rate(x[side], y[side]), statistics.rate(x[~side], y[~side])) for side, x, y in mixes]
        once = [statistics.lift(new, old, ALPHA).p < ALPHA for new, old in pairs]
        always = [statistics.always_valid(new, old, ALPHA, PLANNED).p < ALPHA for new, old in pairs]
        hits += (once[-1], any(once), any(always))
    aa, peeked, peeked_always = hits / runs
    return float(aa), float(peeked), float(peeked_always)


def ab_power(
    old: np.ndarray,
    new: np.ndarray,
    true: tuple[float, float],
    more_pages: float,
    runs: int,
    draw: np.random.Generator,
) -> tuple[float, int]:
    """Return how often an A/B test of the planned size, with a pilot's design effect, finds the lift; its pages."""
    clicked, pages = click_models.crowd(old, EXAMINED, 50_000, more_pages, draw)
    pilot = statistics.rate(clicked, pages)
    effect = float(pilot.variance * pages.sum() / (pilot.value * (1 - pilot.value)))
    lift = true[1] / true[0] - 1
    needed, _ = statistics.pages_needed(true[0], lift, ALPHA, POWER, design_effect=effect)
    units = math.ceil(needed / (1 + more_pages))
    hits = 0
    for _ in range(runs):
        control, treatment = (
            statistics.rate(*click_models.crowd(attraction, EXAMINED, units, more_pages, draw))
            for attraction in (old, new)
        )
        hits += statistics.lift(treatment, control, ALPHA).p < ALPHA
    return hits / runs, 2 * needed


def drafted(
    queries: Sequence[Query], rankings: Sequence[Sequence[Sequence[str]]], highest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return several interleavings of every query: attraction, and the team of each document.

    (Q * DRAFTS, N) and (Q * DRAFTS, N); teams: +1 for the new ranker's documents, -1 for the old one's.
    """
    lists = [
        (query, *interleave(old, new, f"{query.query_id}:{seed}", DEPTH))
        for query, old, new in zip(queries, *rankings, strict=True)
        for seed in range(DRAFTS)
    ]
    grades = grades_of([query for query, _, _ in lists], [docs for _, docs, _ in lists])
    return click_models.attraction(grades, highest), np.array(
        [[2 * team - 1 for team in teams] for _, _, teams in lists]
    )


def interleaved_pages(mixed: np.ndarray, teams: np.ndarray) -> tuple[int, float]:
    """Return the pages, each of another unit, that the sign test needs for the true preference, and the latter."""
    balance = np.mean([_balance(factor * mixed * EXAMINED, teams) for factor in willingness()], axis=0)
    lost, won = balance[:DEPTH].sum(), balance[DEPTH + 1 :].sum()
    share = float(won / (won + lost))
    return math.ceil(statistics.preferences_needed(share, ALPHA, POWER) / (won + lost)), share


def _balance(click_PN: np.ndarray, teams_PN: np.ndarray) -> np.ndarray:
    """Return P(clicks on the new ranker's documents less those on the old one's = b), b from -N to N: (2N + 1,)."""
    pages, positions = click_PN.shape
    balance = np.zeros((pages, 2 * positions + 1))
    balance[:, positions] = 1
    for position in range(positions):
        click = click_PN[:, position, None]
        up = teams_PN[:, position, None] > 0
        shifted = np.where(up, np.roll(balance, 1, axis=1), np.roll(balance, -1, axis=1))
        balance = (1 - click) * balance + click * shifted
    return balance.mean(axis=0)


def interleaved_power(
    mixed: np.ndarray, teams: np.ndarray, pages: int, runs: int, draw: np.random.Generator
) -> float:
    """Return how often an interleaved test of so many pages, each of another unit, finds a preference."""
    hits = 0
    for _ in range(runs):
        picked = draw.integers(len(mixed), size=pages)
        willing = draw.beta(*click_models.WILLING, pages)[:, None]
        clicks = click_models.position_based_clicks(willing * mixed[picked], EXAMINED, draw)
        balance = (clicks * teams[picked]).sum(axis=1)
        won, lost = int((balance > 0).sum()), int((balance < 0).sum())
        hits += statistics.sign_test(won, lost, ALPHA).p < ALPHA
    return hits / runs


if __name__ == "__main__":
    harness.main("online", bench)
