"""One replica of the endpoint: its HTTP routes, its models and its chores. The answers are serving/service.py's."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from ray import serve

from rrad_ray.config import IDENTITY, WINNER, OnlineConfig, ServeConfig
from rrad_ray.errors import in_stage
from rrad_ray.online import event_journal
from rrad_ray.online.signatures import ExposureSigner
from rrad_ray.runtime.endpoint_metrics import RayMetrics
from rrad_ray.serving import requests, search, winners
from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.asgi import Manners, call_of
from rrad_ray.serving.chores import Chores, NightWatch, WinnerWatch, flush_journal, refresh_keys
from rrad_ray.serving.event_requests import EventsRequest
from rrad_ray.serving.headers import read_headers
from rrad_ray.serving.loaded_model import load_model
from rrad_ray.serving.requests import RerankRequest, ScoreRequest, SearchRequest, TeiRequest, openapi
from rrad_ray.serving.scorer import Model
from rrad_ray.serving.service import Call, HTTPAnswer, RerankService
from rrad_ray.tables import spans

api = FastAPI(
    title="rrad-ray",
    description="Re-ranks documents. `relevance_score` is the sigmoid of the raw score.",
    docs_url=None,  # FastAPI's pages run scripts from elsewhere, and this origin holds a key
    redoc_url=None,
    redirect_slashes=False,  # a redirect would name the host that the client or a proxy before us has named
)


# Above the class: `serve.ingress` copies its methods, with the names that are defined by then.


def _service() -> RerankService:
    """Return the service of the replica that this process is."""
    replica: Any = serve.get_replica_context().servable_object
    service: RerankService = replica.service
    return service


api.add_middleware(Manners, service=_service)


def _open_journal(online: OnlineConfig) -> event_journal.EventJournal | None:
    """Return the journal of an online test's events; None where no test runs."""
    if not online.events:
        return None
    folder = online.journal or event_journal.folder_of(online.events)
    limits = {"most": online.max_events, "most_bytes": online.max_event_bytes}
    return event_journal.EventJournal(online.events, folder, **limits)


def _call(request: Request) -> Call:
    return call_of(request.scope, request.receive)


def _response(answer: HTTPAnswer) -> JSONResponse:
    return JSONResponse(answer.content, answer.status, headers=dict(answer.headers))


@serve.ingress(api)
class Endpoint:
    """One replica. Its event loop only answers: everything that is slow or blocks runs in threads.

    `model_uris` says what each model is served from, by name; `root` is the folder of relative paths.
    """

    def __init__(self, cfg: ServeConfig, model_uris: dict[str, str], root: str) -> None:
        self.chores = Chores()
        self.journal: event_journal.EventJournal | None = None  # first: the end of a replica that failed reads them
        with in_stage("serve"):
            self._start(cfg, model_uris, root)

    def _start(self, cfg: ServeConfig, model_uris: dict[str, str], root: str) -> None:
        """Load all that answers need, and begin the chores."""
        spans.check_exporter()
        load, metrics = functools.partial(load_model, cfg=cfg), RayMetrics()
        keys = ApiKeys(cfg.api_keys) if cfg.api_keys else None
        searcher = search.Searcher(cfg.search) if cfg.search.corpus else None
        models: dict[str, Model] = {name: load(winners.find_winner(uri, root)) for name, uri in model_uris.items()}
        self.journal = _open_journal(cfg.online)
        online = cfg.online
        signer = ExposureSigner.read(online.secret, online.name) if online.secret else None
        parts: dict[str, Any] = {"keys": keys, "searcher": searcher, "journal": self.journal, "signer": signer}
        self.service = RerankService(cfg, models, metrics, **parts)
        self.chores.repeat(cfg.watch_s, WinnerWatch(models, model_uris, root, load, metrics).look)
        if not cfg.input.startswith("bundled:"):
            self.chores.repeat(cfg.watch_s, NightWatch(model_uris[WINNER], metrics).look)
        if keys:
            self.chores.repeat(cfg.watch_s, functools.partial(refresh_keys, keys))
        if self.journal is not None:
            self.chores.repeat(cfg.online.flush_s, functools.partial(flush_journal, self.journal, metrics))

    # ---- routes -------------------------------------------------------------------------------------------------

    @api.get("/healthz")
    @api.get("/health")
    async def healthz(self, request: Request) -> JSONResponse:
        """Ready: every model is loaded and has scored something, and none hangs."""
        try:
            self.check_health()
        except RuntimeError as error:
            return JSONResponse({"status": str(error)}, 503)
        may_ask = self.service.admission.has_key(read_headers(request.scope["headers"]))
        name = {"model": self.service.models[WINNER].served.name} if may_ask else {}
        return JSONResponse({"status": "ok", **name})

    @api.get("/livez")
    async def livez(self) -> dict[str, str]:
        """The replica answers, whatever its models do."""
        return {"status": "ok"}

    @api.get("/v1/models")
    async def list_models(self, request: Request) -> dict[str, Any]:
        """The models that a request may name; `identity` leaves the documents as they came."""
        self.service.admission.check_key(read_headers(request.scope["headers"]))
        roots = {**{name: model.served.name for name, model in self.service.models.items()}, IDENTITY: IDENTITY}
        data = [{"id": name, "root": root, "object": "model", "owned_by": "rrad-ray"} for name, root in roots.items()]
        return {"object": "list", "data": data}

    @api.post("/v2/rerank", openapi_extra=openapi(RerankRequest))
    async def rerank_cohere_v2(self, request: Request) -> JSONResponse:
        """Documents best first; a score is the sigmoid of the model's raw score."""
        return _response(await self.service.rerank(_call(request), requests.COHERE_V2))

    @api.post("/v1/rerank", openapi_extra=openapi(RerankRequest))
    async def rerank_cohere_v1(self, request: Request) -> JSONResponse:
        """Documents best first, for clients of Cohere's v1 and of Jina."""
        return _response(await self.service.rerank(_call(request), requests.COHERE_V1))

    @api.post("/rerank", openapi_extra=openapi(RerankRequest, TeiRequest))
    async def rerank_vllm_or_tei(self, request: Request) -> JSONResponse:
        """Documents best first, for clients of vLLM and, where the body has `texts`, of TEI."""
        return _response(await self.service.rerank(_call(request), requests.VLLM_RERANK))

    @api.post("/score", openapi_extra=openapi(ScoreRequest))
    @api.post("/v1/score", openapi_extra=openapi(ScoreRequest))
    async def score_vllm(self, request: Request) -> JSONResponse:
        """Scores in the order of the request, for clients of vLLM."""
        return _response(await self.service.rerank(_call(request), requests.VLLM_SCORE))

    @api.post("/v1/search", openapi_extra=openapi(SearchRequest))
    async def search_collection(self, request: Request) -> JSONResponse:
        """Documents of the served collection that the first stage retrieves, re-ranked: `results` name `documents`
        by index."""
        return _response(await self.service.search(_call(request)))

    @api.post("/v1/events", openapi_extra=openapi(EventsRequest))
    async def events(self, request: Request) -> JSONResponse:
        """Clicks on pages of the online test, or events of User Behavior Insights with clicks among them. An answer
        of 200 means that the clicks are on disk."""
        return _response(await self.service.events(_call(request)))

    @api.get("/", response_class=HTMLResponse)
    async def search_page(self) -> HTMLResponse:
        """The search page."""
        cfg, test = self.service.cfg, self.service.test
        writes = self.service.models[WINNER].explainer is not None
        facts = (test.name if test else "", cfg.max_explained if writes else 0, cfg.max_query_chars)
        locked = bool(cfg.api_keys)
        html, headers = await asyncio.to_thread(search.page_html, self.service.searcher, *facts, locked)
        return HTMLResponse(html, headers=headers)

    @api.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs(self) -> HTMLResponse:
        """The paths of the endpoint."""
        html, headers = search.docs_html(json.dumps(api.openapi()))
        return HTMLResponse(html, headers=headers)

    # ---- lifecycle ----------------------------------------------------------------------------------------------

    def check_health(self) -> None:
        """Raise if a model hangs. Ray Serve asks from time to time, and replaces a replica of which this raises."""
        self.service.check_health()

    async def __del__(self) -> None:
        """At the end of a replica, after its last request."""
        self.chores.cancel()
        if self.journal is not None:
            await self.journal.flush()
        await asyncio.to_thread(spans.flush)
