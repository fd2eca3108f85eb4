"""A cluster of Ray's fake nodes on this machine, with a real autoscaler: nodes come for what asks for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.heads import free_port, started

HEAD = "f" * 51 + "00000"
WATCH = """
import json, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while True:
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    print(json.dumps({"time": time.time(), "workers": alive}), flush=True)
    time.sleep(1)
"""


@dataclass
class Autoscaling:
    """A cluster whose worker nodes are seen once a second."""

    env: dict[str, str]
    log: Path
    said: Path

    def rrad(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`rrad ARGS` as a driver that joins the cluster; what it says goes to `said`."""
        command = [*RRAD, *arguments]
        with open(self.said, "wb") as said:
            return subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=said, stderr=subprocess.STDOUT)

    def seen(self) -> list[list[str]]:
        """Ids of the worker nodes, second by second."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line)["workers"] for line in lines if line.startswith("{") and line.endswith("}")]

    def wait(self, count: int) -> None:
        """Until there are so many worker nodes."""
        end = time.monotonic() + PATIENCE_S
        while not (self.seen() and len(self.seen()[-1]) == count):
            if time.monotonic() > end:
                said = self.said.read_text()[-1500:] if self.said.exists() else ""
                pytest.fail(f"not {count} worker nodes in {PATIENCE_S} s: {self.seen()[-3:]}\n{said}")
            time.sleep(0.5)

    def kill_node(self) -> str:
        """kill -9 of a worker node's raylet and all that runs on it; its id."""
        victim = self.seen()[-1][0]
        for process in psutil.process_iter(["name"]):
            try:
                if process.info["name"] == "raylet" and any(victim in part for part in process.cmdline()):
                    for one in [*process.children(recursive=True), process]:
                        one.kill()
                    return victim
            except psutil.Error:
                continue
        pytest.fail(f"no raylet of node {victim}")


@pytest.fixture(scope="module")
def autoscaling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Autoscaling]:
    """A head without GPUs and, when something asks for one, up to two workers with a (fake) GPU each."""
    tmp_path, port = tmp_path_factory.mktemp("autoscaling"), free_port()
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": HEAD,
        "gcs_address": f"127.0.0.1:{port}",
        "use_node_id_as_ip": True,  # all fake nodes have one address
        "disable_node_updaters": True,  # there is nothing to log in to
    }
    nothing = "initialization_commands setup_commands head_setup_commands worker_setup_commands "
    nothing += "head_start_ray_commands worker_start_ray_commands cluster_synced_files"
    config = {
        "cluster_name": "rrad-test",
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "provider": provider,
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{key: [] for key in nothing.split()},
    }
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    options = ["--num-cpus=2", "--object-store-memory=300000000", "--include-dashboard=false"]
    options += [f"--autoscaling-config={tmp_path}/cluster.json"]
    env = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    with started(options, env, port) as head, open(tmp_path / "nodes", "wb") as seen:
        watch = [sys.executable, "-c", WATCH, head.address]
        subprocess.Popen(watch, env=head.env, cwd=ROOT, stdout=seen, stderr=subprocess.STDOUT)
        yield Autoscaling(head.env, tmp_path / "nodes", tmp_path / "said")
