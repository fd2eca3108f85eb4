"""serve: answer re-rank requests with the winner, behind Ray Serve, until Ctrl-C."""

from __future__ import annotations

from rrad_ray.config import ServeConfig
from rrad_ray.errors import in_stage
from rrad_ray.runtime.deploy import print_top, read_probe, send_probe, start_endpoint, stop_endpoint, wait_for_signal
from rrad_ray.serving.winners import find_winner


def run(cfg: ServeConfig) -> str:
    """Serve until Ctrl-C or, if not `blocking`, answer one query of `probe`; return the endpoint's URL.

    Raises `RradError` if the input holds no ranker or a first stage that the search page cannot serve, if the port is
    taken, or if the cluster has no room for the replicas.
    """
    with in_stage("serve"):
        return _serve(cfg)


def _serve(cfg: ServeConfig) -> str:
    probe = None if cfg.blocking else read_probe(cfg.probe)
    url = start_endpoint(cfg)
    try:
        if probe:
            print_top(probe, *send_probe(url, probe))
        else:
            wait_for_signal(url, find_winner(cfg.input).needed([]))
    finally:
        stop_endpoint()
    return url
