"""The page that answers a request: which documents in which order, by which model, and the exposure that it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rrad_ray.config import IDENTITY
from rrad_ray.languages.scripts import word_count
from rrad_ray.online import assignment
from rrad_ray.rows import Exposure
from rrad_ray.serving.documents import distinct_ids, text_digest
from rrad_ray.serving.fusing import FirstStageUse, ModelScores
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.service_metrics import ServiceMetrics


@dataclass(frozen=True)
class RankedPage:
    """A ranking of a request's documents, as its answer shows it.

    `scores` are those that are shown, one for each document of the request; `order` has the indices of the documents
    on the page, best first. `variant` is that of an online test, empty outside of one and for an interleaved page,
    where `teams` has the variant that added each document of `order`. `tokens` were read for the scores, now or when
    they went into the cache. `reasons` are by index. `first_stage` and `chunks` are as of `ModelScores`.
    """

    model: str
    variant: str
    scores: Sequence[float]
    order: Sequence[int]
    tokens: int = 0
    teams: Sequence[str] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)
    first_stage: FirstStageUse = ""
    chunks: Sequence[Sequence[int]] = ()

    def read_text(self, request: ScoringRequest, index: int) -> str:
        """Return what the score of a text is of: all of it, or its best chunk."""
        text = request.texts[index]
        return text[slice(*self.chunks[index])] if self.chunks and self.chunks[index] else text


def scored_page(request: ScoringRequest, variant: str, scored: ModelScores) -> RankedPage:
    """Return the page of a model: its raw scores order it; the sigmoid is shown, or what `raw` asks for."""
    shown = list(scored.scores) if request.raw else sigmoids(scored.scores)
    order, use = best_first(scored.scores, request.top_n), scored.first_stage
    return RankedPage(scored.model, variant, shown, order, scored.tokens, first_stage=use, chunks=scored.chunks)


def observe_ranking(metrics: ServiceMetrics, request: ScoringRequest, scored: ModelScores) -> None:
    """Report what shows drift in a model's scores for a request, and whether it had the first stage's."""
    best = sigmoid(max(scored.scores))
    metrics.ranked(scored.model, scored.first_stage, best, word_count(request.queries[0]))


def identity_page(request: ScoringRequest, variant: str) -> RankedPage:
    """Return the documents in the order of the request, with scores that fall evenly from 1."""
    count = len(request.texts)
    order = list(range(count))[: request.top_n or count]
    return RankedPage(IDENTITY, variant, [1 - index / count for index in range(count)], order)


def interleaved_page(
    request: ScoringRequest, variants: Sequence[str], pages: Sequence[RankedPage], seed: str
) -> RankedPage:
    """Return two variants' pages mixed by team draft; scores fall evenly: those of two models cannot be compared."""
    runs = [list(map(str, page.order)) for page in pages]
    docs, teams = assignment.interleave(runs[0], runs[1], seed, request.top_n)
    order = list(map(int, docs))
    shown = [0.0] * len(request.texts)
    for rank, index in enumerate(order):
        shown[index] = 1 - rank / len(order)
    tokens = sum(page.tokens for page in pages)
    use = max((page.first_stage for page in pages), key=("", "used", "missing").index)
    by = [variants[team] for team in teams]
    return RankedPage(" + ".join(variants), "", shown, order, tokens, by, first_stage=use)


def exposure_row(
    request: ScoringRequest, page: RankedPage, *, experiment: str, unit: str, request_id: str, time: float
) -> Exposure:
    """Return what a unit of an online test sees, as the event log has it; `time` in seconds since 1970."""
    doc_ids = request.doc_ids or [""] * len(request.texts)
    names = [doc_ids[index] or text_digest(request.texts[index]) for index in page.order]
    return {
        "request_id": request_id,
        "experiment": experiment,
        "unit": unit,
        "variant": page.variant,
        "query": request.queries[0],
        "doc_ids": distinct_ids(names),
        "teams": list(page.teams),
        "time": time,
        "model": page.model,
    }


def best_first(scores: Sequence[float], top_n: int = 0) -> list[int]:
    """Return the indices of the `top_n` best raw scores (0: of all), best first, ties by index.

    By raw score, so that the order holds where the sigmoid saturates.
    """
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return order[:top_n] if top_n else order


def sigmoids(scores: Sequence[float]) -> list[float]:
    """Return the logistic function of raw scores, in whose order clients may sort: different scores stay different.

    Above 37, as BM25's may be, and below -745 it is 1 and 0 to a float: there they are one float apart.
    """
    shown = [sigmoid(score) for score in scores]
    order = best_first(scores)
    for above, index in pairwise(order):
        tied = scores[index] == scores[above]
        shown[index] = min(shown[index], shown[above] if tied else math.nextafter(shown[above], 0.0))
    for below, index in pairwise(reversed(order)):
        tied = scores[index] == scores[below]
        shown[index] = max(shown[index], shown[below] if tied else math.nextafter(shown[below], 1.0))
    return shown


def sigmoid(score: float) -> float:
    """Return the logistic function of a raw score."""
    small = math.exp(-abs(score))  # never overflows
    return 1 / (1 + small) if score >= 0 else small / (1 + small)
