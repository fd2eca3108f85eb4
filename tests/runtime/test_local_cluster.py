"""A local cluster and the other users of its machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from rrad_ray.errors import RradError
from rrad_ray.patches import ray_haproxy
from rrad_ray.runtime import cluster

pytestmark = pytest.mark.ray

STRANGER = """
import os, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
os.rename(sys.argv[1], sys.argv[1] + ".away")
"""


def test_no_other_user_comes_to_the_sockets_logs_and_code_of_rays_session() -> None:
    cluster.start_ray()
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert session.stat().st_mode & 0o777 == 0o777, "Ray keeps it private by now: its own folder will do"
    above = session.parent.parent
    assert (above.stat().st_mode & 0o777, above.stat().st_uid) == (0o700, os.geteuid())
    if os.geteuid():
        pytest.skip("only root can be another user")
    socket = session / "sockets" / "raylet"
    done = subprocess.run([sys.executable, "-c", STRANGER, str(socket)], capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr
    assert socket.is_socket()


def test_ports_and_sockets_of_a_cluster_are_known_to_its_workers_and_not_to_commands_that_this_process_runs(
    tmp_path: Path,
) -> None:
    names = [name for name in ray_haproxy.environment(tmp_path) if name.endswith(("_PORT", "_PATH", "_LOC"))]
    cluster.start_ray()
    assert not os.environ.keys() & {*names}
    seen = ray.get(ray.remote(num_cpus=0)(lambda: dict(os.environ)).remote())
    assert {*names} <= seen.keys()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (None, r"ray: the local cluster did not start \(timed out during startup\); run again when this machine"),
        ("10.0.0.1:6379", r"RAY_ADDRESS=10.0.0.1:6379: the cluster did not answer \(timed out .*; check the address"),
    ],
)
def test_a_cluster_that_does_not_start_or_answer_is_an_error_with_a_remedy_and_no_traceback(
    address: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: object) -> None:
        raise Exception("timed out during startup")  # as Ray does on a busy machine

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", address) if address else monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(RradError, match=says):
        cluster.start_ray()
