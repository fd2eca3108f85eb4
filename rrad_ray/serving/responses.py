"""Answers of the endpoint, in the fields of each wire format."""

from __future__ import annotations

import time
from typing import Any

from rrad_ray.serving.errors import VLLM
from rrad_ray.serving.pages import RankedPage
from rrad_ray.serving.requests import ScoreRequest, ScoringRequest, TeiRequest, WireFormat


def render_answer(wire: WireFormat, request: ScoringRequest, page: RankedPage, request_id: str) -> Any:
    """Return the JSON answer to a request: the documents of its page, in the fields of its format."""
    if wire.kind is TeiRequest:
        texts = {index: {"text": request.texts[index]} if request.give_back else {} for index in page.order}
        return [{"index": index, "score": page.scores[index], **texts[index]} for index in page.order]
    usage = {"prompt_tokens": page.tokens, "total_tokens": page.tokens}
    head = {"id": request_id, "model": page.model, "usage": usage}
    if wire.kind is ScoreRequest:
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(page.scores)]
        return {**head, "object": "list", "created": int(time.time()), "data": data}
    results: list[dict[str, Any]] = []
    for index in page.order:
        results.append({"index": index, "relevance_score": page.scores[index]})
        if request.give_back:
            also = {"multi_modal": None} if wire.dialect is VLLM else {}
            results[-1]["document"] = {"text": request.texts[index], **also}
        if page.chunks and page.chunks[index]:  # ours, for a model that reads long documents in chunks
            results[-1]["chunk"] = dict(zip(("start", "end"), page.chunks[index], strict=True))
        if index in page.reasons:
            results[-1]["reason"] = page.reasons[index]
    return {**head, "results": results, "meta": {"api_version": {"version": "1"}}}
