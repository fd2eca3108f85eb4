"""A system measured on the test queries: its scores and rankings, its quality per query, its entry in the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rrad_ray.evaluation import metrics, statistics
from rrad_ray.evaluation.fusion import unscored_last
from rrad_ray.evaluation.measures import Ranked, Scores, pair_counts_of, per_query
from rrad_ray.evaluation.summary import METRIC, System
from rrad_ray.rows import Row

Kind = Literal["first_stage", "pre_ranker", "fusion", "run", "teacher", "student", "student_fused"]


@dataclass(frozen=True)
class MeasuredSystem:
    """A system's results on the test queries, in their order.

    `scores`: of each query's candidates. `rankings`: its documents, best first, which for a run from elsewhere need
    not be candidates. `quality`: each measure of each query. `entry`: the system in `report.json`.
    `best_chunks`: of each query's candidates, as of `rows.Ranking`; empty without chunks.
    """

    scores: Scores
    rankings: list[Ranked]
    quality: dict[str, list[float]]
    entry: System
    best_chunks: Sequence[Sequence[list[int]]] = ()

    @property
    def name(self) -> str:
        """The system's name in the report and the rankings table."""
        return self.entry["system"]

    @property
    def kind(self) -> Kind:
        """The kind of system, by which the report compares it."""
        return self.entry["kind"]

    @property
    def ndcg(self) -> np.ndarray:
        """nDCG@10 of each query, (Q,)."""
        return np.asarray(self.quality[METRIC])


def measured(
    rows: Sequence[Row],
    scores: Scores,
    rankings: list[Ranked] | None = None,
    *,
    entry: Mapping[str, Any],
    more: Sequence[str] = (),
    seed: int = 0,
) -> MeasuredSystem:
    """Measure a system's quality on rows with qrels.

    `rankings`: where these are not the candidates sorted by `scores`, in which one without a score (NaN or infinite)
    does not stand. `entry`: `system`, `title` and `kind`, and what is known of the system's cost; the names of
    measures with an infinite mean are added as `infinite`, if there are any. `more`:
    measures beside nDCG@10, MRR@10 and PNR. `seed`: of the bootstrap.
    """
    rankings = rankings or [_ranking(row, values) for row, values in zip(rows, scores, strict=True)]
    scores = [unscored_last(values) for values in scores]
    quality = per_query(rows, rankings, more)
    means = {name: _interval_of(values, np.mean, seed) for name, values in quality.items()}
    pairs = pair_counts_of(rows, scores)
    means["PNR"] = _interval_of(pairs, metrics.pnr, seed)
    # JSON has no infinity; without a discordant pair PNR is infinite, and without any pair it is nothing.
    infinite = np.sum(pairs) > 0 and np.isinf(metrics.pnr(pairs))
    unknown = {"parameters": None, "documents_per_s": None, "latency_ms": None, "latency_of": "", "note": ""}
    head = {key: entry[key] for key in ("system", "title", "kind")}
    known = {"metrics": means, **({"infinite": ["PNR"]} if infinite else {})}
    return MeasuredSystem(scores, rankings, quality, {**head, **known, **unknown, **entry})


def _ranking(row: Row, scores: Sequence[float]) -> Ranked:
    """Return the candidates that have a score, best first; ties keep the row's order.

    One without a score (NaN or infinite) is not in this ranking: the row's order is another ranker's.
    """
    best = np.argsort(-np.asarray(scores), kind="stable")
    return [(row["doc_ids"][index], float(scores[index])) for index in best if math.isfinite(scores[index])]


def _interval_of(values: Sequence[Any], statistic: Callable[[Any], float], seed: int) -> dict[str, float | None]:
    """Return a statistic over queries with its 95 % bootstrap interval; None where it is infinite."""
    low, high = statistics.bootstrap_interval(values, statistic, seed)
    interval = {"mean": float(statistic(np.asarray(values, dtype=float))), "low": low, "high": high}
    return {key: value if np.isfinite(value) else None for key, value in interval.items()}


def candidate_scores(row: Row, known: Mapping[str, float]) -> list[float]:
    """Return the scores of a row's candidates, (N,); one without a score gets 1 less than the lowest."""
    lowest = min(known.values(), default=0.0) - 1.0
    return [known.get(doc_id, lowest) for doc_id in row["doc_ids"]]


def ranking_rows(rows: Sequence[Row], system: MeasuredSystem) -> list[Row]:
    """Return a system's rows of the rankings table (`rows.Ranking`)."""
    chunks_of = [
        dict(zip(row["doc_ids"], chunks, strict=True)) for row, chunks in zip(rows, system.best_chunks, strict=False)
    ]
    return [
        {
            "system": system.name,
            **{key: row[key] for key in ("query_id", "query", "split")},
            "doc_ids": [doc_id for doc_id, _ in ranking],
            "scores": [float(score) for _, score in ranking],
            "best_chunks": [chunks_of[number][doc_id] for doc_id, _ in ranking] if chunks_of else [],
            "ndcg_10": system.quality["nDCG@10"][number],
            "mrr_10": system.quality["MRR@10"][number],
        }
        for number, (row, ranking) in enumerate(zip(rows, system.rankings, strict=True))
    ]
