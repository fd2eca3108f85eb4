"""An endpoint of two replicas over real HTTP: clients that hang up, a replica that dies, and its own end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray.serve import status

from rrad_ray.config import ServeConfig
from rrad_ray.stages import serve
from tests import endpoints
from tests.commands import PATIENCE_S
from tests.heads import free_port
from tests.metrics import exported

SHORT = {"query": "how to open a file", "documents": ["open(path) opens a file", "len(x) counts items"]}
LONG = {"query": "how to open a file", "documents": [f"{'shutil.copy copies a file. ' * 20}{n}" for n in range(250)]}


@pytest.fixture(scope="module")
def gone() -> set[str]:
    """Workers whose figures Ray still shows, of endpoints that other tests had on the same Ray."""
    return {sample.labels["WorkerId"] for sample in exported()} if ray.is_initialized() else set()


@pytest.fixture(scope="module")
def url(gone: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    student = str(tmp_path_factory.mktemp("student"))
    endpoints.student(student, layers=2)
    with endpoints.serving(ServeConfig(student, port=free_port(), replicas=2, batch_tokens=4096)) as url:
        yield url


def client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False)


def sent(http: httpx.AsyncClient, body: dict[str, Any], count: int) -> list[asyncio.Task[httpx.Response]]:
    return [asyncio.create_task(http.post("/v2/rerank", json=body)) for _ in range(count)]


def test_a_client_that_hangs_up_takes_its_request_out_of_the_queue(url: str, gone: set[str]) -> None:
    async def hang_up() -> int:
        async with client(url) as http:
            calls = sent(http, LONG, 10)
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            waiting = [call for call in calls if not call.done()]
            for call in waiting:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            return len(waiting)

    left, found, end = asyncio.run(hang_up()), Counter[str](), time.monotonic() + PATIENCE_S
    assert left >= 2
    while (found["200"] + found["499"] != 10 or found["inside"]) and time.monotonic() < end:
        time.sleep(0.5)
        found = Counter()
        for sample in exported():
            counts = sample.name in ("ray_rrad_serve_requests_total", "ray_rrad_serve_inside")
            if counts and sample.labels["WorkerId"] not in gone:
                found[sample.labels.get("status", "inside")] += int(sample.value)
    assert found["200"] + found["499"] == 10
    assert found["499"] >= left / 2, "but those that were answered while their clients hung up"
    assert found["inside"] == 0


def test_of_a_killed_replica_only_requests_in_flight_fail_and_a_retry_answers_each(url: str) -> None:
    broken: list[float] = []
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def ask(http: httpx.Client) -> int:
        try:
            return http.post("/v2/rerank", json=SHORT).status_code
        except httpx.TransportError:
            return 0

    def load() -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as http:
            while not over.is_set():
                began, first = time.monotonic(), ask(http)
                if first != 200:
                    broken.append(began)
                statuses[first if first == 200 else ask(http)] += 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)
        before = replicas()
        before[0].kill()
        end = time.monotonic() + PATIENCE_S
        while (len({*replicas()} - {*before}) != 1 or running() != 2) and time.monotonic() < end:
            time.sleep(0.2)
        assert running() == 2
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert len(broken) <= len(threads), "one of each client may have been in flight"


def replicas() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any time
            if process.name().startswith("ray::ServeRepl"):
                found.append(process)
    return found


def running() -> int:
    return status().applications[serve.NAME].deployments["Endpoint"].replica_states.get("RUNNING", 0)


# Last: it ends the endpoint.
def test_an_endpoint_that_ends_says_so_refuses_what_comes_and_answers_what_is_inside(url: str) -> None:
    async def end() -> tuple[list[httpx.Response], int, int, int]:
        async with client(url) as http:
            calls = sent(http, LONG, 8)
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            ending = asyncio.create_task(asyncio.to_thread(serve.stop))
            while (ready := (await http.get("/healthz")).status_code) == 200:
                await asyncio.sleep(0.05)
            refused = (await http.post("/v2/rerank", json=SHORT)).status_code
            inside = sum(not call.done() for call in calls)
            found = await asyncio.gather(*calls)
            await ending
            return found, ready, refused, inside

    found, ready, refused, inside = asyncio.run(end())
    assert inside > 0
    assert [answer.status_code for answer in found] == [200] * 8
    assert ready >= 400
    assert refused >= 400
