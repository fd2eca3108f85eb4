"""What every benchmark shares: its command line, its table, its JSON, and where its queries come from."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from tests.commands import ROOT, RRAD
from tests.heads import free_port, listens

PER_FILE = 10_000
WORDS = ["how", "to", "sort", "merge", "join", "count", "filter", "group", "the", "rows", "of", "a", "large", "table"]
COSQA = ROOT.parent / "shared" / "data" / "cosqa"


@dataclass
class Result:
    """`figures`: what is compared with a bound. `rows`: the table for people. `settings`: what was run."""

    figures: dict[str, float]
    rows: Sequence[Mapping[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)


def main(name: str, bench: Callable[[bool, str], Result]) -> None:
    """The command of a benchmark: `bench(quick, scratch folder)`."""

    @click.command(help=f"Benchmark {name}; see benchmarks/README.md.")
    @click.option("--quick", is_flag=True, help="a smaller one, within 10 minutes on 2 cores")
    @click.option("--json", "file", type=click.Path(dir_okay=False), help="write the figures there")
    def command(quick: bool, file: str | None) -> None:
        with tempfile.TemporaryDirectory(prefix=f"rrad-{name}-") as scratch:
            result = bench(quick, scratch)
        print(f"\n{name}{' (quick)' if quick else ''}\n{table(result.rows)}\n")
        for key, value in result.figures.items():
            print(f"{key} = {value:.4g}")
        if file:
            settings = {"quick": quick, **result.settings}
            found = {"name": name, "figures": result.figures, "settings": settings, "machine": machine()}
            Path(file).write_text(json.dumps(found, indent=2))

    command()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as Markdown."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **tables.versions(),
    }


def run(
    arguments: Sequence[str], meanwhile: Callable[[psutil.Process], None], every_s: float = 0.2
) -> tuple[int, list[str]]:
    """Runs `rrad ARGS` in a process of its own, `meanwhile` again and again beside it; exit code and lines said."""
    process = subprocess.Popen(
        [*RRAD, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True)
    reader.start()
    while process.poll() is None:
        meanwhile(psutil.Process(process.pid))
        time.sleep(every_s)
    reader.join(5)
    print("".join(said[-3:]), end="", flush=True)
    return process.returncode, said


def figures_of(command: Sequence[str], prefix: str, env: Mapping[str, str]) -> Any:
    """What a peer's own process writes as JSON behind `prefix`, the last thing it says."""
    done = subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    return json.loads(done.stdout.rpartition(prefix)[2])


@contextlib.contextmanager
def s3() -> Iterator[tuple[str, int]]:
    """An S3 server in a process of its own, which the environment then names: a bucket on it, and its port."""
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
        if not listens(port, 30):
            raise SystemExit(f"the S3 server does not listen on port {port}")
        bucket = f"b{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}", port
    finally:
        server.kill()


def write_candidates(uri: str, queries: int, documents: int = 20) -> None:
    """A folder of Parquet files as a user has it: queries `q0`, `q1`, ... with their documents."""
    fs, path = tables.filesystem(uri)
    if "file" in fs.protocol:
        fs.makedirs(path)
    texts = [" ".join(WORDS[number % 7 : 7 + number % 11]) + f" in way {number}" for number in range(documents)]
    for start in range(0, queries, PER_FILE):
        numbers = range(start, min(start + PER_FILE, queries))
        columns = {
            "query_id": [f"q{number}" for number in numbers],
            "query": [f"{' '.join(WORDS[: 3 + number % 9])} {number}" for number in numbers],
            "doc_ids": [[f"d{number}-{place}" for place in range(documents)] for number in numbers],
            "texts": [texts] * len(numbers),
        }
        with fs.open(f"{path}/rows-{start:08}.parquet", "wb") as file:
            pq.write_table(pa.table(columns), file, row_group_size=1000)


def collection() -> str:
    """CoSQA where it is there; else the documentation of this environment, and it says so."""
    if COSQA.exists():
        return str(COSQA)
    print("shared/data/cosqa is not here: the documentation of this Python environment takes its place", flush=True)
    return "pydoc:"
