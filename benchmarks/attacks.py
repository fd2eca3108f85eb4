"""Hostile clients of an endpoint, in a process of their own: each tries one thing, waits a second and tries again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

PAUSE_S, DRIP_S = 1.0, 1.0
PATIENCE_S = 60.0
MEGABYTE = 2**20


@dataclass(frozen=True)
class Attack:
    """What a client sends at once, and what it sends then, a byte of it each second, for as long as it may.

    `unread_s`: for how long it then reads no more of an answer than the status.
    """

    at_once: bytes
    drip: bytes = b""
    unread_s: float = 0.0


def request(body: bytes, length: int | None = None, path: str = "/v2/rerank", **headers: str) -> bytes:
    """Return a request whose body is announced to have `length` bytes; a header's name has `_` for `-`."""
    fields = {"host": "localhost", "content-type": "application/json", "content-length": str(length or len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def attacks() -> dict[str, Attack]:
    """Return the attacks by name."""
    small = b'{"query": "q", "documents": ["a"]}'
    wrong = b'{"queries": "q", "documents": [' + b"1," * 2 * MEGABYTE + b"1]}"
    many = b'{"query": "q", "documents": [' + b'"a",' * MEGABYTE + b'"a"]}'
    large = {"query": "q", "documents": ["a" * 50_000] * 100, "return_documents": True, "model": "identity"}
    bomb = gzip.compress(b'{"query": "q", "documents": ["' + b"a" * 200 * MEGABYTE)
    return {
        "says nothing": Attack(b""),
        "a header without an end": Attack(b"POST /v2/rerank HTTP/1.1\r\nhost: localhost\r\nx: ", b"a" * 1000),
        "a small body, drop by drop": Attack(request(b"", 1000), b" " * 1000),
        "a large body that stops": Attack(request(b" " * 300_000, 16_000_000, x_request_timeout_seconds="0")),
        "two million wrong documents": Attack(request(wrong, path="/score")),
        "a million documents": Attack(request(many)),
        "a million brackets": Attack(request(b"[" * MEGABYTE)),
        "gzip of 200 MB": Attack(request(bomb, content_encoding="gzip")),
        "a deadline of 5,000 digits": Attack(request(small, x_deadline_ms="9" * 5000)),
        "an answer of 5 MB that is not read": Attack(request(json.dumps(large).encode()), unread_s=20.0),
        "another site": Attack(request(small, origin="https://evil.example")),
    }


async def attack(address: tuple[str, int], sent: Attack) -> str:
    """Attack once; return the status of the answer, or that there was none."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*address)
            answer = asyncio.ensure_future(reader.readuntil(b"\r\n"))
            try:
                await _send(writer, sent, answer)
                status = (await answer).split()[1].decode()
                await asyncio.sleep(sent.unread_s if status == "200" else 0)
                return status
            finally:
                answer.cancel()
                writer.close()
    return "closed"


async def _send(writer: asyncio.StreamWriter, sent: Attack, answer: asyncio.Future[bytes]) -> None:
    with contextlib.suppress(OSError):  # who is refused while he sends reads the answer
        writer.write(sent.at_once)
        await writer.drain()
        for byte in sent.drip:
            if answer.done():
                return
            writer.write(bytes([byte]))
            await asyncio.sleep(DRIP_S)


async def run(url: str, clients: int, seconds: float) -> dict[str, dict[str, int]]:
    """Attack for some seconds; return how often each attack ended how."""
    parts = urlsplit(url)
    address = (str(parts.hostname), int(parts.port or 80))
    kinds = list(attacks().items())
    ends: dict[str, Counter[str]] = {name: Counter() for name, _ in kinds}

    async def client(number: int) -> None:
        name, sent = kinds[number % len(kinds)]
        await asyncio.sleep(PAUSE_S * number / clients)
        while True:
            ends[name][await attack(address, sent)] += 1
            await asyncio.sleep(PAUSE_S)

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {name: dict(counts) for name, counts in ends.items()}


def main(arguments: Sequence[str]) -> None:
    """Print what `run` returns for a URL, clients and seconds."""
    print(json.dumps(asyncio.run(run(arguments[0], int(arguments[1]), float(arguments[2])))))


if __name__ == "__main__":
    main(sys.argv[1:])
