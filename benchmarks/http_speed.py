"""What HTTP costs: documents/s through the endpoint as a share of the same student's in-process, by clients and by
documents of a request; and the same requests to infinity's and to vLLM's own re-rank servers."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import ray
import torch

from benchmarks import harness, load
from rrad_ray import formats, models
from rrad_ray.config import ServeConfig
from rrad_ray.rankers import Ranker
from rrad_ray.stages import serve
from tests.commands import ROOT
from tests.heads import free_port

DOCUMENTS, CLIENTS = (20, 100), (1, 8, 64)
CORES = os.cpu_count() or 1
MAX_LENGTH, DOC_TOKENS = 256, 192  # no server has to cut: each has its own way to
SLOWER = 4  # times the unloaded latency that a p99 may be
PACES = (0.98, 0.95, 0.92, 0.88, 0.84, 0.8, 0.7, 0.6)  # of what the clients get when they ask as fast as they can
INFINITY = ROOT / ".venv-peers" / "bin" / "infinity_emb"


def bench(quick: bool, scratch: str) -> harness.Result:
    seconds, requests = (6.0, 40) if quick else (20.0, 200)
    student = f"{scratch}/student"
    ranker = make_student(student)
    asked = {count: make_requests(ranker, count, requests) for count in DOCUMENTS}
    rows: list[dict[str, Any]] = []
    with _servers(student) as servers:
        for count in DOCUMENTS:
            bodies = write_bodies(f"{scratch}/bodies-{count}", asked[count])
            for url in servers.values():
                send(load.Load(url, bodies, 1, 2.0))  # warm
            alone = in_process(ranker, asked[count], seconds / 2)
            for clients in CLIENTS:
                before = alone
                found = {name: send(load.Load(url, bodies, clients, seconds)) for name, url in servers.items()}
                alone = in_process(ranker, asked[count], seconds / 2)
                speed = (before + alone) / 2  # of this machine, at about that time
                rows += [_row(name, count, clients, one, speed) for name, one in found.items()]
                if clients == 1:
                    unloaded = rows[-len(found)]["p50 ms"]
                else:
                    most = rows[-len(found)]["documents/s"]
                    paced = load.Load(servers["ours"], bodies, clients, seconds)
                    rows.append(_paced(paced, count, most, SLOWER * unloaded, speed))
                print(json.dumps(rows[-len(found) - (clients > 1) :]), flush=True)
    settings = {"seconds": seconds, "max_length": MAX_LENGTH, "doc_tokens": DOC_TOKENS, "threads": CORES}
    return harness.Result(_figures(rows), rows, settings)


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The shares are those of requests that come at a pace at which p99 holds; a single client never waits for
    others. Servers are compared by what clients get who ask as fast as they can. All of it again by the second that a
    core was busy: on a machine that others use, processes get unlike shares of it."""
    held = [row for row in rows if row["server"] == "ours, paced" or (row["server"], row["clients"]) == ("ours", 1)]
    figures = {
        "http_over_inprocess": min(row["share of in-process"] for row in held),
        "http_over_inprocess_by_core": min(row["share by core-s"] for row in held),
    }
    for key, suffix in (("documents/s", ""), ("documents/core-s", "_by_core")):
        speeds = {(row["server"], row["documents"], row["clients"]): row[key] for row in rows}
        for peer in {row["server"] for row in rows} - {"ours", "ours, paced"}:
            ratios = [speed / speeds[peer, *cell] for (name, *cell), speed in speeds.items() if name == "ours"]
            figures[f"over_{peer}{suffix}"] = statistics.geometric_mean(ratios)
            figures[f"over_{peer}{suffix}_least"] = min(ratios)
    return figures


# ---- what is asked ------------------------------------------------------------------------------------------


def make_student(folder: str, seed: int = 0) -> Ranker:
    """A student with a fresh head: it costs what a trained one does."""
    torch.manual_seed(seed)
    ranker = Ranker.encoder(models.resolve("bundled:all-minilm-l6-v2"), max_length=MAX_LENGTH)
    ranker.save(folder)
    return Ranker.load(folder)


def make_requests(ranker: Ranker, documents: int, count: int) -> list[dict[str, Any]]:
    """Real queries, each with documents of the collection, of all lengths up to `DOC_TOKENS`."""
    collection = formats.read_collection(harness.collection())
    texts = [collection.corpus[doc_id] for doc_id in sorted(collection.corpus)]
    queries = [query.text for query in collection.queries][:count]
    order = np.random.default_rng(0).permutation(len(texts))
    found = []
    for number, query in enumerate(queries):
        picks = [order[(number * documents + place) % len(order)] for place in range(documents)]
        documents_of = ranker.cut([texts[pick] for pick in picks], DOC_TOKENS)
        found.append({"model": "student", "query": query, "documents": documents_of, "return_documents": False})
    return found


def write_bodies(path: str, asked: list[dict[str, Any]]) -> str:
    Path(path).write_text("\n".join(map(json.dumps, asked)))
    return path


def in_process(ranker: Ranker, asked: list[dict[str, Any]], seconds: float) -> np.ndarray:
    """Documents/s of one request after another, in a process whose threads have all cores, as a replica's have; and
    by the second that a core was busy."""
    torch.set_num_threads(CORES)
    ranker.score(asked[0]["query"], asked[0]["documents"])
    began, cpu, count, place = time.perf_counter(), time.process_time(), 0, 0
    while time.perf_counter() - began < seconds:
        body = asked[place % len(asked)]
        count, place = count + len(ranker.score(body["query"], body["documents"])), place + 1
    return count / np.array([time.perf_counter() - began, time.process_time() - cpu])


def send(asked: load.Load) -> dict[str, Any]:
    """The generator's answers; and the cores that each kind of process below this one was busy on meanwhile."""
    before = _cpu_seconds()
    found = load.answers(load.start(asked))
    used = {name: seconds - before.get(name, 0.0) for name, seconds in _cpu_seconds().items()}
    return found | {"busy": {name: seconds / found["seconds"] for name, seconds in used.items()}}


def _cpu_seconds() -> dict[str, float]:
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            name, times = process.name(), process.cpu_times()
            found[name] = found.get(name, 0.0) + times.user + times.system
    return found


# ---- servers ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _servers(student: str) -> Iterator[dict[str, str]]:
    """The URL of each that starts, ours first. All run at once, and those that are not asked do nothing."""
    with contextlib.ExitStack() as stack:
        servers = {"ours": stack.enter_context(ours(student, max_queued=256))}
        port = free_port()
        command = [str(INFINITY), "v2", "--model-id", student, "--served-model-name", "student", "--port", str(port)]
        command += ["--host", "127.0.0.1", "--device", "cpu", "--engine", "torch", "--dtype", "bfloat16"]
        command += ["--no-bettertransformer"]
        if INFINITY.exists() and stack.enter_context(_server(command, {}, port, f"{student}.infinity")):
            servers["infinity"] = f"http://127.0.0.1:{port}/rerank"
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            student,
            "--port",
            str(port),
        ]
        command += ["--served-model-name", "student", "--dtype", "bfloat16", "--runner", "pooling"]
        command += ["--host", "127.0.0.1", "--disable-uvicorn-access-log"]
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if stack.enter_context(_server(command, settings, port, f"{student}.vllm")):
            servers["vllm"] = f"http://127.0.0.1:{port}/rerank"
        yield servers


@contextlib.contextmanager
def ours(student: str, **options: Any) -> Iterator[str]:
    """Our endpoint on a free port, its replica with all cores unless the options say otherwise."""
    url = serve.start(ServeConfig(student, **{"port": free_port(), "worker": {"CPU": CORES}, **options}))
    try:
        yield f"{url}/v2/rerank"
    finally:
        serve.stop()
        ray.shutdown()


@contextlib.contextmanager
def _server(command: list[str], settings: Mapping[str, str], port: int, said: str) -> Iterator[bool]:
    """A peer's server in a process of its own; whether it came to answer."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "PASSIVE", **settings}
    with open(said, "wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        end, answers = time.monotonic() + 240, False
        while not answers and time.monotonic() < end and server.poll() is None:
            time.sleep(1)
            with contextlib.suppress(httpx.HTTPError):
                answers = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
        if not answers:
            print(f"{command[0]} did not start: {Path(said).read_text()[-1500:]}", flush=True)
        yield answers
    finally:
        below = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.terminate()
        server.wait(60)
        for process in psutil.wait_procs(below, timeout=20)[1]:  # vLLM's engine outlives its server
            process.kill()


# ---- rows ---------------------------------------------------------------------------------------------------


def _paced(asked: load.Load, documents: int, most: float, bound_ms: float, alone: np.ndarray) -> dict[str, Any]:
    """The fastest pace at which p99 holds, else the slowest that was tried. `most`: documents/s without a pace."""
    for pace in PACES:
        found = send(replace(asked, rate=pace * most / documents))
        row = _row("ours, paced", documents, asked.clients, found, alone)
        if row["p99 ms"] <= bound_ms and not row["failed"]:
            break
    return row


def _row(server: str, documents: int, clients: int, found: dict[str, Any], alone: np.ndarray) -> dict[str, Any]:
    """`client`, `busy`: cores that the load generator and the other processes took."""
    took = [took for _, status, took, _ in found["answers"] if status == 200]
    client = found["cpu_s"] / found["seconds"]
    cores = client + sum(found["busy"].values())
    per_s, by_core = documents * len(took) / found["seconds"] / np.array([1.0, cores])
    return {
        "server": server,
        "documents": documents,
        "clients": clients,
        "documents/s": round(per_s),
        "share of in-process": round(per_s / alone[0], 3),
        "documents/core-s": round(by_core),
        "share by core-s": round(by_core / alone[1], 3),
        "p50 ms": round(float(np.percentile(took, 50)), 1),
        "p99 ms": round(float(np.percentile(took, 99)), 1),
        "failed": len(found["answers"]) - len(took),
        "busy": " ".join(f"{name} {cores:.2f}" for name, cores in found["busy"].items() if cores >= 0.005),
        "client": round(client, 3),
    }


if __name__ == "__main__":
    harness.main("http_speed", bench)
