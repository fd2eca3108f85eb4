"""An endpoint's student that reads long documents in chunks: its scores, the cache, and the chunk in the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from rrad_ray.config import ChunksConfig, ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.rankers.chunker import Chunker, ChunkRanker
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.serving import winners
from rrad_ray.serving.fusing import model_scores
from rrad_ray.serving.loaded_model import LoadedModel
from rrad_ray.serving.pages import scored_page
from rrad_ray.serving.requests import COHERE_V2, TEI_RERANK, VLLM_RERANK, ScoringRequest
from rrad_ray.serving.responses import render_answer
from rrad_ray.serving.scorer import RequestScorer
from tests import tiny
from tests.serving.test_service import Recorder

QUERY = "w1 w2"
TEXTS = ["w3 w4", " ".join(f"w{number}" for number in range(5, 45)), "w7 " * 12]
CHUNKS = ChunksConfig(tokens=10, overlap=2)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("tiny") / "student", "Bert", limit=24, initializer_range=0.5)


def loaded(student: str, **options: Any) -> LoadedModel:
    cfg = ServeConfig(student, precision="float32", chunks=options.pop("chunks", CHUNKS))
    return LoadedModel(dataclasses.replace(winners.find_winner(student), **options), cfg)


def scored(model: LoadedModel, request: ScoringRequest, scorer: RequestScorer) -> Any:
    return asyncio.run(model_scores(model, request, scorer, float("inf")))


def test_an_endpoint_scores_a_long_document_by_its_best_chunk_and_names_it(student: str) -> None:
    ranker = Ranker.load(student, dtype="float32")
    expected, spans = ChunkRanker(ranker, CHUNKS).best_chunks([QUERY] * 3, TEXTS)
    request = ScoringRequest([QUERY] * 3, TEXTS, raw=True)
    scorer = RequestScorer(64, 8, Recorder(), time.monotonic)
    model = loaded(student)
    for _ in range(2):  # the second time from the cache
        scores = scored(model, request, scorer)
        assert scores.scores == pytest.approx(expected, abs=1e-5)
        assert scores.chunks == spans
    split = Chunker(ranker.tokenizer, CHUNKS)(TEXTS)
    pairs = ranker.encode([QUERY] * len(split.texts), split.texts)
    assert scores.tokens == sum(len(pair["input_ids"]) for pair in pairs), "of all chunks"
    page = scored_page(request, "", scores)
    for wire in (COHERE_V2, VLLM_RERANK):
        results = render_answer(wire, request, page, "id")["results"]
        chunk_of = {result["index"]: result["chunk"] for result in results}
        assert chunk_of == {index: {"start": span[0], "end": span[1]} for index, span in enumerate(spans)}
    assert all("chunk" not in result for result in render_answer(TEI_RERANK, request, page, "id"))
    start, end = spans[1]
    assert page.read_text(request, 1) == TEXTS[1][start:end], "a reason is about what was scored"


def test_without_chunks_answers_and_scores_are_as_ever(student: str) -> None:
    model = loaded(student, chunks=ChunksConfig())
    request = ScoringRequest([QUERY] * 3, TEXTS)
    scores = scored(model, request, RequestScorer(64, 0, Recorder(), time.monotonic))
    assert scores.scores == pytest.approx(Ranker.load(student, dtype="float32").score(QUERY, TEXTS), abs=1e-5)
    page = scored_page(request, "", scores)
    assert all("chunk" not in result for result in render_answer(COHERE_V2, request, page, "id")["results"])
    assert page.read_text(request, 1) == TEXTS[1]


def test_tokens_of_a_document_that_the_request_leaves_out_are_in_no_chunk(student: str) -> None:
    request = ScoringRequest([QUERY] * 3, TEXTS, doc_tokens=15)
    scores = scored(loaded(student), request, RequestScorer(64, 0, Recorder(), time.monotonic))
    fifteen = " ".join(TEXTS[1].split()[:15])
    ranker = ChunkRanker(Ranker.load(student, dtype="float32"), CHUNKS)
    assert scores.scores[1] == pytest.approx(ranker.score(QUERY, [fifteen])[0], abs=1e-5)
    assert scores.chunks[1][1] <= len(fifteen)


def test_a_winner_is_checked_as_it_is_served(student: str) -> None:
    long = [" ".join(f"w{(number * number) % 55}" for number in range(60))]
    by_chunks = ChunkRanker(Ranker.load(student, dtype="float32"), CHUNKS).score(QUERY, long)
    smoke = {"query": QUERY, "documents": long, "scores": by_chunks}
    assert loaded(student, smoke=smoke).chunker is not None
    with pytest.raises(winners.ScoreMismatch):
        loaded(student, smoke=smoke, chunks=ChunksConfig())
    with pytest.raises(RradError, match="it reads 24 tokens of query and document"):
        loaded(student, chunks=ChunksConfig(tokens=30))
