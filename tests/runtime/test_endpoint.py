"""The endpoint over real HTTP, with a small but real student."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
import yaml

os.environ["HF_HUB_OFFLINE"] = "1"

from ray.serve.schema import ServeDeploySchema

from rrad_ray.config import PrerankConfig, SearchConfig, ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.rankers.generation import Explainer
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Candidates
from rrad_ray.runtime import deploy
from rrad_ray.serving.pages import sigmoid
from rrad_ray.stages import serve
from rrad_ray.tables import Output
from tests import endpoints, toys, winners
from tests.commands import PATIENCE_S, ROOT, RRAD, lines_of_ours
from tests.heads import free_port, listens

pytestmark = pytest.mark.ray

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
    endpoints.student(folder)
    return folder


@pytest.fixture(scope="module")
def winner(student: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the output of select, as far as serve reads it."""
    folder = tmp_path_factory.mktemp("winner")
    winners.write(folder, "tiny student", student, {})
    return str(folder)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """End Ray with the module if the module started it."""
    started_here = not ray.is_initialized()
    yield
    if started_here:
        ray.shutdown()


@pytest.fixture(scope="module")
def client(local_ray: None, winner: str) -> Iterator[httpx.Client]:
    # Two processes that measure beside other work may choose two number formats.
    limits: dict[str, Any] = {"max_queued": MAX_QUEUED, "max_body_bytes": 2_000_000}
    cfg = ServeConfig(input=winner, port=free_port(), precision="float32", **limits)
    with endpoints.serving(cfg) as url, endpoints.client(url) as http:
        yield http


@pytest.fixture(scope="module")
def ranker(student: str) -> Ranker:
    return Ranker.load(student, dtype="float32")


def post(client: httpx.Client, path: str = "/v2/rerank", **body: Any) -> httpx.Response:
    return client.post(path, json=body)


def check_refused(response: httpx.Response, status: int, field: str, *texts: str) -> None:
    """Check that the answer is a JSON refusal that names the field and has all of the texts."""
    answer = response.json()
    assert response.status_code == status, answer
    assert answer["field"] == field
    assert answer["detail"].startswith(f"{field}: ")
    for text in texts:
        assert text in answer["detail"]


# ---- the stage: first, because the tests that follow share one endpoint ----------------------------------------


def candidates(folder: Path, texts: list[str]) -> str:
    """Write a table with one test query and return its URI."""
    row = {
        **{"query_id": "q", "query": QUERY, "split": "test", "doc_ids": [str(index) for index in range(len(texts))]},
        **{"texts": texts, "scores": [0.0] * len(texts), "sources": ["bm25"], "source_scores": [[0.0] * len(texts)]},
        **{"qrel_ids": [], "qrel_grades": []},
    }
    out = Output("prerank", PrerankConfig(input="", output=str(folder)), Candidates, {})
    out.write_all([row], 1)
    return out.commit()


@pytest.mark.slow
def test_run_answers_a_probe_by_another_backend_and_ends(
    local_ray: None, student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, probe = free_port(), candidates(tmp_path / "short", TEXTS)
    backend = {"backend": "openvino", "precision": "float32"}
    url = serve.run(ServeConfig(input=student, port=port, blocking=False, probe=probe, **backend))
    assert url == f"http://127.0.0.1:{port}"
    printed = capsys.readouterr().out
    scores = Ranker.load(student, dtype="float32").score(QUERY, TEXTS)
    best = TEXTS[scores.index(max(scores))]
    assert f"query: {QUERY}" in printed
    assert f"1. {sigmoid(max(scores)):.3f}  {best}"[:60] in printed
    assert "tiny: 6 documents in" in printed
    socket.create_server(("127.0.0.1", port)).close()  # free again


def test_a_decoder_that_learnt_to_write_explains_the_results_that_it_returns(local_ray: None, writer: str) -> None:
    cfg = ServeConfig(input=writer, port=free_port(), max_explained=3, reason_tokens=8)
    explainer, row = Explainer.load(writer), toys.ROWS[0]
    body = {"query": row["query"], "documents": row["texts"]}
    with endpoints.serving(cfg) as url, endpoints.client(url) as http:
        plain = post(http, **body).json()["results"]
        explained = post(http, **body, explain=True, top_n=2).json()["results"]
        for result in explained:
            text = row["texts"][result["index"]]
            assert result["reason"] == explainer.explain(row["query"], text, max_tokens=8)
        assert all(result.pop("reason") for result in explained)
        assert explained == plain[:2], "the reason is all that is added"
        assert set(plain[0]) == {"index", "relevance_score"}
        check_refused(post(http, **body, explain=True), 422, "explain", "4 results, at most 3", "set top_n")


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
    with pytest.raises(RradError, match=r"broken cannot be loaded: .*header"):
        serve.run(ServeConfig(input=str(broken), port=free_port()))


def test_a_replica_that_does_not_start_says_why(local_ray: None, student: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one-key\nanother # of the search team\n")
    with pytest.raises(RradError, match=r"did not start \(.*keys:2: no key"):
        serve.run(ServeConfig(input=student, port=free_port(), api_keys=str(keys)))


@pytest.mark.parametrize(
    ("haproxy", "number"),
    [
        pytest.param("1", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("0", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("1", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_blocking_run_ends_by_signal_and_what_listens_for_it_too(
    student: str, tmp_path: Path, haproxy: str, number: signal.Signals
) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [*RRAD, "serve", str(ROOT / "configs" / "serve.yaml"), f"input={student}", f"port={port}"]
    # With 0 Serve's own proxy takes the requests, as on a cluster that was started without it.
    environment = {**os.environ, "RAY_SERVE_ENABLE_HA_PROXY": haproxy}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "Ctrl-C ends it" not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        (line,) = [line for line in log.read_text().splitlines() if "try: curl" in line]
        answer = subprocess.run(
            line.partition("try: ")[2], shell=True, capture_output=True, timeout=PATIENCE_S, check=True
        )
        assert len(json.loads(answer.stdout)["results"]) == 2
        proxies = [one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "haproxy"]
        assert bool(proxies) == bool(int(haproxy))
        process.send_signal(number)
        ended = -number if number == signal.SIGKILL else 0
        assert process.wait(timeout=PATIENCE_S) == ended, log.read_text()
    finally:
        process.kill()
    assert "Traceback" not in "\n".join(lines_of_ours(log))
    assert not psutil.wait_procs(proxies, timeout=PATIENCE_S)[1]
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.slow
def test_an_endpoint_that_is_ended_while_it_starts_leaves_nothing(student: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = [*RRAD, "serve", str(ROOT / "configs" / "serve.yaml"), f"input={student}", f"port={port}"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        assert listens(port)
        inside = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 130, log.read_text()  # as on Ctrl-C
    finally:
        process.kill()
    assert "SIGTERM received" not in log.read_text()  # nor Ray's stack of its C++ code
    assert "Traceback" not in "\n".join(lines_of_ours(log))
    assert not psutil.wait_procs(inside, timeout=PATIENCE_S)[1]


# ---- answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_scores_are_those_of_the_checkpoint(client: httpx.Client, ranker: Ranker, path: str) -> None:
    answer = post(client, path, query=QUERY, documents=TEXTS, model="any", unknown=1).json()
    raw = ranker.score(QUERY, TEXTS)
    assert max(raw) - min(raw) > 0.1  # else any answer would do
    indices = [result["index"] for result in answer["results"]]
    assert sorted(indices) == list(range(len(TEXTS)))
    assert indices == sorted(indices, key=lambda index: -raw[index])
    for result in answer["results"]:
        assert set(result) == {"index", "relevance_score"}
        assert result["relevance_score"] == pytest.approx(sigmoid(raw[result["index"]]), abs=1e-3)
    tokens = sum(len(pair["input_ids"]) for pair in ranker.encode([QUERY] * len(TEXTS), TEXTS))
    assert answer["usage"] == {"total_tokens": tokens, "prompt_tokens": tokens}
    assert answer["model"] == "tiny student"
    assert answer["id"]
    assert answer["meta"] == {"api_version": {"version": "1"}}


def test_objects_top_n_and_documents(client: httpx.Client) -> None:
    plain = post(client, query=QUERY, documents=TEXTS).json()["results"]
    objects = [{"text": text, "title": "ignored"} for text in TEXTS]
    assert post(client, query=QUERY, documents=objects).json()["results"] == plain
    wanted = {"query": QUERY, "documents": objects, "top_n": 2, "return_documents": True}
    best = post(client, "/v1/rerank", **wanted).json()["results"]
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


def test_without_a_collection_the_page_says_how_to_name_one(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "search: {corpus: PATH}" in page.text
    assert "<script>" not in page.text
    check_refused(post(client, "/v1/search", query=QUERY), 404, "search", "search.corpus")


def test_openapi_describes_the_requests(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    def required(path: str) -> list[set[str]]:
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        return [set(kind["required"]) for kind in schema.get("anyOf", [schema])]

    assert required("/rerank") == [{"query", "documents"}, {"query", "texts"}]
    assert required("/v1/rerank") == required("/v2/rerank") == [{"query", "documents"}]
    assert required("/score") == [{"queries", "documents"}]
    assert required("/v1/events") == [{"events"}]
    assert required("/v1/search") == [{"query"}]


# ---- other formats ------------------------------------------------------------------------------------------


def test_vllms_rerank_gives_documents_back_and_its_errors(client: httpx.Client, ranker: Ranker) -> None:
    answer = post(client, "/rerank", query=QUERY, documents=TEXTS, top_n=0).json()
    assert len(answer["results"]) == len(TEXTS), "0 means all"
    for result in answer["results"]:
        assert result["document"] == {"text": TEXTS[result["index"]], "multi_modal": None}
    raw = post(client, "/rerank", query=QUERY, documents=TEXTS, use_activation=False).json()["results"]
    expected = ranker.score(QUERY, TEXTS)
    for result in raw:
        assert result["relevance_score"] == pytest.approx(expected[result["index"]], abs=1e-2)
    response = post(client, "/rerank", query=QUERY, documents=[])
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("BadRequestError", "documents", 400)
    assert post(client, "/rerank", query=QUERY, documents=TEXTS, instruction="be kind").status_code == 400


def test_teis_rerank_is_a_bare_list_and_has_its_errors(client: httpx.Client, ranker: Ranker) -> None:
    expected = ranker.score(QUERY, TEXTS)
    results = post(client, "/rerank", query=QUERY, texts=TEXTS, raw_scores=True, return_text=True).json()
    assert [result["index"] for result in results] == sorted(range(len(TEXTS)), key=lambda index: -expected[index])
    for result in results:
        assert result["score"] == pytest.approx(expected[result["index"]], abs=1e-2)
        assert result["text"] == TEXTS[result["index"]]
    assert set(post(client, "/rerank", query=QUERY, texts=TEXTS).json()[0]) == {"index", "score"}
    for body, status, kind in (
        ({"query": QUERY, "texts": []}, 400, "Empty"),
        ({"query": QUERY, "texts": [1]}, 422, "Validation"),
        ({"query": QUERY, "texts": ["a"], "truncation_direction": "left"}, 422, "Validation"),
    ):
        response = post(client, "/rerank", **body)
        assert (response.status_code, response.json()["error_type"]) == (status, kind)
        assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize(("one", "two"), [("queries", "documents"), ("text_1", "text_2"), ("data_1", "items")])
def test_vllms_score_pairs_one_with_many_and_many_with_many(
    client: httpx.Client, ranker: Ranker, one: str, two: str
) -> None:
    expected = [sigmoid(score) for score in ranker.score(QUERY, TEXTS)]
    answer = post(client, "/score", **{one: QUERY, two: TEXTS}).json()
    assert answer["object"] == "list"
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS))), "in input order"
    assert [item["score"] for item in answer["data"]] == pytest.approx(expected, abs=1e-2)
    paired = post(client, "/v1/score", **{one: [QUERY, "numbers"], two: TEXTS[:2]}).json()["data"]
    pairs = ranker.score_pairs([QUERY, "numbers"], TEXTS[:2])
    assert [item["score"] for item in paired] == pytest.approx([sigmoid(score) for score in pairs], abs=1e-2)
    assert post(client, "/score", **{one: ["a", "b"], two: TEXTS}).status_code == 400


def test_a_text_is_cut_where_the_request_says(client: httpx.Client) -> None:
    def score(text: str, **more: Any) -> float:
        return post(client, query=QUERY, documents=[text], **more).json()["results"][0]["relevance_score"]

    assert score("open a file, or another one", max_tokens_per_doc=3) == pytest.approx(score("open a file"), abs=1e-6)
    assert score("open a file, or another one") != pytest.approx(score("open a file"), abs=1e-6)


def test_identity_leaves_the_order_and_models_are_listed(client: httpx.Client) -> None:
    answer = post(client, query=QUERY, documents=TEXTS, model="identity", top_n=3).json()
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    assert [result["relevance_score"] for result in answer["results"]] == pytest.approx([1, 5 / 6, 4 / 6])
    assert answer["model"] == "identity"
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["winner", "identity"]


def test_a_request_whose_deadline_has_passed_is_not_scored(client: httpx.Client) -> None:
    body = {"query": QUERY, "documents": TEXTS}
    check_refused(
        client.post("/v2/rerank", json=body, headers={"X-Deadline-Ms": "0"}), 504, "deadline", "it has passed"
    )
    check_refused(
        client.post("/v2/rerank", json=body, headers={"X-Deadline-Ms": "soon"}), 422, "x-deadline-ms", "soon"
    )


# ---- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "problem"),
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
        ({"query": QUERY, "documents": TEXTS, "top_n": 0}, "top_n", "must be at least 1, found 0"),
        ({"query": QUERY, "documents": [{"text": "a", "id": 7}]}, "documents", "an 'id' that is no string"),
        ({"query": QUERY, "documents": TEXTS, "top_n": "3"}, "top_n", 'found "3"'),
        ({"query": QUERY, "documents": TEXTS, "return_documents": "yes"}, "return_documents", 'found "yes"'),
        ({"query": QUERY, "documents": TEXTS, "explain": 1}, "explain", "found 1"),
        ({"query": QUERY, "documents": TEXTS, "explain": True}, "explain", "this model cannot write"),
        ([QUERY, TEXTS], "body", "an object"),
    ],
)
def test_bad_fields(client: httpx.Client, body: Any, field: str, problem: str) -> None:
    check_refused(client.post("/v2/rerank", json=body), 422, field, problem)


@pytest.mark.parametrize("body", [b"", b'{"query": ', b"\xff\xfe", b'{"query": "\\ud800"', b"[" * 5000])
def test_not_json(client: httpx.Client, body: bytes) -> None:
    check_refused(client.post("/v2/rerank", content=body), 400, "body", "JSON")


def test_too_many_bytes(client: httpx.Client) -> None:
    body = json.dumps({"query": QUERY, "documents": ["x" * 3_000_000]}).encode()
    check_refused(client.post("/v2/rerank", content=body), 413, "body", str(len(body)), "at most 2000000")
    chunks = (body[start : start + 100_000] for start in range(0, len(body), 100_000))  # no Content-Length
    check_refused(client.post("/v2/rerank", content=chunks), 413, "body", "more than 2000000")


def test_unknown_path_and_method(client: httpx.Client) -> None:
    check_refused(client.get("/nowhere"), 404, "path", "/nowhere")
    check_refused(client.get("/v2/rerank"), 405, "method", "POST")


# ---- many at once -------------------------------------------------------------------------------------------


def flood(client: httpx.Client, bodies: list[Any]) -> tuple[list[httpx.Response], int]:
    """Return the answers to requests sent at the same time, and how many were to come when /healthz answered."""

    async def send() -> tuple[list[httpx.Response], int]:
        options: Any = {"timeout": PATIENCE_S, "trust_env": False, "limits": httpx.Limits(max_connections=200)}
        async with httpx.AsyncClient(base_url=client.base_url, **options) as http:
            tasks = [asyncio.create_task(http.post("/v2/rerank", json=body)) for body in bodies]
            await asyncio.sleep(0.3)
            assert (await http.get("/healthz")).status_code == 200
            left = sum(not task.done() for task in tasks)
            return await asyncio.gather(*tasks), left

    return asyncio.run(send())


def test_concurrent_requests_with_a_bad_one_among_them(client: httpx.Client, ranker: Ranker) -> None:
    requests = [(f"{QUERY} number {number}", [f"{text} {number}" for text in TEXTS]) for number in range(20)]
    bodies: list[Any] = [{"query": query, "documents": texts} for query, texts in requests]
    bodies[7] = {"query": QUERY, "documents": [None]}
    responses, _ = flood(client, bodies)
    check_refused(responses[7], 422, "documents")
    for number, (query, texts) in enumerate(requests):
        if number != 7:
            raw = ranker.score(query, texts)
            results = responses[number].json()["results"]
            assert len(results) == len(texts)
            for result in results:  # in bfloat16 a score depends a little on what shares its pass
                assert result["relevance_score"] == pytest.approx(sigmoid(raw[result["index"]]), abs=1e-2)


def test_too_many_waiting_get_503_and_healthz_still_answers(client: httpx.Client) -> None:
    texts = [f"{TEXTS[4]} {number}" for number in range(60)]
    responses, left = flood(client, [{"query": QUERY, "documents": texts}] * (3 * MAX_QUEUED))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= MAX_QUEUED
    assert left, "it does not wait for those that are scored"
    busy = responses[statuses.index(503)]
    check_refused(busy, 503, "requests", f"at most {MAX_QUEUED}")
    assert int(busy.headers["Retry-After"]) >= 1


# ---- starting -----------------------------------------------------------------------------------------------


def test_missing_input(tmp_path: Path) -> None:
    for folder, problem in ((tmp_path / "nothing", "no such model folder"), (tmp_path, "no winner.json")):
        with pytest.raises(RradError, match=problem):
            serve.run(ServeConfig(input=str(folder)))


def test_a_first_stage_that_the_search_page_cannot_serve_is_refused_before_anything_starts(tmp_path: Path) -> None:
    fields = {"system": "fusion", "student": "", "checkpoint": "", "weights": {"bm25": 1.0, "ours": 0.5}}
    (tmp_path / "winner.json").write_text(json.dumps(fields))
    cfg = ServeConfig(input=str(tmp_path), search=SearchConfig("pydoc:"))
    with pytest.raises(RradError, match=r"serve: search.corpus: fusion: .* no scores of ours; leave search out"):
        serve.run(cfg)


def test_port_taken(winner: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(RradError, match=f"serve: 127.0.0.1:{port}: .*port={port + 1}"):
            serve.run(ServeConfig(input=winner, port=port))


def test_a_start_waits_until_each_request_gets_through_and_raises_the_last_error_if_none_does() -> None:
    statuses = [404, 200, 200, 404, *[200] * 20]
    sent: list[int] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(statuses[len(sent)])
            self.send_response(sent[-1])
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        deploy.await_answers(url, 10)
        assert sent == statuses[:14]
        statuses[len(sent) :] = [404] * 100
        with pytest.raises(OSError, match="404"):
            deploy.await_answers(url, 10, patience_s=0.2)
        server.shutdown()


def test_second_endpoint_on_the_same_cluster(client: httpx.Client, winner: str) -> None:
    with pytest.raises(RradError, match="runs Ray Serve already"):
        deploy.start_endpoint(ServeConfig(input=winner, port=free_port()))
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("name", ["serve.yaml", "kubernetes/base/rayservice.yaml", "kubernetes/gpu/serve.yaml"])
def test_builder_and_its_yaml(student: str, tmp_path: Path, name: str) -> None:
    content = yaml.safe_load((ROOT / "cluster" / name).read_text())
    if "spec" in content:
        content = yaml.safe_load(content["spec"]["serveConfigV2"])
    app = ServeDeploySchema.model_validate(content).applications[0]
    assert app.import_path == f"{deploy.__name__}:{deploy.build.__name__}"
    built = deploy.build({**app.args, "input": student})
    assert isinstance(built, deploy.Application)
    low, high = ServeConfig(student, replicas=app.args["replicas"]).replica_range
    scaling = built._bound_deployment._deployment_config.autoscaling_config
    assert (scaling.max_replicas if scaling else low) == high
    with pytest.raises(RradError, match="no api_keys; set api_keys, or open: true"):
        deploy.build({"input": student})
    with pytest.raises(RradError, match="replicass"):
        deploy.build({"input": student, "replicass": 2})
