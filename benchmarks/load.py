"""A load generator in a process of its own: so many clients, each with one request at a time, for so many seconds."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp


async def run(url: str, bodies: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Status and milliseconds of every answer; `seconds`: until the last one was there."""
    answers: list[tuple[int, float]] = []
    began = time.perf_counter()

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        place = number
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            async with session.post(url, data=bodies[place % len(bodies)], headers=JSON) as answer:
                await answer.read()
                answers.append((answer.status, 1000 * (time.perf_counter() - start)))
            place += clients

    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    return {"answers": answers, "seconds": time.perf_counter() - began}


JSON = {"Content-Type": "application/json"}

if __name__ == "__main__":
    place, bodies_file, count, duration = sys.argv[1:]
    bodies = [line.encode() for line in Path(bodies_file).read_text().splitlines()]
    print(json.dumps(asyncio.run(run(place, bodies, int(count), float(duration)))))
