"""An endpoint in trouble: twice the requests that it can answer, replicas that are killed, a winner that changes."""

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

from benchmarks import harness, http_speed, load
from rrad_ray.rankers.ranker import Ranker
from tests import winners

DOCUMENTS, CLIENTS = 20, 64
MAX_QUEUED = 8  # an accepted request waits for so many at most: that is what bounds its p99
CALM = 0.25  # of the capacity: what one replica of two, beside one that starts, answers on shared cores
KILL_EVERY_S = 20.0
SWAP_AT = 0.2  # of the time


def bench(quick: bool, scratch: str) -> harness.Result:
    flooded_s, killed_s, swapped_s = (60.0, 50.0, 30.0) if quick else (300.0, 200.0, 60.0)
    folders = [f"{scratch}/{name}" for name in ("first", "second")]
    rankers = [http_speed.make_student(folder, seed) for seed, folder in enumerate(folders)]
    asked = http_speed.make_requests(rankers[0], DOCUMENTS, 40 if quick else 200)
    bodies = http_speed.write_bodies(f"{scratch}/bodies", asked)
    put = lambda number: _put(f"{scratch}/winner", folders[number], rankers[number], asked[0])  # noqa: E731
    put(0)
    options: dict[str, Any] = {"max_queued": MAX_QUEUED, "watch_s": 1.0}
    with http_speed.ours(f"{scratch}/winner", **options) as url:
        http_speed.send(load.Load(url, bodies, 1, 3.0))  # warm
        unloaded = _times(http_speed.send(load.Load(url, bodies, 1, 10.0)))
        every = http_speed.send(load.Load(url, bodies, MAX_QUEUED, 15.0))
        capacity = len(every["answers"]) / every["seconds"]
        flooded = _flooded(load.Load(url, bodies, CLIENTS, flooded_s, rate=2 * capacity))
        swapped = _swapped(load.Load(url, bodies, MAX_QUEUED // 2, swapped_s), lambda: put(1))
    with http_speed.ours(f"{scratch}/winner", replicas=2, resources={"CPU": 1}, **options) as url:
        http_speed.send(load.Load(url, bodies, 2, 3.0))
        killed = _killed(load.Load(url, bodies, MAX_QUEUED, killed_s, rate=CALM * capacity, retry=True))
    rows = [flooded, swapped, killed]
    p50 = float(np.median(unloaded))
    figures = {
        "accepted_failed": float(sum(row["failed"] for row in rows)),
        "p99_over_unloaded": flooded["p99 ms"] / p50,
        "refused_p99_over_unloaded": flooded["refused p99 ms"] / p50,
        "rss_growth_mib": flooded["RSS growth MiB"],
    }
    settings = {"unloaded_ms": p50, "requests_per_s": capacity, "max_queued": MAX_QUEUED, "documents": DOCUMENTS}
    return harness.Result(figures, rows, settings)


def _put(place: str, folder: str, ranker: Ranker, body: dict[str, Any]) -> None:
    scores = ranker.score(body["query"], body["documents"])
    smoke = {"query": body["query"], "documents": body["documents"], "scores": scores}
    winners.write(Path(place), Path(folder).name, folder, smoke)


# ---- what happens -------------------------------------------------------------------------------------------


def _flooded(asked: load.Load) -> dict[str, Any]:
    """Twice what it can answer: the rest is refused."""
    sizes: list[int] = []
    found = _beside(asked, lambda second: sizes.append(sum(process.memory_info().rss for process in _processes())))
    tenth = len(sizes) // 10  # the first is left out: buffers find their size
    grown = float(np.median(sizes[-tenth:]) - np.median(sizes[tenth : 2 * tenth]))
    return _row("twice the capacity", asked, found, refuses=True, grown=grown / 2**20)


def _swapped(asked: load.Load, swap: Callable[[], None]) -> dict[str, Any]:
    """Another winner is put in the place of the first one."""
    due = [SWAP_AT * asked.seconds]

    def look(second: float) -> None:
        if due and second >= due[0]:
            due.clear()
            swap()

    found = _beside(asked, look)
    live = httpx.get(asked.url.replace("/v2/rerank", "/healthz"), trust_env=False).json()["model"]
    if live != "second":
        raise SystemExit(f"the new winner did not go live: '{live}' answers")
    return _row("another winner", asked, found)


def _killed(asked: load.Load) -> dict[str, Any]:
    """kill -9 of one of the replicas, whichever, again and again."""
    due, count = KILL_EVERY_S / 2, 0

    def look(second: float) -> None:
        nonlocal due, count
        replicas = _processes("ray::ServeReplica") if second >= due else []
        if len(replicas) > 1:
            with contextlib.suppress(psutil.Error):
                random.choice(replicas).kill()
                due, count = second + KILL_EVERY_S, count + 1

    found = _beside(asked, look)
    return _row(f"{count} replicas killed", asked, found)


def _beside(asked: load.Load, look: Callable[[float], None]) -> dict[str, Any]:
    """The generator's answers; `look(second)` again and again meanwhile."""
    generator, began = load.start(asked), time.monotonic()
    while (second := time.monotonic() - began) < asked.seconds:
        with contextlib.suppress(psutil.NoSuchProcess):
            look(second)
        time.sleep(0.5)
    return load.answers(generator)


def _processes(*kinds: str) -> list[psutil.Process]:
    """Serve's processes of these kinds; without a name all of them."""
    kinds = kinds or ("ray::Serve", "ray::ProxyActor", "ray::HAProxyManager", "haproxy")
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(kinds):
                found.append(process)
    return found


# ---- rows ---------------------------------------------------------------------------------------------------


def _times(found: dict[str, Any], status: int = 200) -> list[float]:
    return [took for _, said, took, _ in found["answers"] if said == status]


def _row(
    what: str, asked: load.Load, found: dict[str, Any], refuses: bool = False, grown: float = float("nan")
) -> dict[str, Any]:
    """`failed`: neither answered nor, where that is what is wanted, refused; of requests that are asked again, at the
    second try."""
    statuses = Counter(status for _, status, _, _ in found["answers"])
    took, refused = _times(found), _times(found, 503)
    kept = {200, 503} if refuses else {200}
    print(what, dict(statuses), flush=True)
    return {
        "what": what,
        "seconds": round(found["seconds"]),
        "requests": len(found["answers"]),
        "answered": len(took),
        "refused": len(refused),
        "asked again": sum(tries > 1 for *_, tries in found["answers"]),
        "failed": sum(count for status, count in statuses.items() if status not in kept),
        "p50 ms": float(np.percentile(took, 50)),
        "p99 ms": float(np.percentile(took, 99)),
        "refused p99 ms": float(np.percentile(refused, 99)) if refused else float("nan"),
        "RSS growth MiB": grown,
    }


if __name__ == "__main__":
    harness.main("overload", bench)
