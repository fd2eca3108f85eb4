"""The answers of each wire format, without a server: their fields, their order and their scores."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.serving import responses
from rrad_ray.serving.errors import COHERE, TEI, VLLM, HTTPError
from rrad_ray.serving.requests import RerankRequest, ScoreRequest, ScoringRequest, TeiRequest

REQUEST = ScoringRequest(["q"] * 3, ["a", "b", "c"])
BACK = dataclasses.replace(REQUEST, give_back=True)
SCORES, ORDER = [0.2, 0.9, 0.5], [1, 2]
HEAD = {"id": "request-1", "model": "student", "usage": {"prompt_tokens": 12, "total_tokens": 12}}


def render(kind: Any, dialect: Any, request: ScoringRequest) -> Any:
    answer = responses.render_answer(kind, dialect, request, SCORES, ORDER, 12, "student", "request-1")
    assert json.loads(json.dumps(answer)) == answer
    return answer


def test_coheres_and_jinas_answer() -> None:
    results: list[dict[str, Any]] = [{"index": 1, "relevance_score": 0.9}, {"index": 2, "relevance_score": 0.5}]
    meta = {"api_version": {"version": "1"}}
    assert render(RerankRequest, COHERE, REQUEST) == {**HEAD, "results": results, "meta": meta}
    for result, text in zip(results, "bc"):
        result["document"] = {"text": text}
    assert render(RerankRequest, COHERE, BACK) == {**HEAD, "results": results, "meta": meta}


def test_vllms_answer_has_documents_of_its_own_form() -> None:
    results = [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "b", "multi_modal": None}},
        {"index": 2, "relevance_score": 0.5, "document": {"text": "c", "multi_modal": None}},
    ]
    assert render(RerankRequest, VLLM, BACK)["results"] == results


def test_teis_answer_is_a_bare_list() -> None:
    assert render(TeiRequest, TEI, REQUEST) == [{"index": 1, "score": 0.9}, {"index": 2, "score": 0.5}]
    assert render(TeiRequest, TEI, BACK) == [
        {"index": 1, "score": 0.9, "text": "b"},
        {"index": 2, "score": 0.5, "text": "c"},
    ]


def test_the_scores_of_vllms_score_are_all_of_them_in_the_order_of_the_request() -> None:
    answer = render(ScoreRequest, VLLM, REQUEST)
    assert abs(answer.pop("created") - time.time()) < 60
    data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(SCORES)]
    assert answer == {**HEAD, "object": "list", "data": data}


@given(st.lists(st.floats(allow_nan=False), max_size=8), st.integers(0, 9))
def test_the_best_come_first_and_ties_in_the_order_of_the_request(scores: list[float], top_n: int) -> None:
    order = responses.best_first(scores, top_n)
    assert len(order) == len(set(order)) == min(top_n or len(scores), len(scores))
    keys = [(-scores[index], index) for index in order]
    assert keys == sorted(keys)
    left = set(range(len(scores))) - set(order)
    assert all(scores[index] <= scores[order[-1]] for index in left if order)


@given(st.floats(allow_nan=False))
def test_the_sigmoid_is_in_0_to_1_symmetric_and_never_overflows(score: float) -> None:
    value = responses.sigmoid(score)
    assert 0 <= value <= 1
    assert responses.sigmoid(-score) == pytest.approx(1 - value, abs=1e-12)
    if abs(score) < 30:
        assert math.log(value / (1 - value)) == pytest.approx(score, abs=1e-2)


def test_order_holds_where_the_sigmoid_saturates() -> None:
    scores = [60.0, 900.0, -2000.0, 60.0]
    order = responses.best_first(scores)
    assert order == [1, 0, 3, 2]
    assert [responses.sigmoid(scores[index]) for index in order] == [1, 1, 1, 0]


def test_reasons_are_written_by_a_model_that_can_and_for_no_more_results_than_the_limit() -> None:
    explained = dataclasses.replace(REQUEST, explain=True)
    responses.check_explain(REQUEST, writes=False, limit=1)
    responses.check_explain(explained, writes=True, limit=3)
    responses.check_explain(dataclasses.replace(explained, top_n=2), writes=True, limit=2)
    for request, writes, problem in (
        (explained, False, "explain: this model cannot write"),
        (explained, True, "explain: 3 results, at most 2 (max_explained); set top_n"),
        (dataclasses.replace(explained, top_n=99), True, "explain: 3 results"),
    ):
        with pytest.raises(HTTPError) as caught:
            responses.check_explain(request, writes, limit=2)
        assert caught.value.status == 422
        assert caught.value.detail.startswith(problem)
