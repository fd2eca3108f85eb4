"""The head of a cluster dies in the middle of labelling: the driver ends, and another cluster finishes the work."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.rows import JudgeOutput
from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.heads import MARK, Head, started

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
QUERIES = 3_000


def judge(head: Head, tmp_path: Path) -> subprocess.Popen[bytes]:
    arguments = ["judge", "configs/judge.yaml", f"input={tmp_path}/input", f"output={tmp_path}/judgments"]
    arguments += ["engine=echo", "task=order", "gate.enabled=false", "shard_queries=25"]
    command = [*RRAD, *arguments]
    env = {key: value for key, value in head.env.items() if key != MARK}  # it must not die with the head's processes
    with open(tmp_path / "said", "ab") as said:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT)


def kill(head: Head) -> None:
    """kill -9 of the head's GCS and raylet, as when its machine goes."""
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] in ("gcs_server", "raylet") and process.environ().get(MARK) == head.env[MARK]:
                process.kill()
        except psutil.Error:
            continue


def test_a_run_whose_head_died_goes_on_on_another_cluster_and_holds_every_query_once(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    texts = {"doc_ids": ["a", "b", "c"], "texts": ["sorts a list", "prints", "copies"]}
    rows = [{"query_id": f"q{number}", "query": f"sort {number}", **texts} for number in range(QUERIES)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "input" / "rows.parquet")
    output = f"{tmp_path}/judgments"
    with started(["--num-cpus=4", "--include-dashboard=false"]) as head:
        driver = judge(head, tmp_path)
        while len(tables.part_names(output)) < 5:
            assert driver.poll() is None, (tmp_path / "said").read_text()[-3000:]
            time.sleep(0.1)
        kill(head)
        assert driver.wait(timeout=PATIENCE_S) != 0, "it must end, not hang, when its cluster is gone"
    done = tables.part_names(output)
    assert 5 <= len(done) < QUERIES // 25, "it was not killed in the middle"
    before = {name: os.stat(f"{output}/{name}").st_mtime_ns for name in done}
    with started(["--num-cpus=4", "--include-dashboard=false"]) as head:
        assert judge(head, tmp_path).wait(timeout=PATIENCE_S) == 0, (tmp_path / "said").read_text()[-3000:]
    assert {name: os.stat(f"{output}/{name}").st_mtime_ns for name in done} == before, "finished work was repeated"
    answered = [row["query_id"] for row in tables.read(output, JudgeOutput)]
    assert len(answered) == QUERIES
    assert set(answered) == {f"q{number}" for number in range(QUERIES)}
