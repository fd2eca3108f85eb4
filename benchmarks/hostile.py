"""Ordinary requests beside hostile clients: their latency, and the endpoint's memory, with and without these."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import numpy as np

from benchmarks import attacks, harness, load, servers
from benchmarks.command import table
from benchmarks.memory import MemoryLog
from tests.commands import ROOT

DOCUMENTS, HOSTILE = 20, 64
MOST_OVER_CALM = 2.0  # of p99, for the endpoint to hold
SHARE = 0.25  # of the capacity, sent by the clock: a latency that waits for the endpoint alone


def bench(quick: bool, scratch: str) -> harness.Result:
    rounds, seconds = (2, 45.0) if quick else (4, 150.0)
    student = f"{scratch}/student"
    requests = servers.make_requests(servers.make_student(student), DOCUMENTS, 40 if quick else 200)
    bodies = servers.write_bodies(f"{scratch}/bodies", requests)
    calm: list[Any] = []
    beside: list[Any] = []
    ends: dict[str, Counter[str]] = {name: Counter() for name in attacks.attacks()}
    peaks: list[tuple[float, float]] = []  # MiB of a calm half and of the hostile one behind it
    with servers.ours(student) as url:
        load.send(load.Load(url, bodies, 2, 10.0))  # warm
        every = load.send(load.Load(url, bodies, 4, 10.0))
        capacity = len(every["answers"]) / every["seconds"]
        ordinary, log = load.Load(url, bodies, 16, seconds, rate=SHARE * capacity), MemoryLog()
        for _ in range(rounds):
            quiet, quiet_mib = _watched(ordinary, log)
            enemy = _start(url, seconds + 5)
            noisy, noisy_mib = _watched(ordinary, log)
            for name, counts in json.loads(enemy.communicate()[0]).items():
                ends[name].update(counts)
            calm += quiet["answers"]
            beside += noisy["answers"]
            peaks.append((quiet_mib, noisy_mib))
    p99 = [float(np.percentile([took for _, _, took, _ in answers], 99)) for answers in (calm, beside)]
    statuses = Counter(status for counts in ends.values() for status in counts.elements())
    figures = {
        "p99_over_calm": p99[1] / p99[0],
        "ordinary_failed": float(sum(status != 200 for _, status, _, _ in calm + beside)),
        "server_errors": float(sum(count for status, count in statuses.items() if status in ("500", "502"))),
        "rss_growth_mib": peaks[-1][1] - peaks[0][0],
        "rss_growth_of_last_round_mib": peaks[-1][1] - peaks[-2][1],
        "p99_within_2x": float(p99[1] <= MOST_OVER_CALM * p99[0]),
        "memory_flat": float(log.is_flat()),
    }
    print(table(log.rows()), flush=True)
    rows = [{"attack": name, "tries": counts.total(), **_most(counts)} for name, counts in ends.items()]
    settings = {"p99_calm_ms": p99[0], "p99_beside_ms": p99[1], "requests_per_s": SHARE * capacity, "peaks": peaks}
    print(settings, flush=True)
    return harness.Result(figures, rows, settings)


def _most(counts: Counter[str]) -> dict[str, str]:
    return {"ended by": ", ".join(f"{count} x {end}" for end, count in counts.most_common())}


def _start(url: str, seconds: float) -> subprocess.Popen[str]:
    """Start the hostile clients for some seconds."""
    command = [sys.executable, "-m", "benchmarks.attacks", url, str(HOSTILE), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _watched(ordinary: load.Load, log: MemoryLog) -> tuple[dict[str, Any], float]:
    """Return the answers to ordinary requests, and the most MiB that Serve's processes had meanwhile."""
    sizes: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            sizes.append(log.look())

    watcher = threading.Thread(target=watch)
    watcher.start()
    measured = load.send(ordinary)
    over.set()
    watcher.join()
    return measured, max(sizes)


if __name__ == "__main__":
    harness.main("hostile", bench)
