"""A re-rank request to its answer, in plain asyncio: no web server, no Ray.

A request is admitted, its body read and parsed by its wire format; a search first retrieves its documents. Then a
model is chosen (the one that the request names, the unit's variant of an online test, or the winner), its page is
ranked and, in a test, logged as an exposure; and the page is rendered in the request's format.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rrad_ray.config import IDENTITY, WINNER, ServeConfig
from rrad_ray.online import assignment
from rrad_ray.online.event_journal import EventJournal
from rrad_ray.online.signatures import ExposureSigner
from rrad_ray.serving import bodies, errors, event_requests, headers, pages, requests, search
from rrad_ray.serving.admission import BODIES, Admission, within
from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.click_gate import ClickGate
from rrad_ray.serving.errors import Dialect, HTTPError
from rrad_ray.serving.fusing import model_scores
from rrad_ray.serving.online_events import OnlineEvents
from rrad_ray.serving.pages import RankedPage
from rrad_ray.serving.requests import ScoringRequest, WireFormat
from rrad_ray.serving.responses import render_answer
from rrad_ray.serving.scorer import Model, RequestScorer
from rrad_ray.serving.service_metrics import ServiceMetrics
from rrad_ray.tables import spans

logger = logging.getLogger("ray.serve")

Rendered = tuple[RankedPage, Any, dict[str, str]]  # a page, its JSON answer and the headers of that


@dataclass(frozen=True)
class Call:
    """An HTTP request as a server hands it on; `headers` are looked up by names in lower case.

    `until_sent` ends when the client has its answer, for servers that tell.
    """

    path: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    until_sent: contextlib.ExitStack | None = None


@dataclass(frozen=True)
class HTTPAnswer:
    """An HTTP answer: its status, its JSON content and its headers."""

    status: int
    content: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Exchange:
    """A request on its way to its answer.

    `dialect` is another one than at first where the body says so. `began` and `deadline` are seconds of the service's
    clock.
    """

    call: Call
    dialect: Dialect
    began: float
    deadline: float = math.inf


Parsed = TypeVar("Parsed")

LARGE_BODY = 2**16  # bytes from which a body is parsed beside the event loop; up to there it takes a millisecond

Work = Callable[[Exchange, bytes], Awaitable[HTTPAnswer]]  # with the body

Render = Callable[[ScoringRequest, WireFormat, Exchange], Awaitable[Rendered]]


class RerankService:
    """The answers of one replica.

    `models` are by name, the winner's among them; whoever holds the mapping may replace a model at any time. `clock`
    gives seconds for deadlines and latencies, `now` seconds since 1970 for events. All calls come from one event
    loop; everything that is slow or blocks runs in threads.
    """

    def __init__(
        self,
        cfg: ServeConfig,
        models: Mapping[str, Model],
        metrics: ServiceMetrics,
        *,
        keys: ApiKeys | None = None,
        searcher: search.Searcher | None = None,
        journal: EventJournal | None = None,
        signer: ExposureSigner | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.cfg, self.models, self.metrics, self.searcher = cfg, models, metrics, searcher
        self.clock, self.now = clock, now
        self.test = cfg.online.test
        gate = ClickGate(signer, cfg.online.max_age_s, cfg.online.max_clicks) if signer else None
        self.online_events = OnlineEvents(journal, signer, gate, metrics, now) if journal is not None else None
        self.salt = signer.salt if signer else b""
        self.limits = requests.Limits(cfg.max_documents, cfg.max_query_chars, cfg.max_document_chars)
        self.admission = Admission(keys, cfg.max_queued, BODIES * cfg.max_body_bytes, metrics)
        self.scorer = RequestScorer(cfg.batch_tokens, cfg.cache_entries, metrics, clock)
        self.writer = ThreadPoolExecutor(1)  # one reason at a time, beside the threads that score

    # ---- requests -----------------------------------------------------------------------------------------------

    async def rerank(self, call: Call, wire: WireFormat) -> HTTPAnswer:
        """Answer a request whose documents come with it."""
        work: Work = lambda exchange, body: self._rendered(exchange, body, wire, self._reranked)  # noqa: E731
        return await self._answer(call, wire.dialect, self.limits.max_values, work)

    async def search(self, call: Call) -> HTTPAnswer:
        """Answer a request whose documents the first stage retrieves."""
        wire = requests.RRAD_SEARCH
        work: Work = lambda exchange, body: self._rendered(exchange, body, wire, self._searched)  # noqa: E731
        return await self._answer(call, wire.dialect, self.limits.max_values, work)

    async def events(self, call: Call) -> HTTPAnswer:
        """Take clicks on pages of the online test; 200 means that they are on disk."""
        return await self._answer(call, errors.COHERE, event_requests.MAX_VALUES, self._accepted)

    async def _answer(self, call: Call, dialect: Dialect, most_values: int, work: Work) -> HTTPAnswer:
        """Answer a request in a span of its own, below the one that its `traceparent` names."""
        attributes = {"http.request.method": "POST", "http.route": call.path}
        with spans.begin(f"POST {call.path}", attributes, carrier=call.headers, server=True) as span:
            answer = await self._admitted(call, dialect, most_values, work)
            span.set({"http.response.status_code": answer.status})
            if answer.status >= 500:
                span.fail(str(answer.status))
            return answer

    async def _admitted(self, call: Call, dialect: Dialect, most_values: int, work: Work) -> HTTPAnswer:
        """Admit a request, do its work and count how it ended; its body counts until its answer is sent.

        What the work raises becomes the answer, in its dialect. It is cancelled (504) when its time is over.
        """
        exchange = Exchange(call, dialect, self.clock())
        try:
            with contextlib.ExitStack() as until_made:
                hold = (call.until_sent or until_made).enter_context(self.admission.enter(call.headers))
                allowed_s = headers.timeout_s(call.headers, self.cfg.timeout_s)
                exchange.deadline = exchange.began + allowed_s
                late = HTTPError(504, "deadline", "it has passed")
                answer = await within(allowed_s, self._worked(exchange, most_values, hold, work), late)
        except HTTPError as error:
            answer = HTTPAnswer(*error.render(exchange.dialect))
        except asyncio.CancelledError:
            self.metrics.request(call.path, str(errors.HUNG_UP))
            raise
        except Exception as error:
            logger.exception(f"a request to {call.path} could not be answered")
            answer = HTTPAnswer(*errors.unexpected(error).render(exchange.dialect))
        self.metrics.request(call.path, str(answer.status))
        return answer

    async def _worked(
        self, exchange: Exchange, most_values: int, hold: Callable[[int], None], work: Work
    ) -> HTTPAnswer:
        """Read the body, then give the request a place and do its work. Raises `HTTPError` (408) if it is slow."""
        call, cfg = exchange.call, self.cfg
        reading = bodies.read_body(call.body, call.headers, cfg.max_body_bytes, most_values, hold)
        slow = HTTPError(408, "body", f"not there within {cfg.read_s:g} s (read_s)")
        with spans.begin("receive"):
            body = await within(cfg.read_s, reading, slow)
        with self.admission.place():
            return await work(exchange, body)

    async def _accepted(self, exchange: Exchange, body: bytes) -> HTTPAnswer:
        if self.online_events is None:
            raise HTTPError(404, "events", "no online test runs here (online.events)")
        clicks = await parsed(body, event_requests.parse_clicks, self.now())
        unit = headers.unit_named(exchange.call.headers)
        return HTTPAnswer(200, await self.online_events.accept(clicks, unit))

    async def _rendered(self, exchange: Exchange, body: bytes, wire: WireFormat, render: Render) -> HTTPAnswer:
        """Parse and render a request."""
        if wire is requests.VLLM_RERANK:
            wire = await parsed(body, requests.vllm_or_tei)
            exchange.dialect = wire.dialect
        with spans.begin("parse"):
            request = await parsed(body, requests.parse_request, wire, self.limits)
        page, content, more_headers = await render(request, wire, exchange)
        facts: spans.Attributes = {"rrad.model": page.model, "rrad.variant": page.variant, "rrad.tokens": page.tokens}
        spans.current().set({**facts, "rrad.documents": len(page.scores)})
        self.metrics.answered(page.model, page.variant, self.clock() - exchange.began)
        return HTTPAnswer(200, content, more_headers)

    async def _reranked(self, request: ScoringRequest, wire: WireFormat, exchange: Exchange) -> Rendered:
        request_id = headers.page_id(exchange.call.headers, request.unit, request.queries[0])
        page, more_headers = await self._page(request, wire, exchange, request_id)
        more_headers |= {"X-First-Stage": page.first_stage} if page.first_stage else {}
        with spans.begin("answer"):
            return page, render_answer(wire, request, page, request_id), more_headers

    async def _searched(self, request: ScoringRequest, wire: WireFormat, exchange: Exchange) -> Rendered:
        if self.searcher is None:
            raise HTTPError(404, "search", "no collection is searched here (search.corpus)")
        began = self.clock()
        with spans.begin("retrieve"):
            hits = await asyncio.to_thread(self.searcher.retrieve, request.queries[0])
        self.metrics.stage("retrieve", "", self.clock() - began)
        page, content, more_headers = await self._reranked(search.rerank_request(request, hits), wire, exchange)
        return page, search.search_answer(content, hits), more_headers

    # ---- the page -----------------------------------------------------------------------------------------------

    async def _page(
        self, request: ScoringRequest, wire: WireFormat, exchange: Exchange, request_id: str
    ) -> tuple[RankedPage, dict[str, str]]:
        """Return the page that answers a request, and its headers; clicks name it by the header `X-Exposure`.

        A request belongs to the online test if it has a unit, wants a ranking and names no model of ours: clients
        send the names of their vendor's models, which mean the winner.
        """
        deadline = exchange.deadline
        unit = request.unit or headers.unit_named(exchange.call.headers)
        named = request.model == IDENTITY or self._named(request.model) is not None
        if self.test is None or not unit or named or wire.kind is requests.ScoreRequest:
            model = self._model(request.model)
            check_explain(request, model, self.cfg.max_explained)
            page = await self._model_page(request, model, "", deadline)
            return await self._explained(request, model, page), {}
        if self.test.design == "interleave":
            model, variants = None, list(self.test.variants)
            both = [await self._model_page(request, self._model(name), name, deadline) for name in variants]
            page = pages.interleaved_page(request, variants, both, request_id)
        else:  # a variant that cannot explain answers without reasons: its units did not choose it
            variant = assignment.assign_variant(unit, self.test, self.salt)
            model = self._model(variant)
            page = await self._model_page(request, model, variant, deadline)
        page = await self._explained(request, model, page)  # first: what takes too long is not seen
        assert self.online_events is not None
        facts: dict[str, Any] = {"experiment": self.test.name, "unit": unit, "time": self.now()}
        shown_as = await self.online_events.expose(pages.exposure_row(request, page, request_id=request_id, **facts))
        exposure = {"X-Exposure": shown_as} if shown_as else {}
        return page, {"X-Variant": page.variant or "interleaved", **exposure}

    def _named(self, name: str) -> Model | None:
        """Return the model of a name: `winner`, a key of `models`, or else the system that one of these is."""
        systems = {model.served.name: model for model in reversed([*self.models.values()])}
        return {**systems, **self.models}.get(name) if name else None

    def _model(self, name: str) -> Model | None:
        """Return the model that a name means, the winner for any other name; None for `identity`."""
        return None if name == IDENTITY else self._named(name) or self.models[WINNER]

    async def _model_page(
        self, request: ScoringRequest, model: Model | None, variant: str, deadline: float
    ) -> RankedPage:
        if model is None:
            return pages.identity_page(request, variant)
        facts = {"rrad.model": model.served.name, "rrad.model.fingerprint": model.served.fingerprint}
        with spans.begin("rank", {**facts, "rrad.documents": len(request.texts)}):
            scores = await model_scores(model, request, self.scorer, deadline)
        pages.observe_ranking(self.metrics, request, scores)
        return pages.scored_page(request, variant, scores)

    async def _explained(self, request: ScoringRequest, model: Model | None, page: RankedPage) -> RankedPage:
        """Return a page with reasons for its first `max_explained` results, if asked for and the model can write."""
        if not request.explain or model is None or model.explainer is None:
            return page
        reasons: dict[int, str] = {}
        for index in page.order[: self.cfg.max_explained]:
            query, text = request.queries[0], page.read_text(request, index)
            ask = functools.partial(model.explainer.explain, query, text, self.cfg.reason_tokens)
            reasons[index] = await asyncio.get_running_loop().run_in_executor(self.writer, ask)
        return dataclasses.replace(page, reasons=reasons)

    def check_health(self) -> None:
        """Raise `RuntimeError` if a model hangs: one batch takes longer than any request may."""
        if (stuck_s := self.scorer.batcher.oldest_s()) > self.cfg.timeout_s:
            raise RuntimeError(f"the model has been at one call for {stuck_s:.0f} s")


async def parsed(body: bytes, parse: Callable[..., Parsed], *more: Any) -> Parsed:
    """Return what `parse(body, *more)` does, beside the event loop where that takes long."""
    return await asyncio.to_thread(parse, body, *more) if len(body) > LARGE_BODY else parse(body, *more)


def check_explain(request: ScoringRequest, model: Model | None, limit: int) -> None:
    """Raise `HTTPError` for `explain` to a model that cannot write, or of more than `limit` results."""
    if not request.explain:
        return
    if model is None or model.explainer is None:
        raise HTTPError(422, "explain", "this model cannot write; one trained with generation.weight above 0 can")
    results = min(request.top_n or len(request.texts), len(request.texts))
    if results > limit:
        raise HTTPError(422, "explain", f"{results} results, at most {limit} (max_explained); set top_n")
