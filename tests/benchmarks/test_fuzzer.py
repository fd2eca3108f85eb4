"""The fuzzer's requests can be made again, and are of every kind."""

from __future__ import annotations

import asyncio

from benchmarks import fuzzer


def test_a_number_makes_one_request_and_many_numbers_every_kind() -> None:
    texts = [b"".join(fuzzer.sent(number)) for number in range(2000)]
    assert texts == [b"".join(fuzzer.sent(number)) for number in range(2000)]
    assert len(set(texts)) > 1000
    for path in fuzzer.BODIES:
        assert any(text.startswith(f"POST {path} HTTP/1.1".encode()) for text in texts)
    for token in (*fuzzer.HEADERS, "GET /", "HEAD /", "TRACE /"):
        assert any(token.encode() in text for text in texts), token
    assert any(len(fuzzer.sent(number)) > 1 for number in range(20)), "some come in pieces"


def test_statuses_are_counted_and_server_errors_named_by_their_numbers() -> None:
    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run() -> fuzzer.Ends:
        async with await asyncio.start_server(fail, "127.0.0.1", 0) as server:
            return await fuzzer.run(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 2, 0.5)

    ends = asyncio.run(run())
    assert ends.statuses["502"] == len(ends.server_errors) > 0
    assert set(ends.statuses) <= {"502", "hung up", "closed"}
    assert all(number % 10 for number in ends.server_errors), "each tenth hangs up"
