"""A cluster as `rrad doctor` sees it: whether it can be reached, and what a function returns on each of its nodes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rrad_ray.errors import RradError
from rrad_ray.runtime import cluster

Result = TypeVar("Result")


def join_cluster() -> str:
    """Join the cluster that RAY_ADDRESS names, within seconds; return in words what it has.

    Raises `RradError` if it cannot be reached, or refuses this process.
    """
    address = os.environ["RAY_ADDRESS"]
    url = urlsplit(address if "://" in address else f"//{address}")
    try:
        if url.hostname and url.port:  # Ray itself would wait for minutes
            socket.create_connection((url.hostname, url.port), 5).close()
    except (OSError, ValueError) as error:
        raise RradError(address, f"no cluster can be joined there ({error})", cluster.JOIN_REMEDY) from error
    cluster.start_ray()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = {key: sum(node.get(key, 0) for node in nodes) for key in ("CPU", "GPU")}
    return f"Ray {ray.__version__} at {address}: {len(nodes)} node(s), {total['CPU']:g} CPUs, {total['GPU']:g} GPUs"


def on_every_node(work: Callable[..., Result], *args: Any, patience_s: float) -> Iterator[tuple[str, Result | str]]:
    """Yield, for each living node, its address and what `work(*args)` returns there, or as a text why it does not.

    It asks for no CPU, so that it runs on busy nodes and on a head that gives none.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    running = {}
    for node in ray.nodes():
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            running[task.options(scheduling_strategy=here).remote(*args)] = node["NodeManagerAddress"]
    ready, late = ray.wait(list(running), num_returns=len(running), timeout=patience_s)
    for reference in ready:
        try:
            yield running[reference], ray.get(reference)
        except RayError as error:
            yield running[reference], str(error).strip().splitlines()[-1]
    for reference in late:
        ray.cancel(reference, force=True)
        yield running[reference], f"no answer within {patience_s:.0f} s"
