"""An endpoint in trouble: twice the requests that it can answer, killed replicas, a winner that changes."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import harness, load, servers
from rrad_ray.rankers.ranker import Ranker
from tests import winners

DOCUMENTS, CLIENTS = 20, 64
MAX_QUEUED = 8  # an accepted request waits for so many at most, which bounds its p99
CALM = 0.25  # of the capacity: as much as one replica of two, beside one that starts, answers on shared cores
KILL_EVERY_S = 20.0
SWAP_AT = 0.2  # of the duration


def bench(quick: bool, scratch: str) -> harness.Result:
    flooded_s, killed_s, swapped_s = (60.0, 50.0, 30.0) if quick else (300.0, 200.0, 60.0)
    folders = [f"{scratch}/{name}" for name in ("first", "second")]
    rankers = [servers.make_student(folder, seed) for seed, folder in enumerate(folders)]
    requests = servers.make_requests(rankers[0], DOCUMENTS, 40 if quick else 200)
    bodies = servers.write_bodies(f"{scratch}/bodies", requests)
    put = lambda number: _put(f"{scratch}/winner", folders[number], rankers[number], requests[0])  # noqa: E731
    put(0)
    options: dict[str, Any] = {"max_queued": MAX_QUEUED, "watch_s": 1.0}
    with servers.ours(f"{scratch}/winner", **options) as url:
        load.send(load.Load(url, bodies, 1, 3.0))  # warm
        unloaded = _latencies(load.send(load.Load(url, bodies, 1, 10.0)))
        every = load.send(load.Load(url, bodies, MAX_QUEUED, 15.0))
        capacity = len(every["answers"]) / every["seconds"]
        flooded = _flooded(load.Load(url, bodies, CLIENTS, flooded_s, rate=2 * capacity))
        swapped = _swapped(load.Load(url, bodies, MAX_QUEUED // 2, swapped_s), lambda: put(1))
    with servers.ours(f"{scratch}/winner", replicas=2, resources={"CPU": 1}, **options) as url:
        load.send(load.Load(url, bodies, 2, 3.0))
        killed = _killed(load.Load(url, bodies, MAX_QUEUED, killed_s, rate=CALM * capacity, retry=True))
    rows = [flooded, swapped, killed]
    p50 = float(np.median(unloaded))
    figures = {
        "accepted_failed": float(sum(row["failed"] for row in rows)),
        "p99_over_unloaded": flooded["p99 ms"] / p50,
        "refused_p99_over_unloaded": flooded["refused p99 ms"] / p50,
        "rss_growth_mib": flooded["RSS growth MiB"],
        "replica_mib": flooded["replica MiB"],
    }
    settings = {"unloaded_ms": p50, "requests_per_s": capacity, "max_queued": MAX_QUEUED, "documents": DOCUMENTS}
    return harness.Result(figures, rows, settings)


def _put(winner: str, folder: str, ranker: Ranker, body: dict[str, Any]) -> None:
    """Write the winner that an endpoint watches: the student in `folder`, with its scores of one request."""
    scores = ranker.score(body["query"], body["documents"])
    smoke = {"query": body["query"], "documents": body["documents"], "scores": scores}
    winners.write(Path(winner), Path(folder).name, folder, smoke)


# ---- troubles -----------------------------------------------------------------------------------------------


def _flooded(sent: load.Load) -> dict[str, Any]:
    """Return the row of a load of twice the capacity: the rest is refused."""
    sizes: list[int] = []
    replica: list[int] = []

    def look(second: float) -> None:
        sizes.append(servers.resident_bytes())
        replica.append(servers.resident_bytes("ray::ServeReplica"))

    measured = _beside(sent, look)
    tenth = len(sizes) // 10  # the first is left out: buffers find their size
    grown = float(np.median(sizes[-tenth:]) - np.median(sizes[tenth : 2 * tenth]))
    memory = {"RSS growth MiB": grown / 2**20, "replica MiB": max(replica) / 2**20}
    return _row("twice the capacity", sent, measured, refuses=True) | memory


def _swapped(sent: load.Load, swap: Callable[[], None]) -> dict[str, Any]:
    """Return the row of a load during which another winner replaces the first one."""
    due = [SWAP_AT * sent.seconds]

    def look(second: float) -> None:
        if due and second >= due[0]:
            due.clear()
            swap()

    measured = _beside(sent, look)
    live = httpx.get(sent.url.replace("/v2/rerank", "/healthz"), trust_env=False).json()["model"]
    if live != "second":
        raise SystemExit(f"the new winner did not go live: '{live}' answers")
    return _row("another winner", sent, measured)


def _killed(sent: load.Load) -> dict[str, Any]:
    """Return the row of a load during which a random replica is killed (kill -9) every `KILL_EVERY_S` seconds."""
    due, count = KILL_EVERY_S / 2, 0

    def look(second: float) -> None:
        nonlocal due, count
        replicas = servers.serve_processes("ray::ServeReplica") if second >= due else []
        if len(replicas) > 1:
            with contextlib.suppress(psutil.Error):
                random.choice(replicas).kill()
                due, count = second + KILL_EVERY_S, count + 1

    measured = _beside(sent, look)
    return _row(f"{count} replicas killed", sent, measured)


def _beside(sent: load.Load, look: Callable[[float], None]) -> dict[str, Any]:
    """Return the answers to a load, beside which `look(second)` is called every half second."""
    generator, began = load.start(sent), time.monotonic()
    while (second := time.monotonic() - began) < sent.seconds:
        with contextlib.suppress(psutil.NoSuchProcess):
            look(second)
        time.sleep(0.5)
    return load.answers(generator)


# ---- rows ---------------------------------------------------------------------------------------------------


def _latencies(measured: dict[str, Any], wanted: int = 200) -> list[float]:
    """Return the milliseconds of each answer with the wanted status."""
    return [took for _, status, took, _ in measured["answers"] if status == wanted]


def _row(what: str, sent: load.Load, measured: dict[str, Any], refuses: bool = False) -> dict[str, Any]:
    """Return the row of a trouble; `refuses` if it is right to refuse.

    `failed` counts requests that were neither answered nor, where that is right, refused; of those that are sent
    again, at the second try.
    """
    statuses = Counter(status for _, status, _, _ in measured["answers"])
    took, refused = _latencies(measured), _latencies(measured, 503)
    right = {200, 503} if refuses else {200}
    print(what, dict(statuses), flush=True)
    return {
        "what": what,
        "seconds": round(measured["seconds"]),
        "requests": len(measured["answers"]),
        "answered": len(took),
        "refused": len(refused),
        "asked again": sum(tries > 1 for *_, tries in measured["answers"]),
        "failed": sum(count for status, count in statuses.items() if status not in right),
        "p50 ms": float(np.percentile(took, 50)),
        "p99 ms": float(np.percentile(took, 99)),
        "refused p99 ms": float(np.percentile(refused, 99)) if refused else float("nan"),
        "RSS growth MiB": float("nan"),  # in the flood alone
        "replica MiB": float("nan"),
    }


if __name__ == "__main__":
    harness.main("overload", bench)
