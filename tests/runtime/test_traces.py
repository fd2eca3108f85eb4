"""Traces across processes, as a collector receives them: through HAProxy into replicas, into actors and out again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray

from rrad_ray import tables
from rrad_ray.config import ExportConfig, OpenAIConfig, ServeConfig
from rrad_ray.rows import Candidates
from rrad_ray.runtime import cluster
from rrad_ray.stages import judge
from tests import endpoints
from tests.collectors import Collected, attributes, collector
from tests.commands import PATIENCE_S
from tests.heads import free_port
from tests.runtime.test_engines import Endpoint, config, folder, row

pytestmark = pytest.mark.ray

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def new_ray() -> Iterator[None]:
    """Let a test start a Ray whose workers have its environment."""
    ray.shutdown()
    yield
    ray.shutdown()


def awaited(is_there: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not is_there() and time.monotonic() < end:
        time.sleep(0.1)
    return is_there()


def listener(port: int) -> str:
    """Return the name of the process that listens on a port."""
    [pid] = {each.pid for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr[1] == port}
    assert pid
    return psutil.Process(pid).name()


def test_a_clients_traceparent_goes_through_haproxy_and_the_request_is_below_the_clients_span(tmp_path: Path) -> None:
    endpoints.student(tmp_path / "student", layers=1)
    cfg = ServeConfig(f"{tmp_path}/student", port=free_port())
    with collector() as received:
        with endpoints.serving(cfg) as url, endpoints.client(url, traceparent=f"00-{TRACE}-{PARENT}-01") as client:
            assert listener(cfg.port) == "haproxy"
            answer = client.post("/v2/rerank", json={"query": "q", "documents": ["one text", "another"]})
            assert answer.status_code == 200, answer.text
        assert awaited(lambda: bool(received.named("POST /v2/rerank"))), "a replica sends what it has when it ends"
    request = received.one("POST /v2/rerank")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert received.children(request) == {"receive", "parse", "rank", "answer"}
    assert attributes(request)["rrad.documents"] == 2
    assert {span.trace_id.hex() for span in received.spans} == {TRACE}


def one_stage(received: Collected, name: str) -> Any:
    stage = received.one(name)
    assert {span.trace_id for span in received.spans} == {stage.trace_id}
    return stage


def test_spans_of_parts_in_actors_are_below_the_drivers(tmp_path: Path) -> None:
    class Work:
        def part(self, name: str) -> None:
            pass

    @tables.stage("prerank", Candidates, lambda cfg: {})
    def run(cfg: ExportConfig, out: tables.Output) -> None:
        pool: Any = SimpleNamespace(num_workers=2, resources={"CPU": 1})
        cluster.each_part(pool, out, Work, {}, ["a", "b", "c"], (), "parts", "input")
        out.commit(rows=0)

    with collector() as received:
        run(ExportConfig(f"{tmp_path}/in", f"{tmp_path}/out"))
        assert awaited(lambda: len(received.named("part")) == 3)
    stage, parts = one_stage(received, "stage prerank"), received.one("parts")
    assert parts.parent_span_id == stage.span_id
    assert {span.parent_span_id for span in received.named("part")} == {parts.span_id}
    assert {attributes(span)["rrad.part"] for span in received.named("part")} == {"a", "b", "c"}


def test_a_labellers_endpoint_gets_the_traceparent_of_each_requests_span(tmp_path: Path) -> None:
    endpoint = Endpoint()
    endpoint.refuse = {"number 2.": [400]}
    folder(tmp_path, [row(number) for number in range(3)])
    options = OpenAIConfig(url=endpoint.url)
    with collector() as received:
        judge.run(config(tmp_path, engine="openai", model="m", openai=options, max_quarantined=0.5))
        assert awaited(lambda: len(received.named("ask")) == 3)
    endpoint.server.shutdown()
    stage, asked = one_stage(received, "stage judge"), received.named("ask")
    assert {span.parent_span_id for span in asked} == {stage.span_id}
    sent = {f"00-{span.trace_id.hex()}-{span.span_id.hex()}" for span in asked}
    assert {each.rpartition("-")[0] for each in endpoint.traceparents} == sent
    assert all(int(each.rpartition("-")[2], 16) & 1 for each in endpoint.traceparents), "sampled"
    failed = [attributes(span)["error.type"] for span in asked if span.status.code == 2]
    assert failed == ["BadRequestError"]
    assert b"not now" not in received.bodies
