"""Helpers of benchmarks beside their command line: processes, an S3 server, input tables and collections."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.command import Result as Result
from benchmarks.command import main as main
from rrad_ray import tables
from tests.commands import ROOT, RRAD
from tests.heads import free_port, listens

PER_FILE = 10_000
WORDS = ["how", "to", "sort", "merge", "join", "count", "filter", "group", "the", "rows", "of", "a", "large", "table"]
COSQA = ROOT.parent / "shared" / "data" / "cosqa"


def run(
    arguments: Sequence[str], meanwhile: Callable[[psutil.Process], None], every_s: float = 0.2
) -> tuple[int, list[str]]:
    """Run `rrad ARGS` in a process of its own and return its exit code and output lines.

    `meanwhile` is called with the process every `every_s` seconds until it ends.
    """
    process = subprocess.Popen(
        [*RRAD, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
    reader.start()
    while process.poll() is None:
        meanwhile(psutil.Process(process.pid))
        time.sleep(every_s)
    reader.join(5)
    print("".join(lines[-3:]), end="", flush=True)
    return process.returncode, lines


def figures_of(command: Sequence[str], prefix: str, env: Mapping[str, str]) -> Any:
    """Run a peer in a process of its own and return the JSON that it writes last, behind `prefix`."""
    done = subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    return json.loads(done.stdout.rpartition(prefix)[2])


@contextlib.contextmanager
def s3() -> Iterator[tuple[str, int]]:
    """Run an S3 server in a process of its own and yield the URI of a bucket on it, and its port.

    The environment names it as the S3 endpoint.
    """
    import boto3

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        if not listens(port):
            raise SystemExit(f"the S3 server does not listen on port {port}")
        bucket = f"b{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}", port
    finally:
        server.kill()


def write_candidates(uri: str, queries: int, documents: int = 20) -> None:
    """Write a folder of Parquet files as a user has them: queries `q0`, `q1`, ... with their documents."""
    fs, path = tables.filesystem(uri)
    if "file" in fs.protocol:
        fs.makedirs(path)
    texts = [" ".join(WORDS[number % 7 : 7 + number % 11]) + f" in way {number}" for number in range(documents)]
    for start in range(0, queries, PER_FILE):
        numbers = range(start, min(start + PER_FILE, queries))
        columns = {
            "query_id": [f"q{number}" for number in numbers],
            "query": [f"{' '.join(WORDS[: 3 + number % 9])} {number}" for number in numbers],
            "doc_ids": [[f"d{number}-{index}" for index in range(documents)] for number in numbers],
            "texts": [texts] * len(numbers),
        }
        with fs.open(f"{path}/rows-{start:08}.parquet", "wb") as file:
            pq.write_table(pa.table(columns), file, row_group_size=1000)


def collection() -> str:
    """Return the path of CoSQA where it exists, else the documentation of this environment, and say so."""
    if COSQA.exists():
        return str(COSQA)
    print("shared/data/cosqa is not here: the documentation of this Python environment takes its place", flush=True)
    return "pydoc:"
