"""Raw scores of a request: those that the cache knows, the others by the model through the batcher."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from rrad_ray.rankers.chunker import Chunked, Chunker
from rrad_ray.serving.batcher import Batcher, DeadlineExceeded
from rrad_ray.serving.errors import HTTPError
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.score_cache import ScoreCache, Scored
from rrad_ray.serving.service_metrics import ServiceMetrics
from rrad_ray.serving.winners import ServedModel
from rrad_ray.tables import spans

logger = logging.getLogger("ray.serve")


# Requests with more characters are tokenized one after the other in a thread of their own: each takes seconds, and
# would hold one of the few threads that the event loop has.
LONG_CHARS = 500_000


class PairScorer(Protocol):
    """A student or a bi-encoder that scores pairs of query and text.

    `name` is of the scores, `version` names the weights, `concurrency` says how many batches may run at a time.
    `chunker` splits long texts, whose best chunk counts; None: texts are cut.
    """

    name: str
    version: str
    concurrency: int
    chunker: Chunker | None

    def encode(self, request: ScoringRequest, indices: Sequence[int]) -> list[Any]:
        """Tokenize the pairs of a request at these indices: a list of `input_ids` each."""

    def score(self, pairs: list[Any]) -> list[float]:
        """Return the raw score of each tokenized pair."""

    def __hash__(self) -> int: ...


class Model(Protocol):
    """A model that ranks requests, as `loaded_model.load_model` gives it.

    `explainer` is None for a model that cannot write reasons.
    """

    served: ServedModel
    explainer: Any

    @property
    def scorers(self) -> Mapping[str, PairScorer]:
        """The student and the bi-encoders that it can ask, by the names of `served.weights`."""


class ScoreNotFinite(ValueError):
    """A model gave a score that is infinite or not a number; the text is the answer's."""


class RequestScorer:
    """The scoring of requests in one process, by models that share its threads and its cache.

    `batch_tokens` bounds a batch, `cache_entries` the pairs whose scores are kept.
    """

    def __init__(
        self, batch_tokens: int, cache_entries: int, metrics: ServiceMetrics, clock: Callable[[], float]
    ) -> None:
        self.metrics, self.clock = metrics, clock
        self.batcher = Batcher(_score, batch_tokens, metrics.batch, _concurrency, clock)
        self.long_texts = ThreadPoolExecutor(1)
        self.cache = ScoreCache(cache_entries, metrics.lookup)

    async def scores(self, model: PairScorer, request: ScoringRequest, deadline: float) -> Sequence[Scored]:
        """Return a request's raw scores, with the tokens read for them, now or when they went into the cache.

        Raises `HTTPError`: 504 once the deadline, by the clock, has passed, 500 if the model fails.
        """
        scope = f"{model.version} {request.doc_tokens}"
        return await self.cache(
            scope, request.queries, request.texts, lambda indices: self._by_model(model, request, indices, deadline)
        )

    async def _by_model(
        self, model: PairScorer, request: ScoringRequest, indices: Sequence[int], deadline: float
    ) -> Sequence[Scored]:
        """Score the pairs of a request at these indices. Raises as `scores` does."""
        began = self.clock()
        long = sum(map(len, request.texts)) > LONG_CHARS
        encode = functools.partial(_encoded, model, request, indices)
        with spans.begin("tokenize"):
            loop = asyncio.get_running_loop()
            pairs, split = await loop.run_in_executor(self.long_texts if long else None, encode)
        sizes = [len(pair["input_ids"]) for pair in pairs]
        self.metrics.stage("tokenize", model.name, self.clock() - began)
        try:
            return _scored(await self.batcher(model, pairs, sizes, deadline), sizes, split)
        except DeadlineExceeded as error:
            raise HTTPError(504, "deadline", f"it has passed; {error}") from error
        except ScoreNotFinite as error:
            logger.error("%s: %s", model.name, error)
            raise HTTPError(500, "model", str(error)) from error
        except Exception as error:
            logger.error("a request could not be scored", exc_info=error)
            raise HTTPError(500, "model", f"could not score this request ({type(error).__name__})") from error


def _encoded(model: PairScorer, request: ScoringRequest, indices: Sequence[int]) -> tuple[list[Any], Chunked | None]:
    """Tokenize the pairs of a request at these indices or, of a model that reads chunks, those of all chunks."""
    if model.chunker is None:
        return model.encode(request, indices), None
    split = model.chunker([request.texts[index] for index in indices], request.doc_tokens)
    queries = [request.queries[indices[owner]] for owner in split.owners]
    chunks = dataclasses.replace(request, queries=queries, texts=split.texts, doc_tokens=0)
    return model.encode(chunks, range(len(split.texts))), split


def _scored(scores: Sequence[float], sizes: Sequence[int], split: Chunked | None) -> list[Scored]:
    """Return each text's score, that of its best chunk, from the scores and token counts (`sizes`) of all pairs."""
    if split is None:
        return [Scored(score, size) for score, size in zip(scores, sizes, strict=True)]
    read = Counter[int]()
    for owner, size in zip(split.owners, sizes, strict=True):
        read[owner] += size
    return [Scored(scores[index], read[split.owners[index]], split.spans[index]) for index in split.best(scores)]


def _score(model: PairScorer, pairs: list[Any]) -> list[float]:
    with spans.begin("model", {"rrad.model": model.name, "rrad.batch.pairs": len(pairs)}):
        return model.score(pairs)


def _concurrency(model: PairScorer) -> int:
    return model.concurrency
