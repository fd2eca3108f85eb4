"""One replica of the endpoint: its models, its HTTP routes (wire.py) and, of an online test, what it writes down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from ray import serve
from ray.serve import metrics

from rrad_ray.config import IDENTITY, WINNER, ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.online import assignment, event_journal
from rrad_ray.online.event_log import CLICKS, EXPOSURES
from rrad_ray.serving import documents, errors, event_requests, requests, responses, search, winners
from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.batcher import Batcher, DeadlineExceeded
from rrad_ray.serving.score_cache import ScoreCache, Scored

MILLISECONDS: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000]

TOKENS: list[float] = [256, 1024, 4096, 8192, 16_384, 32_768, 65_536]

WARM_UP = ("is the model ready", ["yes", "It has been loaded, and now it scores."])

logger = logging.getLogger("ray.serve")

api = FastAPI(title="rrad-ray", description="Re-ranks documents. `relevance_score` is the sigmoid of the raw score.")


@dataclass(frozen=True)
class RankedPage:
    """What a request is answered with: whose order, what scores are told, and of an interleaved page the teams."""

    model: str
    variant: str
    shown: list[float]  # by document of the request
    order: list[int]
    teams: list[str]
    tokens: int


class LoadedModel:
    """A model in this process: a student, and its writer if it has learnt to write."""

    def __init__(self, found: winners.ServedModel, cfg: ServeConfig) -> None:
        """Raises `RradError` if the backend does not serve it, `winners.Changed` if it no longer scores so."""
        from rrad_ray.rankers.generation import Explainer
        from rrad_ray.rankers.packed_encoder import PackedEncoder
        from rrad_ray.rankers.ranker import Ranker, score_tokens

        folder, device = winners.local_folder(found), "cuda" if cfg.resources.get("GPU") else "cpu"
        try:
            self.ranker = Ranker.load(folder, device=device, dtype=cfg.precision, backend=cfg.backend)
        except ValueError as error:
            raise RradError.of(found.checkpoint, error, "set backend=torch") from error
        self.found, self.tokens = found, score_tokens(device)
        # Lanes that one call leaves idle take parts of the next one.
        several = isinstance(self.ranker.backend, PackedEncoder) and self.ranker.backend.lanes > 1
        self.concurrency = 2 if several else 1
        self.version = uuid.uuid4().hex  # of the weights that were read: another time there may be others
        self.explainer = None
        with contextlib.suppress(ValueError):  # most models cannot write, and nobody may ever ask
            self.explainer = Explainer.of(self.ranker, folder)
        query, texts = WARM_UP
        self.ranker.score(query, texts)
        # int8 is allowed its loss: there it is the checkpoint that has to be the one that won.
        winners.check_scores(found, self.ranker.score if cfg.precision != "int8" else Ranker.load(folder).score)

    def encode(self, asked: requests.ScoringRequest, places: Sequence[int]) -> list[Any]:
        texts = [asked.texts[place] for place in places]
        if 0 < asked.doc_tokens < self.ranker.max_length:
            texts = self.ranker.cut(texts, asked.doc_tokens)
        return self.ranker.encode([asked.queries[place] for place in places], texts)

    def score(self, pairs: list[Any]) -> list[float]:
        """Raises `ValueError` for scores that are no numbers."""
        import torch

        with torch.inference_mode():
            scores = self.ranker.logits(pairs, self.tokens).tolist()
        if not all(map(math.isfinite, scores)):
            raise ValueError("the model gave a score that is not a number")
        return scores


@serve.ingress(api)
class Endpoint:
    """One replica. All that is slow or blocks runs in threads: the event loop goes on answering."""

    def __init__(self, cfg: ServeConfig, places: dict[str, str], root: str) -> None:
        """`places`: what each model is served from, by name. `root`: of relative paths."""
        self.chores: list[asyncio.Task[None]] = []
        self.journal: event_journal.EventJournal | None = None  # first: the end of a replica that failed reads them
        self.cfg, self.places, self.root = cfg, places, root
        self.limits = requests.Limits(cfg.max_documents, cfg.max_query_chars, cfg.max_document_chars)
        self.keys = ApiKeys(cfg.api_keys) if cfg.api_keys else None
        self.searcher = search.Searcher(cfg.search) if cfg.search.corpus else None
        self.models = {place: LoadedModel(winners.find_winner(uri, root), cfg) for place, uri in places.items()}
        self.batcher = Batcher(LoadedModel.score, cfg.batch_tokens, self._seen, lambda model: model.concurrency)
        self.cache = ScoreCache(cfg.cache_entries, self._looked_up)
        self.refused: dict[str, str] = {}  # fingerprints of winners that were
        self.writing = asyncio.Lock()
        self.inside = 0
        self._measure()
        self.test = cfg.online.test
        if cfg.online.events:
            online = cfg.online
            folder = online.journal or event_journal.folder_of(online.events)
            self.journal = event_journal.EventJournal(online.events, folder, most=online.max_events)
        self._often(cfg.watch_s, self._look_for_winners)
        if self.keys:
            self._often(cfg.watch_s, self._look_for_keys)
        if self.journal is not None:
            self._often(cfg.online.flush_s, self._flush)

    def _measure(self) -> None:
        by_status: Any = ("path", "status")  # Ray's own types know one key only
        by_variant: Any = ("model", "variant")
        by_stage: Any = ("stage", "model")
        self.requests = metrics.Counter("rrad_serve_requests", "Requests", tag_keys=by_status)
        self.answered = metrics.Counter("rrad_serve_answered", "Requests answered", tag_keys=by_variant)
        self.took = metrics.Histogram("rrad_serve_ms", "Latency", boundaries=MILLISECONDS, tag_keys=by_stage)
        self.passes = metrics.Histogram("rrad_serve_pass_tokens", "Tokens of a scoring call", boundaries=TOKENS)
        self.pairs = metrics.Counter("rrad_serve_cache", "Pairs that a cache was asked for", tag_keys=("result",))
        self.queue = metrics.Gauge("rrad_serve_inside", "Requests that are inside a replica")
        self.held = metrics.Gauge("rrad_serve_events_held", "Events on this disk and not yet in the store")
        self.lost = metrics.Counter("rrad_serve_exposures_not_logged", "Pages answered without an exposure")
        self.swaps = metrics.Counter("rrad_serve_winners", "New winners", tag_keys=("result",))

    # ---- the model process --------------------------------------------------------------------------------------

    def _seen(self, tokens: int, waited: Sequence[float]) -> None:
        self.passes.observe(tokens)
        for seconds in waited:
            self.took.observe(1000 * seconds, tags={"stage": "wait", "model": ""})

    def _looked_up(self, known: int, asked: int) -> None:
        for result, count in (("known", known), ("asked", asked)):
            if count:
                self.pairs.inc(count, tags={"result": result})

    async def _scores(
        self, model: LoadedModel, asked: requests.ScoringRequest, deadline: float
    ) -> tuple[list[float], int]:
        """Raw scores of a request, and the tokens that were read for them, now or when they went into the cache."""
        scope = f"{model.version} {asked.doc_tokens}"
        found = await self.cache(
            scope, asked.queries, asked.texts, lambda places: self._scored(model, asked, places, deadline)
        )
        return [score for score, _ in found], sum(size for _, size in found)

    async def _scored(
        self, model: LoadedModel, asked: requests.ScoringRequest, places: Sequence[int], deadline: float
    ) -> Sequence[Scored]:
        """The pairs at some places of a request by the model itself. Raises `wire.Refused`."""
        began = time.monotonic()
        pairs = await asyncio.to_thread(model.encode, asked, places)
        sizes = [len(pair["input_ids"]) for pair in pairs]
        self.took.observe(1000 * (time.monotonic() - began), tags={"stage": "tokenize", "model": model.found.name})
        try:
            return list(zip(await self.batcher(model, pairs, sizes, deadline), sizes, strict=True))
        except DeadlineExceeded as error:
            raise errors.HTTPError(504, "deadline", f"it has passed; {error}") from error
        except Exception as error:
            logger.error("a request could not be scored", exc_info=error)
            raise errors.HTTPError(500, "model", f"could not score this request ({type(error).__name__})") from error

    # ---- routes -------------------------------------------------------------------------------------------------

    @api.get("/healthz")
    @api.get("/health")
    async def healthz(self) -> JSONResponse:
        """Ready: every model is loaded and has scored something, and none hangs."""
        try:
            self.check_health()
        except RuntimeError as error:
            return JSONResponse({"status": str(error)}, 503)
        return JSONResponse({"status": "ok", "model": self.models[WINNER].found.name})

    @api.get("/livez")
    async def livez(self) -> dict[str, str]:
        """The replica answers, whatever its models do."""
        return {"status": "ok"}

    @api.get("/v1/models")
    async def list_models(self) -> dict[str, Any]:
        """The models that a request may name; `identity` leaves the documents as they came."""
        roots = {**{name: model.found.name for name, model in self.models.items()}, IDENTITY: IDENTITY}
        data = [{"id": name, "root": root, "object": "model", "owned_by": "rrad-ray"} for name, root in roots.items()]
        return {"object": "list", "data": data}

    @api.post("/rerank", openapi_extra=requests.openapi(requests.RerankRequest, requests.TeiRequest))
    @api.post("/v1/rerank", openapi_extra=requests.openapi(requests.RerankRequest))
    @api.post("/v2/rerank", openapi_extra=requests.openapi(requests.RerankRequest))
    @api.post("/score", openapi_extra=requests.openapi(requests.ScoreRequest))
    @api.post("/v1/score", openapi_extra=requests.openapi(requests.ScoreRequest))
    async def rerank(self, request: Request) -> JSONResponse:
        """Documents best first; a score is the sigmoid of the model's raw score, or this where it is asked for."""
        began, path = time.monotonic(), request.url.path
        dialect = requests.dialect_of(path)
        try:
            async with self._admitted(request):
                declared = request.headers.get("content-length", "")
                body = await requests.read_body(request.stream(), declared, self.cfg.max_body_bytes)
                kind, dialect = requests.kind_of(path, body)
                asked = requests.parse_request(body, kind, dialect, path, self.limits)
                asked, hits = await self._found(asked, kind)
                request_id = uuid.uuid4().hex
                page, headers = await self._page(asked, request, request_id, kind is requests.ScoreRequest)
                content = responses.render_answer(
                    kind, dialect, asked, page.shown, page.order, page.tokens, page.model, request_id
                )
                if asked.explain:
                    await self._explain(asked, page.model, content["results"])
                if kind is requests.SearchRequest:
                    content = search.search_answer(content, hits)
            status = 200
            self.answered.inc(tags={"model": page.model, "variant": page.variant})
            self.took.observe(1000 * (time.monotonic() - began), tags={"stage": "all", "model": page.model})
        except errors.HTTPError as error:
            status, content, headers = error.render(dialect)
        except asyncio.CancelledError:
            self.requests.inc(tags={"path": path, "status": errors.HUNG_UP})
            raise
        self.requests.inc(tags={"path": path, "status": str(status)})
        return JSONResponse(content, status, headers=headers)

    @api.post("/v1/search", openapi_extra=requests.openapi(requests.SearchRequest))
    async def search_collection(self, request: Request) -> JSONResponse:
        """What the first stage finds in the served collection, re-ranked: `results` name `documents` by index."""
        return await self.rerank(request)

    @api.get("/", response_class=HTMLResponse)
    async def search_page(self) -> HTMLResponse:
        """The search page."""
        writes = self.models[WINNER].explainer is not None
        test = self.test.name if self.test else ""
        facts = (test, self.cfg.max_explained if writes else 0, self.cfg.max_query_chars)
        html, headers = await asyncio.to_thread(search.page_html, self.searcher, *facts)
        return HTMLResponse(html, headers=headers)

    @api.post("/v1/events", openapi_extra=requests.openapi(event_requests.EventsRequest))
    async def events(self, request: Request) -> JSONResponse:
        """Clicks on pages of the online test. An answer of 200 means that they are on disk."""
        try:
            async with self._admitted(request):
                if self.journal is None:
                    raise errors.HTTPError(404, "events", "no online test runs here (online.events)")
                body = await requests.read_body(request.stream(), "", self.cfg.max_body_bytes)
                clicks = event_requests.parse_clicks(body, time.time())
                await self._log(CLICKS, clicks)
            status, content, headers = 200, {"accepted": len(clicks)}, dict[str, str]()
        except errors.HTTPError as error:
            status, content, headers = error.render(errors.COHERE)
        self.requests.inc(tags={"path": "/v1/events", "status": str(status)})
        return JSONResponse(content, status, headers=headers)

    # ---- a request ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _admitted(self, request: Request) -> AsyncIterator[None]:
        """A place among those inside, for one who may ask. `Refused` without a key or a place."""
        if self.keys and not self.keys.allow(request.headers.get("authorization", "")):
            raise errors.HTTPError(401, "authorization", "no valid key; send 'Authorization: Bearer KEY'")
        if self.inside >= self.cfg.max_queued:
            found = f"{self.inside} are waiting, at most {self.cfg.max_queued} (max_queued)"
            raise errors.HTTPError(503, "requests", found)
        self.inside += 1
        self.queue.set(self.inside)
        try:
            yield
        finally:
            self.inside -= 1
            self.queue.set(self.inside)

    async def _found(
        self, asked: requests.ScoringRequest, kind: type[requests.AnyRequest]
    ) -> tuple[requests.ScoringRequest, list[search.Hit]]:
        """A search becomes a request to re-rank what the first stage finds; any other request stays as it is."""
        if kind is not requests.SearchRequest:
            return asked, []
        if self.searcher is None:
            raise errors.HTTPError(404, "search", "no collection is searched here (search.corpus)")
        began = time.monotonic()
        hits = await asyncio.to_thread(self.searcher.retrieve, asked.queries[0])
        self.took.observe(1000 * (time.monotonic() - began), tags={"stage": "retrieve", "model": ""})
        return search.rerank_request(asked, hits), hits

    async def _page(
        self, asked: requests.ScoringRequest, request: Request, request_id: str, scores_only: bool
    ) -> tuple[RankedPage, dict[str, str]]:
        """What is answered, by the model that was named, by the unit's variant, or by the winner; and its headers, of
        which `X-Exposure` is what clicks name the page by."""
        deadline = time.monotonic() + self._seconds(request)
        unit = asked.unit or request.headers.get("x-unit", "")
        named = asked.model == IDENTITY or self._named(asked.model) is not None
        if self.test is None or not unit or named or scores_only:
            return await self._by_model(asked, asked.model, "", deadline), {}
        if self.test.design == "interleave":
            page = await self._interleaved(asked, request_id, deadline)
        else:
            variant = assignment.assign_variant(unit, self.test)
            page = await self._by_model(asked, variant, variant, deadline)
        logged = await self._exposed(asked, page, unit, request_id)
        exposure = {"X-Exposure": request_id} if logged else {}
        return page, {"X-Variant": page.variant or "interleaved", **exposure}

    def _seconds(self, request: Request) -> float:
        """Until the deadline: the endpoint's own, or an earlier one of the client's."""
        given = request.headers.get("x-deadline-ms", "")
        if not given:
            return self.cfg.timeout_s
        if not given.isdigit():
            raise errors.HTTPError(422, "x-deadline-ms", f"must be milliseconds, found {given[: errors.SHOWN_CHARS]}")
        return min(self.cfg.timeout_s, int(given) / 1000)

    def _named(self, name: str) -> LoadedModel | None:
        """The model of a name: `winner`, a key of `models`, or the system that one of these is."""
        named = (model for place, model in self.models.items() if name in (place, model.found.name))
        return next(named, None) if name else None

    async def _by_model(self, asked: requests.ScoringRequest, name: str, variant: str, deadline: float) -> RankedPage:
        """Any other name means the winner: clients send the names of their vendor's models. A variant that cannot
        explain answers without reasons: its units did not choose it."""
        model = None if name == IDENTITY else self._named(name) or self.models[WINNER]
        if not variant:
            responses.check_explain(asked, model is not None and model.explainer is not None, self.cfg.max_explained)
        if model is None:
            return self._as_given(asked, variant)
        scores, tokens = await self._scores(model, asked, deadline)
        shown = list(scores) if asked.raw else [responses.sigmoid(score) for score in scores]
        return RankedPage(model.found.name, variant, shown, responses.best_first(scores, asked.top_n), [], tokens)

    def _as_given(self, asked: requests.ScoringRequest, variant: str) -> RankedPage:
        count = len(asked.texts)
        order = list(range(count))[: asked.top_n or count]
        return RankedPage(IDENTITY, variant, [1 - place / count for place in range(count)], order, [], 0)

    async def _interleaved(self, asked: requests.ScoringRequest, request_id: str, deadline: float) -> RankedPage:
        """Two variants' orders as one by team draft. Scores fall evenly: those of two models cannot be compared."""
        assert self.test is not None
        first, second = self.test.variants
        pages = [await self._by_model(asked, name, name, deadline) for name in (first, second)]
        runs = [list(map(str, page.order)) for page in pages]
        docs, teams = assignment.interleave(runs[0], runs[1], request_id, asked.top_n)
        order = list(map(int, docs))
        shown = [0.0] * len(asked.texts)
        for place, index in enumerate(order):
            shown[index] = 1 - place / len(order)
        named = [(first, second)[team] for team in teams]
        return RankedPage(f"{first} + {second}", "", shown, order, named, sum(page.tokens for page in pages))

    async def _exposed(self, asked: requests.ScoringRequest, page: RankedPage, unit: str, request_id: str) -> bool:
        """Writes down what the unit sees; whether that is on disk. A search goes on without it, and says so."""
        assert self.test is not None
        row = {
            "request_id": request_id,
            "experiment": self.test.name,
            "unit": unit,
            "variant": page.variant,
            "query": asked.queries[0],
            "doc_ids": documents.distinct_ids([(asked.doc_ids or [])[index] for index in page.order]),
            "teams": page.teams,
            "time": time.time(),
            "model": page.model,
        }
        try:
            await self._log(EXPOSURES, [row])
            return True
        except errors.HTTPError as error:
            self.lost.inc()
            logger.error(f"a page was answered without an exposure: {error}")
            return False

    async def _log(self, kind: str, rows: Sequence[Any]) -> None:
        assert self.journal is not None
        try:
            await self.journal.add(kind, list(rows))
        except (event_journal.JournalFull, OSError) as error:
            raise errors.HTTPError(503, "events", str(error)) from error
        self.held.set(self.journal.held)

    async def _explain(self, asked: requests.ScoringRequest, name: str, results: list[dict[str, Any]]) -> None:
        """Writes the reason of each result. One at a time in a replica, in a thread beside that of the scores."""
        model = self._named(name)
        if model is None or model.explainer is None:
            return
        for result in results[: self.cfg.max_explained]:
            text = asked.texts[result["index"]]
            async with self.writing:
                tokens = self.cfg.reason_tokens
                result["reason"] = await asyncio.to_thread(model.explainer.explain, asked.queries[0], text, tokens)

    # ---- beside requests ----------------------------------------------------------------------------------------

    def check_health(self) -> None:
        """Ray Serve asks from time to time, and replaces a replica of which this raises: one whose model hangs."""
        if (stuck := self.batcher.oldest_s()) > self.cfg.timeout_s:
            raise RuntimeError(f"the model has been at one call for {stuck:.0f} s")

    def _often(self, seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
        """Does something again and again beside the requests; what goes wrong is said, and is tried again. (Serve
        makes a replica in the loop that answers requests.)"""

        async def forever() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await chore()
                except Exception as error:
                    logger.error(f"the endpoint stays as it is: {error}")

        if seconds:
            self.chores.append(asyncio.create_task(forever()))

    async def _look_for_keys(self) -> None:
        assert self.keys is not None
        await asyncio.to_thread(self.keys.refresh)

    async def _look_for_winners(self) -> None:
        for place, uri in self.places.items():
            found = await asyncio.to_thread(winners.find_winner, uri, self.root)
            if found.fingerprint not in (self.models[place].found.fingerprint, self.refused.get(place)):
                await self._swap(place, found)

    async def _swap(self, place: str, found: winners.ServedModel) -> None:
        """A new winner takes the requests that come from now on, if it loads and scores as it did when it won; those
        that are being scored end with the old one."""
        try:
            self.models[place] = await asyncio.to_thread(LoadedModel, found, self.cfg)
        except winners.ScoreMismatch:
            # It would score so again, and loading it takes cores from the requests.
            self.refused[place] = found.fingerprint
            self.swaps.inc(tags={"result": "refused"})
            raise
        self.swaps.inc(tags={"result": "live"})
        logger.warning(f"'{found.name}' is live")

    async def _flush(self) -> None:
        """What this replica holds and what killed ones of this machine have left, to the store."""
        assert self.journal is not None
        await self.journal.flush()
        self.held.set(self.journal.held)
        if self.journal.failed:
            raise OSError(f"{self.journal.held} events wait on this disk: {self.journal.failed}")
        await asyncio.to_thread(self.journal.recover)

    async def __del__(self) -> None:
        """At the end of a replica, after its last request."""
        for chore in self.chores:
            chore.cancel()
        if self.journal is not None:
            await self.journal.flush()
