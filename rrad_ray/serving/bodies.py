"""The body of a request as it comes: whole or refused, within its limits, and inflated where it is gzip.

Limits are checked while it comes. A body of 16 MB that is read whole and then parsed can hold millions of values,
each of which takes some hundred bytes and a microsecond.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from rrad_ray.languages.scripts import whole_characters
from rrad_ray.serving.errors import HUNG_UP, SHOWN_CHARS, HTTPError
from rrad_ray.serving.headers import whole_number

GZIP = ("gzip", "x-gzip")  # names of one coding, RFC 9110, 8.4.1
GZIP_MAGIC = b"\x1f\x8b"  # with which no JSON begins
GZIP_WINDOW = 31  # zlib's number for a gzip stream of any window
GZIP_MEMBERS = 1000  # as in bgzip's files, of 64 KiB each; tiny ones would keep the processor busy
UNCOUNTED = 2**16  # bytes whose values cost a millisecond at most
GZIP_PIECE = 2**18  # bytes that are inflated before other requests have their turn
ACCEPTED = {"Accept-Encoding": GZIP[0]}
Body = TypeVar("Body")
ESCAPES = (b"\\\\", b'\\"')  # those of JSON that matter to where a string ends


async def received(receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[bytes]:
    """Yield the body of an ASGI request. Raises `HTTPError` (499) if the client hangs up before its end."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPError(HUNG_UP, "body", "the client hung up before its end")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def read_body(
    chunks: AsyncIterator[bytes],
    headers: Mapping[str, str],
    limit: int,
    most_values: int,
    hold: Callable[[int], None] = lambda size: None,
) -> bytes:
    """Return the body of a request, inflated, without a byte order mark.

    `hold` is called with the bytes of each piece that is kept. Raises what it raises, and `HTTPError`: 413 for more
    than `limit` bytes, as they come or inflated, or than `most_values` values of JSON, without reading on; 415 for an
    encoding other than gzip, 400 for gzip that is none.
    """
    if (whole_number(headers.get("content-length", "")) or 0) > limit:
        raise HTTPError(413, "body", f"{headers['content-length']} bytes, at most {limit} (max_body_bytes)")
    codings = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
    codings = [name for name in codings if name not in ("", "identity")]
    if len(codings) > 1 or not set(codings) <= set(GZIP):
        raise HTTPError(415, "content-encoding", f"gzip or none, found {', '.join(codings)[:SHOWN_CHARS]}", ACCEPTED)
    chunks = _within(chunks, limit, "")
    if codings:
        chunks = _within(_inflated(chunks, limit), limit, " inflated")
    pieces, outline, uncounted = [], Outline(), b""
    async for piece in chunks:
        hold(len(piece))
        pieces.append(piece)
        uncounted += piece
        if len(uncounted) > UNCOUNTED:
            outline.add(uncounted)
            uncounted = b""
            if outline.values > most_values:
                raise HTTPError(413, "body", f"more than {most_values} values, which no request of this endpoint has")
    body = b"".join(pieces)
    if body.startswith(GZIP_MAGIC):
        again = "once more" if codings else "and no header says so; send 'Content-Encoding: gzip'"
        raise HTTPError(415, "body", f"is gzip {again}", ACCEPTED)
    return body.removeprefix(codecs.BOM_UTF8)


def parsed_body(read: Callable[[bytes], Body], body: bytes) -> Body:
    """Return what `read` makes of a JSON body. Raises what `read` raises.

    Halves of characters, such as `\\ud83d` where JavaScript has cut a text inside an emoji, become U+FFFD.
    """
    try:
        return read(body)
    except ValidationError as error:
        broken = error.error_count() == 1 and error.errors()[0]["type"] == "json_invalid"
        if not broken or b"\\ud" not in body.lower():
            raise
        try:
            text = json.dumps(json.loads(body), ensure_ascii=False)
        except (ValueError, RecursionError):
            raise error from None
        return read(whole_characters(text).encode())


class Outline:
    """A count of the values of a JSON text that comes in pieces: of its commas and brackets outside of strings.

    In JSON there is at least one of these for four quotes, so a quarter of the quotes is the least that is counted.
    """

    def __init__(self) -> None:
        self.values = self.outside = self.quotes = 0
        self.in_string, self.rest = 0, b""  # at the end of the last piece: 1 within a string; a lone backslash

    def add(self, piece: bytes) -> None:
        """Count on with the next piece; what is no JSON is counted somehow."""
        plain = self.rest + piece
        for escape in ESCAPES:  # of backslashes in a row each second one is escaped; no pattern is as fast
            plain = plain.replace(escape, b"")
        self.rest = b"\\" if plain.endswith(b"\\") else b""
        parts = plain.split(b'"')  # by turns outside and inside
        outside = b"".join(parts[self.in_string :: 2])
        self.in_string = (self.in_string + len(parts) - 1) % 2
        self.outside += sum(map(outside.count, (b",", b"[", b"{")))
        self.quotes += len(parts) - 1
        self.values = max(self.outside, self.quotes // 4)


async def _within(chunks: AsyncIterator[bytes], limit: int, state: str) -> AsyncIterator[bytes]:
    """Yield chunks of at most `limit` bytes together. Raises `HTTPError` (413) for more."""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise HTTPError(413, "body", f"more than {limit} bytes{state} (max_body_bytes)")
        yield chunk


async def _inflated(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Yield what the members of a gzip stream (RFC 1952, 2.2) hold, up to one byte more than `limit`: a small body
    cannot fill the memory.

    Raises `HTTPError` (400) for what is no gzip stream, ends too early, goes on behind its end or has more than
    `GZIP_MEMBERS`.
    """
    inflater, left, members = zlib.decompressobj(GZIP_WINDOW), limit + 1, 1
    async for chunk in chunks:
        while chunk:
            if inflater.eof:
                inflater, members = zlib.decompressobj(GZIP_WINDOW), members + 1
            if members > GZIP_MEMBERS:
                raise HTTPError(400, "body", f"a gzip stream of more than {GZIP_MEMBERS} members")
            try:
                piece = inflater.decompress(chunk, min(left, GZIP_PIECE))
            except zlib.error as error:
                after = "goes on behind the end of its gzip stream" if members > 1 else ""
                problem = after or f"no gzip, as its Content-Encoding says ({error})"
                raise HTTPError(400, "body", problem) from error
            left -= len(piece)
            yield piece
            await asyncio.sleep(0)
            chunk = inflater.unconsumed_tail or inflater.unused_data
    if not inflater.eof:
        raise HTTPError(400, "body", "ends before its gzip stream does")
