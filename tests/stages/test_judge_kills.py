"""judge on bad days: driver, engine and store fail, and no query is lost, doubled or asked for again."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.config import GateConfig, JudgeConfig, LabelConfig
from rrad_ray.labelling import planner
from rrad_ray.labelling.answers import parse_answer
from rrad_ray.rankers.likelihood import LikelihoodRanker
from rrad_ray.rows import Answer, Candidates, JudgeOutput, Labels, Quarantined
from rrad_ray.runtime import engines
from rrad_ray.stages import judge, label
from rrad_ray.tables import checkpoints
from tests.commands import SMALL_ENGINE
from tests.fixtures import ENGINE, POISON, row_of, rrad, table_of
from tests.unreliable import unreliable

pytestmark = pytest.mark.ray

CPU = [
    "configs/judge-cpu.yaml",
    "doc_tokens=32",
    "gate.min_queries=5",
    "gate.enabled=false",
    *SMALL_ENGINE,
]


@pytest.mark.slow
def test_judge_killed_in_the_middle_goes_on_repeats_nothing_and_holds_every_query_exactly_once(
    short: str, tmp_path: Path, killed: Callable[..., str]
) -> None:
    output = f"{tmp_path}/judgments"
    arguments = ["judge", *CPU, f"input={short}", f"output={output}", "durable_s=1", "batch_size=8"]
    killed(arguments, lambda: len(tables.part_names(output)) >= 3 and bool(_unfinished(output)))
    done, kept = tables.part_names(output), _unfinished(output)
    assert 3 <= len(done) < len(tables.part_names(short)), "it was not killed in the middle"
    assert kept, "nothing but finished shards was kept"
    assert not os.path.exists(f"{output}/manifest.json")
    before = {name: os.stat(f"{output}/{name}").st_mtime_ns for name in done}

    again = rrad(*arguments)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "core_worker" not in again.stdout + again.stderr, "Ray's own warnings are not on the terminal"
    assert f"goes on: {len(done)} of" in again.stdout
    assert f"{len(kept)} answers of unfinished shards stand in the journal" in again.stdout
    assert {name: os.stat(f"{output}/{name}").st_mtime_ns for name in done} == before, "finished work was repeated"
    asked = [row["query_id"] for row in tables.read(short, Candidates)]
    answered = [row["query_id"] for row in tables.read(output, JudgeOutput)]
    assert sorted(answered) == sorted(asked)
    assert len(set(answered)) == len(answered)
    for (part, row, slot), score in kept.items():
        judged = tables.read_part(output, part, JudgeOutput)[row]
        assert judged["judge_scores"][slot] == score, "an answer that was there was asked for again"
    _check_scores(output)
    assert not os.path.exists(f"{output}/journal")
    assert "running" not in rrad("status", str(tmp_path)).stdout
    end = time.monotonic() + 30  # Ray ends its workers after the command has ended
    while _engines(output) and time.monotonic() < end:
        time.sleep(0.5)
    assert _engines(output) == [], "engine processes were left behind"


def _unfinished(output: str) -> dict[tuple[str, int, int], float]:
    """The scores in a run's journal of shards that have no part yet."""
    journal, done = f"{output}/journal", set(tables.part_names(output))
    answers = (answer for name in tables.part_names(journal) for answer in tables.read_part(journal, name, Answer))
    return {(one["part"], one["row"], one["slot"]): one["score"] for one in answers if one["part"] not in done}


def _check_scores(output: str) -> None:
    """vLLM's likelihoods are those of transformers: the same numbers up to bfloat16."""
    source = checkpoints.resolve(checkpoints.BUNDLED[1])
    ranker = LikelihoodRanker(source, template="question", doc_tokens=32, dtype="float32")
    for row in list(tables.read(output, JudgeOutput))[:3]:
        assert all(math.isfinite(score) and score < 0 for score in row["judge_scores"])
        assert row["judge_scores"] == pytest.approx(ranker.score(row["query"], row["texts"]), abs=0.15)
        assert row["prompt_tokens"] > 0


def _engines(output: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(engines.MARK) == output:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Orders in a grammar, three of each query; one prompt of q7 kills its engine."""
    place = tmp_path_factory.mktemp("poisoned")
    texts = ["adds numbers", "a red car", f"{POISON} sorts a list"]
    rows = [{**row_of(f"q{number}", [*texts[:2], "sorts a list"]), "query": f"sum {number}"} for number in range(12)]
    rows[7] |= {"texts": texts}
    listening = {"logits_processors": ["tests.poison:Poison"]}
    cfg = JudgeConfig(
        input=table_of(place / "input", rows),
        output=f"{place}/orders",
        task="order",
        repeats=3,
        structured=True,
        max_tokens=24,
        engine_deaths=2,
        batch_size=9,
        max_quarantined=0.1,
        gate=GateConfig(enabled=False),
        **{**ENGINE, "engine_kwargs": ENGINE["engine_kwargs"] | listening},
    )
    first = [order[0] for order in planner.shown(rows[7], cfg)]
    assert first.count(2) == 1, "one of its three prompts shows the poison first"
    return judge.run(cfg)


@pytest.mark.slow
def test_a_prompt_that_kills_its_engine_is_set_aside_and_every_other_query_is_answered(poisoned: str) -> None:
    answered = [row["query_id"] for row in tables.read(poisoned, JudgeOutput)]
    assert answered == [f"q{number}" for number in range(12) if number != 7]
    [bad] = tables.read_part(f"{poisoned}/quarantine", "part-00000.parquet", Quarantined)
    assert (bad["id"], "2 engines died" in bad["reason"]) == ("q7", True)


@pytest.mark.slow
def test_repeats_in_a_grammar_are_all_readable_and_explained_by_the_place_they_give(
    poisoned: str, tmp_path: Path
) -> None:
    for row in tables.read(poisoned, JudgeOutput):
        assert len({tuple(shown) for shown in row["shown"]}) == len(row["responses"]) == 3
        assert all(parse_answer(text, len(row["doc_ids"])).ranked for text in row["responses"]), row["responses"]
        assert all(re.fullmatch(r"[\[\]\d> ]+", text) for text in row["responses"]), "the grammar was not kept"
    reasons = judge.run(
        JudgeConfig(input=poisoned, output=f"{tmp_path}/reasons", task="explain", max_tokens=12, **ENGINE)
    )
    for before, after in zip(tables.read(poisoned, JudgeOutput), tables.read(reasons, JudgeOutput), strict=True):
        assert len(after["reasons"]) == len(after["doc_ids"])
        assert all(after["reasons"])
        assert after["responses"] == before["responses"], "explain changed what the judge had said"
    labels = label.run(LabelConfig(input=reasons, output=f"{tmp_path}/labels", aggregate="copeland"))
    for row in tables.read(labels, Labels):
        assert len(row["parse_status"]) == 3
        assert len(row["confidence"]) == len(row["reasons"]) == len(row["doc_ids"])


@pytest.mark.slow
def test_a_store_that_fails_and_stalls_now_and_then_costs_no_query(
    s3_endpoint: str, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row_of(f"q{number}", ["adds", "prints"]) for number in range(300)]
    fs, path = tables.filesystem(s3_uri)
    with fs.open(f"{path}/input/rows.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=100)
    arguments = ["judge", "configs/judge.yaml", f"input={s3_uri}/input", f"output={s3_uri}/judgments", "engine=echo"]
    arguments += ["task=order", "gate.enabled=false", "shard_queries=25"]
    with unreliable(int(s3_endpoint.rpartition(":")[2]), fails=0.08, stalls=0.02, stall_s=5) as (port, counts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        done = rrad(*arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert counts["failed"] >= 3, "nothing was wrong with it"
    answered = [row["query_id"] for row in tables.read(f"{s3_uri}/judgments", JudgeOutput)]
    assert answered == [f"q{number}" for number in range(300)]
