"""The scores that order a request's documents: a student's or a source's own, or the sum that won in `evaluate`.

A winner may sum z-scores of first-stage sources and of a student (evaluation/fusion.py). The student and bi-encoders
score texts by themselves. Other sources, such as BM25, know the whole collection: their scores come with the request,
or from the search on the served collection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rrad_ray.evaluation import fusion
from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.score_cache import Scored
from rrad_ray.serving.scorer import Model, RequestScorer

FirstStageUse = Literal["", "used", "missing"]  # empty: the model uses none


@dataclass(frozen=True)
class ModelScores:
    """A request's scores by a model.

    `model` is the name of what gave them, `tokens` were read for them. `first_stage` says whether the first stage's
    scores are in them. `chunks`: the characters [start, end) of each text's chunk that its student's score is of;
    empty for texts that were read whole, or cut.
    """

    model: str
    scores: Sequence[float]
    tokens: int
    first_stage: FirstStageUse = ""
    chunks: Sequence[Sequence[int]] = ()


async def model_scores(model: Model, request: ScoringRequest, scorer: RequestScorer, deadline: float) -> ModelScores:
    """Return a request's scores by a model; by its student alone where scores that it sums are missing.

    Z-scores compare documents of one query, so pairs of several queries cannot be fused. Raises `HTTPError`: 422
    where a first stage has won and its scores are missing, and as `RequestScorer.scores` does.
    """
    served = model.served
    one_source = set(served.weights) == {served.name}
    one_query = one_source or len(set(request.queries)) == 1
    missing = served.needed(request.first_stage) if one_query else list(served.weights)
    if not served.weights or (missing and served.student):
        scored = await scorer.scores(model.scorers[served.student], request, deadline)
        name, chunks = served.student if missing else served.name, [each.chunk for each in scored]
        return ModelScores(name, *_columns(scored), "missing" if missing else "", chunks)
    if missing:
        wanted = f"send its scores of {', '.join(missing)}" if one_query else "send documents of one query"
        raise HTTPError(422, "first_stage", f"'{served.name}' is a first stage, and no student: {wanted}")
    columns: dict[str, Sequence[float]] = {}
    read, chunks = 0, []
    for name in served.weights:
        if name != served.student and name in request.first_stage:
            columns[name] = request.first_stage[name]
        else:
            scored = await scorer.scores(model.scorers[name], request, deadline)
            columns[name], tokens = _columns(scored)
            read += tokens
            chunks = [each.chunk for each in scored] if name == served.student else chunks
    summed = fusion.unscored_last(columns[served.name]) if one_source else fusion.fuse(columns, served.weights)
    scores = [served.slope * score + served.offset for score in summed]
    return ModelScores(served.name, scores, read, "used", chunks)


def _columns(scored: Sequence[Scored]) -> tuple[list[float], int]:
    """Return the scores of texts, and the tokens that were read for all of them."""
    return [each.score for each in scored], sum(each.tokens for each in scored)
