"""Faults of a real cluster while `judge` labels: is any query lost, or there twice?"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil

from benchmarks import harness
from rrad_ray import tables
from rrad_ray.rows import JudgeOutput
from tests.unreliable import unreliable

FAILS, STALLS, STALL_S = 0.05, 0.01, 30.0
KILL_EVERY_S = 20.0
ECHO = ["configs/judge.yaml", "engine=echo", "task=order", "gate.enabled=false", "shard_queries=50", "durable_s=5"]


def bench(quick: bool, scratch: str) -> harness.Result:
    queries = 2000 if quick else 20_000
    labelled = 400 if quick else 1000
    rows = [_store(queries), _actors(scratch, labelled), _disk(scratch, queries)]
    figures = {key: float(sum(row[key] for row in rows)) for key in ("lost", "doubled")}
    return harness.Result(figures, rows, {"queries": [row["queries"] for row in rows]})


def _store(queries: int) -> dict[str, Any]:
    """Label through an S3 that fails 5 % of requests and stalls 1 % for 30 s."""
    with harness.s3() as (bucket, port), unreliable(port, FAILS, STALLS, STALL_S) as (proxy, counts):
        harness.write_candidates(f"{bucket}/input", queries)
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy}"
        command = ["judge", *ECHO, f"input={bucket}/input", f"output={bucket}/judged"]
        runs = _until_done(command)
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        what = f"S3: {counts['failed']} of {counts['all']} requests failed, {counts['stalled']} stalled 30 s"
        return _row(what, f"{bucket}/judged", queries, runs)


def _actors(scratch: str, queries: int) -> dict[str, Any]:
    """Label with a real engine while a random actor of the run is killed (kill -9) every 20 s."""
    harness.write_candidates(f"{scratch}/input", queries, documents=4)
    output, killed = f"{scratch}/judged", Counter[str]()
    command = ["judge", "configs/judge-cpu.yaml", f"input={scratch}/input", f"output={output}", "gate.enabled=false"]
    command += ["num_workers=2", "shard_queries=50", "durable_s=5", "doc_tokens=32", "batch_size=8"]
    command += ["engine_env.VLLM_CPU_KVCACHE_SPACE=1"]
    runs = _until_done(command, _killer(killed))
    names = ", ".join(f"{count} {name}" for name, count in killed.most_common())
    return _row(f"an actor killed every 20 s: {names}", output, queries, runs)


def _disk(scratch: str, queries: int) -> dict[str, Any]:
    """Label to a disk that fills; the user makes room and runs the same command again."""
    disk, size = f"{scratch}/disk", 3 * queries
    os.makedirs(disk)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True)
    if done.returncode:
        raise SystemExit("the disk that fills is a tmpfs of its own: run this benchmark as root")
    try:
        harness.write_candidates(f"{scratch}/for-disk", queries)
        with open(f"{disk}/ballast", "wb") as file:
            file.write(b"x" * 1024 * (size - queries // 20))
        command = ["judge", *ECHO, f"input={scratch}/for-disk", f"output={disk}/judged"]
        first, lines = harness.run(command, lambda process: None)
        output = "".join(lines)
        if first == 0 or "no space left" not in output:
            raise SystemExit(f"the disk did not fill: {output[-2000:]}")
        kept = len(tables.part_names(f"{disk}/judged"))
        os.remove(f"{disk}/ballast")
        runs = 1 + _until_done(command)
        return _row(f"the disk fills after {kept} parts", f"{disk}/judged", queries, runs)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def _row(what: str, output: str, queries: int, runs: int) -> dict[str, Any]:
    """Return the row of a fault: queries that are not in the output, and those that are there more than once."""
    rows = Counter(row["query_id"] for row in tables.read(output, JudgeOutput))
    return {
        "fault": what,
        "queries": queries,
        "commands": runs,
        "lost": sum(f"q{number}" not in rows for number in range(queries)),
        "doubled": sum(count - 1 for count in rows.values()),
        "set aside": sum(tables.read_manifest(output).quarantined.values()),
    }


# ---- runs ---------------------------------------------------------------------------------------------------


def _until_done(command: list[str], meanwhile: Callable[[psutil.Process], None] = lambda process: None) -> int:
    """Run a command until it succeeds, as a user or a job's retry would; return how often it ran."""
    for attempt in range(1, 6):
        code, lines = harness.run(command, meanwhile)
        if code == 0:
            return attempt
    raise SystemExit(f"it never ended well: {''.join(lines[-40:])}")


def _killer(killed: Counter[str]) -> Callable[[psutil.Process], None]:
    """Return a function that kills a random actor of a run every `KILL_EVERY_S` seconds and counts it by role."""
    due = 0.0

    def look(driver: psutil.Process) -> None:
        nonlocal due
        now = time.monotonic()
        actors = _actors_of(driver) if now >= due else []
        if not actors:
            return
        if due:
            victim, role = random.choice(actors)
            with contextlib.suppress(psutil.Error):
                victim.kill()
                killed[role] += 1
        due = now + KILL_EVERY_S

    return look


def _actors_of(driver: psutil.Process) -> list[tuple[psutil.Process, str]]:
    """Return the actors of a run and their roles."""
    actors = []
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::MapWorker"):
                actors.append((process, "planners" if "Plan" in title else "engines"))
    return actors


if __name__ == "__main__":
    harness.main("faults", bench)
