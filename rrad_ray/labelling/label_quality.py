"""Measure the quality of labels from the judge's answers.

Shares of documents left out and of unreadable answers, position bias (whether a document's position in the prompt
decides its rank), agreement between repeats, and nDCG against the qrels of dev queries: what labels are chosen by has
not been measured on the queries that judge the students.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrad_ray.evaluation import metrics
from rrad_ray.labelling import aggregation, answers, teacher
from rrad_ray.labelling.answer_patterns import AnswerReader

SAMPLE = 5000  # orders are compared for so many queries, the first ones: enough for two digits


class LabelQuality:
    """Running label quality over `JudgeOutput` rows and their verdicts.

    `facts()` returns shares from 0 to 1 and rank correlations (Kendall's tau-b) from -1 to 1.
    """

    def __init__(self, read: AnswerReader = answers.parse_answer, compared: int = SAMPLE) -> None:
        """`read`: as in `teacher.verdict`. `compared`: the most queries whose orders are compared."""
        self.read, self.compared = read, compared
        self.statuses, self.sizes = Counter[str](), Counter[str]()
        self.sums: Counter[str] = Counter()

    def state(self) -> dict[str, dict[str, float]]:
        """Return the counts and sums behind the figures, which add up over parts of a table."""
        return {"statuses": dict(self.statuses), "sizes": dict(self.sizes), "sums": dict(self.sums)}

    def merge(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the `state` of other rows."""
        for name in ("statuses", "sizes", "sums"):
            getattr(self, name).update(state.get(name, {}))

    def _measure(self, name: str, value: float) -> None:
        self.sums[name] += value  # type: ignore[assignment]  # a counter of fractions
        self.sizes[name] += 1

    def add(self, row: Mapping[str, Any], verdict: aggregation.Verdict) -> None:
        """Add one query's row and its verdict to the statistics."""
        self.sizes["queries"] += 1
        self.statuses.update(status.partition(":")[0] for status in verdict.statuses)
        if row["task"] == "order" and self.sizes["queries"] <= self.compared:
            self._orders(row)
        if not verdict.rejected:
            self._measure("confidence", float(np.mean(verdict.confidence)))
            if row["split"] == "dev" and any(grade > 0 for grade in row["qrel_grades"]):
                self._measure("ndcg_10", metrics.untied_ndcg(row, verdict.targets))

    def _orders(self, row: Mapping[str, Any]) -> None:
        """Add the position bias of a row's answers, and how far they agree with each other."""
        rankings = []
        for order, shown in zip(teacher.orders_of(row, self.read), row["shown"], strict=True):
            if order.rejected:
                continue
            self.sizes["shown"] += len(shown)
            self.sizes["missing"] += len(order.missing)
            ranks = candidate_ranks(order, shown, len(row["doc_ids"]))
            if (bias := _correlation(np.arange(len(shown)), ranks[list(shown)])) is not None:
                self._measure("position_bias", bias)
            rankings.append(ranks)
        if (agreement := repeat_agreement(rankings)) is not None:
            self._measure("repeat_agreement", agreement)

    def facts(self) -> dict[str, Any]:
        """Return the figures for the manifest; a figure without data is left out."""
        total = max(sum(self.statuses.values()), 1)
        facts: dict[str, Any] = {
            "queries": self.sizes["queries"],
            "answers": dict(self.statuses),
            "rejected_share": self.statuses["rejected"] / total,
            "repaired_share": self.statuses["repaired"] / total,
        }
        if self.sizes["shown"]:
            facts["missing_share"] = self.sizes["missing"] / self.sizes["shown"]
        for name in ("position_bias", "repeat_agreement", "confidence", "ndcg_10"):
            if self.sizes[name]:
                facts[name] = self.sums[name] / self.sizes[name]
        return facts | ({"judged_queries": self.sizes["ndcg_10"]} if self.sizes["ndcg_10"] else {})


def candidate_ranks(order: answers.ParsedOrder, shown: Sequence[int], n: int) -> np.ndarray:
    """Return the rank that an answer gave to each of a query's `n` documents, (n,), from 0.

    Documents left out are tied behind the last ranked one; one that was not shown has NaN.
    """
    ranks = np.full(n, np.nan)
    ranks[list(shown)] = len(order.ranked)
    ranks[[shown[index] for index in order.ranked]] = np.arange(len(order.ranked))
    return ranks


def repeat_agreement(rankings: Sequence[np.ndarray]) -> float | None:
    """Return the mean Kendall's tau-b between any two rankings (`candidate_ranks`) of documents that both have; None
    where no two can be compared."""
    taus = []
    for a, b in itertools.combinations(rankings, 2):
        both = ~(np.isnan(a) | np.isnan(b))
        taus.append(_correlation(a[both], b[both]))
    known = [tau for tau in taus if tau is not None]
    return float(np.mean(known)) if known else None


def _correlation(a: Any, b: Any) -> float | None:
    """Return Kendall's tau-b of two lists of ranks; None if one of them is all ties."""
    from scipy.stats import kendalltau

    value = float(kendalltau(a, b).statistic) if len(a) > 1 else float("nan")
    return None if np.isnan(value) else value
