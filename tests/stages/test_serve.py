"""The endpoint over real HTTP, with a real but tiny student."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import torch
import yaml

os.environ["HF_HUB_OFFLINE"] = "1"

from ray.serve.schema import ServeDeploySchema

from rrad_ray import models, wire
from rrad_ray.config import PrerankConfig, ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.rankers import Ranker
from rrad_ray.rows import Candidates
from rrad_ray.stages import serve
from rrad_ray.tables import Output
from tests.commands import ROOT, RRAD
from tests.heads import free_port

QUERY = "how to open a file for writing"
TEXTS = [
    "open(path, 'w') opens a file for writing.",
    "len(x) is the number of items.",
    "",
    "A socket connects two processes over a network.",
    "shutil.copy copies a file. " * 40,
    "os.remove deletes a file",
]
MAX_QUEUED = 24


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student") / "tiny")
    torch.manual_seed(0)
    ranker = Ranker.encoder(models.resolve("bundled:all-minilm-l6-v2"), max_length=64)
    ranker.model.classifier.weight.data.mul_(20)  # with a fresh head alone all documents score almost the same
    ranker.save(folder)
    return folder


@pytest.fixture(scope="module")
def winner(student: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of select, as far as serve reads it."""
    folder = tmp_path_factory.mktemp("winner")
    (folder / "winner.json").write_text(json.dumps({"system": "tiny student", "checkpoint": student}))
    return str(folder)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ends Ray with the module if the module started it."""
    mine = not ray.is_initialized()
    yield
    if mine:
        ray.shutdown()


@pytest.fixture(scope="module")
def client(local_ray: None, winner: str) -> Iterator[httpx.Client]:
    url = serve.start(ServeConfig(input=winner, port=free_port(), max_queued=MAX_QUEUED, max_body_bytes=2_000_000))
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield http
    finally:
        serve.stop()


@pytest.fixture(scope="module")
def ranker(student: str) -> Ranker:
    return Ranker.load(student)


def post(client: httpx.Client, path: str = "/rerank", **body: Any) -> httpx.Response:
    return client.post(path, json=body)


def refused(response: httpx.Response, status: int, field: str, *said: str) -> None:
    """The answer is a JSON refusal that names the field and says all of `said`."""
    answer = response.json()
    assert response.status_code == status, answer
    assert answer["field"] == field
    assert answer["detail"].startswith(f"{field}: ")
    for words in said:
        assert words in answer["detail"]


# ---- the stage: first, because the tests that follow share one endpoint ----------------------------------------


def candidates(folder: Path, texts: list[str]) -> str:
    """A table with one test query."""
    row = {
        **{"query_id": "q", "query": QUERY, "split": "test", "doc_ids": [str(index) for index in range(len(texts))]},
        **{"texts": texts, "scores": [0.0] * len(texts), "sources": ["bm25"], "source_scores": [[0.0] * len(texts)]},
        **{"judged_ids": [], "judged_grades": []},
    }
    out = Output("prerank", PrerankConfig(input="", output=str(folder)), Candidates, {})
    out.write_all([row], 1)
    return out.commit()


def test_run_answers_a_probe_and_ends(
    local_ray: None, student: str, ranker: Ranker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, probe = free_port(), candidates(tmp_path / "short", TEXTS)
    url = serve.run(ServeConfig(input=student, port=port, blocking=False, probe=probe))
    assert url == f"http://127.0.0.1:{port}"
    printed = capsys.readouterr().out
    scores = ranker.score(QUERY, TEXTS)
    best = TEXTS[scores.index(max(scores))]
    assert f"query: {QUERY}" in printed
    assert f"1. {wire.sigmoid(max(scores)):.3f}  {best}"[:60] in printed
    assert "tiny: 6 documents in" in printed
    socket.create_server(("127.0.0.1", port)).close()  # free again


def test_probe_without_enough_documents(student: str, tmp_path: Path) -> None:
    cfg = ServeConfig(
        input=student, port=free_port(), blocking=False, probe=candidates(tmp_path / "short", TEXTS[:2])
    )
    with pytest.raises(RradError, match="no query of split 'test' with 5 documents"):
        serve.run(cfg)


def test_a_checkpoint_that_does_not_load(local_ray: None, student: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(student, broken)
    (broken / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(RradError, match=r"did not start \(.*SafetensorError"):
        serve.run(ServeConfig(input=str(broken), port=free_port()))


def test_blocking_run_ends_by_signal(student: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [*RRAD, "serve", str(ROOT / "configs" / "serve.yaml")]
    with log.open("w") as out:
        process = subprocess.Popen([*command, f"input={student}", f"port={port}"], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while "Ctrl-C ends it" not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        (line,) = [line for line in log.read_text().splitlines() if "try: curl" in line]
        answer = subprocess.run(line.partition("try: ")[2], shell=True, capture_output=True, timeout=60, check=True)
        assert len(json.loads(answer.stdout)["results"]) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
    finally:
        process.kill()
    assert "Traceback" not in log.read_text()
    socket.create_server(("127.0.0.1", port)).close()


# ---- answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_scores_are_those_of_the_checkpoint(client: httpx.Client, ranker: Ranker, path: str) -> None:
    answer = post(client, path, query=QUERY, documents=TEXTS, model="any", unknown=1).json()
    raw = ranker.score(QUERY, TEXTS)
    assert max(raw) - min(raw) > 0.1  # else any answer would do
    indices = [result["index"] for result in answer["results"]]
    assert sorted(indices) == list(range(len(TEXTS)))
    assert indices == sorted(indices, key=lambda index: -raw[index])
    for result in answer["results"]:
        assert set(result) == {"index", "relevance_score"}
        assert result["relevance_score"] == pytest.approx(wire.sigmoid(raw[result["index"]]), abs=1e-3)
    tokens = sum(len(pair["input_ids"]) for pair in ranker.encode([QUERY] * len(TEXTS), TEXTS))
    assert answer["usage"] == {"total_tokens": tokens, "prompt_tokens": tokens}
    assert answer["model"] == "tiny student"
    assert answer["id"]
    assert answer["meta"] == {"api_version": {"version": "1"}}


def test_objects_top_n_and_documents(client: httpx.Client) -> None:
    plain = post(client, query=QUERY, documents=TEXTS).json()["results"]
    objects = [{"text": text, "title": "ignored"} for text in TEXTS]
    assert post(client, query=QUERY, documents=objects).json()["results"] == plain
    best = post(client, query=QUERY, documents=objects, top_n=2, return_documents=True).json()["results"]
    assert [result["index"] for result in best] == [result["index"] for result in plain[:2]]
    assert [result["document"] for result in best] == [{"text": TEXTS[result["index"]]} for result in best]
    assert len(post(client, query=QUERY, documents=TEXTS, top_n=99).json()["results"]) == len(TEXTS)


def test_equal_documents_keep_their_order(client: httpx.Client) -> None:
    results = post(client, query=QUERY, documents=["the same"] * 5).json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]


def test_healthz(client: httpx.Client) -> None:
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "model": "tiny student"}


def test_openapi_describes_the_request(client: httpx.Client) -> None:
    body = client.get("/openapi.json").json()["paths"]["/rerank"]["post"]["requestBody"]
    assert set(body["content"]["application/json"]["schema"]["required"]) == {"query", "documents"}


# ---- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"documents": TEXTS}, "query", "missing; the request has documents"),
        ({}, "query", "no fields"),
        ({"query": QUERY}, "documents", "missing; the request has query"),
        ({"query": QUERY, "texts": TEXTS}, "documents", "texts"),
        ({"query": " \n", "documents": TEXTS}, "query", "must not be blank"),
        ({"query": 7, "documents": TEXTS}, "query", "found 7"),
        ({"query": None, "documents": TEXTS}, "query", "found null"),
        ({"query": "q" * 9000, "documents": TEXTS}, "query", "9000 characters, at most 8000"),
        ({"query": QUERY, "documents": []}, "documents", "at least 1 item"),
        ({"query": QUERY, "documents": "one"}, "documents", 'found "one"'),
        ({"query": QUERY, "documents": ["a", 5]}, "documents", "number 1 must be a string or an object"),
        ({"query": QUERY, "documents": [{"title": "a"}]}, "documents", "'text'"),
        ({"query": QUERY, "documents": [{"text": None}]}, "documents", "'text'"),
        ({"query": QUERY, "documents": ["a"] * 10_000}, "documents", "10000 texts, at most 1000"),
        ({"query": QUERY, "documents": TEXTS, "top_n": 0}, "top_n", "greater than or equal to 1, found 0"),
        ({"query": QUERY, "documents": TEXTS, "top_n": "3"}, "top_n", 'found "3"'),
        ({"query": QUERY, "documents": TEXTS, "return_documents": "yes"}, "return_documents", 'found "yes"'),
        ([QUERY, TEXTS], "body", "an object"),
    ],
)
def test_bad_fields(client: httpx.Client, body: Any, field: str, said: str) -> None:
    refused(client.post("/rerank", json=body), 422, field, said)


@pytest.mark.parametrize("body", [b"", b'{"query": ', b"\xff\xfe", b'{"query": "\\ud800"}', b"[" * 5000])
def test_not_json(client: httpx.Client, body: bytes) -> None:
    refused(client.post("/rerank", content=body), 400, "body", "JSON")


def test_too_many_bytes(client: httpx.Client) -> None:
    body = json.dumps({"query": QUERY, "documents": ["x" * 3_000_000]}).encode()
    refused(client.post("/rerank", content=body), 413, "body", str(len(body)), "at most 2000000")
    chunks = (body[start : start + 100_000] for start in range(0, len(body), 100_000))  # no Content-Length
    refused(client.post("/rerank", content=chunks), 413, "body", "more than 2000000")


def test_unknown_path_and_method(client: httpx.Client) -> None:
    for response, status in ((client.get("/nowhere"), 404), (client.get("/rerank"), 405)):
        assert response.status_code == status
        assert response.json()["detail"]


# ---- many at once -------------------------------------------------------------------------------------------


def flood(client: httpx.Client, bodies: list[Any]) -> tuple[list[httpx.Response], float]:
    """The answers to requests sent at the same time, and how long /healthz took amid them."""

    async def send() -> tuple[list[httpx.Response], float]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=client.base_url, timeout=90, trust_env=False, limits=limits) as http:
            tasks = [asyncio.create_task(http.post("/rerank", json=body)) for body in bodies]
            await asyncio.sleep(0.3)
            began = time.perf_counter()
            assert (await http.get("/healthz")).status_code == 200
            took = time.perf_counter() - began
            return await asyncio.gather(*tasks), took

    return asyncio.run(send())


def test_concurrent_requests_with_a_bad_one_among_them(client: httpx.Client, ranker: Ranker) -> None:
    asked = [(f"{QUERY} number {number}", [f"{text} {number}" for text in TEXTS]) for number in range(20)]
    bodies: list[Any] = [{"query": query, "documents": texts} for query, texts in asked]
    bodies[7] = {"query": QUERY, "documents": [None]}
    responses, _ = flood(client, bodies)
    refused(responses[7], 422, "documents")
    for number, (query, texts) in enumerate(asked):
        if number != 7:
            raw = ranker.score(query, texts)
            results = responses[number].json()["results"]
            assert len(results) == len(texts)
            for result in results:  # in bfloat16 a score depends a little on what shares its pass
                assert result["relevance_score"] == pytest.approx(wire.sigmoid(raw[result["index"]]), abs=1e-2)


def test_too_many_waiting_get_503_and_healthz_still_answers(client: httpx.Client) -> None:
    texts = [f"{TEXTS[4]} {number}" for number in range(60)]
    responses, health_s = flood(client, [{"query": QUERY, "documents": texts}] * (3 * MAX_QUEUED))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= MAX_QUEUED
    assert health_s < 10
    busy = responses[statuses.index(503)]
    refused(busy, 503, "requests", f"at most {MAX_QUEUED}")
    assert int(busy.headers["Retry-After"]) >= 1


class Fragile:
    """A ranker that fails on one word."""

    calls = 0

    def score_pairs(self, queries: list[str], texts: list[str]) -> list[float]:
        self.calls += 1
        if "boom" in texts:
            raise RuntimeError("boom")
        return [float("nan") if text == "nan" else float(len(text)) for text in texts]

    def encode(self, queries: list[str], texts: list[str]) -> list[dict[str, list[int]]]:
        return [{"input_ids": [0]} for _ in texts]


def test_a_failing_request_does_not_fail_its_neighbours() -> None:
    ask = [wire.RerankRequest(query="q", documents=texts) for texts in (["a", "bb"], ["boom"], ["ccc"], ["nan"])]
    first, boom, third, nan = serve.Scorer(Fragile(), batch_documents=256)(ask)
    assert first == wire.Scores([1.0, 2.0], 2)
    assert third == wire.Scores([3.0], 1)
    assert isinstance(boom, RuntimeError)
    assert isinstance(nan, ValueError)


def test_requests_share_calls_up_to_batch_documents() -> None:
    ranker = Fragile()
    ask = [wire.RerankRequest(query="q", documents=["a"] * count) for count in (2, 2, 1, 9, 4)]
    assert [found.tokens for found in serve.Scorer(ranker, batch_documents=5)(ask)] == [2, 2, 1, 9, 4]
    assert ranker.calls == 3


def test_order_holds_where_the_sigmoid_saturates() -> None:
    request = wire.RerankRequest(query="q", documents=["a", "b", "c", "d"])
    results = wire.answer(request, wire.Scores([60.0, 900.0, -2000.0, 60.0], 4), "m").results
    assert [result.index for result in results] == [1, 0, 3, 2]
    assert [result.relevance_score for result in results] == [1, 1, 1, 0]


# ---- starting -----------------------------------------------------------------------------------------------


def test_missing_input(tmp_path: Path) -> None:
    for place, said in ((tmp_path / "nothing", "no such model folder"), (tmp_path, "no winner.json")):
        with pytest.raises(RradError, match=said):
            serve.run(ServeConfig(input=str(place)))


def test_an_encoder_without_a_head_is_no_ranker() -> None:
    with pytest.raises(RradError, match="no ranker with one score"):
        serve.find("bundled:all-minilm-l6-v2")


def test_port_taken(winner: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(RradError, match=f"serve: 127.0.0.1:{port}: .*port={port + 1}"):
            serve.run(ServeConfig(input=winner, port=port))


def test_second_endpoint_on_the_same_cluster(client: httpx.Client, winner: str) -> None:
    with pytest.raises(RradError, match="runs Ray Serve already"):
        serve.start(ServeConfig(input=winner, port=free_port()))
    assert client.get("/healthz").status_code == 200


def test_builder_and_its_yaml(student: str) -> None:
    content = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    app = ServeDeploySchema.model_validate(content).applications[0]
    assert app.import_path == f"{serve.__name__}:{serve.build.__name__}"
    assert isinstance(serve.build({**app.args, "input": student}), serve.Application)
    with pytest.raises(RradError, match="replicass"):
        serve.build({"input": student, "replicass": 2})
