"""Bodies as they come over HTTP: in pieces, too large, packed, broken off."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.serving import bodies
from rrad_ray.serving.errors import HTTPError

LIMIT, VALUES = 1000, 100_000
PACKED = gzip.compress(b'{"query": "q"}')


async def stream(chunks: list[bytes], taken: list[bytes]) -> AsyncIterator[bytes]:
    """Give the chunks of a body, and note those that were taken."""
    for chunk in chunks:
        taken.append(chunk)
        yield chunk


def read(chunks: list[bytes], limit: int = LIMIT, taken: list[bytes] | None = None, **headers: str) -> bytes:
    """Read a body; a header's name has `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(bodies.read_body(stream(chunks, [] if taken is None else taken), named, limit, VALUES))


def refusal(chunks: list[bytes], limit: int = LIMIT, **headers: str) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        read(chunks, limit, **headers)
    return caught.value


@pytest.mark.parametrize(("chunks", "declared"), [([b"ab", b"", b"cd"], "4"), ([b"ab", b"cd"], ""), ([], "0")])
def test_a_body_within_its_limit_is_read_whole(chunks: list[bytes], declared: str) -> None:
    assert read(chunks, 4, content_length=declared) == b"".join(chunks)


@pytest.mark.parametrize(
    ("chunks", "declared", "count"),
    [
        ([b"ab", b"cd"], "5", 0),  # its length says so already
        ([b"abc", b"de", b"f"], "", 2),
        ([b"abc", b"de", b"f"], "4", 2),
        ([b"abc", b"de", b"f"], "soon", 2),
        ([b"abc", b"de", b"f"], "\u00b2", 2),
        ([b"abc", b"de", b"f"], "9" * 5000, 2),
    ],
)
def test_of_a_body_beyond_its_limit_no_more_is_read(chunks: list[bytes], declared: str, count: int) -> None:
    taken: list[bytes] = []
    with pytest.raises(HTTPError, match=r"(at most|more than) 4") as caught:
        read(chunks, 4, taken, content_length=declared)
    assert (caught.value.status, caught.value.field, len(taken)) == (413, "body", count)


def test_a_client_that_hangs_up_within_its_body_has_sent_none() -> None:
    messages: list[Any] = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    with pytest.raises(HTTPError, match="hung up") as caught:
        asyncio.run(bodies.read_body(bodies.received(receive), {}, LIMIT, VALUES))
    assert caught.value.status == 499
    messages[:] = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request"}]
    assert asyncio.run(bodies.read_body(bodies.received(receive), {}, LIMIT, VALUES)) == b"a"


def test_a_byte_order_mark_is_no_part_of_the_body() -> None:
    for chunks, coding in ([[b"\xef\xbb", b"\xbf{}"], ""], [[gzip.compress(b"\xef\xbb\xbf{}")], "gzip"]):
        assert read(chunks, content_encoding=coding) == b"{}"


# ---- values -------------------------------------------------------------------------------------------------


def values(pieces: list[bytes]) -> int:
    outline = bodies.Outline()
    for piece in pieces:
        outline.add(piece)
    return outline.values


def commas_and_brackets(content: Any) -> int:
    """Return how many commas and opening brackets the JSON of a value has outside of its strings."""
    inside = content.values() if isinstance(content, dict) else content if isinstance(content, list) else None
    return 0 if inside is None else 1 + max(len(content) - 1, 0) + sum(map(commas_and_brackets, inside))


TEXT = st.text(st.sampled_from('",[{\\\u00e9a'), max_size=8)
NESTED = st.recursive(
    TEXT | st.integers(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)


@given(NESTED, st.integers(1, 7), st.booleans())
def test_values_are_counted_outside_of_strings_however_it_is_cut(content: Any, size: int, ascii_only: bool) -> None:
    body = json.dumps(content, ensure_ascii=ascii_only).encode()
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert values(pieces) == values([body]) == commas_and_brackets(content)


@pytest.mark.parametrize("unit", [b"1,", b"[", b'{"a":', b'"",', b'"\\"",', b'""""'])
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_body_of_more_values_than_a_request_has_is_refused_while_it_comes(unit: bytes, coding: str) -> None:
    pieces = [b"[", *[unit * VALUES] * 10]
    taken: list[bytes] = []
    if coding:
        pieces = [gzip.compress(b"".join(pieces))]
    with pytest.raises(HTTPError) as caught:
        read(pieces, 10**9, taken, content_encoding=coding)
    assert (caught.value.status, caught.value.detail[:26]) == (413, "body: more than 100000 val")
    assert len(taken) <= 3


def test_a_body_that_inflates_lets_others_have_their_turn_and_holds_what_was_read() -> None:
    held: list[int] = []

    async def run() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        packed = gzip.compress(b"a" * 50 * bodies.GZIP_PIECE)
        await bodies.read_body(stream([packed], []), {"content-encoding": "gzip"}, 10**9, VALUES, held.append)
        beside.cancel()
        return turns

    assert asyncio.run(run()) >= 50
    assert (sum(held), max(held)) == (50 * bodies.GZIP_PIECE, bodies.GZIP_PIECE)


# ---- gzip ---------------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=LIMIT), st.integers(min_value=1, max_value=50), st.sampled_from(["gzip", "X-GZIP", ", gzip"])
)
def test_a_gzip_body_is_inflated_however_it_is_cut_into_pieces(body: bytes, size: int, coding: str) -> None:
    packed = gzip.compress(b"{" + body)
    chunks = [packed[start : start + size] for start in range(0, len(packed), size)]
    assert read(chunks, 2 * LIMIT, content_encoding=coding) == b"{" + body


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4), st.integers(min_value=1, max_value=50))
def test_the_members_of_a_gzip_stream_are_one_body(members: list[bytes], size: int) -> None:
    packed = b"".join(map(gzip.compress, [b"{", *members]))
    chunks = [packed[start : start + size] for start in range(0, len(packed), size)]
    assert read(chunks, 10 * LIMIT, content_encoding="gzip") == b"{" + b"".join(members)


def test_a_gzip_stream_of_very_many_members_is_refused() -> None:
    member = gzip.compress(b"")
    packed = gzip.compress(b"{}") + member * (bodies.GZIP_MEMBERS - 1)
    assert read([packed], 10**6, content_encoding="gzip") == b"{}"
    error = refusal([packed + member], 10**6, content_encoding="gzip")
    assert (error.status, error.detail) == (400, "body: a gzip stream of more than 1000 members")


@pytest.mark.parametrize("size", [LIMIT + 1, 10_000_000])
def test_a_small_body_that_inflates_beyond_the_limit_is_refused(size: int) -> None:
    error = refusal([gzip.compress(b"a" * size)], 20 * LIMIT if size > 20 * LIMIT else LIMIT, content_encoding="gzip")
    assert error.status == 413
    assert "inflated" in error.detail
    stored = zlib.compressobj(0, zlib.DEFLATED, bodies.GZIP_WINDOW)  # as large as what it holds
    assert refusal([stored.compress(b"a" * size) + stored.flush()], content_encoding="gzip").status == 413


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"{}", 400, "no gzip, as its Content-Encoding says"),
        (b"", 400, "ends before its gzip stream does"),
        (PACKED[:-9], 400, "ends before its gzip stream does"),
        (PACKED[:-8] + b"\0" * 8, 400, "no gzip, as its Content-Encoding says"),
        (PACKED + b"more", 400, "goes on behind the end of its gzip stream"),
        (PACKED + PACKED[:-9], 400, "ends before its gzip stream does"),
        (zlib.compress(b"{}"), 400, "no gzip, as its Content-Encoding says"),
        (gzip.compress(PACKED), 415, "is gzip once more"),
    ],
)
def test_a_body_that_is_no_gzip_stream_is_refused(body: bytes, status: int, problem: str) -> None:
    for chunks in ([body], [body[:3], body[3:]]):
        error = refusal(chunks, content_encoding="gzip")
        assert (error.status, error.field) == (status, "body")
        assert problem in error.detail


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, gzip", "gzip, br", "\u00ff", "x" * 5000])
def test_another_encoding_is_refused_with_the_one_that_is_read(coding: str) -> None:
    error = refusal([b"{}"], content_encoding=coding)
    assert (error.status, error.field, error.headers) == (415, "content-encoding", {"Accept-Encoding": "gzip"})
    assert len(error.detail) < 120


@pytest.mark.parametrize("coding", ["", "identity", "Identity, "])
def test_a_body_as_it_is_needs_no_header_and_gzip_needs_one(coding: str) -> None:
    assert read([b"{}"], content_encoding=coding) == b"{}"
    error = refusal([PACKED], content_encoding=coding)
    assert (error.status, error.detail) == (415, "body: is gzip and no header says so; send 'Content-Encoding: gzip'")


@given(st.lists(st.binary(max_size=40)), st.sampled_from(["", "gzip"]), st.text(max_size=5))
def test_any_bytes_are_a_body_or_the_clients_own_error(chunks: list[bytes], coding: str, declared: str) -> None:
    with contextlib.suppress(HTTPError):
        assert len(read(chunks, 60, content_encoding=coding, content_length=declared)) <= 60
