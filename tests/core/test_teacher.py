"""The teacher's scores, and the gate: it passes a labeller that knows something and stops one that does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rrad_ray import metrics, teacher

SHUFFLED_Q0 = (0.7120087966556172, 0.22416228249114478)


def judgment(number: int, relevant: int, judge: list[float], bm25: list[float], **changes: Any) -> dict[str, Any]:
    ids = [f"d{number}-{index}" for index in range(len(judge))]
    row: dict[str, Any] = {
        "query_id": f"q{number}",
        "query": "how",
        "split": "dev",
        "doc_ids": ids,
        "texts": ["text"] * len(ids),
        "scores": bm25,
        "sources": ["bm25"],
        "source_scores": [bm25],
        "judged_ids": [ids[relevant]],
        "judged_grades": [1],
        "task": "likelihood",
        "model": "m",
        "shown": list(range(len(ids))),
        "response": "",
        "judge_scores": judge,
        "prompt_tokens": 1,
        "generated_tokens": 0,
    }
    return row | changes


def rows(queries: int, judge_knows: float, bm25_knows: float, seed: int = 0) -> list[dict[str, Any]]:
    """Ten documents of which one is relevant; each ranker lifts it by so much above standard normal noise."""
    source = np.random.default_rng(seed)
    found = []
    for number in range(queries):
        relevant = int(source.integers(10))
        lift = np.eye(10)[relevant]
        judge, bm25 = source.normal(size=10) + judge_knows * lift, source.normal(size=10) + bm25_knows * lift
        found.append(judgment(number, relevant, judge.tolist(), bm25.tolist()))
    return found


def test_a_labeller_that_knows_more_than_the_first_stage_passes() -> None:
    found = teacher.quality(rows(60, judge_knows=4.0, bm25_knows=1.0))
    passed, text = teacher.gate(found, "bm25", 0.05)
    assert passed
    assert "60 judged dev queries" in text
    assert text.endswith(": worth its labels")
    assert found["ndcg_10"]["judge"] > 0.9 > found["ndcg_10"]["bm25"] > found["ndcg_10"]["shuffled"]


@pytest.mark.parametrize(
    ("judge_knows", "bm25_knows"),
    [(0.0, 1.0), (-3.0, 0.0), (2.0, 4.0)],
    ids=["knows nothing", "is worse than chance", "knows less than the first stage"],
)
def test_a_labeller_that_is_not_worth_its_labels_fails(judge_knows: float, bm25_knows: float) -> None:
    passed, text = teacher.gate(teacher.quality(rows(60, judge_knows, bm25_knows)), "bm25", 0.05)
    assert not passed
    assert "NOT worth its labels" in text


def test_a_labeller_that_beats_chance_by_too_little_to_be_sure_fails_even_above_the_first_stage() -> None:
    found = teacher.quality(rows(8, judge_knows=0.3, bm25_knows=-4.0, seed=3))
    p = metrics.paired_p(found["per_query"]["judge"], found["per_query"]["shuffled"], "greater")
    assert found["ndcg_10"]["judge"] > found["ndcg_10"]["bm25"]
    assert p > 0.01
    assert not teacher.gate(found, "bm25", 0.01)[0]
    assert teacher.gate(found, "bm25", 1.0)[0]


def test_quality_holds_the_means_of_what_it_measured_and_the_teacher_is_no_worse_than_its_parts() -> None:
    data = rows(30, judge_knows=1.5, bm25_knows=1.5)
    found = teacher.quality(data)
    for name in ("shuffled", "bm25", "judge"):
        assert found["ndcg_10"][name] == pytest.approx(sum(found["per_query"][name]) / 30)
    assert found["per_query"]["judge"][4] == metrics.row_ndcg(data[4], data[4]["judge_scores"])
    assert found["ndcg_10"]["teacher"] >= max(found["ndcg_10"]["judge"], found["ndcg_10"]["fusion"])
    assert found["fusion_weights"] == {"bm25": 1.0}
    assert set(found["teacher_weights"]) == {"judge", "bm25"}


def test_shuffled_is_the_same_for_a_query_wherever_it_runs_and_differs_between_queries() -> None:
    data = rows(50, 0.0, 0.0)
    assert [teacher.shuffled(row) for row in data] == [teacher.shuffled(dict(row)) for row in data]
    # SHA-256 of the id, not Python's salted hash: a fixed value, the same in every process.
    assert teacher.shuffled(data[0])[:2] == pytest.approx(SHUFFLED_Q0, rel=1e-12)
    assert len({tuple(np.argsort(teacher.shuffled(row))) for row in data}) == 50
    assert all(len(teacher.shuffled(row)) == 10 for row in data)


def test_judged_rows_are_those_of_the_split_with_a_relevant_document() -> None:
    data = [
        judgment(0, 0, [1.0], [1.0]),
        judgment(1, 0, [1.0], [1.0], split="test"),
        judgment(2, 0, [1.0], [1.0], judged_grades=[0]),
        judgment(3, 0, [1.0], [1.0], judged_ids=[], judged_grades=[]),
    ]
    assert [row["query_id"] for row in teacher.judged(data)] == ["q0"]
    assert [row["query_id"] for row in teacher.judged(data, "test")] == ["q1"]


def test_the_scores_of_a_likelihood_judgment_are_taken_as_they_are() -> None:
    row = judgment(0, 0, [-2.0, -1.0], [1.0, math.nan])
    assert teacher.judge_scores(row) == ([-2.0, -1.0], [False, False], "ok")
    assert teacher.by_source(row)["bm25"][0] == 1.0
    assert list(teacher.with_judge(row)) == ["judge", "bm25"]


def test_the_scores_of_an_order_are_those_of_its_answer_in_the_documents_own_order() -> None:
    changes = {"task": "order", "shown": [2, 0, 1], "response": "[1] > [3]", "judge_scores": []}
    row = judgment(0, 0, [0.0, 0.0, 0.0], [1.0, 2.0, 3.0], **changes)
    assert teacher.judge_scores(row) == ([0.0, 1.0, 2.0], [True, False, False], "ok")
    values, missing, status = teacher.judge_scores(row | {"response": "no idea"})
    assert (values, missing, status) == ([0.0] * 3, [True] * 3, "rejected: no identifiers")
