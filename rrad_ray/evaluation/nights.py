"""A night's student beside the published winner, each as it is served; the decision, and what has drifted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypedDict

import numpy as np

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.evaluation.fusion import fuse
from rrad_ray.evaluation.metrics import row_ndcg
from rrad_ray.evaluation.statistics import holm, paired_p
from rrad_ray.evaluation.summary import number, p_value
from rrad_ray.evaluation.systems import candidate_scores
from rrad_ray.evaluation.winner import Winner
from rrad_ray.languages import scripts
from rrad_ray.rows import MEASURED, Candidates, Ranking, Row, by_source
from rrad_ray.tables import shards

DRIFT_SAMPLE = 5000  # queries whose candidates are looked at for drift: the first ones, of all splits drawn alike

TOP = 5  # documents of each source that are compared

ScoresOfSystems = dict[str, dict[str, Mapping[str, float]]]  # system, query id, document id -> score


class Comparison(TypedDict):
    """nDCG@10 of the published winner (`last`) and of a night's (`new`) over the same queries, and the p-value of the
    one-sided paired t-test that the night's is higher; NaN with fewer than two queries."""

    queries: int
    last: float
    new: float
    p: float


def read_scores(uri: str) -> ScoresOfSystems:
    """Return the scores of each system in an output of `evaluate`."""
    scored: ScoresOfSystems = {}
    for row in tables.read(uri, Ranking):
        pairs = dict(zip(row["doc_ids"], row["scores"], strict=True))
        scored.setdefault(row["system"], {})[row["query_id"]] = pairs
    return scored


def judged_rows(uri: str, query_ids: Iterable[str]) -> list[Row]:
    """Return the candidates of these queries, which an evaluation has measured."""
    wanted = set(query_ids)
    rows = shards.usable_rows(tables.read_split(uri, Candidates, *MEASURED))
    return [row for row in rows if row["query_id"] in wanted]


def served_ndcg(winner: Winner, rows: Sequence[Row], scores: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Return nDCG@10 of each row, (Q,), in the order that the endpoint would give it: by the student's `scores`, or
    by their weighted sum with the sources' as it was when the winner was chosen.

    Raises `RradError` for a row without a source that the winner sums, and for a score that is not a number.
    """
    quality = []
    for row in rows:
        given: dict[str, Sequence[float]] = dict(by_source(row))
        if winner.student:
            given[winner.student] = candidate_scores(row, scores[row["query_id"]])
            if not all(map(math.isfinite, given[winner.student])):
                problem = f"gave a document of query {row['query_id']!r} a score that is not a number"
                raise RradError(winner.student, problem, "train it again")
        lacking = [name for name in winner.weights if name not in given]
        if lacking:
            problem = f"query {row['query_id']!r} has no scores of {', '.join(lacking)}, which {winner.system} sums"
            raise RradError(winner.system, problem, "retrieve from the same sources as when it won")
        values = fuse(given, winner.weights) if winner.weights else list(given[winner.student])
        quality.append(row_ndcg(row, values))
    return quality


def compare_ndcg(last: Sequence[float], new: Sequence[float]) -> Comparison:
    """Compare nDCG@10 of the same queries, (Q,) each."""
    p = paired_p(new, last, alternative="greater")
    return {"queries": len(new), "last": float(np.mean(last)), "new": float(np.mean(new)), "p": p}


def decide(sets: Mapping[str, Comparison], max_p: float) -> tuple[bool, str]:
    """Return whether a night's student is better, and why: on no set below the published winner, and on one of them
    clearly above it (paired, one-sided, Holm)."""
    corrected = dict(zip(sets, holm([each["p"] for each in sets.values()]), strict=True))
    shown = "; ".join(
        f"{name}: {number(each['new'])} against {number(each['last'])} over {each['queries']:,} queries, "
        f"p {p_value(corrected[name]) if math.isfinite(corrected[name]) else 'unknown'}"
        for name, each in sets.items()
    )
    lower = [name for name, each in sets.items() if each["new"] < each["last"]]
    if lower:
        return False, f"below the published winner on the {' and the '.join(lower)} set ({shown})"
    if not any(p < max_p for p in corrected.values()):
        return False, f"on no set clearly above the published winner ({shown})"
    return True, f"better than the published winner ({shown})"


def drift_figures(queries: Sequence[str], rows: Iterable[Row], quality: Mapping[str, Any]) -> dict[str, float]:
    """Return what may change from night to night, by name: the queries' lengths and scripts, the overlap of the first
    stage's sources over candidates, and the shares and agreements of `LabelQuality.facts`."""
    words = [scripts.word_count(text) for text in queries]
    figures = {"words of a query": float(np.mean(words)), "words of a query, 90th percentile": _quantile(words, 0.9)}
    letters = {name: share for name, share in scripts.shares(queries).items() if share >= 0.005}
    figures |= {f"letters in {name.capitalize()}": share for name, share in letters.items()}
    overlaps = [value for row in islice(rows, DRIFT_SAMPLE) if (value := _overlap(row)) is not None]
    if overlaps:
        figures[f"overlap of the sources' first {TOP}"] = float(np.mean(overlaps))
    return figures | {
        f"labels: {name.replace('_', ' ')}": value for name, value in quality.items() if isinstance(value, float)
    }


def score_figures(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return quantiles of the scores that a student gives a night's judged candidates."""
    values = [score for by_document in scores.values() for score in by_document.values()]
    marks = {"10th percentile": 0.1, "median": 0.5, "90th percentile": 0.9}
    return {f"scores of the last student, {name}": _quantile(values, mark) for name, mark in marks.items()}


def _quantile(values: Sequence[float], mark: float) -> float:
    return float(np.quantile(values, mark))


def _overlap(row: Row) -> float | None:
    """Return the mean share of documents that the first `TOP` of two sources have in common; None for one source, and
    for so few candidates that all have them."""
    if len(row["sources"]) < 2 or len(row["doc_ids"]) <= TOP:
        return None
    scores = np.nan_to_num(np.asarray(row["source_scores"], float), nan=-np.inf)
    tops = [set(np.argsort(-each, kind="stable")[:TOP].tolist()) for each in scores]
    return float(np.mean([len(one & other) / TOP for one, other in itertools.combinations(tops, 2)]))
