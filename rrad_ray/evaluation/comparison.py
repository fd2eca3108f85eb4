"""Comparisons of measured systems: significance tests, query lengths, and the queries that change most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rrad_ray.evaluation.metrics import by_length
from rrad_ray.evaluation.statistics import holm, paired_p
from rrad_ray.evaluation.summary import BASELINES
from rrad_ray.evaluation.systems import MeasuredSystem
from rrad_ray.languages.scripts import word_count
from rrad_ray.rows import Row

CHEAPER = (*BASELINES, "run")  # kinds that teacher and students are tested against


def significance_tests(systems: Sequence[MeasuredSystem]) -> list[dict[str, Any]]:
    """Return paired t-tests on nDCG@10 of the teacher and every student against every cheaper system and run.

    Students are compared with the teacher too. `p_holm`: corrected for all tests of the report (Holm, 1979).
    """
    cheaper = [system for system in systems if system.kind in CHEAPER]
    teachers = [system for system in systems if system.kind == "teacher"]
    tests = [
        _paired_test(system, rival)
        for system in systems
        if system.kind not in CHEAPER
        for rival in (cheaper if system.kind == "teacher" else [*cheaper, *teachers])
    ]
    corrected = holm([test["p"] for test in tests])
    return [{**test, "p_holm": p} for test, p in zip(tests, corrected, strict=True)]


def _paired_test(system: MeasuredSystem, rival: MeasuredSystem) -> dict[str, Any]:
    """Compare nDCG@10 query by query: mean difference, p of a paired t-test, wins, losses, ties."""
    ours, theirs = system.ndcg, rival.ndcg
    wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
    return {
        "system": system.name,
        "against": rival.name,
        "delta": float((ours - theirs).mean()),
        "p": paired_p(list(ours), list(theirs)),
        "wins": wins,
        "losses": losses,
        "ties": len(ours) - wins - losses,
    }


def length_segments(rows: Sequence[Row], systems: Sequence[MeasuredSystem]) -> list[dict[str, Any]]:
    """Return the mean nDCG@10 of every system on short, medium and long queries; empty segments are left out."""
    words_Q = np.array([word_count(row["query"]) for row in rows])
    return [
        {
            "segment": title,
            "queries": int(inside_Q.sum()),
            "ndcg_10": {system.name: float(system.ndcg[inside_Q].mean()) for system in systems},
        }
        for title, inside_Q in by_length(words_Q).items()
        if inside_Q.any()
    ]


def changed_examples(rows: Sequence[Row], systems: Sequence[MeasuredSystem]) -> list[dict[str, Any]]:
    """Return the queries that the best student changes most against the best first stage, with both top fives.

    Two that gain most and one that loses most; none without a student or a first stage.
    """
    students = [system for system in systems if system.kind == "student"]
    if not students:
        return []
    baselines = [system for system in systems if system.kind in BASELINES]
    if not baselines:
        return []
    before = max(baselines, key=_mean_ndcg)
    after = max(students, key=_mean_ndcg)
    order = np.argsort(before.ndcg - after.ndcg, kind="stable")
    return [_example(rows[number], number, before, after) for number in dict.fromkeys((*order[:2], order[-1]))]


def _mean_ndcg(system: MeasuredSystem) -> float:
    """Return the mean nDCG@10 over queries."""
    return float(system.ndcg.mean())


def _example(row: Row, number: int, before: MeasuredSystem, after: MeasuredSystem) -> dict[str, Any]:
    """Return the `number`-th test query with the first five documents of both systems, and its qrels."""
    tops = [[doc_id for doc_id, _ in system.rankings[number][:5]] for system in (before, after)]
    grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    return {"query": row["query"], "before": tops[0], "after": tops[1], "grades": grades}
