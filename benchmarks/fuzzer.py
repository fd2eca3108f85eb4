"""A fuzzer of an endpoint over raw sockets: valid requests of every path, broken at random, in a process of its own.

Each request is made from its number alone, so that one that did harm can be made again: `sent(NUMBER)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.attacks import request

PATIENCE_S = 15.0  # beyond the 10 s after which HAProxy answers half a request

QUERY, TEXTS = "how to open a file", ["open(path, 'w') opens a file", "len(x) counts items"]
RERANK = {"query": QUERY, "documents": [TEXTS[0], {"text": TEXTS[1], "id": "b"}], "top_n": 1, "user": "u"}
CLICK = {"request_id": "r", "doc_id": "b", "position": 1, "event_id": "e", "dwell_s": 1.5, "time": 1.7e9}
BODIES: dict[str, dict[str, Any]] = {
    "/v2/rerank": {**RERANK, "max_tokens_per_doc": 8, "explain": False},
    "/v1/rerank": {**RERANK, "return_documents": True, "first_stage": {"bm25": [1.5, None]}},
    "/rerank": {"query": QUERY, "texts": TEXTS, "raw_scores": True, "truncation_direction": "right"},
    "/v1/score": {"queries": QUERY, "documents": TEXTS, "use_activation": False},
    "/v1/search": {"query": QUERY, "top_n": 2, "user": "u"},
    "/v1/events": {"events": [CLICK, CLICK]},
}
GETS = ("/", "/healthz", "/livez", "/v1/models", "/openapi.json", "/docs", "/-/routes", "/-/healthz")
HEADERS = {
    "x-deadline-ms": "5000",
    "x-unit": "u",
    "x-request-id": "r",
    "authorization": "Bearer k",
    "expect": "100-continue",
    "origin": "http://localhost",
    "content-encoding": "gzip",
    "transfer-encoding": "chunked",
    "upgrade": "websocket",
    "connection": "close",
}
TOKENS: tuple[bytes, ...] = (
    b"\xff", b"\0", b"\r\n", b"\r\n\r\n", b"0\r\n", b" " * 5000, b"%00", b"..", "\u202e\U0001f99c".encode(), b"null",
    b"true", b"1e999", b"-1", b"NaN", b"9" * 400, b'"\\ud800"', b'"', b"\\", b",", b"[" * 300, b'{"a":' * 300,
)  # fmt: skip


@dataclass
class Ends:
    """How requests ended: the number of each status, and the numbers of those that got a server error."""

    statuses: Counter[str] = field(default_factory=Counter)
    server_errors: dict[int, str] = field(default_factory=dict)


def broken(data: bytes, draw: random.Random) -> bytes:
    """Return data with up to three faults: a byte changed, a piece cut out, doubled or moved, a token put in."""
    for _ in range(draw.randint(1, 3)):
        start = draw.randint(0, len(data))
        end = min(len(data), start + draw.choice((1, 4, 32)))
        before, piece, after = data[:start], data[start:end], data[end:]
        kind = draw.choice(("change", "cut", "double", "move", "put in"))
        if kind == "change":
            piece = bytes(byte ^ 1 << draw.randrange(8) for byte in piece)
        elif kind == "cut":
            piece = b""
        elif kind == "double":
            piece *= draw.choice((2, 50))
        elif kind == "move":
            before, piece, after = b"", after, before + piece
        else:
            piece += draw.choice(TOKENS)
        data = before + piece + after
    return data


def sent(number: int) -> list[bytes]:
    """Return what connection `number` sends, in pieces: a request whose body, headers or whole text is broken."""
    draw = random.Random(number)
    path, content = draw.choice(list(BODIES.items()))
    body = json.dumps(content).encode()
    what = draw.choice(("body", "body", "body", "headers", "all", "get"))
    if what == "body":
        body = broken(body, draw)
    names = draw.sample(sorted(HEADERS), draw.choice((0, 0, 1, 2)))
    if "content-encoding" in names:
        body = gzip.compress(body, mtime=0)
    values: dict[str, Any] = {name: HEADERS[name] for name in names}
    if what == "headers":
        values = {name: broken(value.encode(), draw).decode("latin-1") for name, value in values.items()}
    text = request(body, path=path, **values)
    if what == "get":
        method = draw.choice(("GET", "HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT"))
        text = f"{method} {draw.choice(GETS)} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    if what == "all" or (what == "get" and draw.random() < 0.5):
        text = broken(text, draw)
    cuts = sorted(draw.randint(0, len(text)) for _ in range(draw.choice((0, 0, 0, 1, 3))))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


async def status_of(address: tuple[str, int], number: int) -> str:
    """Send a request and return the status of its answer; `closed` and `silent` where there is none."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*address)
            try:
                with contextlib.suppress(OSError):  # who is refused while he sends reads the answer
                    for piece in sent(number):
                        writer.write(piece)
                        await writer.drain()
                if number % 10 == 0:
                    writer.transport.abort()
                    return "hung up"
                line = await reader.readuntil(b"\r\n")
                return line.split()[1].decode("latin-1")
            finally:
                writer.close()
    except TimeoutError:
        return "silent"
    except (OSError, asyncio.IncompleteReadError):
        return "closed"


async def run(url: str, clients: int, seconds: float) -> Ends:
    """Send requests 0, 1, ... over so many connections at a time for some seconds."""
    parts = urlsplit(url)
    address = (str(parts.hostname), int(parts.port or 80))
    ends, loop = Ends(), asyncio.get_running_loop()
    numbers, end = iter(range(sys.maxsize)), loop.time() + seconds

    async def client() -> None:
        while loop.time() < end:
            number = next(numbers)
            status = await status_of(address, number)
            ends.statuses[status] += 1
            if status.startswith("5"):
                ends.server_errors[number] = status

    await asyncio.gather(*(client() for _ in range(clients)))
    return ends


def main(arguments: Sequence[str]) -> None:
    """Print what `run` returns for a URL, clients and seconds."""
    ends = asyncio.run(run(arguments[0], int(arguments[1]), float(arguments[2])))
    print(json.dumps({"statuses": ends.statuses, "server_errors": ends.server_errors}))


if __name__ == "__main__":
    main(sys.argv[1:])
