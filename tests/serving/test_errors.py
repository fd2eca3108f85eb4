"""Refusals in the error body of each wire format: status, body and headers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.serving.errors import COHERE, RETRY_AFTER_S, TEI, VLLM, Dialect, HTTPError

STATUSES = (400, 401, 404, 405, 413, 415, 422, 499, 500, 503, 504)


def cohere() -> dict[str, Any]:
    return {"message": "query: blank", "detail": "query: blank", "field": "query"}


def vllm(code: int, kind: str) -> dict[str, Any]:
    return {"error": {"message": "query: blank", "type": kind, "param": "query", "code": code}}


def tei(kind: str) -> dict[str, Any]:
    return {"error": "query: blank", "error_type": kind}


@pytest.mark.parametrize(
    ("dialect", "status", "sent", "body"),
    [
        *((COHERE, status, status, cohere()) for status in STATUSES),
        (VLLM, 400, 400, vllm(400, "BadRequestError")),
        (VLLM, 401, 401, vllm(401, "AuthenticationError")),
        (VLLM, 404, 404, vllm(404, "NotFoundError")),
        (VLLM, 405, 405, vllm(405, "BadRequestError")),
        (VLLM, 413, 413, vllm(413, "BadRequestError")),
        (VLLM, 415, 415, vllm(415, "BadRequestError")),
        (VLLM, 422, 400, vllm(400, "BadRequestError")),
        (VLLM, 500, 500, vllm(500, "InternalServerError")),
        (VLLM, 503, 503, vllm(503, "InternalServerError")),
        (VLLM, 504, 504, vllm(504, "InternalServerError")),
        (TEI, 400, 400, tei("Empty")),
        (TEI, 401, 401, tei("Unauthorized")),
        (TEI, 413, 413, tei("Validation")),
        (TEI, 422, 422, tei("Validation")),
        (TEI, 500, 424, tei("Backend")),
        (TEI, 503, 429, tei("Overloaded")),
        (TEI, 504, 504, tei("Overloaded")),
    ],
)
def test_a_refusal_has_the_status_and_the_body_of_its_dialect(
    dialect: Dialect, status: int, sent: int, body: dict[str, Any]
) -> None:
    refusal = HTTPError(status, "query", "blank")
    assert str(refusal) == "query: blank"
    assert refusal.render(dialect)[:2] == (sent, body)


def test_teis_clients_read_empty_for_an_empty_field_and_not_for_a_body_that_is_no_json() -> None:
    assert HTTPError(400, "body", "no JSON").render(TEI)[:2] == (
        400,
        {"error": "body: no JSON", "error_type": "Validation"},
    )


def test_a_refusal_has_its_own_headers_in_every_dialect() -> None:
    for dialect in (COHERE, VLLM, TEI):
        assert HTTPError(405, "method", "GET", {"Allow": "POST"}).render(dialect)[2] == {"Allow": "POST"}


@pytest.mark.parametrize("dialect", [COHERE, VLLM, TEI], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("status", STATUSES)
def test_a_busy_endpoint_says_when_to_come_again_and_a_closed_one_how_to_get_in(
    dialect: Dialect, status: int
) -> None:
    headers = {503: {"Retry-After": str(RETRY_AFTER_S)}, 401: {"WWW-Authenticate": "Bearer"}}.get(status, {})
    assert HTTPError(status, "requests", "too many").render(dialect)[2] == headers


@given(st.sampled_from([COHERE, VLLM, TEI]), st.sampled_from(STATUSES), st.text(), st.text())
def test_every_refusal_can_be_sent_as_json_and_names_the_field_and_the_problem(
    dialect: Dialect, status: int, field: str, problem: str
) -> None:
    sent, body, _ = HTTPError(status, field, problem).render(dialect)
    assert 400 <= sent < 600
    assert json.loads(json.dumps(body)) == body
    message = body["error"]["message"] if dialect is VLLM else body["error" if dialect is TEI else "message"]
    assert message == f"{field}: {problem}"
