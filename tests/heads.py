"""Ray heads of their own for tests: every process of one carries a mark, and those alone are ended."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.commands import PATIENCE_S, ROOT

MARK, NODE = "RRAD_TEST_CLUSTER", "RRAD_TEST_NODE"


@dataclass(frozen=True)
class Head:
    """`address`: of the cluster; `dashboard`: what `ray job submit` talks to; `metrics`: what Prometheus reads of
    this node; `env`: of a driver that joins; `folder`: of its logs."""

    address: str
    dashboard: str
    metrics: str
    env: dict[str, str]
    folder: str


@contextlib.contextmanager
def started(options: Sequence[str] = (), env: Mapping[str, str] | None = None, port: int = 0) -> Iterator[Head]:
    """`ray start --head` on free ports, with a folder of its own: other tests' Ray neither finds nor disturbs it."""
    mark, folder = uuid.uuid4().hex, tempfile.mkdtemp(prefix="rrad-")  # not tmp_path: sockets' paths must be short
    port, dashboard, agent, agent_grpc, client, metrics = (port or free_port(), *(free_port() for _ in range(5)))
    address = f"127.0.0.1:{port}"
    common = {**os.environ, MARK: mark, "RAY_AUTH_MODE": "disabled", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--temp-dir={folder}", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}"]
    command += [f"--metrics-export-port={metrics}", *options]
    with open(f"{folder}/said", "wb") as log:
        subprocess.Popen(command, env={**common, **(env or {})}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        if not listens(port):
            pytest.fail(f"the head did not start: {Path(folder, 'said').read_text()[-2000:]}")
        yield Head(
            address,
            f"http://127.0.0.1:{dashboard}",
            f"http://127.0.0.1:{metrics}/metrics",
            {**common, "RAY_ADDRESS": address},
            folder,
        )
    finally:
        end(mark)
        shutil.rmtree(folder, ignore_errors=True)


def join(head: Head, name: str, options: Sequence[str] = ()) -> None:
    """`ray start` of one more node of a cluster on this machine. It ends with the head, or by `kill_node`."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    command += [f"--address={head.address}", "--node-ip-address=127.0.0.1", f"--node-name={name}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", *options]  # any that are free: nodes share this machine
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    env = {**head.env, NODE: name}
    with open(Path(head.folder, f"said-{name}"), "wb") as log:
        subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def kill_node(head: Head, name: str) -> None:
    """kill -9 of all that runs on a node, as when its machine goes."""
    end(head.env[MARK], name)


def free_port() -> int:
    """A port below those of Ray Serve's replicas and those that the system gives to outgoing connections, of which
    another test's Ray opens many, and above those that local clusters and Ray keep for themselves. None is given
    twice in a process, nor by two of pytest's: who asks for several opens none before it has them all."""
    while True:
        port = next(PORTS, 0) or pytest.fail("no free port is left between 28,000 and 30,000")
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _ports() -> Iterator[int]:
    """Each port of this process's share, in random order: another run of the tests may be under way."""
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(28_000 + share, 30_000, shares)
    return iter(random.SystemRandom().sample(ports, len(ports)))


PORTS = _ports()


def listens(port: int) -> bool:
    """Waits until something listens on a port of this machine; whether it came to that."""
    end_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_at:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False


def end(mark: str, node: str = "") -> None:
    """Ends every process with this mark, or those of one node; newly born ones too."""
    wanted = {MARK: mark, NODE: node} if node else {MARK: mark}
    for _ in range(5):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and wanted.items() <= process.environ().items():
                    found.append(process)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=10)
        if not found:
            return
