"""An endpoint of two replicas over real HTTP: clients that hang up, a replica that dies, and the endpoint's end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray.serve import status

from rrad_ray.config import ServeConfig
from rrad_ray.runtime import deploy
from tests import endpoints
from tests.commands import PATIENCE_S
from tests.heads import free_port
from tests.metrics import exported

pytestmark = pytest.mark.ray

SHORT = {"query": "how to open a file", "documents": ["open(path) opens a file", "len(x) counts items"]}
LONG = {"query": "how to open a file", "documents": [f"{'shutil.copy copies a file. ' * 20}{n}" for n in range(250)]}
REFUSED = (404, 503)  # HAProxy does not know the application any more, or has no replica of it left
# HAProxy's own answer where the replica that it chose had ended and no other was left to try.
NO_REPLICA = (500, "Internal Server Error")


@pytest.fixture(scope="module")
def gone() -> set[str]:
    """Return the workers of earlier endpoints on the same Ray, whose metrics Ray still exports."""
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

    left, counts, end = asyncio.run(hang_up()), Counter[str](), time.monotonic() + PATIENCE_S
    assert left >= 2
    while (counts["200"] + counts["499"] != 10 or counts["inside"]) and time.monotonic() < end:
        time.sleep(0.5)
        counts = Counter()
        for sample in exported():
            counted = sample.name in ("ray_rrad_serve_requests_total", "ray_rrad_serve_inside")
            if counted and sample.labels["WorkerId"] not in gone:
                counts[sample.labels.get("status", "inside")] += int(sample.value)
    assert counts["200"] + counts["499"] == 10
    assert counts["499"] >= left / 2, "all but those that were answered while their clients hung up"
    assert counts["inside"] == 0


def test_another_replica_answers_the_requests_of_a_killed_one_and_none_fails(url: str) -> None:
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def load(body: dict[str, Any]) -> None:
        with endpoints.client(url) as http:
            while not over.is_set():
                try:
                    statuses[http.post("/v2/rerank", json=body).status_code] += 1
                except httpx.TransportError:
                    statuses[0] += 1

    threads = [threading.Thread(target=load, args=(body,)) for body in (SHORT, SHORT, SHORT, LONG, LONG)]
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


def replicas() -> list[psutil.Process]:
    processes = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any time
            if process.name().startswith("ray::ServeRepl"):
                processes.append(process)
    return processes


def running() -> int:
    return status().applications[deploy.NAME].deployments["Endpoint"].replica_states.get("RUNNING", 0)


# Last: it ends the endpoint.
def test_an_endpoint_that_ends_says_so_refuses_new_requests_and_answers_those_inside(url: str) -> None:
    calls: list[tuple[float, float, int]] = []  # when each began and was answered, and its status
    polls: list[tuple[float, float, int]] = []  # the same of /healthz

    async def timed(answers: list[tuple[float, float, int]], request: Awaitable[httpx.Response]) -> int:
        """Wait for one answer and keep it. The status is 0 if there is no server any more."""
        began, status = time.monotonic(), 0
        with contextlib.suppress(httpx.TransportError):
            answer = await request
            status = 503 if (answer.status_code, answer.text) == NO_REPLICA else answer.status_code
        answers.append((began, time.monotonic(), status))
        return status

    async def ask(http: httpx.AsyncClient) -> None:
        """Send one request after the other, so that some are inside whenever the end begins."""
        while await timed(calls, http.post("/v2/rerank", json=LONG)) == 200:
            pass

    async def poll(http: httpx.AsyncClient) -> None:
        """Ask for the health ten times a second, whether or not the last answer has come: a busy replica is slow."""
        asked: list[asyncio.Task[int]] = []
        while all(status == 200 for _, _, status in polls):
            asked.append(asyncio.create_task(timed(polls, http.get("/healthz"))))
            await asyncio.sleep(0.1)
        await asyncio.gather(*asked)

    async def end() -> float:
        async with client(url) as http:
            asking = [asyncio.create_task(ask(http)) for _ in range(8)]
            while not calls:
                await asyncio.sleep(0.05)
            ended = time.monotonic()
            await asyncio.gather(asyncio.to_thread(deploy.stop_endpoint), poll(http), *asking)
        return ended

    ended = asyncio.run(end())
    unready = max(began for began, _, status in polls if status == 200)
    assert {status for _, _, status in polls} & {*REFUSED}
    assert {status for began, _, status in calls if began < ended} == {200}
    inside = [answered for began, answered, status in calls if began < unready < answered and status == 200]
    refused = [answered for _, answered, status in polls + calls if status in REFUSED]
    assert {status for began, _, status in calls if began < unready} <= {200, *REFUSED}
    assert inside
    assert min(refused) < max(inside)
