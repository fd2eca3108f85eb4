"""A load generator in a process of its own: so many clients, each with one request at a time, for so many seconds.

With a rate, the clients ask by the clock, evenly one after the other, whether the server keeps up or not; an answer's
time then counts from when its request was due. With `retry`, what was not answered with 200 is asked once more.
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

from tests.commands import ROOT

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Load:
    """`bodies`: a file of requests, one a line. `rate`: requests/s of all clients together; 0: as fast as they get
    answers."""

    url: str
    bodies: str
    clients: int
    seconds: float
    rate: float = 0.0
    retry: bool = False


def start(load: Load) -> subprocess.Popen[str]:
    """The generator, on its way; `answers` waits for it."""
    command = [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(load))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def answers(generator: subprocess.Popen[str]) -> dict[str, Any]:
    """`answers`: second of its start, status (0: the connection broke), milliseconds and tries of each; `seconds`:
    until the last one was there; `cpu_s`: of the generator."""
    said, _ = generator.communicate()
    if generator.returncode:
        raise SystemExit(f"the load generator ended with {generator.returncode}")
    return json.loads(said)


async def run(load: Load) -> dict[str, Any]:
    bodies = [line.encode() for line in Path(load.bodies).read_text().splitlines()]
    found: list[tuple[float, int, float, int]] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def post(session: aiohttp.ClientSession, body: bytes) -> tuple[int, float]:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(load.url, data=body, headers=JSON) as answer:
                await answer.read()
                return answer.status, float(answer.headers.get("Retry-After", 0))
        return 0, 0.0

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        place = number
        while True:
            now = time.perf_counter()
            due = began + place / load.rate if load.rate else now
            if max(due, now) - began >= load.seconds:
                return
            await asyncio.sleep(max(0.0, due - now))
            tries, (status, pause) = 1, await post(session, bodies[place % len(bodies)])
            if load.retry and status != 200:
                await asyncio.sleep(pause)
                tries, (status, _) = 2, await post(session, bodies[place % len(bodies)])
            found.append((due - began, status, 1000 * (time.perf_counter() - due), tries))
            place += load.clients

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session, number) for number in range(load.clients)))
    return {"answers": found, "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Load(**json.loads(sys.argv[1]))))))
