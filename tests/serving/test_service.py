"""A request to its page, without a server, Ray or a real model: what each request is answered, logged and counted."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.config import ExperimentConfig, OnlineConfig, ServeConfig
from rrad_ray.online import assignment
from rrad_ray.online.event_journal import EventJournal, JournalFull
from rrad_ray.online.event_log import read_exposures
from rrad_ray.online.event_rows import CLICKS, EXPOSURES
from rrad_ray.online.signatures import ExposureSigner
from rrad_ray.serving import admission, requests
from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.pages import sigmoid
from rrad_ray.serving.requests import ScoringRequest, WireFormat
from rrad_ray.serving.search import Hit
from rrad_ray.serving.service import LARGE_BODY, Call, HTTPAnswer, RerankService, parsed
from rrad_ray.serving.winners import ServedModel
from tests.commands import PATIENCE_S, ROOT
from tests.online.logs import joined
from tests.online.test_event_rows import stored

QUERY, TEXTS = "q", ["a", "bbb", "cc"]
VARIANTS = {"identity": 1.0, "winner": 1.0}


class LengthModel:
    """A model that scores a text by its length, negated on demand, and reads as many tokens as it has characters."""

    def __init__(self, name: str, sign: int = 1, writes: bool = False) -> None:
        self.served = ServedModel("folder", name, name, student=name)
        self.name, self.scorers = name, {name: self}
        self.version, self.concurrency, self.sign = name, 1, sign
        self.chunker: Any = None
        self.explainer = SimpleNamespace(explain=self.explain) if writes else None
        self.scored: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, request: ScoringRequest, indices: Sequence[int]) -> list[Any]:
        return [{"input_ids": request.texts[index][: request.doc_tokens or None]} for index in indices]

    def score(self, pairs: list[Any]) -> list[float]:
        self.gate.wait(60)
        self.scored.append(len(pairs))
        if any(pair["input_ids"] == "boom" for pair in pairs):
            raise RuntimeError("boom")
        return [float(self.sign * len(pair["input_ids"])) for pair in pairs]

    def explain(self, query: str, text: str, max_tokens: int) -> str:
        return f"{self.served.name} on {query} and {text} in {max_tokens}"


class Recorder:
    """Metrics that keep what they are told."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.answers: list[tuple[str, str]] = []
        self.stages: list[tuple[str, str]] = []
        self.batches: list[int] = []
        self.lookups: list[tuple[int, int]] = []
        self.insides: list[int] = []
        self.held = self.lost = 0
        self.refused: Counter[str] = Counter()
        self.rankings: list[tuple[str, str, float, int]] = []

    def request(self, path: str, status: str) -> None:
        self.requests[path, status] += 1

    def answered(self, model: str, variant: str, seconds: float) -> None:
        self.answers.append((model, variant))

    def stage(self, stage: str, model: str, seconds: float) -> None:
        self.stages.append((stage, model))

    def batch(self, tokens: int, waited_s: Sequence[float]) -> None:
        self.batches.append(tokens)

    def lookup(self, hits: int, misses: int) -> None:
        self.lookups.append((hits, misses))

    def ranked(self, model: str, first_stage: str, best: float, words: int) -> None:
        self.rankings.append((model, first_stage, best, words))

    def inside(self, count: int) -> None:
        self.insides.append(count)

    def events_held(self, count: int) -> None:
        self.held = count

    def events_set_aside(self, count: int) -> None:
        raise AssertionError("a service reads no segments")

    def clicks_refused(self, reason: str, count: int) -> None:
        self.refused[reason] += count

    def exposure_lost(self) -> None:
        self.lost += 1

    def winner(self, result: str) -> None:
        raise AssertionError("a service swaps no winners")

    def behind(self, name: str, is_behind: bool) -> None:
        raise AssertionError("a service looks at no input")

    def night(self, ended: float, deviations: Mapping[str, float]) -> None:
        raise AssertionError("a service reads no history")


class MemoryJournal:
    """An event journal without a disk, which can be full."""

    def __init__(self, full: bool = False) -> None:
        self.rows: list[tuple[str, Any]] = []
        self.full = full

    @property
    def held(self) -> int:
        return len(self.rows)

    async def add(self, kind: str, rows: list[Any]) -> None:
        if self.full:
            raise JournalFull("9 events wait")
        self.rows += [(kind, row) for row in rows]


class ManualClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@dataclasses.dataclass
class Replica:
    """A service with all that it reports to."""

    service: RerankService
    metrics: Recorder
    journal: MemoryJournal
    clock: ManualClock
    models: dict[str, LengthModel]

    async def send(
        self, body: Any, wire: WireFormat = requests.COHERE_V2, path: str = "/v2/rerank", **headers: str
    ) -> HTTPAnswer:
        """Send a rerank request; a header's name has `_` for `-`."""
        return await self.service.rerank(call(path, body, **headers), wire)

    def answer(self, body: Any, wire: WireFormat = requests.COHERE_V2, **headers: str) -> HTTPAnswer:
        return asyncio.run(self.send(body, wire, **headers))


def call(path: str, body: Any, **headers: str) -> Call:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    named: Mapping[str, str] = {name.replace("_", "-"): value for name, value in headers.items()}
    return Call(path, named, chunks())


def replica(
    design: str = "",
    keys: ApiKeys | None = None,
    searcher: Any = None,
    full: bool = False,
    signer: ExposureSigner | None = None,
    **options: Any,
) -> Replica:
    """Return a service of three models; `design` is that of an online test, empty for none."""
    models = {
        "winner": LengthModel("first", writes=True),
        "small": LengthModel("tiny", sign=-1),
        "twin": LengthModel("first", writes=True),
    }
    online = OnlineConfig("events", "test", VARIANTS, design) if design else OnlineConfig()
    cfg = ServeConfig("winner", models={name: name for name in models if name != "winner"}, online=online, **options)
    metrics, journal, clock = Recorder(), MemoryJournal(full), ManualClock()
    parts: dict[str, Any] = {
        "keys": keys,
        "searcher": searcher,
        "journal": journal if design else None,
        "signer": signer,
    }
    service = RerankService(cfg, models, metrics, **parts, clock=clock, now=lambda: 5.0)
    return Replica(service, metrics, journal, clock, models)


def test_a_key_of_models_comes_before_the_system_that_the_winner_is() -> None:
    served = replica()
    served.models["first"] = served.models.pop("small")  # the winner's own system has this name too
    first, tiny, other = (order(served.answer(body(model=name))) for name in ("first", "tiny", "x"))
    assert first == tiny == other[::-1]


SECRET = "a secret of thirty-two characters"


def body(**more: Any) -> dict[str, Any]:
    return {"query": QUERY, "documents": TEXTS, **more}


def order(answer: HTTPAnswer) -> list[int]:
    assert answer.status == 200, answer
    return [result["index"] for result in answer.content["results"]]


def unit_of(variant: str, served: Replica) -> str:
    """Return a unit that sees this variant."""
    test = served.service.test
    assert test is not None
    return next(unit for unit in map(str, range(100)) if assignment.assign_variant(unit, test) == variant)


def test_the_service_is_imported_without_ray_and_without_a_web_server() -> None:
    program = "import sys, rrad_ray.serving.service, rrad_ray.serving.chores, rrad_ray.serving.loaded_model;"
    program += "print(sorted({'ray', 'fastapi', 'starlette', 'torch', 'vllm'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- formats ------------------------------------------------------------------------------------------------


def test_a_request_is_answered_in_its_format_best_first_and_counted() -> None:
    served = replica()
    answer = served.answer(body())
    assert (answer.status, dict(answer.headers)) == (200, {})
    assert answer.content["results"] == [
        {"index": index, "relevance_score": sigmoid(len(TEXTS[index]))} for index in (1, 2, 0)
    ]
    assert answer.content["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert answer.content["model"] == "first"
    assert served.metrics.requests == {("/v2/rerank", "200"): 1}
    assert served.metrics.answers == [("first", "")]
    assert served.metrics.stages == [("tokenize", "first")]
    assert served.metrics.batches == [6]
    assert served.metrics.insides == [1, 0]
    assert order(served.answer(body(top_n=2, max_tokens_per_doc=2))) == [1, 2], "cut to 2, the two longest are equal"


def test_teis_and_vllms_bodies_share_a_route_and_are_refused_in_their_own_way() -> None:
    served = replica()
    tei = served.answer({"query": QUERY, "texts": TEXTS, "raw_scores": True}, requests.VLLM_RERANK)
    assert [(one["index"], one["score"]) for one in tei.content] == [(1, 3.0), (2, 2.0), (0, 1.0)]
    vllm = served.answer(body(), requests.VLLM_RERANK)
    assert vllm.content["results"][0]["document"] == {"text": "bbb", "multi_modal": None}
    for wrong, status, key in (({"query": QUERY, "texts": []}, 400, "error_type"), (body(query=7), 400, "error")):
        answer = served.answer(wrong, requests.VLLM_RERANK)
        assert (answer.status, key in answer.content) == (status, True)
    scores = served.answer({"queries": QUERY, "documents": TEXTS}, requests.VLLM_SCORE)
    assert [one["score"] for one in scores.content["data"]] == [sigmoid(len(text)) for text in TEXTS]


def test_a_model_that_fails_is_an_error_of_the_server_in_each_dialect() -> None:
    served = replica()
    cohere = served.answer(body(documents=["boom"]))
    assert (cohere.status, cohere.content["field"]) == (500, "model")
    assert "RuntimeError" in cohere.content["detail"]
    tei = served.answer({"query": QUERY, "texts": ["boom"]}, requests.VLLM_RERANK)
    assert (tei.status, tei.content["error_type"]) == (424, "Backend")
    assert order(served.answer(body())) == [1, 2, 0], "it goes on"


class Broken:
    """A first stage that fails."""

    def retrieve(self, query: str) -> list[Hit]:
        raise KeyError(query)


def test_what_nobody_expected_is_a_500_in_the_clients_own_format_counted_and_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = replica(searcher=Broken())
    answer = search(served)
    assert (answer.status, answer.content["field"]) == (500, "request")
    assert answer.content["detail"] == "request: could not be answered (KeyError)"
    assert served.metrics.requests == {("/v1/search", "500"): 1}
    assert "Traceback" in caplog.text

    def fail(*_: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(requests, "parse_request", fail)
    vllm = served.answer(body(), requests.VLLM_RERANK)
    assert (vllm.status, vllm.content["error"]["type"]) == (500, "InternalServerError")
    tei = served.answer({"query": QUERY, "texts": TEXTS}, requests.VLLM_RERANK)
    assert (tei.status, tei.content["error_type"]) == (424, "Backend")
    assert served.service.admission.inside == 0


# ---- admission and deadlines --------------------------------------------------------------------------------


def test_a_key_is_asked_for_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret")
    served = replica(keys=ApiKeys(str(tmp_path / "keys")))
    assert served.answer(body(), authorization="Bearer secret").status == 200
    for header in ({}, {"authorization": "Bearer wrong"}):
        answer = served.answer(b"no JSON", **header)
        assert (answer.status, answer.content["field"]) == (401, "authorization")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert asyncio.run(served.service.events(call("/v1/events", {}))).status == 401
    assert served.metrics.insides == [1, 0], "the others never were inside"


def test_no_more_requests_than_the_limit_are_inside_and_each_that_leaves_makes_room() -> None:
    served = replica(max_queued=2)
    model = served.models["winner"]

    async def run() -> list[HTTPAnswer]:
        model.gate.clear()
        calls = [asyncio.ensure_future(served.send(body())) for _ in range(2)]
        await asyncio.sleep(0.05)
        busy = await served.send(body())
        model.gate.set()
        return [busy, *await asyncio.gather(*calls), await served.send(body())]

    busy, *others = asyncio.run(run())
    assert (busy.status, busy.content["field"], dict(busy.headers)) == (503, "requests", {"Retry-After": "1"})
    assert "2 are waiting, at most 2" in busy.content["detail"]
    assert [answer.status for answer in others] == [200] * 3
    assert served.service.admission.inside == 0


async def never() -> AsyncIterator[bytes]:
    """A body of which nothing comes behind its first byte."""
    yield b"{"
    await asyncio.sleep(60)


def test_slow_senders_hold_no_places_and_are_sent_away() -> None:
    served = replica(max_queued=1, read_s=0.2)

    async def run() -> tuple[list[int], list[HTTPAnswer]]:
        slow = [served.service.rerank(Call("/v2/rerank", {}, never()), requests.COHERE_V2) for _ in range(40)]
        slow += [served.service.events(Call("/v1/events", {}, never()))]
        waiting = [asyncio.ensure_future(one) for one in slow]
        await asyncio.sleep(0.05)
        ordinary = [(await served.send(body())).status for _ in range(3)]
        return ordinary, await asyncio.gather(*waiting)

    ordinary, slow = asyncio.run(run())
    assert ordinary == [200] * 3
    told = {(one.status, one.content["detail"]) for one in slow}
    assert told == {(408, "body: not there within 0.2 s (read_s)")}
    assert served.service.admission.held_bytes == 0


def test_all_bodies_together_have_a_bound_and_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SMALL", 0)
    served = replica(max_body_bytes=1000)
    large = body(documents=["a" * 900])

    async def run() -> list[HTTPAnswer]:
        served.models["winner"].gate.clear()
        calls = [asyncio.ensure_future(served.send(large)) for _ in range(40)]
        await asyncio.sleep(0.2)
        served.models["winner"].gate.set()
        return await asyncio.gather(*calls)

    statuses = Counter(answer.status for answer in asyncio.run(run()))
    assert statuses == {200: 17, 503: 23}, "16,000 bytes, a body of 941 each"
    assert served.service.admission.held_bytes == 0


def test_large_bodies_that_hold_all_room_keep_no_small_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SMALL", 500)
    served = replica(max_body_bytes=1000, read_s=30)

    async def stalls() -> AsyncIterator[bytes]:
        yield b"a" * 999
        await asyncio.sleep(60)

    async def run() -> list[int]:
        slow = [served.service.rerank(Call("/v2/rerank", {}, stalls()), requests.COHERE_V2) for _ in range(16)]
        waiting = [asyncio.ensure_future(one) for one in slow]
        await asyncio.sleep(0.05)
        statuses = [(await served.send(body(documents=["a" * size]))).status for size in (10, 400, 900)]
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return statuses

    assert asyncio.run(run()) == [200, 200, 503]
    assert served.service.admission.held_bytes == 0


def test_a_large_body_is_parsed_beside_the_event_loop() -> None:
    served = replica()
    threads = set[int]()

    async def threads_of(size: int) -> int:
        threads.clear()
        await parsed(b" " * size, lambda content: threads.add(threading.get_ident()))
        [thread] = threads
        return thread

    assert asyncio.run(threads_of(LARGE_BODY)) == threading.get_ident()
    assert asyncio.run(threads_of(LARGE_BODY + 1)) != threading.get_ident()
    assert served.answer(body(documents=["a" * LARGE_BODY, "b"])).status == 200


def test_one_reason_is_written_at_a_time_and_what_is_late_is_not_begun() -> None:
    served = replica(max_explained=3)
    writing, most, written = 0, 0, list[str]()

    def explain(query: str, text: str, max_tokens: int) -> str:
        nonlocal writing, most
        writing, most = writing + 1, max(most, writing + 1)
        time.sleep(0.1)
        writing -= 1
        written.append(text)
        return text

    served.models["winner"].explainer = SimpleNamespace(explain=explain)

    async def run() -> list[HTTPAnswer]:
        late = [served.send(body(explain=True), x_deadline_ms="150") for _ in range(4)]
        return [*await asyncio.gather(*late), await served.send(body(explain=True))]

    *late, last = asyncio.run(run())
    assert [answer.status for answer in late] == [504] * 4
    assert (last.status, most) == (200, 1), "a late one's thread goes on, and nothing begins beside it"
    assert len(written) <= 3 + 3


def test_a_request_whose_client_hangs_up_leaves_and_is_counted_so() -> None:
    served = replica()
    model = served.models["winner"]

    async def run() -> None:
        model.gate.clear()
        pending = asyncio.ensure_future(served.send(body()))
        await asyncio.sleep(0.05)
        pending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pending
        model.gate.set()

    asyncio.run(run())
    assert served.metrics.requests == {("/v2/rerank", "499"): 1}
    assert served.service.admission.inside == 0


def test_a_request_whose_deadline_passes_in_the_queue_is_not_scored() -> None:
    served = replica(batch_tokens=1)
    model = served.models["winner"]

    async def run() -> tuple[HTTPAnswer, HTTPAnswer]:
        model.gate.clear()
        first = asyncio.ensure_future(served.send(body(documents=["a"])))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(served.send(body(documents=["b"]), x_deadline_ms="2000"))
        await asyncio.sleep(0.05)
        served.clock.seconds += 3
        model.gate.set()
        return await first, await second

    first, second = asyncio.run(run())
    assert (first.status, second.status, second.content["field"]) == (200, 504, "deadline")
    assert model.scored == [1]


def test_a_deadline_that_is_no_number_is_the_clients_own_error() -> None:
    for value in ("soon", "\u00b2", "\u0663", "9" * 5000):
        unclear = replica().answer(body(), x_deadline_ms=value)
        assert (unclear.status, unclear.content["field"]) == (422, "x-deadline-ms")
    assert replica().answer(body(), x_deadline_ms="999999999").status == 200


def test_one_deadline_spans_reading_retrieving_scoring_and_explaining() -> None:
    served = replica(max_explained=3, searcher=TwoHits())
    model = served.models["winner"]
    slow = [
        served.service.rerank(Call("/v2/rerank", {"x-deadline-ms": "20"}, never()), requests.COHERE_V2),
        served.service.events(Call("/v1/events", {"x-deadline-ms": "20"}, never())),
        served.send(body(), x_deadline_ms="20"),
        served.service.search(call("/v1/search", {"query": QUERY}, x_deadline_ms="20")),
    ]

    async def run() -> list[HTTPAnswer]:
        model.gate.clear()
        late = await asyncio.gather(*slow)
        model.gate.set()
        model.explainer = SimpleNamespace(explain=lambda *_: time.sleep(0.3))
        return [*late, await served.send(body(explain=True), x_deadline_ms="150"), await served.send(body())]

    *late, ordinary = asyncio.run(run())
    assert [(one.status, one.content.get("field")) for one in late] == [(504, "deadline")] * 5
    assert (ordinary.status, served.service.admission.inside) == (200, 0)


def test_a_batch_that_takes_longer_than_any_request_may_is_a_model_that_hangs() -> None:
    served = replica(timeout_s=10.0)
    model = served.models["winner"]

    async def run() -> None:
        model.gate.clear()
        pending = asyncio.ensure_future(served.send(body()))
        await asyncio.sleep(0.05)
        served.service.check_health()
        served.clock.seconds += 11
        try:
            with pytest.raises(RuntimeError, match="the model has been at one call for 11 s"):
                served.service.check_health()
        finally:
            model.gate.set()
        await pending
        served.service.check_health()

    asyncio.run(run())


# ---- the model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "system", "expected"),
    [
        ("", "first", [1, 2, 0]),
        ("winner", "first", [1, 2, 0]),
        ("rerank-v3.5", "first", [1, 2, 0]),
        ("small", "tiny", [0, 2, 1]),
        ("tiny", "tiny", [0, 2, 1]),
        ("identity", "identity", [0, 1, 2]),
    ],
)
def test_a_request_names_its_model_and_any_other_name_means_the_winner(
    name: str, system: str, expected: list[int]
) -> None:
    answer = replica().answer(body(model=name))
    assert (answer.content["model"], order(answer)) == (system, expected)


def test_known_pairs_are_not_scored_again_by_the_same_model_and_length() -> None:
    served = replica(cache_entries=10)
    first = served.answer(body())
    again = served.answer(body(documents=["cc", "new", "a"]))
    assert served.models["winner"].scored == [3, 1]
    assert served.metrics.lookups == [(0, 3), (2, 1)]
    assert again.content["usage"]["total_tokens"] == 6, "as if they had been read now"
    scores = {result["index"]: result["relevance_score"] for result in first.content["results"]}
    assert again.content["results"][1] == {"index": 0, "relevance_score": scores[2]}
    served.answer(body(max_tokens_per_doc=2))
    served.answer(body(model="small"))
    assert served.metrics.lookups[2:] == [(0, 3), (0, 3)]


def test_a_new_model_in_the_mapping_answers_from_then_on() -> None:
    served = replica()
    served.models["winner"] = LengthModel("second", sign=-1)
    assert served.answer(body()).content["model"] == "second"


def test_reasons_are_written_for_the_results_on_the_page_by_the_model_that_ranked_them() -> None:
    served = replica(max_explained=2, reason_tokens=8)
    answer = served.answer(body(explain=True, top_n=2))
    assert [result["reason"] for result in answer.content["results"]] == [
        "first on q and bbb in 8",
        "first on q and cc in 8",
    ]
    plain = served.answer(body(top_n=2))
    assert [{key: result[key] for key in ("index", "relevance_score")} for result in answer.content["results"]] == (
        plain.content["results"]
    )
    for wrong, problem in (
        (body(explain=True), "3 results, at most 2 (max_explained); set top_n"),
        (body(explain=True, top_n=1, model="small"), "this model cannot write"),
        (body(explain=True, top_n=1, model="identity"), "this model cannot write"),
    ):
        refused = served.answer(wrong)
        assert (refused.status, refused.content["field"]) == (422, "explain")
        assert problem in refused.content["detail"]


def test_of_two_models_of_one_name_the_one_that_was_asked_for_writes() -> None:
    served = replica()
    twin = served.models["twin"]
    twin.explainer = SimpleNamespace(explain=lambda query, text, max_tokens: "the twin's")
    [result] = served.answer(body(model="twin", explain=True, top_n=1)).content["results"]
    assert result["reason"] == "the twin's"


# ---- the online test ----------------------------------------------------------------------------------------


def test_a_unit_sees_its_variant_and_what_it_saw_is_logged() -> None:
    served = replica("ab")
    for variant, expected in (("identity", [0, 1, 2]), ("winner", [1, 2, 0])):
        unit = unit_of(variant, served)
        answer = served.answer(body(user=unit, explain=variant == "identity"))
        assert (order(answer), answer.headers["X-Variant"]) == (expected, variant)
        assert answer.headers["X-Exposure"] == answer.content["id"]
        kind, row = served.journal.rows[-1]
        assert (kind, row["unit"], row["variant"], row["experiment"]) == ("exposures", unit, variant, "test")
        assert (row["request_id"], row["time"], row["query"]) == (answer.content["id"], 5.0, QUERY)
        assert len(row["doc_ids"]) == 3
        assert "reason" not in answer.content["results"][0], "a variant that cannot write answers without reasons"
    assert served.metrics.answers == [("identity", "identity"), ("first", "winner")]
    assert served.metrics.held == 2
    headed = served.answer(body(), x_unit=unit_of("identity", served))
    assert headed.headers["X-Variant"] == "identity"


@pytest.mark.parametrize("more", [{}, {"model": "winner"}, {"model": "tiny"}, {"model": "identity"}])
def test_a_request_without_a_unit_or_with_a_model_of_its_own_is_no_page_of_the_test(more: dict[str, Any]) -> None:
    served = replica("ab")
    answer = served.answer(body(**more), **({"x_unit": "u"} if more else {}))
    assert (answer.status, dict(answer.headers), served.journal.rows) == (200, {}, [])


def test_scores_in_the_order_of_the_request_are_no_page_of_the_test() -> None:
    served = replica("ab")
    answer = served.answer({"queries": QUERY, "documents": TEXTS}, requests.VLLM_SCORE, x_unit="u")
    assert (answer.status, dict(answer.headers), served.journal.rows) == (200, {}, [])


def test_a_ranking_is_observed_by_its_best_score_and_the_querys_words_and_the_order_of_the_request_is_none() -> None:
    served = replica("interleave")
    served.answer(body(query="two words"))
    served.answer(body(query="张三的天气", model="small"))
    served.answer(body(model="identity"))
    served.answer(body(user="u"))
    first, small, mixed = sigmoid(3.0), sigmoid(-1.0), sigmoid(3.0)
    rankings = [("first", "", first, 2), ("tiny", "", small, 3), ("first", "", mixed, 1)]
    assert served.metrics.rankings == rankings, "of an interleaved page each model's own scores, not those shown"


def test_an_interleaved_page_says_whose_each_document_is_in_its_exposure() -> None:
    served = replica("interleave")
    answer = served.answer(body(user="u", explain=True))
    assert answer.headers["X-Variant"] == "interleaved"
    assert answer.content["model"] == "identity + winner"
    assert sorted(order(answer)) == [0, 1, 2]
    assert all("reason" not in result for result in answer.content["results"])
    [(_, row)] = served.journal.rows
    assert (row["variant"], set(row["teams"])) == ("", {"identity", "winner"})
    assert served.metrics.answers == [("identity + winner", "")]


def test_a_page_whose_exposure_is_not_on_disk_is_answered_without_its_header() -> None:
    served = replica("ab", full=True)
    answer = served.answer(body(user="u"))
    assert (answer.status, "X-Exposure" in answer.headers, "X-Variant" in answer.headers) == (200, False, True)
    assert served.metrics.lost == 1


CLICK = {"request_id": "r", "doc_id": "d", "position": 1, "dwell_s": 2.0}


def test_clicks_are_on_disk_when_they_are_accepted() -> None:
    served = replica("ab")
    answer = asyncio.run(served.service.events(call("/v1/events", {"events": [CLICK, {**CLICK, "time": 3.0}]})))
    assert (answer.status, answer.content) == (200, {"accepted": 2})
    assert [(kind, row["time"]) for kind, row in served.journal.rows] == [("clicks", 5.0), ("clicks", 3.0)]
    assert (served.metrics.held, served.metrics.requests) == (2, {("/v1/events", "200"): 1})


def test_clicks_that_cannot_be_taken_are_refused() -> None:
    for served, events, status, field in (
        (replica(), [CLICK], 404, "events"),
        (replica("ab", full=True), [CLICK], 503, "events"),
        (replica("ab"), [{**CLICK, "position": 0}], 422, "events"),
        (replica("ab", max_body_bytes=5), [CLICK], 413, "body"),
    ):
        answer = asyncio.run(served.service.events(call("/v1/events", {"events": events})))
        assert (answer.status, answer.content["field"], served.journal.rows) == (status, field, [])
        assert served.metrics.requests == {("/v1/events", str(status)): 1}


def test_a_unit_in_the_header_has_at_most_256_characters() -> None:
    served = replica("ab")
    assert served.answer(body(), x_unit="u" * 256).status == 200
    refused = served.answer(body(), x_unit="u" * 257)
    assert (refused.status, refused.content["field"]) == (422, "x-unit")


def test_a_search_that_the_proxy_sends_to_a_second_replica_is_logged_as_one_page() -> None:
    dead, alive = replica("interleave"), replica("interleave")
    sent = {"x_unit": "u", "x_proxy_request_id": "0e984725-c51c-4bf4-9960-e1c80e27aba0"}
    first, second = (served.answer(body(), **sent) for served in (dead, alive))
    assert first.headers["X-Exposure"] == second.headers["X-Exposure"]
    assert dead.journal.rows == alive.journal.rows, "the same draw of the interleaving too"
    for other in ({"x_proxy_request_id": "1e984725-c51c-4bf4-9960-e1c80e27aba0"}, {"x_proxy_request_id": ""}):
        assert alive.answer(body(), **{**sent, **other}).headers["X-Exposure"] != first.headers["X-Exposure"]
    assert len({row["request_id"] for _, row in alive.journal.rows}) == 3


def test_pages_are_answered_while_the_store_is_away_and_the_journal_fills(tmp_path: Path) -> None:
    served, clicked = replica("ab"), call("/v1/events", {"events": [CLICK]})
    (tmp_path / "log").write_text("a file where the folder should be")
    journal = EventJournal(str(tmp_path / "log"), str(tmp_path / "journal"), most=3)
    assert served.service.online_events is not None
    served.service.online_events.journal = journal

    async def run() -> tuple[list[bool], HTTPAnswer]:
        logged = []
        for number in range(5):
            answer = await served.send(body(user=f"u{number}"))
            assert order(answer)
            logged.append("X-Exposure" in answer.headers)
            await journal.flush()
        refused = await served.service.events(clicked)
        (tmp_path / "log").unlink()
        assert await journal.flush() == 3
        return logged, refused

    logged, refused = asyncio.run(run())
    assert logged == [True] * 3 + [False] * 2
    assert (refused.status, refused.headers["Retry-After"], served.metrics.lost) == (503, "1", 2)
    exposures = read_exposures(str(tmp_path / "log"), lambda *bad: pytest.fail(str(bad)))
    assert sorted(row["unit"] for row in exposures) == ["u0", "u1", "u2"]


IDS = st.text(max_size=3) | st.sampled_from(["a", "a#1", "a#2", "", " ", "x" * 256, "x" * 257])
DOCUMENTS = st.lists(st.text(max_size=3) | st.fixed_dictionaries({"text": st.text(max_size=3)}, optional={"id": IDS}))


@settings(max_examples=30)
@given(st.sampled_from(["ab", "interleave"]), st.text(max_size=3), DOCUMENTS, IDS, st.integers(0, 3))
def test_any_page_that_is_answered_with_an_exposure_is_read_back_and_so_is_a_click_on_each_document(
    design: str, query: str, texts: list[Any], user: str, top_n: int
) -> None:
    served = replica(design)
    answer = served.answer({"query": query, "documents": texts, "user": user, "top_n": top_n or None})
    assert answer.status in (200, 400, 422)
    assert bool(served.journal.rows) == ("X-Exposure" in answer.headers)
    if not served.journal.rows:
        return
    [exposure] = stored(EXPOSURES, [row for _, row in served.journal.rows])
    shown = [texts[index] for index in order(answer)]
    names = [each.get("id", "").strip() and each["id"] if isinstance(each, dict) else "" for each in shown]
    names = [name or stored_id for name, stored_id in zip(names, exposure["doc_ids"])]
    page = {"request_id": answer.headers["X-Exposure"]}
    events = [{**page, "doc_id": name, "position": rank} for rank, name in enumerate(names, 1)]
    accepted = asyncio.run(served.service.events(call("/v1/events", {"events": events})))
    assert accepted.status == 200
    clicks = stored(CLICKS, [row for kind, row in served.journal.rows if kind == CLICKS])
    cfg = ExperimentConfig("in", "out", "test", VARIANTS, design=design)
    pages, left_out = joined([exposure], clicks, cfg)
    assert (left_out, pages.clicked_P.tolist()) == ({}, [True])


def test_a_page_that_the_log_cannot_hold_is_answered_without_its_header(tmp_path: Path) -> None:
    served = replica("ab")
    assert served.service.online_events is not None
    served.service.online_events.journal = EventJournal(str(tmp_path / "log"), str(tmp_path / "journal"), most=3)
    served.service.now = lambda: "no time"  # type: ignore[assignment, return-value]
    answer = served.answer(body(user="u"))
    assert (answer.status, "X-Exposure" in answer.headers, served.metrics.lost) == (200, False, 1)


# ---- the search ---------------------------------------------------------------------------------------------


class TwoHits:
    """A first stage that knows two documents."""

    def retrieve(self, query: str) -> list[Hit]:
        hits = [Hit("one", "a", 2.0, {query: 2.0}, []), Hit("two", "bbb", 1.0, {query: 1.0}, [])]
        return [] if query == "none" else hits


def search(served: Replica, **fields: Any) -> HTTPAnswer:
    return asyncio.run(served.service.search(call("/v1/search", {"query": QUERY, **fields})))


def test_a_search_re_ranks_what_the_first_stage_retrieves_and_is_a_page_of_the_test() -> None:
    served = replica("ab", searcher=TwoHits())
    answer = search(served, user=unit_of("winner", served))
    assert [document["doc_id"] for document in answer.content["documents"]] == ["one", "two"]
    assert [(one["index"], one["rank"], one["moved"]) for one in answer.content["results"]] == [(1, 1, 1), (0, 2, -1)]
    [(_, row)] = served.journal.rows
    assert row["doc_ids"] == ["two", "one"]
    assert served.metrics.stages == [("retrieve", ""), ("tokenize", "first")]
    assert served.metrics.requests == {("/v1/search", "200"): 1}


def test_a_search_that_retrieves_nothing_asks_no_model_and_is_no_page_of_the_test() -> None:
    served = replica("ab", searcher=TwoHits())
    answer = search(served, query="none", user="u", explain=True)
    assert (answer.content["results"], answer.content["documents"], dict(answer.headers)) == ([], [], {})
    assert (served.journal.rows, served.metrics.answers) == ([], [("identity", "")])


def test_a_search_reads_as_much_of_a_document_as_it_is_told() -> None:
    served = replica("ab", searcher=TwoHits())
    whole, cut = search(served), search(served, max_tokens_per_doc=1)
    assert whole.content["results"] != cut.content["results"]


@pytest.mark.parametrize("field", ["page", "offset", "documents", "topn"])
def test_a_search_refuses_a_field_that_it_does_not_know(field: str) -> None:
    answer = search(replica("ab", searcher=TwoHits()), **{field: 2})
    assert (answer.status, answer.content["field"]) == (422, field)


def test_a_search_without_a_collection_is_refused() -> None:
    answer = search(replica())
    assert (answer.status, answer.content["field"]) == (404, "search")
    assert "search.corpus" in answer.content["detail"]


def test_clicks_on_signed_pages_alone_are_logged_and_the_others_counted() -> None:
    signer = ExposureSigner(SECRET, "test")
    served = replica("ab", signer=signer)

    def send(*clicks: dict[str, Any], **headers: str) -> dict[str, Any]:
        sent = [{"doc_id": "d", "position": 1, "event_id": "1", **click} for click in clicks]
        answer = asyncio.run(served.service.events(call("/v1/events", {"events": sent}, **headers)))
        assert answer.status == 200
        return answer.content

    page = served.answer(body(user="ann"))
    token = page.headers["X-Exposure"]
    [(kind, shown)] = served.journal.rows
    assert (kind, shown["request_id"]) == (EXPOSURES, token.partition(".")[0])
    variant = assignment.assign_variant("ann", served.service.test, signer.salt)  # type: ignore[arg-type]
    assert page.headers["X-Variant"] == variant
    forged = [{"request_id": name} for name in (shown["request_id"], token[:-1] + ("0" if token[-1] != "0" else "1"))]
    assert send(*forged, {"request_id": token}) == {"accepted": 1, "refused": {"forged": 2}}
    assert served.journal.rows[1:] == [(CLICKS, {**served.journal.rows[1][1], "request_id": shown["request_id"]})]
    assert send({"request_id": token}, x_unit="ann") == {"accepted": 0, "refused": {"replayed": 1}}
    assert send({"request_id": token, "event_id": "2"}, x_unit="bob") == {"accepted": 0, "refused": {"forged": 1}}
    assert send({"request_id": token, "event_id": "2", "time": 99.0}) == {"accepted": 0, "refused": {"late": 1}}
    assert served.metrics.refused == {"forged": 3, "replayed": 1, "late": 1}


def test_a_click_that_could_not_be_logged_may_come_again() -> None:
    served = replica("ab", signer=ExposureSigner(SECRET, "test"))
    token = served.answer(body(user="ann")).headers["X-Exposure"]
    sent = {"events": [{"request_id": token, "doc_id": "d", "position": 1}]}
    served.journal.full = True
    assert asyncio.run(served.service.events(call("/v1/events", sent))).status == 503
    served.journal.full = False
    assert asyncio.run(served.service.events(call("/v1/events", sent))).content == {"accepted": 1, "refused": {}}
