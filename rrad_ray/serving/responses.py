"""Answers of the endpoint, in the fields of each wire format."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from rrad_ray.serving.errors import VLLM, Dialect, HTTPError
from rrad_ray.serving.requests import AnyRequest, ScoreRequest, ScoringRequest, TeiRequest


def check_explain(request: ScoringRequest, writes: bool, limit: int) -> None:
    """Raise `HTTPError` for `explain` to a model that cannot write, or of more than `limit` results."""
    if not request.explain:
        return
    if not writes:
        raise HTTPError(422, "explain", "this model cannot write; one trained with generation.weight above 0 can")
    results = min(request.top_n or len(request.texts), len(request.texts))
    if results > limit:
        raise HTTPError(422, "explain", f"{results} results, at most {limit} (max_explained); set top_n")


def best_first(scores: Sequence[float], top_n: int = 0) -> list[int]:
    """Return the indices of the `top_n` best raw scores (0: of all), best first, ties by index.

    By raw score, so that the order holds where the sigmoid saturates.
    """
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return order[:top_n] if top_n else order


def render_answer(
    kind: type[AnyRequest],
    dialect: Dialect,
    request: ScoringRequest,
    shown: Sequence[float],
    order: Sequence[int],
    tokens: int,
    model: str,
    request_id: str,
) -> Any:
    """Return the JSON answer: the scores `shown`, by document, of the documents in `order`, in this order."""
    if kind is TeiRequest:
        texts = {index: {"text": request.texts[index]} if request.give_back else {} for index in order}
        return [{"index": index, "score": shown[index], **texts[index]} for index in order]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = {"id": request_id, "model": model, "usage": usage}
    if kind is ScoreRequest:
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(shown)]
        return {**head, "object": "list", "created": int(time.time()), "data": data}
    results: list[dict[str, Any]] = []
    for index in order:
        results.append({"index": index, "relevance_score": shown[index]})
        if request.give_back:
            also = {"multi_modal": None} if dialect is VLLM else {}
            results[-1]["document"] = {"text": request.texts[index], **also}
    return {**head, "results": results, "meta": {"api_version": {"version": "1"}}}


def sigmoid(score: float) -> float:
    """Return the logistic function of a raw score."""
    small = math.exp(-abs(score))  # never overflows
    return 1 / (1 + small) if score >= 0 else small / (1 + small)
