"""serve: the winner behind Ray Serve, `POST /rerank` in Cohere's and Jina's format (wire.py) and `GET /healthz`.

Concurrent requests share forward passes. A replica takes up to `max_queued` requests at a time and tells the others
to come back. On a cluster of your own, `serve deploy cluster/serve.yaml` runs the same application from `build`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from rrad_ray import models, settings, tables, wire
from rrad_ray.config import ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates
from rrad_ray.stages import cluster

NAME = "rerank"
LEAST_PROBE_DOCS = 5
SPARE = 64  # requests beyond max_queued that reach a replica: it refuses them itself and still answers /healthz
BURST = 1000  # requests that Serve's proxy holds for replicas that do not take them; more get its own, plain 503
WARM_UP = wire.RerankRequest(query="is the model ready", documents=["yes", "It has been loaded, and now it scores."])

logger = logging.getLogger("ray.serve")
api = FastAPI(title="rrad-ray", description="Re-ranks documents. `relevance_score` is the sigmoid of the raw score.")


# ---- the endpoint -------------------------------------------------------------------------------------------


@api.exception_handler(wire.Refused)
async def refuse(_: Request, error: wire.Refused) -> JSONResponse:
    return JSONResponse(error.body, error.status, headers=error.headers)


class Scorer:
    """Scores a batch of requests; one that fails does not fail its neighbours."""

    def __init__(self, ranker: Any, batch_documents: int) -> None:
        self.ranker, self.batch_documents = ranker, batch_documents

    def __call__(self, requests: Sequence[wire.RerankRequest]) -> list[wire.Scores | Exception]:
        """For each request its scores, or the error that it caused."""
        return [found for group in wire.groups(requests, self.batch_documents) for found in self._group(group)]

    def _group(self, group: Sequence[wire.RerankRequest]) -> Sequence[wire.Scores | Exception]:
        try:
            return self._together(group)
        except Exception as error:
            if len(group) == 1:
                return [error]
            return [found for request in group for found in self._group([request])]

    def _together(self, group: Sequence[wire.RerankRequest]) -> list[wire.Scores]:
        queries = [request.query for request in group for _ in request.documents]
        texts = [text for request in group for text in request.documents]
        scores, tokens = self.ranker.score_pairs(queries, texts), self._tokens(queries, texts)
        if not all(map(math.isfinite, scores)):
            raise ValueError("the model gave a score that is not a number")
        found, start = [], 0
        for request in group:
            end = start + len(request.documents)
            found.append(wire.Scores(scores[start:end], sum(tokens[start:end])))
            start = end
        return found

    def _tokens(self, queries: Sequence[str], texts: Sequence[str]) -> list[int]:
        return [len(pair["input_ids"]) for pair in self.ranker.encode(queries, texts)]


@serve.ingress(api)
class Endpoint:
    """One replica: the model and its HTTP routes."""

    def __init__(self, cfg: ServeConfig, checkpoint: str, name: str) -> None:
        from rrad_ray.rankers import Ranker

        self.cfg, self.name, self.waiting = cfg, name, 0
        device = "cuda" if cfg.worker.get("GPU") else "cpu"
        ranker = Ranker.load(models.resolve(checkpoint, "serve"), device=device)
        self.scorer = Scorer(ranker, cfg.batch_documents)
        together = serve.batch(max_batch_size=cfg.batch_requests, batch_wait_timeout_s=cfg.batch_wait_s)
        self.scores = together(self.scores_of_batch)
        for found in self.scorer([WARM_UP]):
            if isinstance(found, Exception):
                raise found

    async def scores_of_batch(self, requests: list[wire.RerankRequest]) -> list[wire.Scores | Exception]:
        # In a thread: the event loop goes on answering /healthz and reading the requests of the next batch.
        return await asyncio.to_thread(self.scorer, requests)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Answers once the model is loaded and has scored something."""
        return {"status": "ok", "model": self.name}

    @api.post("/rerank", response_model_exclude_none=True, openapi_extra=wire.openapi())
    @api.post("/v1/rerank", response_model_exclude_none=True, openapi_extra=wire.openapi())
    @api.post("/v2/rerank", response_model_exclude_none=True, openapi_extra=wire.openapi())
    async def rerank(self, request: Request) -> wire.RerankAnswer:
        """Documents best first; `relevance_score` is the sigmoid of the model's raw score."""
        with self._place():
            declared = request.headers.get("content-length", "")
            body = await wire.read(request.stream(), declared, self.cfg.max_body_bytes)
            limits = {"max_documents": self.cfg.max_documents, "max_query_chars": self.cfg.max_query_chars}
            asked = wire.parse(body, **limits)
            found = await self.scores(asked)
            if isinstance(found, Exception):
                logger.error("a request could not be scored", exc_info=found)
                raise wire.Refused(500, "model", f"could not score this request ({type(found).__name__})")
            return wire.answer(asked, found, self.name)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the waiting; `Refused` if all are taken."""
        if self.waiting >= self.cfg.max_queued:
            raise wire.Refused(
                503, "requests", f"{self.waiting} are waiting, at most {self.cfg.max_queued} (max_queued)"
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1


def application(cfg: ServeConfig) -> Application:
    """The Serve application of a config. Raises `RradError` if its input holds no ranker."""
    checkpoint, name = find(cfg.input)
    deployment = serve.deployment(
        name="Endpoint",
        num_replicas=cfg.replicas,
        ray_actor_options=cluster.resources(cfg.worker),
        max_ongoing_requests=cfg.max_queued + SPARE,
        max_queued_requests=BURST,
        backpressure_config=BackpressureConfig(retry_after_s=wire.RETRY_AFTER_S),
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=LoggingConfig(log_level="WARNING"),
    )(Endpoint)
    return deployment.bind(cfg, checkpoint, name)


def build(args: dict[str, Any]) -> Application:
    """For `serve deploy`: `args` has the keys of `ServeConfig`, whose host, port and timeout do not count there."""
    return application(settings.build(ServeConfig, args, "serve deploy: args"))


def find(uri: str) -> tuple[str, str]:
    """The checkpoint that an input stands for, and the model's name: that of the winner, or of the folder.

    Raises `RradError` if there is none, or if it has no ranking head: a fresh one would serve random scores.
    """
    checkpoint, name = uri, uri.rstrip("/").rpartition("/")[2]
    place = tables.join(uri, "winner.json")
    if not uri.startswith("bundled:") and tables.exists(place, "serve"):
        winner = json.loads(tables.read_text(place, "serve"))
        checkpoint, name = winner["checkpoint"], winner["system"]
    folder = models.resolve(checkpoint, "serve")
    config = os.path.join(folder, "config.json")
    if not os.path.isfile(config):
        found = "no winner.json and no checkpoint there (no config.json)"
        raise RradError("serve", checkpoint, found, "give the output of select or train, or a checkpoint folder")
    content = json.loads(tables.read_text(config, "serve"))
    kinds = content.get("architectures") or ["nothing"]
    if not kinds[0].endswith("ForSequenceClassification") or len(content.get("id2label", "01")) != 1:
        found = f"no ranker with one score: {kinds[0]}"
        raise RradError("serve", checkpoint, found, "give the output of train, or a cross-encoder with one output")
    # Replicas may have another working directory; one on another node needs the URI, not this machine's copy of it.
    return os.path.abspath(checkpoint) if os.path.isdir(checkpoint) else checkpoint, name


# ---- the stage ----------------------------------------------------------------------------------------------


def run(cfg: ServeConfig) -> str:
    """Serves until Ctrl-C or, if not `blocking`, answers one query of `probe`; the endpoint's URL.

    Raises `RradError` if the input holds no ranker, the port is taken or the cluster has no room for the replicas.
    """
    probe = None if cfg.blocking else read_probe(cfg.probe)
    url = start(cfg)
    try:
        if probe:
            show(probe, *ask(url, probe))
        else:
            stay(url)
    finally:
        stop()
    return url


def start(cfg: ServeConfig) -> str:
    """Starts Serve and the endpoint; its URL, which answers. Raises `RradError` as `run` does."""
    app = application(cfg)
    url = claim(cfg.host, cfg.port)
    cluster.start()
    cluster.require("serve", cfg.worker, cfg.replicas)
    logger.setLevel(logging.WARNING)
    if serve.status().proxies:
        remedy = "`serve deploy cluster/serve.yaml` adds to it, `serve shutdown` ends it"
        raise RradError("serve", url, "this cluster runs Ray Serve already, with an HTTP port of its own", remedy)
    http = HTTPOptions(host=cfg.host, port=cfg.port, request_timeout_s=cfg.timeout_s)
    try:
        serve.start(http_options=http, logging_config=LoggingConfig(log_level="WARNING"))
        serve.run(app, name=NAME, route_prefix="/")
        call(f"{url}/healthz", None, cfg.timeout_s)
    except Exception as error:
        found = f"the endpoint did not start ({reason(error)})"
        stop()
        raise RradError("serve", url, found, "mend that and start it again") from error
    except BaseException:
        stop()
        raise
    print(f"[serve] {url}/rerank", flush=True)
    return url


def stop() -> None:
    """Ends the endpoint and Serve; requests in progress are answered first."""
    serve.shutdown()


def reason(error: Exception) -> str:
    """Why the endpoint did not start: the last line of the replica's traceback, else the error's."""
    with contextlib.suppress(Exception):
        deployments = serve.status().applications[NAME].deployments.values()
        lines = [line.strip() for deployment in deployments for line in deployment.message.splitlines()]
        causes = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
        return causes[-1]
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def claim(host: str, port: int) -> str:
    """The URL of an address that is free. Raises `RradError` if it is not: Serve's proxy would share the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        found = f"cannot listen there ({os.strerror(error.errno or 0)})"
        raise RradError("serve", f"{host}:{port}", found, f"choose another port, as in port={port + 1}") from error
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def stay(url: str) -> None:
    """Prints how to ask, then waits for Ctrl-C or for SIGTERM, which is how containers are stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    body = json.dumps({"query": "how to open a file", "documents": ["open(path) opens a file", "len(x) is a length"]})
    print(f"[serve] try: curl -s {url}/rerank -d '{body}'\n[serve] Ctrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


def read_probe(uri: str) -> dict[str, Any]:
    """The first test query with enough documents. Raises `RradError` if there is none."""
    for row in tables.read(uri, Candidates, "serve"):
        if row["split"] == "test" and len(row["texts"]) >= LEAST_PROBE_DOCS:
            return row
    found = f"no query of split 'test' with {LEAST_PROBE_DOCS} documents"
    raise RradError("serve", uri, found, "give the output of retrieve or prerank as probe")


def ask(url: str, row: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The endpoint's answer to a row of candidates, and the milliseconds that it took."""
    began = time.perf_counter()
    answer = call(f"{url}/rerank", {"query": row["query"], "documents": row["texts"]}, 600)
    return answer, 1000 * (time.perf_counter() - began)


def show(row: dict[str, Any], answer: dict[str, Any], took_ms: float) -> None:
    """Prints a query and its top 3."""
    print(f"[serve] query: {row['query']}")
    for rank, result in enumerate(answer["results"][:3], 1):
        line = (row["texts"][result["index"]].strip().splitlines() or [""])[0]
        print(f"[serve]   {rank}. {result['relevance_score']:.3f}  {line[:90]}")
    print(f"[serve] {answer['model']}: {len(row['texts'])} documents in {took_ms:.0f} ms over HTTP", flush=True)


def call(url: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """GET, or POST with a body; the JSON answer. The environment's proxies are for the internet, not for this."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    with opener.open(urllib.request.Request(url, data), timeout=timeout_s) as response:
        return json.load(response)
