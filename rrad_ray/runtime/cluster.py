"""The one way in which every stage starts Ray, and one check that a cluster can ever give what a worker asks for."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rrad_ray import tables
from rrad_ray.config.base import actors_of
from rrad_ray.errors import InvalidInput, RradError
from rrad_ray.patches import (
    ray_actor_arguments,
    ray_auth_token,
    ray_autoscaler,
    ray_data_context,
    ray_haproxy,
    ray_serve_headers,
)
from rrad_ray.progress import QUIET_LIBRARIES, Progress
from rrad_ray.tables import spans
from rrad_ray.tables.private_folders import sessions_folder, socket_folder

# Small machines run several light actors beside a heavy one; they wait more than they work.
LEAST_CPUS = 4

LOCAL = "rrad_local"  # a resource that marks the cluster that `start` makes

# Ray and the engines log to their files. The workers of a local cluster inherit these. Ray gives a worker as many
# threads as the CPUs it asks for: several workers of one thread do twice the work of one with several, whose threads
# wait for each other after every small operation.
QUIET = {
    **QUIET_LIBRARIES,
    "RAY_LOG_TO_DRIVER_EVENT_LEVEL": "FATAL",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line of a worker twice
}


# Loggers of Ray with nothing below an error that a user can act on: that a local cluster uses a token, that Ray was
# initialized before, that no mirror of models is configured. A level of their own outlives `ray.init` in a library,
# which sets that of `ray` anew.
QUIET_LOGGERS = ("ray.data", "ray.llm", "ray._private.authentication", "ray._private.worker")

JOIN_REMEDY = (
    "check the address in RAY_ADDRESS, that the head is up and runs Ray and Python of the same versions, and its "
    "token (RAY_AUTH_TOKEN or ~/.ray/auth_token)"
)


def start_ray() -> None:
    """Join the cluster that `RAY_ADDRESS` or a submitted job names; otherwise a local one, ended with the process.

    Raises `RradError` where it does not start or answer.
    """
    if ray.is_initialized():
        return
    local = not os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {}
    proxy: dict[str, str] = {}
    if local:
        cores = os.cpu_count() or 1
        options = {"num_cpus": max(LEAST_CPUS, cores), "include_dashboard": False, "resources": {LOCAL: 1}}
        options["address"] = "local"  # not some cluster that `ray start` has left on this machine
        # Ray makes the folders of sockets, logs and workers' code with mode 0777: others could put theirs there.
        options["_temp_dir"] = str(sessions_folder())
        with tables.io_errors("~/.ray/auth_token"):
            ray_auth_token.keep_private()
        proxy = ray_haproxy.environment(socket_folder("haproxy"))
        for name, value in {**QUIET, **ray_serve_headers.VARIABLES}.items():
            os.environ.setdefault(name, value)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).addHandler(logging.NullHandler())  # else `ray.llm` gives its loggers levels anew
    ray_actor_arguments.give_by_value()
    with _environment(proxy), _unreachable(local):
        ray.init(logging_level=logging.WARNING, log_to_driver=True, **options)
    quiet_data()


@contextlib.contextmanager
def _unreachable(local: bool) -> Iterator[None]:
    """Raise what Ray raises in the block, plain exceptions at times, as `RradError`."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        if local:
            remedy = "run again when this machine is less busy, and see `rrad doctor`"
            raise RradError("ray", f"the local cluster did not start ({said})", remedy) from error
        address = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}"
        raise RradError(address, f"the cluster did not answer ({said})", JOIN_REMEDY) from error


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that have no value, for the processes that begin in the block and for theirs.

    They are this cluster's own, as its ports are: a command that this process runs later on has a cluster of its own.
    """
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def quiet_data() -> ray.data.DataContext:
    """Keep this process's Ray Data off the terminal; return its settings."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    ray_data_context.stop_detectors(context)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return context


def require_resources(worker: Mapping[str, float], workers: int = 1) -> None:
    """Raise `RradError` if no node of a cluster that cannot grow has what a worker asks for."""
    if _can_grow():
        return
    nodes = _nodes()
    fits = sum(min(int(node.get(key, 0.0) // value) for key, value in worker.items() if value) for node in nodes)
    if fits < workers:
        problem = f"{workers} worker(s) ask for {dict(worker)} each, the cluster has {_have(nodes, worker)}"
        raise RradError(
            "resources", problem, "lower resources or the number of workers, or use a cluster that has it"
        )


def in_vain(worker: Mapping[str, float]) -> str:
    """Return why no node will have what a worker asks for, as things are; empty if one has it or is being started."""
    nodes = _nodes()
    if any(all(node.get(key, 0.0) >= value for key, value in worker.items()) for node in nodes):
        return ""
    if ray_autoscaler.nodes_on_their_way():
        return ""
    return f"a worker asks for {dict(worker)}, no node has it ({_have(nodes, worker)}) and none is being started"


def _nodes() -> list[dict[str, float]]:
    """Return the total resources of each living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _have(nodes: Sequence[Mapping[str, float]], worker: Mapping[str, float]) -> str:
    """Return in words what the nodes have of what a worker asks for."""
    return "; ".join(str({key: value for key, value in node.items() if key in worker}) for node in nodes) or "no node"


def end_orphans(mark: str, output: str) -> None:
    """Kill engine processes on this machine that a killed run of the same output has left behind: vLLM's outlive
    their parent and would hold its cores or its GPU memory."""
    wanted = f"{mark}={os.path.abspath(output)}"
    for process in psutil.process_iter(["ppid"]):
        try:
            if process.info["ppid"] == 1 and process.environ().get(mark) == wanted.partition("=")[2]:
                process.kill()
        except psutil.Error:
            continue


def _can_grow() -> bool:
    """Return true where an autoscaler may add nodes: in every cluster but the local one that `start_ray` makes."""
    return LOCAL not in ray.cluster_resources()


class PartActor:
    """An actor that runs `work.part(name)` for each part name that it is sent; a failure comes back as place, problem
    and remedy; place and remedy may be empty. `trace`: the headers of the driver's span."""

    def __init__(self, work: Callable[..., Any], options: Mapping[str, Any], trace: Mapping[str, str]) -> None:
        self.work, self.trace = work(**options), trace

    def __del__(self) -> None:
        spans.flush()  # Ray ends the actor's process without another chance

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        failed = {"place": "", "problem": "", "remedy": ""}
        try:
            with spans.begin("part", {"rrad.part": str(row["name"])}, carrier=self.trace):
                self.work.part(row["name"])
        except RradError as error:  # the user's to mend; anything else Ray may retry
            failed = {"place": error.place, "problem": error.problem, "remedy": error.remedy}
        except InvalidInput as error:
            failed |= {"problem": error.problem, "remedy": error.remedy}
        except (KeyError, ValueError) as error:
            failed |= {"problem": str(error)}
        return {"name": row["name"], **failed}


def shared_actor(kind: type, *arguments: Any) -> ray_actor_arguments.ByName:
    """Start an actor that a run's other actors ask, on the driver's node: any other may die, and the run goes on."""
    name = f"rrad-{kind.__name__.lower()}-{uuid.uuid4().hex}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(kind).options(name=name, num_cpus=0, max_concurrency=1, scheduling_strategy=here)
    return ray_actor_arguments.ByName(actor.remote(*arguments), name)


def map_parts(
    work: Callable[..., Any],
    options: Mapping[str, Any],
    names: Sequence[str],
    source: str,
    *,
    workers: tuple[int, int] = (1, 1),
    worker: Mapping[str, float],
    here: bool = False,
) -> Iterator[str]:
    """Yield each name as `work(**options).part(name)` has ended for it, in an actor pool.

    `workers`: the fewest and the most actors; Ray Data starts more while names wait and the cluster has room, and
    ends idle ones. `worker`: the resources of each. `here`: in this process; so is a single name without a GPU, as
    starting an actor takes seconds. Raises the `RradError` of the first part that fails; one that does not say where
    is at `source`, the input.
    """
    if not names:
        return
    ended: Iterable[dict[str, Any]]
    if here or (len(names) == 1 and not worker.get("GPU")):
        ended = map(PartActor(work, options, spans.outgoing()), ({"name": name} for name in names))
    else:
        start_ray()
        low, high = min(workers[0], len(names)), min(workers[1], len(names))
        require_resources(worker, low)
        parts = ray.data.from_items([{"name": name} for name in names], override_num_blocks=len(names))
        ended = parts.map(
            PartActor,  # type: ignore[arg-type]  # an actor class
            fn_constructor_args=(work, dict(options), spans.outgoing()),
            compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high),
            **resources(worker),  # type: ignore[arg-type]
        ).iter_rows()
    for row in ended:
        if row["problem"]:
            remedy = row["remedy"] or "mend the config or the input; then run again"
            raise RradError(row["place"] or source, row["problem"], remedy)
        yield row["name"]


class PoolConfig(Protocol):
    """The keys of a config that say who does the work."""

    @property
    def num_workers(self) -> int | dict[str, int]: ...  # `Actors`

    @property
    def resources(self) -> Mapping[str, float]: ...


def each_part(
    cfg: PoolConfig,
    out: tables.Output,
    work: type,
    options: dict[str, Any],
    names: Sequence[str],
    done: Collection[str],
    unit: str,
    source: str,
    *,
    here: bool = False,
) -> None:
    """Have a pool do what is missing of `names`, as `map_parts` does, with progress lines and for `rrad status`."""
    todo = [name for name in names if name not in done]
    progress = Progress(len(names), unit, done=len(names) - len(todo))
    pool: Any = {"workers": actors_of(cfg.num_workers), "worker": cfg.resources, "here": here}
    with spans.begin(unit, {"rrad.units": len(todo)}):
        for _ in map_parts(work, options, todo, source, **pool):
            progress.add()
            out.write_progress(progress.state())


def resources(worker: Mapping[str, float]) -> dict[str, float]:
    """Return `{"CPU": 1, "GPU": 0.5}` as the options of a Ray Data actor."""
    known = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {known[key]: value for key, value in worker.items() if key in known}
