"""All checks in order: of this machine, then of each node of the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rrad_ray import versions
from rrad_ray.errors import RradError
from rrad_ray.runtime import doctor_machine as machine
from rrad_ray.runtime import doctor_store as store
from rrad_ray.runtime.doctor_check import Check, failure
from rrad_ray.tables import checkpoints

CLOCKS_S = 60.0  # within which nodes say what time it is

NODE_REMEDY = "install rrad-ray there, in the Python that `ray start` ran with, of the driver's version"


@dataclass(frozen=True)
class Questions:
    """`uris`: places for tables; `models`: folders, `s3://` or hub ids, of which none means the bundled two.

    `engine`: a model that vLLM starts with, empty for none; `port`: of the endpoint.
    """

    uris: Sequence[str] = ()
    models: Sequence[str] = ()
    engine: str = ""
    port: int = 8000


def examine(questions: Questions) -> Iterator[Check]:
    """Yield each check as it is done. Nothing is left behind, and no local cluster is started."""
    yield from _node_checks(questions, _versions())
    yield from machine.check_ports(questions.port)
    yield from _cluster_checks(questions)


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **versions.installed()}


def _node_checks(questions: Questions, wanted: dict[str, str]) -> Iterator[Check]:
    """Yield what is looked at on every machine."""
    yield machine.check_versions(wanted)
    yield machine.check_gpus()
    yield machine.check_vllm(questions.engine)
    yield machine.check_compiler()
    yield machine.check_haproxy()
    yield machine.check_files()
    yield from machine.check_disk()
    for model in questions.models or checkpoints.BUNDLED:
        yield machine.check_model(model, optional=not questions.models)
    for uri in questions.uris:
        yield from store.check_store(uri)


def node_checks(questions: Questions, wanted: dict[str, str]) -> list[Check]:
    """Return the checks of the node that this runs on; `wanted`: the driver's versions."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # Ray hides GPUs from a task that asks for none
        del os.environ["CUDA_VISIBLE_DEVICES"]
    return list(_node_checks(questions, wanted))


def _clock() -> float:
    return time.time()


def _cluster_checks(questions: Questions) -> Iterator[Check]:
    """Yield the checks of the cluster and of its nodes."""
    from rrad_ray.runtime import cluster_health  # Ray takes seconds to import

    if not os.environ.get("RAY_ADDRESS"):
        finding = "RAY_ADDRESS names no cluster: commands start one on this machine"
        yield Check("Ray", "ok", finding, "to join one, set RAY_ADDRESS or use `ray job submit`")
        return
    try:
        yield Check("Ray", "ok", cluster_health.join_cluster())
    except RradError as error:
        yield failure("Ray", error)
        return
    before = time.time()
    for node, now in list(cluster_health.on_every_node(_clock, patience_s=CLOCKS_S)):
        if isinstance(now, float):  # what does not answer fails below
            yield dataclasses.replace(machine.check_clock(now, (before, time.time())), node=node)
    for node, checks in cluster_health.on_every_node(
        node_checks, questions, _versions(), patience_s=2 * machine.PATIENCE_S
    ):
        if isinstance(checks, str):
            yield Check("node", "failed", checks, NODE_REMEDY, node)
        else:
            yield from (dataclasses.replace(check, node=node) for check in checks)
