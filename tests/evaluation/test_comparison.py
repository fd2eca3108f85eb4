"""Measured systems: their entry in the report, what they are tested against, and what the report says of the cost."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rrad_ray.evaluation import summary
from rrad_ray.evaluation.bench import student_title
from rrad_ray.evaluation.comparison import changed_examples, length_segments, significance_tests
from rrad_ray.evaluation.latency import fusion_cost, rerank_latency
from rrad_ray.evaluation.statistics import holm, paired_p
from rrad_ray.evaluation.systems import (
    Kind,
    MeasuredSystem,
    candidate_scores,
    measured,
    ranking_rows,
)
from rrad_ray.rows import Row
from tests.fixtures import row_of

QUERIES = ["sort", "add two numbers", "how do I open a file for writing", "join strings"]


@pytest.fixture
def rows() -> list[Row]:
    """Return four queries of four documents; document n is relevant to query n."""
    result = []
    for number, query in enumerate(QUERIES):
        row = row_of(f"q{number}", ["a", "b", "c", "d"])
        qrels = {"qrel_ids": [f"q{number}-{number}"], "qrel_grades": [1]}
        result.append({**row, "query": query, "split": "test", **qrels})
    return result


def system(rows: list[Row], name: str, kind: Kind, ranks: list[int]) -> MeasuredSystem:
    """Return a system that ranks the relevant document of query n at `ranks[n]`, counted from 0."""
    scores = []
    for number, rank in enumerate(ranks):
        order = [index for index in range(4) if index != number]
        order.insert(rank, number)
        scores.append([float(-order.index(index)) for index in range(4)])
    return measured(rows, scores, entry={"system": name, "title": name.upper(), "kind": kind})


def test_an_entry_has_every_measure_with_its_interval_and_dashes_for_an_unknown_cost(rows: list[Row]) -> None:
    scores = [[3.0, 2.0, 1.0, 0.0]] * 4
    peer = measured(rows, scores, entry={"system": "x", "title": "X", "kind": "run", "note": "n"}, more=["R@2"])
    assert list(peer.entry)[:4] == ["system", "title", "kind", "metrics"]
    assert peer.entry["note"] == "n"
    assert peer.entry["latency_ms"] is None
    assert peer.entry["metrics"]["R@2"]["mean"] == 0.5
    assert peer.entry["metrics"]["PNR"]["mean"] == 1.0
    assert peer.ndcg == pytest.approx([1, 1 / np.log2(3), 1 / 2, 1 / np.log2(5)])
    assert [row["mrr_10"] for row in ranking_rows(rows, peer)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert ranking_rows(rows, peer)[1]["doc_ids"] == ["q1-0", "q1-1", "q1-2", "q1-3"]


def test_a_pnr_without_a_wrong_pair_is_infinite_and_one_without_any_pair_is_none(rows: list[Row]) -> None:
    entry = {"system": "x", "title": "X", "kind": "run"}
    ideal = [[float(grade) for grade in grades_of(row)] for row in rows]
    perfect = measured(rows, ideal, entry=entry).entry
    assert (perfect["metrics"]["PNR"]["mean"], perfect["infinite"]) == (None, ["PNR"])
    assert summary.mean_of(perfect, "PNR") == np.inf
    json.dumps(perfect, allow_nan=False)
    flat = [{**row, "qrel_grades": [0] * len(row["qrel_grades"])} for row in rows]
    nothing = measured(flat, ideal, entry=entry).entry
    assert "infinite" not in nothing
    assert summary.mean_of(nothing, "PNR") is None
    wrong = measured(rows, [[-score for score in scores] for scores in ideal], entry=entry).entry
    assert "infinite" not in wrong
    assert summary.mean_of(wrong, "PNR") == 0.0


def grades_of(row: Row) -> list[int]:
    grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    return [grades.get(doc_id, 0) for doc_id in row["doc_ids"]]


def test_teacher_and_students_are_tested_against_what_is_cheaper_and_students_against_the_teacher(
    rows: list[Row],
) -> None:
    systems = [
        system(rows, "bm25", "first_stage", [0, 1, 2, 3]),
        system(rows, "peer", "run", [1, 1, 1, 1]),
        system(rows, "teacher", "teacher", [0, 0, 0, 1]),
        system(rows, "small", "student", [0, 0, 1, 3]),
        system(rows, "small+first", "student_fused", [0, 0, 0, 0]),
    ]
    tests = significance_tests(systems)
    pairs = [(test["system"], test["against"]) for test in tests]
    students = [(name, rival) for name in ("small", "small+first") for rival in ("bm25", "peer", "teacher")]
    assert pairs == [("teacher", "bm25"), ("teacher", "peer"), *students]
    small = tests[2]
    assert (small["wins"], small["ties"], small["losses"]) == (2, 2, 0)
    assert small["p"] == paired_p(list(systems[3].ndcg), list(systems[0].ndcg))
    assert [test["p_holm"] for test in tests] == holm([test["p"] for test in tests])


def test_segments_are_by_words_and_an_empty_one_is_left_out(rows: list[Row]) -> None:
    best = system(rows, "best", "student", [0, 0, 0, 1])
    segments = {row["segment"]: (row["queries"], row["ndcg_10"]["best"]) for row in length_segments(rows, [best])}
    assert segments == {
        "1 or 2 words": (2, pytest.approx((1 + 1 / np.log2(3)) / 2)),
        "3 or 4": (1, 1.0),
        "5 or more": (1, 1.0),
    }
    assert [row["segment"] for row in length_segments(rows[:1], [system(rows[:1], "x", "run", [0])])] == [
        "1 or 2 words"
    ]


def test_examples_are_what_the_best_student_changes_most(rows: list[Row]) -> None:
    first = system(rows, "bm25", "first_stage", [0, 1, 2, 3])
    worse = system(rows, "worse", "student", [3, 3, 3, 3])
    best = system(rows, "best", "student", [1, 1, 0, 0])
    examples = changed_examples(rows, [first, worse, best])
    assert [example["query"] for example in examples] == [QUERIES[3], QUERIES[2], QUERIES[0]]
    assert examples[0]["after"][0] == "q3-3"
    assert examples[0]["grades"] == {"q3-3": 1}
    assert changed_examples(rows, [first]) == []


def test_a_candidate_without_a_score_comes_behind_the_others() -> None:
    row = row_of("q", ["a", "b", "c"])
    assert candidate_scores(row, {"q-2": 0.5, "q-0": -2.0, "elsewhere": -7.0}) == [-2.0, -8.0, 0.5]
    assert candidate_scores(row, {}) == [-1.0] * 3


def test_a_fusion_costs_what_its_sources_cost_together() -> None:
    one: Any = {"latency_ms": {"p50": 1.0, "p99": 2.0}, "documents_per_s": 100.0, "parameters": 0}
    two: Any = {"latency_ms": {"p50": 3.0, "p99": 5.0}, "documents_per_s": 50.0, "parameters": 7}
    cost = fusion_cost([one, two])
    assert cost["latency_ms"] == {"p50": 4.0, "p99": 7.0}
    assert cost["documents_per_s"] == pytest.approx(100 / 3)
    assert cost["parameters"] == 7
    assert fusion_cost([one, None]) == {}


def test_a_latency_is_of_so_many_documents_and_warms_up(rows: list[Row]) -> None:
    calls: list[tuple[str, int]] = []
    cost = rerank_latency(lambda query, texts: calls.append((query, len(texts))), rows, docs=3, repeats=5)
    assert calls == [(QUERIES[number % 4], 3) for number in range(7)]
    assert cost["latency_of"] == "re-ranking 3 documents given as text"
    assert 0 <= cost["latency_ms"]["p50"] <= cost["latency_ms"]["p99"]


def test_a_latency_of_more_documents_than_there_are_is_of_some_of_them_more_than_once(rows: list[Row]) -> None:
    calls: list[list[str]] = []
    cost = rerank_latency(lambda query, texts: calls.append(list(texts)), rows, docs=1000, repeats=1)
    texts = [text for row in rows for text in row["texts"]]
    assert len(texts) < 1000
    assert {len(call) for call in calls} == {1000}
    assert set(calls[0]) == set(texts)
    assert cost["latency_of"] == "re-ranking 1000 documents given as text"


def test_a_student_is_called_one_once() -> None:
    assert [student_title(name) for name in ("encoder", "student", "small student")] == [
        "encoder student",
        "student",
        "small student",
    ]
