"""A model's grades as qrels, and how far people agree with them, as UMBRELA does it (Upadhyay et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrad_ray.rows import Row

GradePairs = list[tuple[int, int]]  # the grade by people and the grade by the model of one document


def whole_grades(row: Row) -> dict[str, int]:
    """Return the grade of each document of a `JudgeOutput` row of `task: grade`: the whole number that is nearest to
    the expected grade, the higher one at the half."""
    return {
        doc_id: math.floor(score + 0.5) for doc_id, score in zip(row["doc_ids"], row["judge_scores"], strict=True)
    }


def off_scale(row: Row, scale: Sequence[float]) -> bool:
    """Return whether a score of a graded row is none that labels of these grades can have."""
    return any(not scale[0] - 0.5 <= score <= scale[-1] + 0.5 for score in row["judge_scores"])


def judged_pairs(row: Row, unjudged: str) -> GradePairs:
    """Return both grades of each document of a graded row that people have judged too; with `unjudged: negative` also
    of the others of a query that they have judged, as grade 0."""
    people = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    return [
        (people.get(doc_id, 0), grade)
        for doc_id, grade in whole_grades(row).items()
        if doc_id in people or (people and unjudged == "negative")
    ]


def agreement(pairs: GradePairs, scale: Sequence[float]) -> dict[str, Any]:
    """Return the agreement of people and model over documents that both have judged; a figure without data is left
    out.

    `kappa`: Cohen's, of relevant or not: above 0 by people, above the middle of its `scale` by the model.
    `kappa_grades`: Cohen's, of the grades, where people give more than one above 0. `kendall`: tau-b of the grades.
    """
    from scipy.stats import kendalltau

    middle = (scale[0] + scale[-1]) / 2
    figures = {"kappa": _kappa([(people > 0, model > middle) for people, model in pairs])}
    if len({people for people, _ in pairs if people > 0}) > 1:
        figures["kappa_grades"] = _kappa([(max(people, 0), model) for people, model in pairs])
    figures["kendall"] = float(kendalltau(*np.transpose(pairs)).statistic)
    return {"judgments": len(pairs)} | {name: value for name, value in figures.items() if not math.isnan(value)}


def _kappa(pairs: Sequence[tuple[int, int]]) -> float:
    """Return Cohen's kappa of two raters' categories; NaN where both give one category only."""
    from statsmodels.stats.inter_rater import cohens_kappa

    categories = sorted({category for pair in pairs for category in pair})
    if len(categories) < 2:
        return math.nan
    table = np.zeros((len(categories), len(categories)))
    for one, other in pairs:
        table[categories.index(one), categories.index(other)] += 1
    return float(cohens_kappa(table, return_results=False))


def describe_qrels(model: str, queries: Mapping[str, int], judgments: int, figures: Mapping[str, Any]) -> str:
    """Return the sentence on qrels by a model that every report has: whose they are, of which queries, and how far
    people agree, or that this is not known."""
    splits = " and ".join(f"{count:,} {split}" for split, count in sorted(queries.items()) if count)
    note = f"the qrels of {splits} queries are by the model {model}, not by people"
    names = {"kappa": "Cohen's kappa", "kappa_grades": "of the grades", "kendall": "Kendall's tau-b"}
    if names.keys().isdisjoint(figures):
        return f"{note}; people have judged {judgments or 'none'} of its documents: how far they agree is not known"
    listing = ", ".join(f"{words} {figures[name]:.2f}" for name, words in names.items() if name in figures)
    return f"{note}; on {judgments:,} documents that people have judged too: {listing}"
