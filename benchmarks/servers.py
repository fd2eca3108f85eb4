"""Re-rank servers of one student under load: our endpoint, and infinity's and vLLM's own; with requests for them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import ray
import torch

from benchmarks import harness
from rrad_ray.config import ServeConfig
from rrad_ray.data import reader
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.runtime import deploy
from rrad_ray.tables import checkpoints
from tests.commands import ROOT
from tests.heads import free_port

CORES = os.cpu_count() or 1
MAX_LENGTH, DOC_TOKENS = 256, 192  # no server has to cut: each has its own way to
INFINITY = ROOT / ".venv-peers" / "bin" / "infinity_emb"


# ---- a student and its requests -----------------------------------------------------------------------------


def make_student(folder: str, seed: int = 0) -> Ranker:
    """Save and return a student with a fresh head: it costs as much as a trained one."""
    torch.manual_seed(seed)
    ranker = Ranker.encoder(checkpoints.resolve("bundled:all-minilm-l6-v2"), max_length=MAX_LENGTH)
    ranker.save(folder)
    return Ranker.load(folder)


def make_requests(ranker: Ranker, documents: int, count: int) -> list[dict[str, Any]]:
    """Return real queries, each with documents of the collection, of all lengths up to `DOC_TOKENS`."""
    collection = reader.read_collection(harness.collection())
    texts = [collection.corpus[doc_id] for doc_id in sorted(collection.corpus)]
    queries = [query.text for query in collection.queries][:count]
    order = np.random.default_rng(0).permutation(len(texts))
    requests = []
    for number, query in enumerate(queries):
        picks = [order[(number * documents + offset) % len(order)] for offset in range(documents)]
        picked = ranker.cut([texts[pick] for pick in picks], DOC_TOKENS)
        requests.append({"model": "student", "query": query, "documents": picked, "return_documents": False})
    return requests


def write_bodies(path: str, requests: list[dict[str, Any]]) -> str:
    """Write the file of requests that a load names, and return its path."""
    Path(path).write_text("\n".join(map(json.dumps, requests)))
    return path


# ---- servers ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ours(student: str, **options: Any) -> Iterator[str]:
    """Start our endpoint on a free port and give its URL; its replica has all cores, unless the options differ."""
    url = deploy.start_endpoint(ServeConfig(student, **{"port": free_port(), "resources": {"CPU": CORES}, **options}))
    try:
        yield f"{url}/v2/rerank"
    finally:
        deploy.stop_endpoint()
        ray.shutdown()


def serve_processes(*kinds: str) -> list[psutil.Process]:
    """Return Serve's processes whose names begin with one of `kinds`; without any, all of Serve's."""
    kinds = kinds or ("ray::Serve", "ray::ProxyActor", "ray::HAProxyManager", "haproxy")
    processes = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(kinds):
                processes.append(process)
    return processes


def resident_bytes(*kinds: str) -> int:
    """Return the resident memory of Serve's processes, those of `serve_processes(*kinds)`."""
    total = 0
    for process in serve_processes(*kinds):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


@contextlib.contextmanager
def peers(student: str) -> Iterator[dict[str, str]]:
    """Start the peers' servers beside ours; give the URL of each that starts. An idle one takes no CPU time."""
    with contextlib.ExitStack() as stack:
        urls = {}
        port = free_port()
        command = [str(INFINITY), "v2", "--model-id", student, "--served-model-name", "student", "--port", str(port)]
        command += ["--host", "127.0.0.1", "--device", "cpu", "--engine", "torch", "--dtype", "bfloat16"]
        command += ["--no-bettertransformer"]
        if INFINITY.exists() and stack.enter_context(_server(command, {}, port, f"{student}.infinity")):
            urls["infinity"] = f"http://127.0.0.1:{port}/rerank"
        port = free_port()
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", student]
        command += ["--served-model-name", "student", "--dtype", "bfloat16", "--runner", "pooling"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if stack.enter_context(_server(command, settings, port, f"{student}.vllm")):
            urls["vllm"] = f"http://127.0.0.1:{port}/rerank"
        yield urls


@contextlib.contextmanager
def _server(command: list[str], settings: Mapping[str, str], port: int, log_path: str) -> Iterator[bool]:
    """Start a peer's server in a process of its own; give whether it came to answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "PASSIVE", **settings}
    with open(log_path, "wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        end, answers = time.monotonic() + 240, False
        while not answers and time.monotonic() < end and server.poll() is None:
            time.sleep(1)
            with contextlib.suppress(httpx.HTTPError):
                answers = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
        if not answers:
            print(f"{command[0]} did not start: {Path(log_path).read_text()[-1500:]}", flush=True)
        yield answers
    finally:
        below = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.terminate()
        server.wait(60)
        for process in psutil.wait_procs(below, timeout=20)[1]:  # vLLM's engine outlives its server
            process.kill()
