"""What HTTP costs: documents/s through the endpoint as a share of the same student's in-process, by clients and by
documents of a request; and the same requests to vLLM's own re-rank server."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ray
import torch

from benchmarks import harness
from rrad_ray import formats, models
from rrad_ray.config import ServeConfig
from rrad_ray.rankers import Ranker
from rrad_ray.stages import serve
from tests.commands import ROOT
from tests.heads import free_port

DOCUMENTS, CLIENTS = (20, 100), (1, 8, 64)
CORES = os.cpu_count() or 1
MAX_LENGTH = 256


def bench(quick: bool, scratch: str) -> harness.Result:
    seconds, requests = (6.0, 40) if quick else (30.0, 200)
    torch.manual_seed(0)
    ranker = Ranker.encoder(models.resolve("bundled:all-minilm-l6-v2"), max_length=MAX_LENGTH)
    ranker.save(f"{scratch}/student")
    ranker = Ranker.load(f"{scratch}/student")
    asked = {count: _requests(count, requests) for count in DOCUMENTS}
    alone = {count: _in_process(ranker, asked[count], seconds) for count in DOCUMENTS}
    rows: list[dict[str, Any]] = []
    for server in (_ours, _vllm):
        with server(f"{scratch}/student") as url:
            if not url:
                continue
            for count in DOCUMENTS:
                bodies = Path(scratch, f"bodies-{count}")
                bodies.write_text("\n".join(json.dumps({"model": "student", **body}) for body in asked[count]))
                _load(url, bodies, 1, 2.0)  # warm
                for clients in CLIENTS:
                    found = _load(url, bodies, clients, seconds)
                    rows.append(_row(server.__name__.strip("_"), count, clients, found, alone[count]))
                    print(rows[-1], flush=True)
    mine = {(row["documents"], row["clients"]): row for row in rows if row["server"] == "ours"}
    theirs = {(row["documents"], row["clients"]): row for row in rows if row["server"] == "vllm"}
    shares = [row["share of in-process"] for (_, clients), row in mine.items() if clients > 1]
    figures = {
        "http_over_inprocess": min(shares),
        "http_over_inprocess_one_client": mine[100, 1]["share of in-process"],
    }
    if theirs:
        ratios = [row["documents/s"] / theirs[key]["documents/s"] for key, row in mine.items()]
        figures["over_vllm"] = statistics.geometric_mean(ratios)
        figures["over_vllm_least"] = min(ratios)
    settings = {"seconds": seconds, "max_length": MAX_LENGTH, "in_process": alone, "threads": CORES}
    return harness.Result(figures, rows, settings)


def _requests(documents: int, count: int) -> list[dict[str, Any]]:
    """Real queries, each with documents of the collection, of all lengths."""
    collection = formats.read_collection(harness.collection())
    texts = [collection.corpus[doc_id] for doc_id in sorted(collection.corpus)]
    queries = [query.text for query in collection.queries][:count]
    order = np.random.default_rng(0).permutation(len(texts))
    found = []
    for number, query in enumerate(queries):
        picks = [order[(number * documents + place) % len(order)] for place in range(documents)]
        found.append({"query": query, "documents": [texts[pick] for pick in picks], "return_documents": False})
    return found


def _in_process(ranker: Ranker, asked: list[dict[str, Any]], seconds: float) -> float:
    """Documents/s of one request after another, in a process whose threads have all cores, as a replica's have."""
    torch.set_num_threads(CORES)
    ranker.score(asked[0]["query"], asked[0]["documents"])
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for body in asked:
            count += len(ranker.score(body["query"], body["documents"]))
            if time.perf_counter() - began >= seconds:
                break
    return count / (time.perf_counter() - began)


@contextlib.contextmanager
def _ours(student: str) -> Iterator[str]:
    url = serve.start(ServeConfig(student, port=free_port(), worker={"CPU": CORES}, max_queued=256))
    try:
        yield f"{url}/v2/rerank"
    finally:
        serve.stop()
        ray.shutdown()


@contextlib.contextmanager
def _vllm(student: str) -> Iterator[str]:
    """vLLM's own server, on CPUs as well as its settings for them allow; an empty URL where it does not start."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", student, "--port", str(port)]
    command += ["--served-model-name", "student", "--dtype", "bfloat16", "--runner", "pooling", "--host", "127.0.0.1"]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with open(f"{student}.vllm", "wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 240
        while time.monotonic() < end and server.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                    break
            time.sleep(1)
        else:
            print(f"vLLM's server did not start: {Path(f'{student}.vllm').read_text()[-1500:]}", flush=True)
            yield ""
            return
        yield f"http://127.0.0.1:{port}/rerank"
    finally:
        server.terminate()
        server.wait(30)


def _load(url: str, bodies: Path, clients: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load", url, str(bodies), str(clients), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _row(server: str, documents: int, clients: int, found: dict[str, Any], alone: float) -> dict[str, Any]:
    took = [took for status, took in found["answers"] if status == 200]
    per_s = documents * len(took) / found["seconds"]
    return {
        "server": server,
        "documents": documents,
        "clients": clients,
        "documents/s": round(per_s),
        "share of in-process": round(per_s / alone, 3),
        "p50 ms": round(float(np.percentile(took, 50)), 1),
        "p99 ms": round(float(np.percentile(took, 99)), 1),
        "failed": len(found["answers"]) - len(took),
    }


if __name__ == "__main__":
    harness.main("http_speed", bench)
