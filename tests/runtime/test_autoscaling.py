"""Labelling on a cluster that grows for it and shrinks after it; a node that dies in the middle costs no query."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.rankers.likelihood import LikelihoodRanker
from rrad_ray.rows import JudgeOutput, Quarantined
from rrad_ray.tables import checkpoints
from tests.autoscaling import Autoscaling
from tests.commands import PATIENCE_S, SMALL_ENGINE

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
QUERIES, SHARD = 120, 8
CUT, LONG = 40, 80  # of these one has a document, the other a query that does not fit the model
ARGUMENTS = [
    "judge",
    "configs/judge-cpu.yaml",
    "resources={CPU: 1, GPU: 1}",
    "num_workers={min: 0, max: 2}",
    "gate.enabled=false",
    f"shard_queries={SHARD}",
    "batch_size=8",
    "likelihood_by=prompt_logprobs",
    "doc_tokens=2000",
    "query_tokens=600",
    "max_quarantined=0.1",
    *SMALL_ENGINE,
]


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("candidates")
    texts = [f"{word} a list of numbers in place" for word in ("sorts", "adds", "prints", "reverses", "copies")]
    rows = [
        {"query_id": f"q{n}", "query": f"how to sort {n} numbers", "doc_ids": list("abcde"), "texts": texts}
        for n in range(QUERIES)
    ]
    rows[CUT] |= {"texts": ["word " * 3000, *texts[1:]]}
    rows[LONG] |= {"query": "how to add " * 300}
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return str(folder)


@dataclass
class Labelled:
    """What a run left, whose second engine's node was killed in the middle."""

    output: str
    victim: str
    before: list[str]  # the worker nodes before it asked for any


@pytest.fixture(scope="module")
def labelled(autoscaling: Autoscaling, candidates: str, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    output = f"{tmp_path_factory.mktemp('labelled')}/judgments"
    driver = autoscaling.rrad(*ARGUMENTS, f"input={candidates}", f"output={output}")
    autoscaling.wait(2)
    while len(tables.part_names(output)) < 2:
        assert driver.poll() is None, autoscaling.said.read_text()[-3000:]
        time.sleep(0.2)
    assert len(tables.part_names(output)) < QUERIES // SHARD, "it was over before a node could die"
    victim = autoscaling.kill_node()
    assert driver.wait(timeout=PATIENCE_S) == 0, autoscaling.said.read_text()[-4000:]
    return Labelled(output, victim, autoscaling.seen()[0])


def test_a_worker_that_no_node_can_ever_hold_is_an_error_within_a_minute_not_a_hang(
    autoscaling: Autoscaling, candidates: str, tmp_path: Path
) -> None:
    arguments = [*ARGUMENTS, "resources={CPU: 1, GPU: 4}", f"input={candidates}"]
    driver = autoscaling.rrad(*arguments, f"output={tmp_path}/judgments")
    assert driver.wait(timeout=150) == 2, autoscaling.said.read_text()[-3000:]
    said = autoscaling.said.read_text()
    assert "judge: resources: a worker asks for {'CPU': 1.0, 'GPU': 4.0}, no node has it" in said
    assert "none is being started" in said


def test_nodes_come_for_the_queue_one_may_die_and_they_go_when_it_is_empty(
    autoscaling: Autoscaling, labelled: Labelled
) -> None:
    answered = [row["query_id"] for row in tables.read(labelled.output, JudgeOutput)]
    assert sorted(answered) == sorted(f"q{number}" for number in range(QUERIES) if number != LONG)
    assert labelled.before == [], "there were workers before anything asked for them"
    autoscaling.wait(0)
    assert any(labelled.victim not in nodes for nodes in autoscaling.seen())


def test_what_does_not_fit_the_model_is_cut_or_set_aside_and_vllms_own_logprobs_agree_with_transformers(
    labelled: Labelled,
) -> None:
    rows = {row["query_id"]: row for row in tables.read(labelled.output, JudgeOutput)}
    assert {name for name, row in rows.items() if row["truncated"]} == {f"q{CUT}"}
    assert tables.read_manifest(labelled.output).facts["truncated"] == 1
    [name] = tables.part_names(f"{labelled.output}/quarantine")
    [bad] = tables.read_part(f"{labelled.output}/quarantine", name, Quarantined)
    assert bad["id"] == f"q{LONG}"
    assert bad["reason"].startswith("prompt too long: ")
    ranker = LikelihoodRanker(
        checkpoints.resolve(checkpoints.BUNDLED[1]), template="question", doc_tokens=2000, dtype="float32"
    )
    for row in (rows["q0"], rows[f"q{QUERIES - 1}"]):
        assert row["judge_scores"] == pytest.approx(ranker.score(row["query"], row["texts"]), abs=0.15)
        assert row["judge_scores"].index(max(row["judge_scores"])) == 0, "the passage that fits is the likeliest"
