"""The whole pipeline in one submitted job on a cluster of several nodes, of which one comes late and one dies; then
the endpoint on two nodes, of which one dies under load. Tables are on S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import yaml

from rrad_ray import tables
from rrad_ray.rows import Candidates, JudgeOutput, Labels
from tests.commands import PATIENCE_S, ROOT, SMALL_ENGINE
from tests.heads import NODE, Head, free_port, join, kill_node, started

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SMALL = [
    "train=0",
    "num_workers=2",
    "unlabelled=24",
    "dev=16",
    "test=16",
    "doc_tokens=32",
    "depth=3",
    "warm_steps=5",
    "encoder_steps=20",
    "latency_repeats=5",
    "steps.judge.shard_queries=4",
    "steps.judge.batch_size=4",
    "steps.judge.gate.enabled=false",
    "steps.warm.layers=2",
    "steps.select.max_p99_ms=60000",
    "steps.serve.resources={CPU: 1}",
    *(f"steps.judge.{argument}" for argument in SMALL_ENGINE),
]
NODE_OPTIONS = ["--num-cpus=1", "--object-store-memory=300000000"]
QUERIES = {"dev": 16, "test": 16, "unlabelled": 24}


def wait_until(holds: Callable[[], object], what: str, running: subprocess.Popen[bytes] | None = None) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert running is None or running.poll() is None, f"the job ended before {what}"
        assert time.monotonic() < until, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.2)


def alive(head: Head) -> set[str]:
    """Names of the cluster's nodes that live, as its dashboard tells them; none before it listens."""
    try:
        answer = httpx.get(f"{head.dashboard}/api/v0/nodes", params={"limit": 100}, trust_env=False, timeout=60)
    except httpx.ConnectError:
        return set()
    nodes = answer.raise_for_status().json()["data"]["result"]["result"]
    return {node["node_name"] for node in nodes if node["state"] == "ALIVE"}


def joined(head: Head, name: str, job: subprocess.Popen[bytes] | None = None) -> None:
    """Start a node and wait for it: of two that start at once on one machine, Ray gives both the same sockets."""
    join(head, name, NODE_OPTIONS)
    wait_until(lambda: name in alive(head), f"node {name}", job)


@pytest.fixture(scope="module")
def nodes(s3_endpoint: str) -> Iterator[Head]:
    """A head without work and two nodes with a CPU each, which know the S3 server."""
    quick = {"RAY_health_check_period_ms": "2000", "PYTHONPATH": str(ROOT)}
    with started(["--num-cpus=0", "--object-store-memory=300000000"], quick) as head:
        wait_until(lambda: alive(head), "the head itself")  # which refuses nodes before
        for name in ("one", "two"):
            joined(head, name)
        yield head


def command(head: Head, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of this environment, as a user types it beside the cluster; it does not die with a node."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {key: value for key, value in head.env.items() if key != NODE} | {"PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def output_of(process: subprocess.Popen[bytes]) -> str:
    said, _ = process.communicate(timeout=PATIENCE_S)
    return said.decode()


@pytest.fixture(scope="module")
def job(nodes: Head, beir: Path, s3_endpoint: str) -> tuple[str, str]:
    """One submitted `rrad run`, in whose labelling a third node comes and the first one dies; the folder of the run
    and what the job said."""
    bucket = "s3://rrad/nodes"
    fs, path = tables.filesystem(f"{bucket}/beir")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv"):
        fs.put_file(str(beir / name), f"{path}/{name}")
    run = [
        sys.executable,
        "jobs/pipeline.py",
        "configs/beir/pipeline.yaml",
        f"data={bucket}/beir",
        f"out={bucket}/run",
    ]
    submit = ["ray", "job", "submit", "--address", nodes.dashboard, "--", *run, f"steps.serve.port={free_port()}"]
    process = command(nodes, *submit, *SMALL)
    judged = f"{bucket}/run/judged"
    wait_until(lambda: tables.part_names(judged), "the first labels", process)
    joined(nodes, "late", process)
    assert not tables.exists(f"{judged}/manifest.json"), "labelling was over before a node could die"
    kill_node(nodes, "one")
    said = output_of(process)
    assert process.returncode == 0, said[-6000:]
    return f"{bucket}/run", said


def test_a_job_over_several_nodes_loses_nothing_when_one_comes_late_and_one_dies(
    nodes: Head, job: tuple[str, str]
) -> None:
    out, said = job
    assert "succeeded" in said
    assert alive(nodes) >= {"two", "late"}
    assert "one" not in alive(nodes)
    asked = sorted(row["query_id"] for row in tables.read(f"{out}/short", Candidates))
    assert len(asked) == sum(QUERIES.values())
    for name, row in (("judged", JudgeOutput), ("labels", Labels)):
        rows = list(tables.read(f"{out}/{name}", row))
        assert sorted(each["query_id"] for each in rows) == asked, f"{name}: each query once"
        manifest = tables.read_manifest(f"{out}/{name}")
        assert not manifest.quarantined
    winner = json.loads(tables.read_text(f"{out}/winner/winner.json"))
    assert winner["system"]
    assert "[serve]" in said


@dataclass
class Load:
    """What clients saw who ask again once, a moment later, after a request that failed."""

    answered: int = 0
    asked_again: int = 0
    failed: list[str] = field(default_factory=list)

    def client(self, url: str, body: dict[str, Any], ended: Event) -> None:
        """One client; each request has a connection of its own, as through a load balancer."""
        while not ended.is_set():
            for wait_s in (0.0, 2.0):
                time.sleep(wait_s)
                try:
                    answer = httpx.post(f"{url}/v2/rerank", json=body, trust_env=False, timeout=PATIENCE_S)
                    problem = "" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:200]}"
                except httpx.HTTPError as error:
                    problem = repr(error)
                if not problem:
                    self.answered += 1
                    break
                self.asked_again += wait_s == 0
            else:
                self.failed.append(problem)


def serve_command(head: Head, *arguments: str) -> str:
    process = command(head, "serve", *arguments, "--address", head.dashboard)
    said = output_of(process)
    assert process.returncode == 0, said
    return said


def replicas(head: Head) -> Sequence[dict[str, Any]]:
    """The endpoint's replicas that run."""
    status = httpx.get(f"{head.dashboard}/api/serve/applications/", trust_env=False, timeout=60).json()
    deployment = status["applications"].get("rerank", {}).get("deployments", {}).get("Endpoint", {})
    return [each for each in deployment.get("replicas", []) if each["state"] == "RUNNING"]


def test_an_endpoint_on_two_nodes_answers_every_request_while_one_dies(
    nodes: Head, job: tuple[str, str], tmp_path: Path
) -> None:
    out, _ = job
    port = free_port()
    config = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    args = config["applications"][0]["args"]
    args |= {"input": f"{out}/encoder", "open": True, "resources": {"CPU": 1}}
    del args["api_keys"]
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    serve_command(nodes, "deploy", str(tmp_path / "serve.yaml"))
    wait_until(lambda: len(replicas(nodes)) == 2, "two replicas")
    assert len({each["node_id"] for each in replicas(nodes)}) == 2, "each node has one"
    load, ended, url = Load(), Event(), f"http://127.0.0.1:{port}"
    body = {"query": "sort a list", "documents": ["list.sort sorts in place", "len counts", "open opens a file"]}
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load.client, url, body, ended) for _ in range(4)]
        try:
            wait_until(lambda: load.answered >= 50, "answers from both nodes")
            kill_node(nodes, "late")
            wait_until(lambda: "late" not in alive(nodes) and len(replicas(nodes)) == 1, "the death of a node")
            before = load.answered
            wait_until(lambda: load.answered >= before + 50, "answers from the node that is left")
        finally:
            ended.set()
        for client in clients:
            client.result()
    assert load.failed == []
    print(f"{load.answered} answers, {load.asked_again} of them when asked again")
