"""Start and end of an endpoint (endpoint.py) on Ray Serve, for `rrad serve`, tests and benchmarks.

On a cluster of your own, `serve deploy cluster/serve.yaml` runs the same application from `build`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from rrad_ray import tables
from rrad_ray.config import WINNER, OnlineConfig, ServeConfig, load
from rrad_ray.data import reader
from rrad_ray.errors import RradError, at_place
from rrad_ray.patches import ray_serve_delete
from rrad_ray.progress import say
from rrad_ray.rankers import loading
from rrad_ray.rankers.bi_encoder import check_bi_encoder
from rrad_ray.rows import Candidates, by_source
from rrad_ray.runtime import cluster
from rrad_ray.runtime.endpoint import Endpoint
from rrad_ray.serving import errors, winners
from rrad_ray.tables import checkpoints

NAME = "rerank"

MIN_PROBE_DOCS = 5

# Requests beyond max_queued that reach a replica: it refuses them itself, waits for bodies, and answers /healthz.
SPARE = 1000

BURST = 1000  # requests that Serve holds for busy replicas; more get its own, plain 503

# glibc keeps what threads free in an arena of each, up to eight for a core; the large buffers are in none of them.
FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}

BACKSTOP_S = 10  # that Serve waits beyond the replica's own deadline: its refusal is in no client's format

logger = logging.getLogger("ray.serve")


def application(cfg: ServeConfig) -> Application:
    """Return the Serve application of a config. Raises `RradError` if one of its models is no ranker."""
    model_uris = {WINNER: cfg.input, **cfg.models}
    for uri in model_uris.values():
        _check_model(uri, searched=bool(cfg.search.corpus))
    paths = {name: tables.absolute(uri) for name, uri in model_uris.items()}
    model_uris = {name: paths[name] if os.path.isdir(paths[name]) else uri for name, uri in model_uris.items()}
    low, high = cfg.replica_range
    autoscaling = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": cfg.busy_at}
    deployment = serve.deployment(
        name="Endpoint",
        **({"num_replicas": low} if low == high else {"autoscaling_config": autoscaling}),
        ray_actor_options={**cluster.resources(cfg.resources), "runtime_env": {"env_vars": FEW_ARENAS}},
        max_ongoing_requests=cfg.max_queued + SPARE,
        max_queued_requests=BURST,
        backpressure_config=BackpressureConfig(retry_after_s=errors.RETRY_AFTER_S),
        max_constructor_retry_count=2,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=cfg.timeout_s,  # a request inside may take so long, and then is answered
        logging_config=LoggingConfig(log_level="WARNING"),
    )(Endpoint)
    search = cfg.search
    if search.corpus and search.corpus != reader.PYDOC:
        search = dataclasses.replace(search, corpus=tables.absolute(search.corpus))
    cfg = dataclasses.replace(cfg, online=_with_absolute_paths(cfg.online), search=search)
    return deployment.bind(cfg, model_uris, os.getcwd())


def _check_model(uri: str, searched: bool) -> None:
    """Say which scores requests must bring to a model.

    Raises `RradError` for an input that holds no ranker with all its weights: no replica would start; and for a first
    stage that the search page cannot serve.
    """
    served = winners.find_winner(uri)
    if served.student:
        with at_place(served.checkpoint, "give another checkpoint"):
            loading.check_ranker(winners.local_folder(served))
    for facts in served.encoders.values():
        with at_place(facts["model"], "run retrieve and the stages after it with another model"):
            check_bi_encoder(checkpoints.resolve_served(facts["model"]), facts["max_length"])
    if needs := winners.check_needs(served, searched):
        say(needs)


def _with_absolute_paths(online: OnlineConfig) -> OnlineConfig:
    """Return the config with paths that hold in replicas too, which have another working directory."""
    if not online.events:
        return online
    journal = tables.absolute(online.journal) if online.journal else ""
    secret = tables.absolute(online.secret) if online.secret else ""
    return dataclasses.replace(online, events=tables.absolute(online.events), journal=journal, secret=secret)


def build(args: dict[str, Any]) -> Application:
    """Return the Serve application for `serve deploy`.

    `args` has the keys of `ServeConfig`; host and port are Serve's own there and are not read. Raises `RradError` for
    one without keys that does not say `open: true`: a cluster listens where other machines reach it.
    """
    cfg = load.build_config(ServeConfig, args, "serve deploy: args")
    if not cfg.api_keys and not cfg.open:
        remedy = "set api_keys, or open: true if everyone who reaches the cluster may ask"
        raise RradError("serve deploy: args", "no api_keys", remedy)
    return application(cfg)


def start_endpoint(cfg: ServeConfig) -> str:
    """Start Serve and the endpoint, wait until it answers and return its URL.

    Raises `RradError` if a model is no ranker, the port is taken, the cluster has no room for the replicas or runs
    Serve already, or a replica does not start.
    """
    app = application(cfg)
    with contextlib.ExitStack() as held:
        held.enter_context(_hold_port(cfg.host, cfg.port))
        url = free_url(cfg.host, cfg.port)
        _start(app, cfg, url)
        _running.enter_context(held.pop_all())
    page = f", a search page at {url}/" if cfg.search.corpus else ""
    say(f"{url}/v2/rerank{page}")
    return url


_running = contextlib.ExitStack()  # what this process's endpoint holds until it stops


def _hold_port(host: str, port: int) -> socket.socket:
    """Return a socket that says that an endpoint starts or runs on this port of the machine.

    A port that is free is taken seconds later. Of two endpoints that begin at once the slower one would not get it,
    and then take the other one's answers for its own. Raises `RradError` where another endpoint has it.
    """
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0rrad-serve-{port}")  # in Linux, a name without a file, which goes with its process
    except OSError as error:
        held.close()
        raise RradError(f"{host}:{port}", "another endpoint starts or runs there", _another(port)) from error
    return held


def _another(port: int) -> str:
    return f"choose another port, as in port={port + 1}"


def _start(app: Application, cfg: ServeConfig, url: str) -> None:
    """Start Serve and the application, and wait until it answers; where it does not, nothing runs afterwards."""
    cluster.start_ray()
    if cfg.blocking:  # of a run that goes on, signals are its own
        _interrupt_on_signals()
    cluster.require_resources(cfg.resources, cfg.replica_range[0])
    logger.setLevel(logging.WARNING)
    if serve.status().proxies:
        remedy = "`serve deploy cluster/serve.yaml` adds to it, `serve shutdown` ends it"
        raise RradError(url, "this cluster runs Ray Serve already, with an HTTP port of its own", remedy)
    http = HTTPOptions(host=cfg.host, port=cfg.port, request_timeout_s=cfg.timeout_s + BACKSTOP_S)
    try:
        serve.start(http_options=http, logging_config=LoggingConfig(log_level="WARNING"))
        serve.run(app, name=NAME, route_prefix="/")
        await_answers(url, cfg.timeout_s)
    except Exception as error:
        problem = f"the endpoint did not start ({failure_reason(error)})"
        stop_endpoint()
        raise RradError(url, problem, "remove this cause and run serve again; nothing runs now") from error
    except BaseException:
        stop_endpoint()
        raise


def _interrupt_on_signals() -> None:
    """Raise `KeyboardInterrupt` on SIGTERM too, which is how containers are stopped, also while an endpoint starts.

    Ray's own handler would abort the process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def await_answers(url: str, timeout_s: float, patience_s: float = 60) -> None:
    """Wait until the endpoint answers ten times in a row; raise the last error if it does not within `patience_s`.

    Serve may call an endpoint ready before HAProxy has heard of it, and HAProxy's process from before still takes
    some connections beside the one that has: both answer 404 (Ray 2.60).
    """
    until = time.monotonic() + patience_s
    in_a_row = 0
    while in_a_row < 10:
        try:
            fetch_json(f"{url}/healthz", None, timeout_s)
            in_a_row += 1
        except OSError:
            if time.monotonic() > until:
                raise
            in_a_row = 0
        time.sleep(0.05)


def stop_endpoint() -> None:
    """End the endpoint and Serve: requests that come from then on are refused, those inside are answered first."""
    if NAME in serve.status().applications:
        ray_serve_delete.delete_without_waiting(NAME)
        while NAME in serve.status().applications:
            time.sleep(0.1)
    serve.shutdown()  # on its own, it would end the HTTP proxy beside the replicas, under the requests inside
    _running.close()


def failure_reason(error: Exception) -> str:
    """Return why the endpoint did not start: the last line of the replica's traceback, else the error's."""
    with contextlib.suppress(Exception):
        deployments = serve.status().applications[NAME].deployments.values()
        lines = [line.strip() for deployment in deployments for line in deployment.message.splitlines()]
        causes = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
        return causes[-1]
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def free_url(host: str, port: int) -> str:
    """Return the URL of a free address. Raises `RradError` if it is taken: Serve's proxy would share the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        problem = f"cannot listen there ({os.strerror(error.errno or 0)})"
        raise RradError(f"{host}:{port}", problem, _another(port)) from error
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def wait_for_signal(url: str, needed: Sequence[str] = ()) -> None:
    """Print a request to try, with scores of the sources that it needs.

    Then wait for Ctrl-C or for SIGTERM.
    """
    body: dict[str, Any] = {"query": "how to open a file", "documents": ["open(path) opens a file", "len(x)"]}
    if needed:
        body["first_stage"] = {source: [2.0, 1.0] for source in needed}
    say(f"try: curl -s {url}/v2/rerank -H 'content-type: application/json' -d '{json.dumps(body)}'")
    say("Ctrl-C ends it")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


def read_probe(uri: str) -> dict[str, Any]:
    """Return the first row of a test query with enough documents. Raises `RradError` if there is none."""
    for row in tables.read(uri, Candidates):
        if row["split"] == "test" and len(row["texts"]) >= MIN_PROBE_DOCS:
            return row
    problem = f"no query of split 'test' with {MIN_PROBE_DOCS} documents"
    raise RradError(uri, problem, "give the output of retrieve or prerank as probe")


def send_probe(url: str, row: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return the endpoint's answer to a row of candidates with their scores, and the milliseconds that it took."""
    scores = {name: [v if math.isfinite(v) else None for v in values] for name, values in by_source(row).items()}
    body = {"query": row["query"], "documents": row["texts"], "first_stage": scores}
    began = time.perf_counter()
    answer = fetch_json(f"{url}/v2/rerank", body, 600)
    return answer, 1000 * (time.perf_counter() - began)


def print_top(row: dict[str, Any], answer: dict[str, Any], took_ms: float) -> None:
    """Print a query, its three best documents and the latency."""
    say(f"query: {row['query']}")
    for rank, result in enumerate(answer["results"][:3], 1):
        line = (row["texts"][result["index"]].strip().splitlines() or [""])[0]
        say(f"  {rank}. {result['relevance_score']:.3f}  {line[:90]}")
    say(f"{answer['model']}: {len(row['texts'])} documents in {took_ms:.0f} ms over HTTP")


def fetch_json(url: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """Return the JSON answer to a GET, or to a POST where there is a body.

    The environment's proxies are not used: they are for the internet.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with opener.open(request, timeout=timeout_s) as response:
        return json.load(response)
