"""A load generator in a process of its own: a number of clients, each with one request at a time, for some seconds.

With a rate, the clients send by the clock, evenly one after the other, whether the server keeps up or not; an
answer's time then counts from when its request was due. With `retry`, a request whose answer is not 200 is sent once
more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.commands import ROOT

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Load:
    """A load on `url`: its requests, clients and duration.

    `bodies` is a file of requests, one a line. `rate` is that of all clients together, in requests/s; 0: as fast as
    they get answers.
    """

    url: str
    bodies: str
    clients: int
    seconds: float
    rate: float = 0.0
    retry: bool = False


def start(load: Load) -> subprocess.Popen[str]:
    """Start the generator; `answers` waits for it."""
    command = [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(load))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def answers(generator: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a generator and return what it measured.

    `answers` has for each request the second of its start, the status (0: the connection broke), the milliseconds
    until its answer and the tries; `seconds` is the time until the last answer, `cpu_s` the generator's CPU time.
    """
    output, _ = generator.communicate()
    if generator.returncode:
        raise SystemExit(f"the load generator ended with {generator.returncode}")
    return json.loads(output)


def send(load: Load) -> dict[str, Any]:
    """Run a load to its end; return its `answers` with `busy`, CPU seconds by kind of process below this one."""
    before = _cpu_seconds()
    measured = answers(start(load))
    busy: dict[str, float] = {}
    for process, (kind, seconds) in _cpu_seconds().items():
        busy[kind] = busy.get(kind, 0.0) + seconds - before.get(process, ("", 0.0))[1]
    return measured | {"busy": busy}


def _cpu_seconds() -> dict[tuple[int, float], tuple[str, float]]:
    """Return the kind and the CPU seconds of each process below this one. A Ray actor's name has its method too."""
    seconds = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            kind = process.name().partition(".")[0]
            seconds[process.pid, process.create_time()] = (kind, times.user + times.system)
    return seconds


async def run(load: Load) -> dict[str, Any]:
    """Send a load; return what `answers` describes."""
    bodies = [line.encode() for line in Path(load.bodies).read_text().splitlines()]
    sent: list[tuple[float, int, float, int]] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def post(session: aiohttp.ClientSession, body: bytes) -> tuple[int, float]:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(load.url, data=body, headers=JSON) as answer:
                await answer.read()
                return answer.status, float(answer.headers.get("Retry-After", 0))
        return 0, 0.0

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        index = number
        while True:
            now = time.perf_counter()
            due = began + index / load.rate if load.rate else now
            if max(due, now) - began >= load.seconds:
                return
            await asyncio.sleep(max(0.0, due - now))
            tries, (status, pause) = 1, await post(session, bodies[index % len(bodies)])
            if load.retry and status != 200:
                await asyncio.sleep(pause)
                tries, (status, _) = 2, await post(session, bodies[index % len(bodies)])
            sent.append((due - began, status, 1000 * (time.perf_counter() - due), tries))
            index += load.clients

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session, number) for number in range(load.clients)))
    return {"answers": sent, "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Load(**json.loads(sys.argv[1]))))))
