"""A winner that has scores of the first stage ranks at the endpoint as in `evaluate`, or says what it lacks."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.config import EvaluateConfig, SelectConfig, ServeConfig
from rrad_ray.evaluation import fusion
from rrad_ray.evaluation.bench import Evaluation
from rrad_ray.evaluation.systems import MeasuredSystem
from rrad_ray.evaluation.winner import choose_winner, write_winner
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Row, by_source
from rrad_ray.serving import requests
from rrad_ray.serving.loaded_model import load_model
from rrad_ray.serving.pages import sigmoid
from rrad_ray.serving.requests import WireFormat
from rrad_ray.serving.search import Hit
from rrad_ray.serving.service import HTTPAnswer, RerankService
from rrad_ray.serving.winners import find_winner
from rrad_ray.tables import EncoderFacts, checkpoints
from tests import tiny
from tests.fixtures import evaluation_of, row_of
from tests.serving.test_service import Recorder, call

ENCODER: EncoderFacts = {"model": "bundled:all-minilm-l6-v2", "max_length": 64}
DOCUMENTS = 6


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save(tmp_path_factory.mktemp("students") / "mine", "Bert")


@pytest.fixture(scope="module")
def evaluation(student: str, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Eight queries of each split, scored by BM25, which misses a document, by a bi-encoder and by a student.

    The relevant document is the one that all three agree on.
    """
    source, encoder = random.Random(0), BiEncoder(checkpoints.resolve(ENCODER["model"]), max_length=64)
    ranker = Ranker.load(student, dtype="float32")
    rows = []
    for number in range(16):
        query, *texts = (" ".join(source.choices(tiny.WORDS[4:], k=9)) for _ in range(DOCUMENTS + 1))
        cosines = (encoder.documents(texts) @ encoder.queries([query])[0]).tolist()
        lexical = [math.nan, *(source.uniform(0, 20) for _ in texts[1:])]
        scores: dict[str, list[float]] = {"bm25": lexical, "dense": cosines}
        mixed = fusion.fuse({**scores, "mine": ranker.score(query, texts)}, dict.fromkeys((*scores, "mine"), 1.0))
        qrels = {"qrel_ids": [f"{number}-{max(range(DOCUMENTS), key=mixed.__getitem__)}"], "qrel_grades": [1]}
        split = ("dev", "test")[number % 2]
        scored = {"query": query, "split": split, "sources": list(scores), "source_scores": list(scores.values())}
        rows.append({**row_of(str(number), texts), **scored, **qrels})
    options: dict[str, Any] = {"latency_docs": 2, "latency_repeats": 1, "precision": "float32"}
    cfg = EvaluateConfig("candidates", str(tmp_path_factory.mktemp("report")), {"mine": student}, **options)
    result = evaluation_of(cfg, *([row for row in rows if row["split"] == split] for split in ("test", "dev")))
    result.measure_all()
    return result


def system_of(evaluation: Evaluation, name: str) -> MeasuredSystem:
    return next(system for system in evaluation.systems if system.name == name)


def served(
    evaluation: Evaluation, name: str, folder: Path, encoders: Mapping[str, EncoderFacts] | None = None, **more: Any
) -> RerankService:
    """Return the service of a replica that serves this system, from the evaluation by select's file."""
    cfg = SelectConfig("report", "", max_p99_ms=1e6)
    content = {"systems": [system_of(evaluation, name).entry]}
    write_winner(str(folder), choose_winner(content, evaluation.cfg.students, cfg, encoders))
    serve = ServeConfig(str(folder), precision="float32")
    return RerankService(serve, {"winner": load_model(find_winner(str(folder)), serve)}, Recorder(), **more)


def ask(service: RerankService, body: Any, wire: WireFormat = requests.COHERE_V2) -> HTTPAnswer:
    return asyncio.run(service.rerank(call("/v2/rerank", body), wire))


def body_of(row: Row, *sources: str) -> dict[str, Any]:
    """Return the request to re-rank a row's documents, with these sources' scores."""
    scores = {name: [None if math.isnan(v) else v for v in by_source(row)[name]] for name in sources}
    return {"query": row["query"], "documents": row["texts"], "use_activation": False, "first_stage": scores}


def assert_as_evaluated(answer: HTTPAnswer, row: Row, ranking: list[tuple[str, float]]) -> None:
    assert answer.status == 200, answer.content
    ranked = [(row["doc_ids"][result["index"]], result["relevance_score"]) for result in answer.content["results"]]
    assert [doc_id for doc_id, _ in ranked] == [doc_id for doc_id, _ in ranking]
    assert [score for _, score in ranked] == pytest.approx([score for _, score in ranking], abs=1e-3)


def test_a_fused_student_ranks_as_in_evaluate_by_scores_in_lists_or_in_the_documents(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    service, system = served(evaluation, "mine+first", tmp_path), system_of(evaluation, "mine+first")
    assert all(system.entry["weights"].values()), "else the test would see less than it could"
    assert system.entry["latency_ms"]["p99"] > 0
    for row, ranking in zip(evaluation.test, system.rankings, strict=True):
        body = body_of(row, "bm25", "dense")
        answer = ask(service, body)
        assert_as_evaluated(answer, row, ranking)
        assert (answer.content["model"], answer.headers["X-First-Stage"]) == ("mine+first", "used")
        scores = body.pop("first_stage")
        each = [{name: values[index] for name, values in scores.items()} for index in range(DOCUMENTS)]
        objects = [{"text": text, "first_stage": one} for text, one in zip(row["texts"], each, strict=True)]
        assert ask(service, {**body, "documents": objects}).content["results"] == answer.content["results"]
        tei = ask(
            service,
            {"query": row["query"], "texts": row["texts"], "raw_scores": True, "first_stage": scores},
            requests.VLLM_RERANK,
        )
        assert [one["index"] for one in tei.content] == [one["index"] for one in answer.content["results"]]


def test_without_the_first_stages_scores_the_student_answers_alone_and_a_header_says_so(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    service, alone = served(evaluation, "mine+first", tmp_path), system_of(evaluation, "mine")
    for row, ranking in zip(evaluation.test, alone.rankings, strict=True):
        for sources in ((), ("dense",)):
            answer = ask(service, body_of(row, *sources))
            assert_as_evaluated(answer, row, ranking)
            assert (answer.content["model"], answer.headers["X-First-Stage"]) == ("mine", "missing")
    pairs = {"queries": ["w1", "w2"], "documents": ["w3", "w4"], "first_stage": {"bm25": [1, 2], "dense": [1, 2]}}
    answer = ask(service, pairs, requests.VLLM_SCORE)
    assert answer.headers["X-First-Stage"] == "missing", "z-scores compare the documents of one query"
    ask(service, body_of(evaluation.test[0], "bm25", "dense"))
    metrics: Any = service.metrics
    *without, last = [(model, use) for model, use, *_ in metrics.rankings]
    assert set(without) == {("mine", "missing")}
    assert last == ("mine+first", "used")


def test_a_student_alone_has_no_use_for_them_and_no_header(evaluation: Evaluation, tmp_path: Path) -> None:
    service, system = served(evaluation, "mine", tmp_path), system_of(evaluation, "mine")
    row = evaluation.test[0]
    answer = ask(service, body_of(row, "bm25", "dense"))
    assert_as_evaluated(answer, row, system.rankings[0])
    assert dict(answer.headers) == {}


@pytest.mark.parametrize("name", ["bm25", "fusion"])
def test_a_first_stage_that_won_ranks_as_in_evaluate_and_refuses_requests_without_its_scores(
    name: str, evaluation: Evaluation, tmp_path: Path
) -> None:
    service, system = served(evaluation, name, tmp_path), system_of(evaluation, name)
    for row, ranking in zip(evaluation.test, system.rankings, strict=True):
        answer = ask(service, body_of(row, "bm25", "dense"))
        ranked = [row["doc_ids"].index(doc_id) for doc_id, _ in ranking]
        unlisted = [index for index in range(len(row["doc_ids"])) if index not in ranked]  # by the source that won
        assert [result["index"] for result in answer.content["results"]] == [*ranked, *unlisted]
        assert (answer.content["model"], answer.headers["X-First-Stage"]) == (name, "used")
    refused = ask(service, body_of(evaluation.test[0], "dense"))
    assert (refused.status, refused.content["field"]) == (422, "first_stage")
    assert f"'{name}' is a first stage, and no student: send its scores of bm25" in refused.content["detail"]
    assert ask(service, {**body_of(evaluation.test[0]), "explain": True}).status == 422


def test_a_bi_encoder_that_won_scores_texts_by_itself(evaluation: Evaluation, tmp_path: Path) -> None:
    service = served(evaluation, "dense", tmp_path, {"dense": ENCODER})
    for row in evaluation.test[:3]:
        own, given = ask(service, body_of(row)), ask(service, body_of(row, "dense"))
        assert_as_evaluated(
            own, row, [(row["doc_ids"][r["index"]], r["relevance_score"]) for r in given.content["results"]]
        )
        best = max(range(DOCUMENTS), key=by_source(row)["dense"].__getitem__)
        assert own.content["results"][0]["index"] == best
        assert own.content["usage"]["prompt_tokens"] > DOCUMENTS
    pairs = ask(service, {"queries": ["w1", "w2"], "documents": ["w1", "w2"]}, requests.VLLM_SCORE)
    assert [one["score"] for one in pairs.content["data"]] == pytest.approx([sigmoid(1.0)] * 2, abs=0.02)
    fused = served(evaluation, "fusion", tmp_path, {"bm25": ENCODER, "dense": ENCODER})
    pairs = ask(fused, {"queries": ["w1", "w2"], "documents": ["w3", "w4"]}, requests.VLLM_SCORE)
    assert (pairs.status, pairs.content["error"]["param"]) == (400, "first_stage")
    assert "send documents of one query" in pairs.content["error"]["message"]


class FixedSearch:
    """A search that finds a row's documents, with their scores by BM25."""

    def __init__(self, row: Row) -> None:
        scored = zip(row["doc_ids"][1:], row["texts"][1:], by_source(row)["bm25"][1:], strict=True)
        self.hits = [Hit(doc_id, text, score, {}, []) for doc_id, text, score in scored]

    def retrieve(self, query: str) -> list[Hit]:
        return self.hits


@pytest.mark.parametrize("name", ["mine+first", "fusion", "bm25"])
def test_a_search_brings_bm25s_scores_and_the_replica_the_bi_encoders(
    name: str, evaluation: Evaluation, tmp_path: Path
) -> None:
    row = evaluation.test[0]
    searcher: Any = FixedSearch(row)
    service = served(evaluation, name, tmp_path, {"dense": ENCODER}, searcher=searcher)
    answer = asyncio.run(service.search(call("/v1/search", {"query": row["query"]})))
    assert (answer.status, answer.content["model"], answer.headers["X-First-Stage"]) == (200, name, "used")
    scores = {key: values[1:] for key, values in by_source(row).items()}
    body = {"query": row["query"], "documents": row["texts"][1:], "first_stage": scores}
    expected = ask(service, json.loads(json.dumps(body))).content["results"]
    assert [one["index"] for one in answer.content["results"]] == [one["index"] for one in expected]
