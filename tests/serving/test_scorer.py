"""What a request is told whose pairs the model could not score."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.scorer import RequestScorer, ScoreNotFinite
from tests.serving.test_service import Recorder


class Broken:
    """A model that raises when it scores."""

    name, served, version, concurrency, explainer = "broken", SimpleNamespace(name="broken"), "1", 1, None
    chunker = None

    def __init__(self, error: Exception) -> None:
        self.error = error

    def encode(self, request: ScoringRequest, indices: Any) -> list[Any]:
        return [{"input_ids": [1]} for _ in indices]

    def score(self, pairs: list[Any]) -> list[float]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ScoreNotFinite("the model gave no number"),
            "the model gave no number",
        ),
        (ValueError("a path of the server"), "could not score this request (ValueError)"),
    ],
)
def test_a_score_that_is_no_number_is_said_and_what_else_fails_is_named_by_its_type(
    error: Exception, says: str
) -> None:
    scorer = RequestScorer(8, 0, Recorder(), time.monotonic)
    with pytest.raises(HTTPError) as caught:
        asyncio.run(scorer.scores(Broken(error), ScoringRequest(["q"], ["text"]), float("inf")))
    assert (caught.value.status, caught.value.detail) == (500, f"model: {says}")
