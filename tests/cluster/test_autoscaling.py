"""Labelling on a cluster that grows for it and shrinks after it; a node that dies in the middle costs no query."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.rows import Judgment
from tests.commands import SMALL_ENGINE

from .conftest import Autoscaling

QUERIES = 240
ARGUMENTS = [
    "judge",
    "configs/judge-cpu.yaml",
    "worker={CPU: 1, GPU: 1}",
    "workers={min: 0, max: 2}",
    "gate.enabled=false",
    "shard_queries=16",
    "batch_size=8",
    *SMALL_ENGINE,
]


def candidates(folder: Path) -> str:
    folder.mkdir()
    texts = [f"{word} a list of numbers in place" for word in ("sorts", "adds", "prints", "reverses", "copies")]
    rows = [
        {"query_id": f"q{n}", "query": f"how to sort {n} numbers", "doc_ids": list("abcde"), "texts": texts}
        for n in range(QUERIES)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return str(folder)


def test_nodes_come_for_the_queue_one_may_die_and_they_go_when_it_is_empty(
    autoscaling: Autoscaling, tmp_path: Path
) -> None:
    output = f"{tmp_path}/judgments"
    driver = autoscaling.rrad(*ARGUMENTS, f"input={candidates(tmp_path / 'input')}", f"output={output}")
    autoscaling.wait(2, 180)
    while len(tables.part_names(output)) < 2:
        assert driver.poll() is None, autoscaling.said.read_text()[-3000:]
        time.sleep(0.2)
    assert len(tables.part_names(output)) < QUERIES // 16, "it was over before a node could die"
    victim = autoscaling.kill_node()
    assert driver.wait(timeout=400) == 0, autoscaling.said.read_text()[-4000:]
    answered = [row["query_id"] for row in tables.read(output, Judgment)]
    assert sorted(answered) == sorted({f"q{number}" for number in range(QUERIES)})
    assert not tables.part_names(f"{output}/quarantine")
    assert autoscaling.seen()[0] == [], "there were workers before anything asked for them"
    autoscaling.wait(0, 180)
    assert any(victim not in nodes for nodes in autoscaling.seen())


def test_a_worker_that_no_node_can_ever_hold_is_an_error_within_a_minute_not_a_hang(
    autoscaling: Autoscaling, tmp_path: Path
) -> None:
    arguments = [*ARGUMENTS, "worker={CPU: 1, GPU: 4}", f"input={candidates(tmp_path / 'input')}"]
    driver = autoscaling.rrad(*arguments, f"output={tmp_path}/judgments")
    assert driver.wait(timeout=150) == 2, autoscaling.said.read_text()[-3000:]
    said = autoscaling.said.read_text()
    assert "judge: worker: a worker asks for {'CPU': 1.0, 'GPU': 4.0}, no node has it" in said
    assert "none is being started" in said
