"""integrations/solr/rerank.py between an endpoint and a stand-in for Solr, over HTTP.

No registry has Solr itself. The stand-in reads requests and writes answers as Solr's documentation and its
JSONWriter.java do (read in November 2026): form or query parameters, `numFound`, `start`, `maxScore`, `numFoundExact`
and `docs`, which have the fields of `fl` alone and lists for fields of several values.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.asgi import ask
from tests.commands import ROOT
from tests.heads import free_port
from tests.integrations.endpoint import KEY, application, keyed_replica
from tests.serving.test_service import Replica

SCRIPT = ROOT / "integrations" / "solr" / "rerank.py"
NAMES: dict[str, Any] = {"__name__": "rerank"}
exec(compile(SCRIPT.read_text(encoding="utf-8"), str(SCRIPT), "exec"), NAMES)
reranked, solr_search = NAMES["reranked"], NAMES["solr_search"]

COUNT, WINDOW = 37, 20
LENGTHS = random.Random(1).sample(range(1, 100), COUNT)
INDEX = [
    {"id": f"d{rank}", "text": ["x" * length], "title": f"t{rank}", "score": 30.5 - rank / 2}
    for rank, length in enumerate(LENGTHS)
]
IDS = [hit["id"] for hit in INDEX]
# The endpoint scores a text by its length: the first 20 longest first, and Solr's order from there on.
BEST = [f"d{rank}" for rank in sorted(range(WINDOW), key=lambda rank: -LENGTHS[rank])] + IDS[WINDOW:]


class Solr(BaseHTTPRequestHandler):
    """`/select` of a core with `INDEX`, best first for every query but `nothing`, which finds none."""

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def do_GET(self) -> None:
        self.answer(urlsplit(self.path).query)

    def answer(self, sent: str) -> None:
        assert urlsplit(self.path).path.rstrip("/") == "/solr/passages/select"
        params = {name: values[-1] for name, values in parse_qs(sent).items()}
        assert params["wt"] == "json"
        start, rows = int(params.get("start", 0)), int(params.get("rows", 10))
        hits = [] if params["q"] == "nothing" else INDEX
        wanted = set(re.split(r"[\s,]+", params["fl"]))
        docs = [{name: hit[name] for name in hit if name in wanted} for hit in hits[start : start + rows]]
        top = {"maxScore": hits[0]["score"]} if hits and "score" in wanted else {}
        found = {"numFound": len(hits), "start": start, **top, "numFoundExact": True, "docs": docs}
        header = {"status": 0, "QTime": 1, "params": params}
        body = json.dumps({"responseHeader": header, "response": found}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json;charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Start the stand-in; give the URL of its core."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Solr)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/solr/passages"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def solr() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.fixture
def served(tmp_path: Path) -> Replica:
    return keyed_replica(tmp_path)


def endpoint(served: Replica, key: str = KEY) -> httpx.Client:
    def handle(request: httpx.Request) -> httpx.Response:
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        content = request.read()
        answer = asyncio.run(ask(application(served), "POST", request.url.path, content, headers=headers))
        return httpx.Response(answer.status, headers=answer.headers, content=answer.body)

    sent, transport = {"Authorization": f"Bearer {key}"}, httpx.MockTransport(handle)
    return httpx.Client(base_url="http://127.0.0.1", headers=sent, transport=transport)


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["response"]["docs"]]


@pytest.mark.parametrize("rows", [1, 7, 10, 20, 50])
def test_pages_follow_each_other_with_every_hit_once_and_the_window_in_the_endpoints_order(
    solr: str, served: Replica, rows: int
) -> None:
    with endpoint(served) as client:
        pages = [
            reranked(solr_search(solr), client, "a query", start=start, rows=rows, window=WINDOW)
            for start in range(0, COUNT + rows, rows)
        ]
    assert [each for page in pages for each in ids(page)] == BEST
    for number, page in enumerate(pages):
        assert page["response"]["numFound"] == COUNT
        assert page["response"]["start"] == number * rows
        assert page["rerank"]["by"] == ("endpoint" if number * rows < WINDOW else "solr")


def test_a_hit_keeps_the_fields_that_were_asked_for(solr: str, served: Replica) -> None:
    with endpoint(served) as client:
        answer = reranked(solr_search(solr), client, "a query", fl="title", rows=1)
    [hit] = answer["response"]["docs"]
    assert hit == next(each for each in INDEX if each["id"] == hit["id"])
    assert answer["responseHeader"]["status"] == 0


def test_a_fused_winner_gets_solrs_score_as_that_of_the_first_stage(solr: str, served: Replica) -> None:
    model = served.models["winner"]
    model.served = dataclasses.replace(model.served, name="fusion", weights={"bm25": 1.0, "first": 0.0})
    with endpoint(served) as client:
        answer = reranked(solr_search(solr), client, "a query", rows=COUNT, window=COUNT)
        other = reranked(solr_search(solr), client, "a query", rows=COUNT, window=COUNT, source="lucene")
    assert ids(answer) == IDS, "all the weight is the first stage's"
    assert answer["rerank"] == {"by": "endpoint", "first_stage": "used"}
    assert other["rerank"]["first_stage"] == "missing", "the winner knows no source of that name"
    assert ids(other) != IDS


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (lambda served: httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", trust_env=False), "ConnectError"),
        (lambda served: endpoint(served, key="no-key"), "401"),
        (lambda served: mocked(httpx.Response(503)), "503"),
        (lambda served: mocked(httpx.Response(200, text="<html>")), "JSONDecodeError"),
        (lambda served: mocked(httpx.Response(200, json={})), "KeyError"),
        (lambda served: mocked(httpx.Response(200, json={"results": None})), "TypeError"),
        (lambda served: mocked(httpx.Response(200, json=[1, 2])), "TypeError"),
        (lambda served: mocked(httpx.Response(200, json={"results": [{"index": 0}]})), "1 results for 20 documents"),
    ],
)
def test_without_an_answer_of_the_endpoint_a_page_is_in_solrs_order_and_says_so(
    solr: str, served: Replica, client: Any, reason: str
) -> None:
    with client(served) as away:
        pages = [
            reranked(solr_search(solr), away, "a query", start=start, window=WINDOW) for start in range(0, COUNT, 10)
        ]
    assert [each for page in pages for each in ids(page)] == IDS
    assert all(page["rerank"]["by"] == "solr" for page in pages)
    assert reason in pages[0]["rerank"]["because"]


def mocked(response: httpx.Response) -> httpx.Client:
    return httpx.Client(base_url="http://endpoint", transport=httpx.MockTransport(lambda request: response))


def test_a_query_without_hits_asks_the_endpoint_for_nothing(solr: str) -> None:
    with mocked(httpx.Response(500)) as client:
        answer = reranked(solr_search(solr), client, "nothing")
    assert (ids(answer), answer["rerank"]["because"]) == ([], "no hit of this page is in the window")


def test_a_fault_of_solr_is_raised() -> None:
    with mocked(httpx.Response(500)) as client, pytest.raises(httpx.ConnectError):
        reranked(solr_search(f"http://127.0.0.1:{free_port()}/solr/passages"), client, "a query")


def test_a_hit_without_the_field_is_an_empty_document_and_one_of_several_values_is_joined(served: Replica) -> None:
    docs = [
        {"id": 1, "score": 2.0},
        {"id": 2, "score": 1.0, "text": ["ab", "c"]},
        {"id": 3, "score": 0.5, "text": "ab"},
    ]

    def search(q: str, **params: Any) -> dict[str, Any]:
        return {"response": {"numFound": 3, "start": 0, "docs": docs}}

    with endpoint(served) as client:
        answer = reranked(search, client, "a query")
    assert [hit["id"] for hit in answer["response"]["docs"]] == [2, 3, 1]


def test_as_a_command_it_prints_a_page(solr: str) -> None:
    command = [sys.executable, str(SCRIPT), solr, f"http://127.0.0.1:{free_port()}", "a query", "--rows", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (ids(answer), answer["rerank"]["by"]) == (IDS[:3], "solr")
