"""The answers of each wire format, without a server: their fields, their order and their scores."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from rrad_ray.serving import requests
from rrad_ray.serving.pages import RankedPage
from rrad_ray.serving.requests import ScoringRequest, WireFormat
from rrad_ray.serving.responses import render_answer

REQUEST = ScoringRequest(["q"] * 3, ["a", "b", "c"])
BACK = dataclasses.replace(REQUEST, give_back=True)
PAGE = RankedPage("student", "", [0.2, 0.9, 0.5], [1, 2], tokens=12)
HEAD = {"id": "request-1", "model": "student", "usage": {"prompt_tokens": 12, "total_tokens": 12}}
META = {"api_version": {"version": "1"}}


def render(wire: WireFormat, request: ScoringRequest, page: RankedPage = PAGE) -> Any:
    answer = render_answer(wire, request, page, "request-1")
    assert json.loads(json.dumps(answer)) == answer
    return answer


def test_coheres_and_jinas_answer() -> None:
    results: list[dict[str, Any]] = [{"index": 1, "relevance_score": 0.9}, {"index": 2, "relevance_score": 0.5}]
    assert render(requests.COHERE_V1, REQUEST) == {**HEAD, "results": results, "meta": META}
    assert render(requests.COHERE_V2, REQUEST) == {**HEAD, "results": results, "meta": META}
    for result, text in zip(results, "bc"):
        result["document"] = {"text": text}
    assert render(requests.COHERE_V1, BACK) == {**HEAD, "results": results, "meta": META}


def test_vllms_answer_has_documents_of_its_own_form() -> None:
    results = [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "b", "multi_modal": None}},
        {"index": 2, "relevance_score": 0.5, "document": {"text": "c", "multi_modal": None}},
    ]
    assert render(requests.VLLM_RERANK, BACK) == {**HEAD, "results": results, "meta": META}


def test_teis_answer_is_a_bare_list() -> None:
    assert render(requests.TEI_RERANK, REQUEST) == [{"index": 1, "score": 0.9}, {"index": 2, "score": 0.5}]
    assert render(requests.TEI_RERANK, BACK) == [
        {"index": 1, "score": 0.9, "text": "b"},
        {"index": 2, "score": 0.5, "text": "c"},
    ]


def test_vllms_score_has_all_scores_in_the_order_of_the_request() -> None:
    answer = render(requests.VLLM_SCORE, REQUEST)
    assert abs(answer.pop("created") - time.time()) < 60
    data = [{"index": index, "object": "score", "score": score} for index, score in enumerate([0.2, 0.9, 0.5])]
    assert answer == {**HEAD, "object": "list", "data": data}


def test_a_reason_stands_beside_its_result_and_is_all_that_it_adds() -> None:
    explained = dataclasses.replace(PAGE, reasons={2: "because"})
    for wire in (requests.COHERE_V1, requests.VLLM_RERANK, requests.RRAD_SEARCH):
        plain, answer = render(wire, REQUEST), render(wire, REQUEST, explained)
        assert "reason" not in answer["results"][0]
        assert answer["results"][1].pop("reason") == "because"
        assert answer == plain
