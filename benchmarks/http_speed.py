"""What HTTP costs: documents/s through the endpoint as a share of the same student's in-process, by clients and by
documents of a request; and the same requests to infinity's and to vLLM's own re-rank servers."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import ray
import torch

from benchmarks import harness, load
from rrad_ray.config import IDENTITY, ServeConfig
from rrad_ray.data import reader
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.runtime import deploy
from rrad_ray.tables import checkpoints
from tests.commands import ROOT
from tests.heads import free_port

DOCUMENTS, CLIENTS = (20, 100), (1, 8, 64)
CORES = os.cpu_count() or 1
MAX_LENGTH, DOC_TOKENS = 256, 192  # no server has to cut: each has its own way to
SLOWER = 4  # times the unloaded latency that a p99 may be
PACES = (0.95, 0.93, 0.91, 0.89, 0.87, 0.85, 0.8, 0.7, 0.6, 0.5)  # of in-process speed
STEADY = 0.1  # of its speed: more than what the machine's may change by during a turn
HELD = "ours, p99 held"
INFINITY = ROOT / ".venv-peers" / "bin" / "infinity_emb"


@dataclass(frozen=True)
class Search:
    """How a pace is looked for: of which, by how many turns each, and how many may be taken again."""

    paces: tuple[float, ...]
    turns: int
    again: int


WHOLE, QUICK = Search(PACES, 5, 25), Search(PACES[::4], 3, 2)


@dataclass(frozen=True)
class Asked:
    """Requests of so many documents: a file of them, the same for the model that scores nothing, and how fast the
    student answers them in-process (documents/s, and by the second that a core was busy)."""

    documents: int
    bodies: str
    unscored: str
    alone: Callable[[], np.ndarray]


def bench(quick: bool, scratch: str) -> harness.Result:
    seconds, requests, search, rounds = (3.0, 40, QUICK, 1) if quick else (5.0, 200, WHOLE, 2)
    student = f"{scratch}/student"
    ranker = make_student(student)
    every = [_asked(ranker, count, requests, scratch, seconds / 2) for count in DOCUMENTS]
    cells = list(itertools.product(every, CLIENTS))
    if quick:  # each number of clients and of documents once
        cells = [*cells[:3], cells[4]]
    rows: list[dict[str, Any]] = []
    with ours(student, max_queued=256) as url:
        for row in itertools.chain(
            (_unscored(url, asked, seconds) for asked in every),
            (_held(load.Load(url, asked.bodies, clients, seconds), asked, search) for asked, clients in cells),
            _beside_peers(url, student, cells, seconds, rounds),
        ):
            rows.append(row)
            print(json.dumps(row), flush=True)
    settings = {"seconds": seconds, "rounds": rounds, "steady": STEADY, **asdict(search)}
    settings |= {"max_length": MAX_LENGTH, "doc_tokens": DOC_TOKENS, "threads": CORES}
    return harness.Result(_figures(rows), rows, settings)


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The shares are the least of those at which p99 holds. Servers are compared by what clients get who ask as fast
    as they can. All of it again by the second that a core was busy: on a machine that others use, processes get
    unlike shares of it. `http_ms`: of a request of the fewest documents to the model that scores nothing;
    `http_core_ms`: what it takes of cores, the client's too."""
    held = [row for row in rows if row["server"] == HELD]
    unscored = next(row for row in rows if row["server"] == "ours, identity")
    figures = {
        "http_over_inprocess": min(row["share of in-process"] for row in held),
        "http_over_inprocess_by_core": min(row["share by core-s"] for row in held),
        "http_ms": unscored["p50 ms"],
        "http_core_ms": 1000 * unscored["documents"] / unscored["documents/core-s"],
    }
    for key, suffix in (("ours over it", ""), ("by core-s", "_by_core")):
        for peer in {row["server"] for row in rows if not row["server"].startswith("ours")}:
            ratios = [row[key] for row in rows if row["server"] == peer]
            figures[f"over_{peer}{suffix}"] = statistics.geometric_mean(ratios)
            figures[f"over_{peer}{suffix}_least"] = min(ratios)
    return figures


# ---- turns: neighbours in time are compared, since the machine's speed is another one a minute later ------------


def _unscored(url: str, asked: Asked, seconds: float) -> dict[str, Any]:
    send(load.Load(url, asked.bodies, 1, 2.0))  # warm
    nothing = load.Load(url, asked.unscored, 1, seconds)
    return _row("ours, identity", asked.documents, nothing, send(nothing), asked.alone())


def _held(client: load.Load, asked: Asked, search: Search) -> dict[str, Any]:
    """The fastest even pace at which p99 holds, looked for by halves. One client asks as fast as it gets answers, for
    about as many turns as such a search takes. Shares of 0 if there is no such pace."""
    if client.clients == 1:
        search = Search((0.0,), 3 * search.turns, 3 * search.again)
    rows: dict[float, dict[str, Any]] = {}

    def holds(pace: float) -> bool:
        row = rows[pace] = _at_pace(pace, client, asked, search)
        found = row["p99 over unloaded"] <= SLOWER and not row["failed"]
        if not found:
            print(f"p99 does not hold: {json.dumps(row)}", flush=True)
        return found

    place = bisect.bisect_left(search.paces, True, key=holds)
    if place < len(search.paces):
        return rows[search.paces[place]]
    return {**rows[search.paces[-1]], "share of in-process": 0.0, "share by core-s": 0.0}


def _at_pace(pace: float, client: load.Load, asked: Asked, search: Search) -> dict[str, Any]:
    """The median turn at a pace, or what shows already that most have a p99 over `SLOWER` times what one client waits
    just before. A turn during which the machine's own speed changed says nothing of the server: it is taken again."""
    found: list[dict[str, Any]] = []
    turns, again = search.turns, 0
    after = asked.alone()
    while len(found) < turns and sum(turn["p99 over unloaded"] > SLOWER for turn in found) <= turns // 2:
        before = after
        unloaded = float(np.median(_times(send(replace(client, clients=1, seconds=client.seconds / 2)))))
        sent = send(replace(client, rate=pace * before[0] / asked.documents))
        speed = (before + (after := asked.alone())) / 2
        if abs(after[0] - before[0]) > STEADY * speed[0] and again < search.again:
            again += 1
            continue
        row = _row(HELD, asked.documents, client, sent, speed)
        found.append({**row, "p99 over unloaded": row["p99 ms"] / unloaded})
    return {**_median(found), "pace": pace, "again": again}


def _beside_peers(
    url: str, student: str, cells: Sequence[tuple[Asked, int]], seconds: float, rounds: int
) -> Iterator[dict[str, Any]]:
    """Each server by clients who ask as fast as they get answers."""
    with _peers(student) as urls:
        for at in urls.values():
            for bodies in {asked.bodies for asked, _ in cells}:
                send(load.Load(at, bodies, 1, 2.0))  # warm
        for asked, clients in cells:
            every = {"ours": url, **urls}
            loads = {name: load.Load(at, asked.bodies, clients, seconds) for name, at in every.items()}
            found = [_at_full_speed(loads, asked) for _ in range(rounds)]
            yield from (_median([turn[name] for turn in found]) for name in every)


def _at_full_speed(loads: Mapping[str, load.Load], asked: Asked) -> dict[str, dict[str, Any]]:
    """One turn of each server; ours stands between two in-process."""
    before, sent, after = asked.alone(), send(loads["ours"]), asked.alone()
    found = {"ours": _row("ours", asked.documents, loads["ours"], sent, (before + after) / 2)}
    for name in loads.keys() - {"ours"}:
        row = _row(name, asked.documents, loads[name], send(loads[name]), after)
        for key, over in (("documents/s", "ours over it"), ("documents/core-s", "by core-s")):
            row[over] = found["ours"][key] / row[key]
        found[name] = row
    return found


def _median(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure; failures are counted."""
    first = turns[0]
    figures = [key for key, value in first.items() if isinstance(value, float)]
    middle = {key: statistics.median(turn[key] for turn in turns) for key in figures}
    return {**first, **middle, "turns": len(turns), "failed": sum(turn["failed"] for turn in turns)}


# ---- what is asked ------------------------------------------------------------------------------------------


def make_student(folder: str, seed: int = 0) -> Ranker:
    """A student with a fresh head: it costs what a trained one does."""
    torch.manual_seed(seed)
    ranker = Ranker.encoder(checkpoints.resolve("bundled:all-minilm-l6-v2"), max_length=MAX_LENGTH)
    ranker.save(folder)
    return Ranker.load(folder)


def make_requests(ranker: Ranker, documents: int, count: int) -> list[dict[str, Any]]:
    """Real queries, each with documents of the collection, of all lengths up to `DOC_TOKENS`."""
    collection = reader.read_collection(harness.collection())
    texts = [collection.corpus[doc_id] for doc_id in sorted(collection.corpus)]
    queries = [query.text for query in collection.queries][:count]
    order = np.random.default_rng(0).permutation(len(texts))
    found = []
    for number, query in enumerate(queries):
        picks = [order[(number * documents + place) % len(order)] for place in range(documents)]
        documents_of = ranker.cut([texts[pick] for pick in picks], DOC_TOKENS)
        found.append({"model": "student", "query": query, "documents": documents_of, "return_documents": False})
    return found


def _asked(ranker: Ranker, documents: int, count: int, folder: str, seconds: float) -> Asked:
    bodies = make_requests(ranker, documents, count)
    scored = write_bodies(f"{folder}/bodies-{documents}", bodies)
    unscored = write_bodies(f"{scored}-identity", [{**body, "model": IDENTITY} for body in bodies])
    return Asked(documents, scored, unscored, functools.partial(in_process, ranker, bodies, seconds))


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
    """The generator's answers; and the seconds that a core was busy meanwhile, by kind of process below this one."""
    before = _cpu_seconds()
    found = load.answers(load.start(asked))
    busy: dict[str, float] = {}
    for process, (kind, seconds) in _cpu_seconds().items():
        busy[kind] = busy.get(kind, 0.0) + seconds - before.get(process, ("", 0.0))[1]
    return found | {"busy": busy}


def _cpu_seconds() -> dict[tuple[int, float], tuple[str, float]]:
    """By process: its kind, and how long it has kept a core busy. A Ray actor's name tells its method too."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            kind = process.name().partition(".")[0]
            found[process.pid, process.create_time()] = (kind, times.user + times.system)
    return found


# ---- servers ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ours(student: str, **options: Any) -> Iterator[str]:
    """Our endpoint on a free port, its replica with all cores unless the options say otherwise."""
    url = deploy.start_endpoint(ServeConfig(student, **{"port": free_port(), "resources": {"CPU": CORES}, **options}))
    try:
        yield f"{url}/v2/rerank"
    finally:
        deploy.stop_endpoint()
        ray.shutdown()


@contextlib.contextmanager
def _peers(student: str) -> Iterator[dict[str, str]]:
    """The URL of each that starts. They run beside ours, and those that are not asked do nothing."""
    with contextlib.ExitStack() as stack:
        servers = {}
        port = free_port()
        command = [str(INFINITY), "v2", "--model-id", student, "--served-model-name", "student", "--port", str(port)]
        command += ["--host", "127.0.0.1", "--device", "cpu", "--engine", "torch", "--dtype", "bfloat16"]
        command += ["--no-bettertransformer"]
        if INFINITY.exists() and stack.enter_context(_server(command, {}, port, f"{student}.infinity")):
            servers["infinity"] = f"http://127.0.0.1:{port}/rerank"
        port = free_port()
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", student]
        command += ["--served-model-name", "student", "--dtype", "bfloat16", "--runner", "pooling"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if stack.enter_context(_server(command, settings, port, f"{student}.vllm")):
            servers["vllm"] = f"http://127.0.0.1:{port}/rerank"
        yield servers


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


def _times(found: dict[str, Any]) -> list[float]:
    return [took for _, status, took, _ in found["answers"] if status == 200]


def _row(server: str, documents: int, asked: load.Load, found: dict[str, Any], alone: np.ndarray) -> dict[str, Any]:
    """Documents/s are those from the first answer to the last one: the last one's time is no part of what a pace was.
    `busy`: cores that the processes took, the load generator among them."""
    took = _times(found)
    ends = sorted(due + took / 1000 for due, status, took, _ in found["answers"] if status == 200)
    busy = {**found["busy"], "clients": found["cpu_s"]}
    per_s = documents * (len(ends) - 1) / (ends[-1] - ends[0])
    by_core = documents * len(ends) / sum(busy.values())
    return {
        "server": server,
        "documents": documents,
        "clients": asked.clients,
        "documents/s": per_s,
        "share of in-process": per_s / float(alone[0]),
        "documents/core-s": by_core,
        "share by core-s": by_core / float(alone[1]),
        "p50 ms": float(np.percentile(took, 50)),
        "p99 ms": float(np.percentile(took, 99)),
        "p99 over unloaded": float("nan"),
        "ours over it": float("nan"),
        "by core-s": float("nan"),
        "failed": len(found["answers"]) - len(took),
        "pace": float("nan"),
        "turns": 1,
        "again": 0,
        "busy": " ".join(f"{kind} {s / found['seconds']:.2f}" for kind, s in busy.items() if s > 0.005 * ends[-1]),
    }


if __name__ == "__main__":
    harness.main("http_speed", bench)
