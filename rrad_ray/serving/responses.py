"""Answers of the endpoint, in the fields of each wire format."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from rrad_ray.serving.errors import VLLM, Dialect, HTTPError
from rrad_ray.serving.requests import AnyRequest, ScoreRequest, ScoringRequest, TeiRequest


def may_explain(asked: ScoringRequest, writes: bool, limit: int) -> None:
    """Raises `Refused` for a request with `explain` to a model that cannot write, or of more than `limit` results."""
    if not asked.explain:
        return
    if not writes:
        raise HTTPError(422, "explain", "this model cannot write; one trained with generation.weight above 0 can")
    results = min(asked.top_n or len(asked.texts), len(asked.texts))
    if results > limit:
        raise HTTPError(422, "explain", f"{results} results, at most {limit} (max_explained); set top_n")


# ---- answers ------------------------------------------------------------------------------------------------


def best_first(scores: Sequence[float], top_n: int = 0) -> list[int]:
    """Places by raw score, ties by index: the order holds where the sigmoid saturates."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return order[:top_n] if top_n else order


def render(
    kind: type[AnyRequest],
    dialect: Dialect,
    asked: ScoringRequest,
    shown: Sequence[float],
    order: Sequence[int],
    tokens: int,
    model: str,
    request_id: str,
) -> Any:
    """The JSON answer: scores as they are `shown`, by document, of which those in `order` are told, in this order."""
    if kind is TeiRequest:
        texts = {index: {"text": asked.texts[index]} if asked.give_back else {} for index in order}
        return [{"index": index, "score": shown[index], **texts[index]} for index in order]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = {"id": request_id, "model": model, "usage": usage}
    if kind is ScoreRequest:
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(shown)]
        return {**head, "object": "list", "created": int(time.time()), "data": data}
    results: list[dict[str, Any]] = []
    for index in order:
        results.append({"index": index, "relevance_score": shown[index]})
        if asked.give_back:
            also = {"multi_modal": None} if dialect is VLLM else {}
            results[-1]["document"] = {"text": asked.texts[index], **also}
    return {**head, "results": results, "meta": {"api_version": {"version": "1"}}}


def sigmoid(score: float) -> float:
    small = math.exp(-abs(score))  # never overflows
    return 1 / (1 + small) if score >= 0 else small / (1 + small)
