"""What several requests of one replica use at the same time: each gets what it gets when it comes alone."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from rrad_ray.config import ServeConfig
from rrad_ray.data.bm25 import BM25Index
from rrad_ray.serving import requests, winners
from rrad_ray.serving.loaded_model import LoadedEncoder, LoadedModel
from rrad_ray.serving.requests import ScoringRequest
from rrad_ray.serving.service import HTTPAnswer, RerankService
from tests import endpoints
from tests.serving.test_service import Recorder, call

Given = TypeVar("Given")
Got = TypeVar("Got")

THREADS = 32
LIMITS = (0, 8, 3, 1, 1000)  # tokens that a client has each document cut to; 0 for none
DOCUMENTS = 6
WORDS = ["open", "a", "file", "for", "writing", "and", "copy", "the", "socket", "into", "one", "list", "of", "names"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student") / "tiny")
    endpoints.student(folder, layers=1)
    return folder


@pytest.fixture(autouse=True)
def impatient_threads() -> Iterator[None]:
    """Let threads take turns far more often than usual, so that what they share is seen to be shared."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def documents(number: int) -> list[str]:
    """Return texts of up to 120 words; four in a row share them."""
    source = random.Random(number // 4)
    return [" ".join(source.choices(WORDS, k=source.randint(0, 120))) for _ in range(DOCUMENTS)]


def limit(number: int) -> int:
    return LIMITS[number % len(LIMITS)]


def by_threads(work: Callable[[Given], Got], items: Sequence[Given]) -> list[Got]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def test_each_of_32_threads_gets_the_tokens_of_its_own_limit(student: str) -> None:
    model = LoadedModel(winners.find_winner(student), ServeConfig(student))
    every = [ScoringRequest(["how"] * DOCUMENTS, documents(n), doc_tokens=limit(n)) for n in range(200)]

    def encode(request: ScoringRequest) -> list[Any]:
        return model.encode(request, range(DOCUMENTS))

    assert by_threads(encode, every) == [encode(request) for request in every]


def test_a_reason_is_written_beside_requests_that_cut_their_documents(writer: str) -> None:
    model = LoadedModel(winners.find_winner(writer), ServeConfig(writer))
    request = ScoringRequest(["how"] * DOCUMENTS, documents(0), doc_tokens=2)

    def ask(number: int) -> Any:
        if number % 8:
            return model.encode(request, range(DOCUMENTS))
        return model.explainer.explain("how", request.texts[0], 4)

    assert by_threads(ask, range(160)) == [ask(number) for number in range(160)]


def test_a_search_gets_the_words_and_scores_of_its_own_query() -> None:
    index = BM25Index([f"{word}ing {word}ed {number}" for number, word in enumerate(WORDS)])
    queries = [" ".join(random.Random(number).choices(WORDS, k=9)) for number in range(300)]

    def ask(query: str) -> Any:
        return index.analyser.words(query), index.scores(query).tolist()

    assert by_threads(ask, queries) == list(map(ask, queries))


def test_a_bi_encoder_counts_tokens_while_another_thread_embeds() -> None:
    encoder = LoadedEncoder("dense", {"model": "bundled:all-minilm-l6-v2", "max_length": 32})

    def ask(number: int) -> Any:
        request = ScoringRequest(["how"] * DOCUMENTS, documents(number))
        pairs = encoder.encode(request, range(DOCUMENTS))
        if number % 8 == 0:
            encoder.encoder.documents([pair["text"] for pair in pairs])  # as the one thread that scores does
        return pairs

    assert by_threads(ask, range(64)) == list(map(ask, range(64)))


@pytest.mark.parametrize("cache_entries", [0, 10_000])
def test_every_client_of_one_replica_gets_the_scores_that_it_gets_alone(student: str, cache_entries: int) -> None:
    cfg = ServeConfig(student, precision="float32", cache_entries=cache_entries)
    models = {"winner": LoadedModel(winners.find_winner(student), cfg)}

    async def ask(service: RerankService, number: int) -> HTTPAnswer:
        cut = {"max_tokens_per_doc": limit(number)} if limit(number) else {}
        body = {"query": "how", "documents": documents(number), **cut}
        return await service.rerank(call("/v2/rerank", body), requests.COHERE_V2)

    async def run() -> tuple[list[HTTPAnswer], list[HTTPAnswer]]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        first, second = (RerankService(cfg, models, Recorder()) for _ in range(2))
        together = await asyncio.gather(*(ask(first, number) for number in range(100)))
        return together, [await ask(second, number) for number in range(100)]

    for answer, alone in zip(*asyncio.run(run()), strict=True):
        assert answer.content["usage"] == alone.content["usage"], "as many tokens were read"
        got, expected = (
            {one["index"]: one["relevance_score"] for one in each.content["results"]} for each in (answer, alone)
        )
        assert got == pytest.approx(expected, abs=1e-5)
