"""An endpoint under two fuzzers, of raw sockets and of its schema: server errors, lost replicas, scores, memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import httpx

from benchmarks import harness, servers
from benchmarks.command import table
from benchmarks.fuzzer import QUERY, TEXTS
from benchmarks.memory import MemoryLog
from rrad_ray.config import OnlineConfig, SearchConfig
from tests import endpoints
from tests.commands import ROOT

CLIENTS, LOOK_S = 16, 2.0
BUSY = ("503", "504")  # documented: too many wait, or a deadline has passed
SCHEMATHESIS = ROOT / ".venv-clients" / "bin" / "st"
ROUND_S = 120.0  # of schemathesis, whose report holds every request
SHARE = 0.2  # of the time, to find the size of buffers in; and of which memory is compared then and at the end


def bench(quick: bool, scratch: str, minutes: float) -> harness.Result:
    seconds = 60 * (2.0 if quick else minutes)
    endpoints.student(f"{scratch}/student", layers=1)
    Path(scratch, "secret").write_text("s" * 32)
    test: dict[str, Any] = {"name": "fuzz", "variants": {"identity": 1, "winner": 1}, "secret": f"{scratch}/secret"}
    online = OnlineConfig(f"{scratch}/events", journal=f"{scratch}/journal", **test)
    sizes: list[float] = []  # MiB of Serve's processes
    ordinary: Counter[str] = Counter()
    search = SearchConfig(harness.collection())
    with servers.ours(f"{scratch}/student", online=online, search=search) as url, httpx.Client(timeout=150) as client:
        before, right, log = _replicas(), _ask(client, url), MemoryLog()
        with ThreadPoolExecutor() as pool:
            fuzzers = {"raw sockets": pool.submit(_raw, url, seconds)}
            if SCHEMATHESIS.exists():
                fuzzers["schemathesis"] = pool.submit(_by_schema, url, seconds, scratch)
            else:
                print(f"schemathesis is left out: no {SCHEMATHESIS}, which `make test` makes", flush=True)
            while not all(fuzzer.done() for fuzzer in fuzzers.values()):
                time.sleep(LOOK_S)
                sizes.append(log.look())
                answer = _ask(client, url)
                ordinary["busy" if answer in BUSY else "right" if answer == right else f"wrong: {answer}"] += 1
        after = _replicas()
    ends = {name: fuzzer.result() for name, fuzzer in fuzzers.items()}
    harm = {name: errors for name, (_, errors) in ends.items() if errors}
    share = int(SHARE * len(sizes))
    warm, last = statistics.median(sizes[share : 2 * share]), statistics.median(sizes[-share:])
    figures = {
        "requests": float(sum(statuses.total() for statuses, _ in ends.values())),
        "server_errors": float(sum(map(len, harm.values()))),
        "replicas_lost": float(len(set(before) - set(after))),
        "ordinary_changed": float(ordinary.total() - ordinary["right"] - ordinary["busy"]),
        "rss_growth_mib": last - warm,
        "memory_flat": float(log.is_flat()),
    }
    print(table(log.rows()), flush=True)
    rows = [
        {"fuzzer": name, "requests": each.total(), "ended by": _listing(each)} for name, (each, _) in ends.items()
    ]
    settings = {"seconds": seconds, "ordinary": ordinary, "harm": harm, "replicas": [before, after]}
    settings["rss_mib"] = {"warm": warm, "end": last, "most": max(sizes)}
    settings["memory"] = log.rows()
    print(settings, flush=True)
    return harness.Result(figures, rows, settings)


def _replicas() -> list[int]:
    return [process.pid for process in servers.serve_processes("ray::ServeReplica")]


def _ask(client: httpx.Client, url: str) -> Any:
    """Return the results of an ordinary request, or the status of a refusal."""
    answer = client.post(url, json={"query": QUERY, "documents": TEXTS})
    return answer.json()["results"] if answer.status_code == 200 else str(answer.status_code)


def _listing(statuses: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {status}" for status, count in statuses.most_common())


Ends = tuple[Counter[str], dict[str, str]]  # requests by status, and what to repeat of those that did harm, by status


def _raw(url: str, seconds: float) -> Ends:
    """Run the fuzzer of raw sockets; who did harm is its number there."""
    command = [sys.executable, "-m", "benchmarks.fuzzer", url, str(CLIENTS), str(seconds)]
    done = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return Counter(done["statuses"]), {key: end for key, end in done["server_errors"].items() if end not in BUSY}


def _by_schema(url: str, seconds: float, scratch: str) -> Ends:
    """Run schemathesis, each round with another seed."""
    statuses, harm = Counter[str](), dict[str, str]()
    end, report = time.monotonic() + seconds, Path(scratch, "schemathesis.har")
    for seed in range(1, sys.maxsize):
        if (left := end - time.monotonic()) < 1:
            break
        command = [str(SCHEMATHESIS), "run", f"{url.removesuffix('/v2/rerank')}/openapi.json", "--seed", str(seed)]
        command += ["--checks", "not_a_server_error", "--continue-on-failure", "--generation-database", "none"]
        command += ["--max-time", str(int(min(left, ROUND_S))), "--report", "har", "--report-har-path", str(report)]
        report.unlink(missing_ok=True)
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)  # fails by a 503 too
        if not report.exists():
            print(f"schemathesis made no report: {(done.stderr or done.stdout)[-2000:]}", flush=True)
            continue
        for entry in json.loads(report.read_text())["log"]["entries"]:
            asked, status = entry["request"], str(entry["response"]["status"])
            statuses[status] += 1
            if status.startswith("5") and status not in BUSY:
                harm[f"{asked['method']} {asked['url']} {asked.get('postData', '')}"[:2000]] = status
    return statuses, harm


if __name__ == "__main__":
    harness.main("fuzz", bench, click.Option(["--minutes"], type=float, default=30.0, show_default=True))
