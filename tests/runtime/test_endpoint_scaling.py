"""An endpoint that grows with its load, over real HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import ray

from rrad_ray.config import ServeConfig
from tests import endpoints
from tests.commands import PATIENCE_S
from tests.heads import free_port
from tests.metrics import exported
from tests.runtime.test_endpoint_faults import LONG, SHORT, running

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_replica_comes_while_requests_wait_and_answers_its_share_and_none_fails(tmp_path: Path) -> None:
    gone = workers() if ray.is_initialized() else set()
    endpoints.student(tmp_path, layers=2)
    cfg = ServeConfig(str(tmp_path), port=free_port(), replicas={"min": 1, "max": 2}, busy_at=2)
    with endpoints.serving(cfg) as url:
        assert running() == 1
        assert set(asyncio.run(load_until(url, LONG, 8, lambda: running() == 2))) == {200}
        assert set(asyncio.run(load_until(url, SHORT, 8, lambda: len(workers() - gone) == 2))) == {200}


def workers() -> set[str]:
    """Return the replicas that have answered a request on this Ray, at any time."""
    return {sample.labels["WorkerId"] for sample in exported() if sample.name == "ray_rrad_serve_requests_total"}


async def load_until(url: str, body: dict[str, object], clients: int, over: Callable[[], bool]) -> Counter[int]:
    """Count the statuses of clients that each send one request after the other until it is over."""
    statuses: Counter[int] = Counter()
    done = asyncio.Event()

    async def ask(http: httpx.AsyncClient) -> None:
        while not done.is_set():
            statuses[(await http.post("/v2/rerank", json=body)).status_code] += 1

    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as http:
        asking = [asyncio.create_task(ask(http)) for _ in range(clients)]
        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(over):
                await asyncio.sleep(1)
        done.set()
        await asyncio.gather(*asking)
    return statuses
