"""`ray start` by hand with tokens, as docs/cluster.md has it: those join, look and submit who have the token."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.rows import JudgeOutput
from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.fixtures import row_of
from tests.heads import NODE, Head, free_port, join, started

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
RAY = str(Path(sys.executable).with_name("ray"))
SMALL = "--object-store-memory=300000000"


def run(head: Head, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as somebody with this home, who has done `export RAY_AUTH_MODE=token`."""
    env = {key: value for key, value in head.env.items() if key != NODE}
    env |= {"RAY_AUTH_MODE": "token", "HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT, env=env)


def ray_line(head: Head, home: Path) -> dict[str, str]:
    """Return what `rrad doctor` says of the cluster that RAY_ADDRESS names."""
    done = run(head, home, *RRAD, "doctor", "--json", "--model", "bundled:all-minilm-l6-v2")
    [line] = [check for check in json.loads(done.stdout) if check["subject"] == "Ray"]
    return line


def nodes(head: Head, home: Path) -> set[str]:
    """Return the names of the nodes that live, as the dashboard tells them to who has the token."""
    token = (home / ".ray" / "auth_token").read_text().strip()
    try:
        answer = httpx.get(
            f"{head.dashboard}/api/v0/nodes",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=60,
        )
    except httpx.ConnectError:  # before it listens
        return set()
    rows = answer.raise_for_status().json()["data"]["result"]["result"]
    return {node["node_name"] for node in rows if node["state"] == "ALIVE"}


def wait_for_nodes(head: Head, home: Path, count: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while len(nodes(head, home)) < count:
        assert time.monotonic() < until, f"no {count} nodes"
        time.sleep(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a token, by `ray get-auth-token --generate`."""
    home = tmp_path_factory.mktemp("home")
    bare = Head("", "", "", {"PATH": "/usr/bin:/bin"}, "")
    done = run(bare, home, RAY, "get-auth-token", "--generate")
    assert done.returncode == 0, done.stderr
    assert (home / ".ray" / "auth_token").read_text().strip() in done.stdout
    return home


@pytest.fixture(scope="module")
def head(home: Path) -> Iterator[Head]:
    """A head without work and a worker, both started with the token in their home."""
    guarded = {"RAY_AUTH_MODE": "token", "HOME": str(home), "PYTHONPATH": str(ROOT)}
    with started(["--num-cpus=0", SMALL], guarded) as head:
        head = dataclasses.replace(head, env={**head.env, **guarded})
        wait_for_nodes(head, home, 1)
        join(head, "worker", ["--num-cpus=2", SMALL])
        wait_for_nodes(head, home, 2)
        yield head


def test_who_has_the_token_runs_a_job_on_the_worker_and_sees_the_cluster(
    head: Head, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "input").mkdir()
    rows = [row_of(f"q{number}", ["adds", "prints"]) for number in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "input" / "rows.parquet")
    keys = [f"input={tmp_path}/input", f"output={tmp_path}/judged", "engine=echo", "task=order", "gate.enabled=false"]
    job = [sys.executable, "jobs/judge.py", "configs/judge.yaml", *keys]
    done = run(head, home, RAY, "job", "submit", "--address", head.dashboard, "--", *job)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list(tables.read(f"{tmp_path}/judged", JudgeOutput))) == 20
    line = ray_line(head, home)
    assert (line["state"], ": 2 node(s), 2 CPUs" in line["finding"]) == ("ok", True), line


@pytest.mark.parametrize("token", ["", "0" * 64], ids=["without", "another"])
def test_nobody_without_the_token_submits_looks_or_joins(head: Head, home: Path, tmp_path: Path, token: str) -> None:
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
    done = run(head, tmp_path, RAY, "job", "submit", "--address", head.dashboard, "--", "echo", "it runs")
    assert done.returncode != 0
    assert "it runs" not in done.stdout
    assert "token" in (done.stdout + done.stderr).lower()
    line = ray_line(head, tmp_path)
    assert line["state"] == "failed"
    assert "~/.ray/auth_token" in line["remedy"]
    ports = [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    start = [RAY, "start", f"--address={head.address}", "--node-ip-address=127.0.0.1", SMALL, *ports]
    assert run(head, tmp_path, *start).returncode != 0
    assert len(nodes(head, home)) == 2
