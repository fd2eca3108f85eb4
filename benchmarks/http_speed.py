"""The cost of HTTP: documents/s through the endpoint as a share of the same student's in-process.

By numbers of clients and of documents; and the same requests to infinity's and to vLLM's own re-rank servers.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks import harness, load
from benchmarks.servers import CORES, DOC_TOKENS, MAX_LENGTH, make_requests, make_student, ours, peers, write_bodies
from rrad_ray.config import IDENTITY
from rrad_ray.rankers.ranker import Ranker

DOCUMENTS, CLIENTS = (20, 100), (1, 8, 64)
SLOWER = 4  # times the unloaded latency that a p99 may be
PACES = (0.95, 0.93, 0.91, 0.89, 0.87, 0.85, 0.8, 0.7, 0.6, 0.5)  # of in-process speed
STEADY = 0.1  # of its speed: more than the machine's own may change by during a turn
HELD = "ours, p99 held"


@dataclass(frozen=True)
class Search:
    """A search for the fastest pace: its candidates, the turns at each, and how many turns may be repeated."""

    paces: tuple[float, ...]
    turns: int
    again: int


WHOLE, QUICK = Search(PACES, 5, 25), Search(PACES[::4], 3, 2)


@dataclass(frozen=True)
class Workload:
    """Requests of one number of documents, and how fast the student answers them in-process.

    `bodies` is a file of them, `unscored` the same for the model that scores nothing. `alone()` measures in-process:
    documents/s, and documents per CPU second.
    """

    documents: int
    bodies: str
    unscored: str
    alone: Callable[[], np.ndarray]


def bench(quick: bool, scratch: str) -> harness.Result:
    seconds, requests, search, rounds = (3.0, 40, QUICK, 1) if quick else (5.0, 200, WHOLE, 2)
    student = f"{scratch}/student"
    ranker = make_student(student)
    workloads = [_workload(ranker, count, requests, scratch, seconds / 2) for count in DOCUMENTS]
    cells = list(itertools.product(workloads, CLIENTS))
    if quick:  # each number of clients and of documents once
        cells = [*cells[:3], cells[4]]
    rows: list[dict[str, Any]] = []
    with ours(student, max_queued=256) as url:
        for row in itertools.chain(
            (_unscored(url, workload, seconds) for workload in workloads),
            (_held(load.Load(url, work.bodies, clients, seconds), work, search) for work, clients in cells),
            _beside_peers(url, student, cells, seconds, rounds),
        ):
            rows.append(row)
            print(json.dumps(row), flush=True)
    settings = {"seconds": seconds, "rounds": rounds, "steady": STEADY, **asdict(search)}
    settings |= {"max_length": MAX_LENGTH, "doc_tokens": DOC_TOKENS, "threads": CORES}
    return harness.Result(_figures(rows), rows, settings)


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of a run.

    The shares are the least of those at which p99 holds. Servers are compared by clients that send as fast as they
    get answers. All of it is given by CPU second too: on a machine that others use, processes get unlike shares of
    it. `http_ms` is the latency of a request of the fewest documents to the model that scores nothing,
    `http_core_ms` its CPU time, the client's included.
    """
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


# ---- workloads ----------------------------------------------------------------------------------------------


def _workload(ranker: Ranker, documents: int, count: int, folder: str, seconds: float) -> Workload:
    bodies = make_requests(ranker, documents, count)
    scored = write_bodies(f"{folder}/bodies-{documents}", bodies)
    unscored = write_bodies(f"{scored}-identity", [{**body, "model": IDENTITY} for body in bodies])
    return Workload(documents, scored, unscored, functools.partial(in_process, ranker, bodies, seconds))


def in_process(ranker: Ranker, requests: list[dict[str, Any]], seconds: float) -> np.ndarray:
    """Return documents/s and documents per CPU second of one request after another, without HTTP.

    The process's threads have all cores, as a replica's have.
    """
    torch.set_num_threads(CORES)
    ranker.score(requests[0]["query"], requests[0]["documents"])
    began, cpu, count, number = time.perf_counter(), time.process_time(), 0, 0
    while time.perf_counter() - began < seconds:
        body = requests[number % len(requests)]
        count, number = count + len(ranker.score(body["query"], body["documents"])), number + 1
    return count / np.array([time.perf_counter() - began, time.process_time() - cpu])


# ---- turns: neighbours in time are compared, since the machine's speed is another one a minute later ------------


def _unscored(url: str, workload: Workload, seconds: float) -> dict[str, Any]:
    load.send(load.Load(url, workload.bodies, 1, 2.0))  # warm
    nothing = load.Load(url, workload.unscored, 1, seconds)
    return _row("ours, identity", workload.documents, nothing, load.send(nothing), workload.alone())


def _held(client: load.Load, workload: Workload, search: Search) -> dict[str, Any]:
    """Return the row of the fastest even pace at which p99 holds, by bisection; shares of 0 if there is none.

    One client sends as fast as it gets answers, for about as many turns as such a search takes.
    """
    if client.clients == 1:
        search = Search((0.0,), 3 * search.turns, 3 * search.again)
    rows: dict[float, dict[str, Any]] = {}

    def holds(pace: float) -> bool:
        row = rows[pace] = _at_pace(pace, client, workload, search)
        held = row["p99 over unloaded"] <= SLOWER and not row["failed"]
        if not held:
            print(f"p99 does not hold: {json.dumps(row)}", flush=True)
        return held

    index = bisect.bisect_left(search.paces, True, key=holds)
    if index < len(search.paces):
        return rows[search.paces[index]]
    return {**rows[search.paces[-1]], "share of in-process": 0.0, "share by core-s": 0.0}


def _at_pace(pace: float, client: load.Load, workload: Workload, search: Search) -> dict[str, Any]:
    """Return the median turn at a pace.

    It stops early once most turns have a p99 over `SLOWER` times the latency of one client just before. A turn during
    which the machine's own speed changed says nothing of the server and is repeated.
    """
    rows: list[dict[str, Any]] = []
    turns, again = search.turns, 0
    after = workload.alone()
    while len(rows) < turns and sum(turn["p99 over unloaded"] > SLOWER for turn in rows) <= turns // 2:
        before = after
        one_client = replace(client, clients=1, seconds=client.seconds / 2)
        unloaded = float(np.median(_latencies(load.send(one_client))))
        measured = load.send(replace(client, rate=pace * before[0] / workload.documents))
        speed = (before + (after := workload.alone())) / 2
        if abs(after[0] - before[0]) > STEADY * speed[0] and again < search.again:
            again += 1
            continue
        row = _row(HELD, workload.documents, client, measured, speed)
        rows.append({**row, "p99 over unloaded": row["p99 ms"] / unloaded})
    return {**_median(rows), "pace": pace, "again": again}


def _beside_peers(
    url: str, student: str, cells: Sequence[tuple[Workload, int]], seconds: float, rounds: int
) -> Iterator[dict[str, Any]]:
    """Give a row for each server, by clients that send as fast as they get answers."""
    with peers(student) as urls:
        for peer_url in urls.values():
            for bodies in {workload.bodies for workload, _ in cells}:
                load.send(load.Load(peer_url, bodies, 1, 2.0))  # warm
        for workload, clients in cells:
            every = {"ours": url, **urls}
            loads = {name: load.Load(at, workload.bodies, clients, seconds) for name, at in every.items()}
            turns = [_at_full_speed(loads, workload) for _ in range(rounds)]
            yield from (_median([turn[name] for turn in turns]) for name in every)


def _at_full_speed(loads: Mapping[str, load.Load], workload: Workload) -> dict[str, dict[str, Any]]:
    """Return one turn of each server; ours stands between two in-process."""
    before, measured, after = workload.alone(), load.send(loads["ours"]), workload.alone()
    rows = {"ours": _row("ours", workload.documents, loads["ours"], measured, (before + after) / 2)}
    for name in loads.keys() - {"ours"}:
        row = _row(name, workload.documents, loads[name], load.send(loads[name]), after)
        for key, over in (("documents/s", "ours over it"), ("documents/core-s", "by core-s")):
            row[over] = rows["ours"][key] / row[key]
        rows[name] = row
    return rows


# ---- rows ---------------------------------------------------------------------------------------------------


def _median(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure, and the sum of the failures."""
    first = turns[0]
    figures = [key for key, value in first.items() if isinstance(value, float)]
    middle = {key: statistics.median(turn[key] for turn in turns) for key in figures}
    return {**first, **middle, "turns": len(turns), "failed": sum(turn["failed"] for turn in turns)}


def _latencies(measured: dict[str, Any]) -> list[float]:
    """Return the milliseconds of each answer with status 200."""
    return [took for _, status, took, _ in measured["answers"] if status == 200]


def _row(server: str, documents: int, sent: load.Load, measured: dict[str, Any], alone: np.ndarray) -> dict[str, Any]:
    """Return the row of a turn.

    Documents/s count from the first answer to the last: the last one's latency is no part of the pace. `busy` is the
    number of cores that the processes kept busy, the load generator's among them.
    """
    took = _latencies(measured)
    ends = sorted(due + took / 1000 for due, status, took, _ in measured["answers"] if status == 200)
    busy = {**measured["busy"], "clients": measured["cpu_s"]}
    per_s = documents * (len(ends) - 1) / (ends[-1] - ends[0])
    by_core = documents * len(ends) / sum(busy.values())
    cores = {kind: seconds / measured["seconds"] for kind, seconds in busy.items() if seconds > 0.005 * ends[-1]}
    return {
        "server": server,
        "documents": documents,
        "clients": sent.clients,
        "documents/s": per_s,
        "share of in-process": per_s / float(alone[0]),
        "documents/core-s": by_core,
        "share by core-s": by_core / float(alone[1]),
        "p50 ms": float(np.percentile(took, 50)),
        "p99 ms": float(np.percentile(took, 99)),
        "p99 over unloaded": float("nan"),
        "ours over it": float("nan"),
        "by core-s": float("nan"),
        "failed": len(measured["answers"]) - len(took),
        "pace": float("nan"),
        "turns": 1,
        "again": 0,
        "busy": " ".join(f"{kind} {count:.2f}" for kind, count in cores.items()),
    }


if __name__ == "__main__":
    harness.main("http_speed", bench)
