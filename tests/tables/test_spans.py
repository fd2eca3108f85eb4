"""Traces of requests and stages, as a collector receives them over OTLP/HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import ExportConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates
from rrad_ray.runtime import cluster
from rrad_ray.tables import spans
from tests.collectors import attributes, collector
from tests.commands import PATIENCE_S, ROOT
from tests.serving.test_service import QUERY, body, replica

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = f"00-{TRACE}-{PARENT}-01"


def test_a_requests_spans_are_below_the_clients_and_say_documents_tokens_and_model() -> None:
    with collector() as received:
        assert replica().answer(body(), traceparent=SENT).status == 200
    request = received.one("POST /v2/rerank")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert {span.trace_id.hex() for span in received.spans} == {TRACE}
    assert received.children(request) == {"receive", "parse", "rank", "answer"}
    assert received.children(received.one("rank")) == {"tokenize", "queue", "score", "batch"}
    assert received.children(received.one("batch")) == {"model"}
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/v2/rerank",
        "http.response.status_code": 200,
        "rrad.model": "first",
        "rrad.variant": "",
        "rrad.documents": 3,
        "rrad.tokens": 6,
    }
    assert attributes(received.one("rank"))["rrad.model.fingerprint"] == "first"
    assert attributes(received.one("batch")) == {
        "rrad.batch.requests": 1,
        "rrad.batch.pairs": 3,
        "rrad.tokens": 6,
    }
    assert received.services == {"rrad-ray"}


def test_a_batch_is_linked_to_the_span_of_each_request_in_it_and_each_request_to_its_batch() -> None:
    async def three(served: Any) -> None:
        winner = served.models["winner"]
        winner.gate.clear()
        asked = [asyncio.create_task(served.send(body()))]
        while not served.metrics.batches:
            await asyncio.sleep(0.01)
        asked += [
            asyncio.create_task(served.send({"query": QUERY, "documents": [text]})) for text in ("dddd", "eeeee")
        ]
        while len(served.service.scorer.batcher.waiting) < 2:
            await asyncio.sleep(0.01)
        winner.gate.set()
        await asyncio.gather(*asked)

    with collector() as received:
        asyncio.run(three(replica()))
    requests = received.named("rank")
    first, shared = sorted(received.named("batch"), key=lambda span: span.start_time_unix_nano)
    linked = {link.span_id for link in shared.links}
    assert len(first.links) == 1
    assert len(linked) == 2
    assert linked | {first.links[0].span_id} == {span.span_id for span in requests}
    assert shared.parent_span_id in linked, "not below the batch that ran before it"
    scores = [span for span in received.named("score") if span.parent_span_id in linked]
    assert {span.links[0].span_id for span in scores} == {shared.span_id}
    assert len(scores) == 2


def test_no_span_holds_a_word_of_query_documents_or_errors() -> None:
    with collector() as received:
        served = replica()
        assert served.answer({"query": "secretquery", "documents": ["boom", "secrettext"]}).status == 500
        assert served.answer({"query": "secretquery", "documents": "secrettext"}).status == 422
    assert b"secret" not in received.bodies
    assert b"boom" not in received.bodies
    failed, refused = received.named("POST /v2/rerank")
    assert (failed.status.code, attributes(failed)["error.type"]) == (2, "500")
    assert refused.status.code == 0, "the client's mistake is none of the server's"


def test_a_broken_traceparent_begins_a_trace_of_its_own_and_an_unsampled_one_is_not_sent() -> None:
    with collector(OTEL_SERVICE_NAME="shop-rerank") as received:
        replica().answer(body(), traceparent=SENT.replace("-01", "-00"))
        assert replica().answer(body(), traceparent="00-no-such-01").status == 200
    request = received.one("POST /v2/rerank")
    assert not request.parent_span_id
    assert {span.trace_id for span in received.spans} == {request.trace_id}
    assert received.services == {"shop-rerank"}


@pytest.mark.parametrize(
    "environment",
    [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_SAMPLER": "always_off"}],
)
def test_nothing_is_sent_where_the_environment_says_so(environment: dict[str, str]) -> None:
    with collector(**environment) as received:
        assert replica().answer(body()).status == 200
    assert not received.spans


def test_without_an_exporter_every_span_is_off_and_opentelemetry_is_not_imported() -> None:
    program = "import sys; from rrad_ray.tables import spans; import rrad_ray.serving.service\n"
    program += (
        "with spans.begin('x') as span: print(span is spans.OFF, spans.current() is spans.OFF, spans.outgoing())\n"
    )
    program += "spans.flush(); print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.splitlines() == ["True True {}", "[]"]


def test_a_protocol_that_is_not_spoken_is_an_error_that_says_what_to_set() -> None:
    with pytest.raises(RradError, match="not as grpc; set OTEL_"), collector(OTEL_EXPORTER_OTLP_PROTOCOL="grpc"):
        spans.check_exporter()


class Doubled:
    """Work that ends at once; part `b` fails."""

    def part(self, name: str) -> None:
        if name == "b":
            raise ValueError("a secret")


def test_a_stage_has_a_span_and_each_of_its_parts_one_below_it(tmp_path: Path) -> None:
    @tables.stage("prerank", Candidates, lambda cfg: {})
    def run(cfg: ExportConfig, out: tables.Output) -> None:
        pool: Any = type("Pool", (), {"num_workers": 1, "resources": {"CPU": 1}})
        cluster.each_part(pool, out, Doubled, {}, ["a", "b"], (), "parts", "input", here=True)

    with collector() as received, pytest.raises(RradError):
        run(ExportConfig(f"{tmp_path}/in", f"{tmp_path}/out"))
    stage = received.one("stage prerank")
    assert stage.status.code == 2
    assert attributes(stage)["rrad.output"] == f"{tmp_path}/out"
    (parts,) = [span for span in received.spans if span.parent_span_id == stage.span_id]
    assert parts.name == "parts"
    one, other = received.named("part")
    assert {one.parent_span_id, other.parent_span_id} == {parts.span_id}
    assert [attributes(span)["rrad.part"] for span in (one, other)] == ["a", "b"]
    assert (one.status.code, attributes(other)["error.type"]) == (0, "ValueError")
    assert b"secret" not in received.bodies
