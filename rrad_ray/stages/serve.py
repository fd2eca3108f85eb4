"""serve: the winner behind Ray Serve, until Ctrl-C."""

from __future__ import annotations

from rrad_ray.config import ServeConfig
from rrad_ray.errors import in_stage
from rrad_ray.runtime.deploy import ask, read_probe, show, start_endpoint, stay, stop_endpoint

# ---- the stage ----------------------------------------------------------------------------------------------


def run(cfg: ServeConfig) -> str:
    """Serves until Ctrl-C or, if not `blocking`, answers one query of `probe`; the endpoint's URL.

    Raises `RradError` if the input holds no ranker, the port is taken or the cluster has no room for the replicas.
    """
    with in_stage("serve"):
        return _serve(cfg)


def _serve(cfg: ServeConfig) -> str:
    probe = None if cfg.blocking else read_probe(cfg.probe)
    url = start_endpoint(cfg)
    try:
        if probe:
            show(probe, *ask(url, probe))
        else:
            stay(url)
    finally:
        stop_endpoint()
    return url
