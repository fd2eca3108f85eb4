"""The body of a request as it comes: whole or refused, within its limit, and inflated where it is gzip."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from rrad_ray.serving.errors import HUNG_UP, SHOWN_CHARS, HTTPError
from rrad_ray.serving.headers import whole_number

GZIP = ("gzip", "x-gzip")  # names of one coding, RFC 9110, 8.4.1
GZIP_MAGIC = b"\x1f\x8b"  # with which no JSON begins
GZIP_WINDOW = 31  # zlib's number for a gzip stream of any window
GZIP_MEMBERS = 1000  # as in bgzip's files, of 64 KiB each; tiny ones would keep the processor busy
ACCEPTED = {"Accept-Encoding": GZIP[0]}


async def received(receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[bytes]:
    """Yield the body of an ASGI request. Raises `HTTPError` (499) if the client hangs up before its end."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPError(HUNG_UP, "body", "the client hung up before its end")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def read_body(chunks: AsyncIterator[bytes], headers: Mapping[str, str], limit: int) -> bytes:
    """Return the body of a request, inflated, without a byte order mark.

    Raises `HTTPError`: 413 for one of more than `limit` bytes, as it comes or inflated, without reading on; 415 for
    an encoding other than gzip, 400 for gzip that is none.
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
    body = b"".join([chunk async for chunk in chunks])
    if body.startswith(GZIP_MAGIC):
        again = "once more" if codings else "and no header says so; send 'Content-Encoding: gzip'"
        raise HTTPError(415, "body", f"is gzip {again}", ACCEPTED)
    return body.removeprefix(codecs.BOM_UTF8)


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
                piece = inflater.decompress(chunk, left)
            except zlib.error as error:
                after = "goes on behind the end of its gzip stream" if members > 1 else ""
                problem = after or f"no gzip, as its Content-Encoding says ({error})"
                raise HTTPError(400, "body", problem) from error
            left -= len(piece)
            yield piece
            chunk = inflater.unused_data
    if not inflater.eof:
        raise HTTPError(400, "body", "ends before its gzip stream does")
