"""An endpoint without a server, for what other programs send by the files of `integrations/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rrad_ray.serving import requests
from rrad_ray.serving.api_keys import ApiKeys
from rrad_ray.serving.asgi import Manners, call_of
from rrad_ray.serving.requests import WireFormat
from tests.serving.test_service import Replica, replica

ROUTES = {"/v1/rerank": requests.COHERE_V1, "/v2/rerank": requests.COHERE_V2, "/rerank": requests.VLLM_RERANK}
KEY = "KEY"


def keyed_replica(folder: Path) -> Replica:
    """Return a service that asks for a key, kept in the folder, and scores a text by its length."""
    (folder / "keys").write_text(f"{KEY}\n")
    return replica(keys=ApiKeys(str(folder / "keys")))


def application(served: Replica) -> Starlette:
    """Return the paths that re-rank, as the endpoint has them."""

    def route(wire: WireFormat) -> Callable[[Request], Any]:
        async def rerank(request: Request) -> Response:
            answer = await served.service.rerank(call_of(request.scope, request.receive), wire)
            return JSONResponse(answer.content, answer.status, headers=dict(answer.headers))

        return rerank

    app = Starlette(routes=[Route(path, route(wire), methods=["POST"]) for path, wire in ROUTES.items()])
    app.add_middleware(Manners, service=lambda: served.service)
    return app
