"""Documents in chunks through `judge`: the guard of an engine, an endpoint, the journal, and vLLM itself."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import ChunksConfig, GateConfig, JudgeConfig
from rrad_ray.labelling.planner import Planner
from rrad_ray.patches.ray_engine_stage import ERROR_COLUMN
from rrad_ray.rankers.chunker import Chunker
from rrad_ray.rows import Candidates, JudgeOutput
from rrad_ray.runtime.collector import ShardCollector
from rrad_ray.runtime.dev_first import DevFirst
from rrad_ray.runtime.engine_rows import from_vllm, to_answer, to_engine
from rrad_ray.runtime.engines import CrashGuard, Requests
from rrad_ray.stages import judge
from rrad_ray.tables import checkpoints, shards
from tests.fixtures import ENGINE, row_of, table_of

LONG = "rows of a table are counted one by one. " * 4 + "two numbers are added by the plus sign. " + "a car. " * 9
TEXTS = ["a sorted list", LONG, "adds two numbers"]
CHUNKS = ChunksConfig(tokens=16, overlap=4)
KEYS = {"part": "part-00000.parquet", "row": 0, "slot": 0, "prompts": 3}


def config(tmp_path: Path, **options: Any) -> JudgeConfig:
    source = str(tmp_path / "input")
    if not (tmp_path / "input").exists():
        table_of(tmp_path / "input", [row_of("q1", TEXTS), row_of("q2", TEXTS[:2])])
    values: dict[str, Any] = {"input": source, "output": f"{tmp_path}/judged", "gate": GateConfig(enabled=False)}
    return JudgeConfig(**{**values, **ENGINE, "chunks": CHUNKS, **options})


def test_an_engine_answers_about_all_chunks_of_a_row_and_the_best_one_is_its_answer(tmp_path: Path) -> None:
    cfg = config(tmp_path, task="likelihood", model=checkpoints.BUNDLED[1])
    prompts = Planner(cfg, checkpoints.resolve(cfg.model))(row_of("q1", TEXTS))
    asked: list[int] = []

    async def generate(row: dict[str, Any]) -> dict[str, Any]:
        asked.append(len(row["tokenized_prompt"]))
        score = -abs(len(asked) - 3.0)  # the third call is the best
        tokens = {"num_input_tokens": len(row["tokenized_prompt"]), "num_generated_tokens": 0}
        return {"embeddings": [score], "generated_text": "", ERROR_COLUMN: "", **tokens}

    guard = CrashGuard(None, cfg, "")
    row = {**KEYS, **to_engine(prompts[1])}
    answer = to_answer(from_vllm({**row, **asyncio.run(guard.row(row, generate))}))
    calls = json.loads(prompts[1]["chunks"])
    assert len(asked) == len(calls) > 3
    assert answer["score"] == 0.0
    assert answer["chunk"] == calls[2]["chunk"]
    assert answer["prompt_tokens"] == sum(asked) == sum(len(call["token_ids"]) for call in calls)
    asked.clear()
    row = {**KEYS, **to_engine(prompts[0])}
    answer = to_answer(from_vllm({**row, **asyncio.run(guard.row(row, generate))}))
    assert (len(asked), answer["chunk"]) == (1, [0, len(TEXTS[0])])


def test_an_endpoint_is_asked_about_every_chunk_and_no_more_at_once_than_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(
        tmp_path, task="grade", engine="openai", model="m", resources={"CPU": 1}, chunks=ChunksConfig(tokens=9)
    )
    requests = Requests(dataclasses.replace(cfg, openai=dataclasses.replace(cfg.openai, concurrency=2)), {})
    under_way, most, asked = 0, 0, list[str]()

    async def create(*, messages: Any, **_: Any) -> Any:
        nonlocal under_way, most
        under_way, most = under_way + 1, max(most, under_way + 1)
        await asyncio.sleep(0.001)
        under_way -= 1
        asked.append(messages[-1]["content"])
        return asked[-1]

    monkeypatch.setattr(requests.client.chat.completions, "create", create)
    monkeypatch.setattr(requests, "_read", lambda text, documents: {"score": 2.5 if "plus sign" in text else 0.5})
    prompts = Planner(cfg, "")(row_of("q1", TEXTS))
    row = {**KEYS, **to_engine(prompts[1])}
    answer = to_answer(asyncio.run(requests(row)))
    assert len(asked) == len(json.loads(prompts[1]["chunks"]))
    assert (most, answer["score"]) == (2, 2.5)
    assert "plus sign" in LONG[slice(*answer["chunk"])]


def test_a_resumed_run_keeps_the_chunks_of_the_answers_that_it_has(tmp_path: Path) -> None:
    cfg = config(tmp_path, task="likelihood")

    def answers(numbers: range) -> Any:
        for number in numbers:
            row, slot = divmod(number, 3)
            key = {"part": tables.part_name(0), "row": row, "slot": slot, "prompts": 5, "calls": 3, "documents": 3}
            about = {
                "score": -float(number),
                "chunk": [number, number + 9],
                "text": "",
                "scores": [],
                "cut": [],
                "error": "",
            }
            yield {**key, **about, "truncated": 0, "prompt_tokens": 7, "generated_tokens": 0}

    def run(numbers: range) -> list[str]:
        out = tables.Output("judge", cfg, JudgeOutput, {"input": cfg.input})
        planned = shards.plan_shards(cfg.input, 10, Candidates)
        collector = ShardCollector(cfg, out, planned, [], DevFirst())
        known.append(sorted(collector.answered(tables.part_name(0))))
        if len(numbers) < 5:  # the run is killed before the shard is whole
            for answer in answers(numbers):
                assert not list(collector._take(answer))
            collector.journal.flush()
            return []
        return list(collector.parts(answers(numbers), str))

    known: list[Any] = []
    assert run(range(3)) == []
    assert run(range(5)) == [tables.part_name(0)], "answers that are there twice count once"
    assert known == [[], [(0, 0), (0, 1), (0, 2)]]
    first, second = tables.read_part(cfg.output, tables.part_name(0), JudgeOutput)
    assert first["best_chunks"] == [[0, 9], [1, 10], [2, 11]]
    assert second["best_chunks"] == [[3, 12], [4, 13]]
    assert second["judge_scores"] == [-3.0, -4.0]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("task", ["likelihood", "grade"])
def test_vllm_scores_a_long_document_as_its_best_chunk_alone(tmp_path: Path, task: str) -> None:
    options: dict[str, Any] = {"task": task, "engine_kwargs": ENGINE["engine_kwargs"] | {"dtype": "float32"}}
    cfg = config(tmp_path, **options)
    tokenizer = Planner(cfg, checkpoints.resolve(cfg.model)).tokenizer
    split = Chunker(tokenizer, CHUNKS)(TEXTS)
    table_of(tmp_path / "chunks", [row_of("q1", split.texts)])
    alone = dataclasses.replace(cfg, input=f"{tmp_path}/chunks", output=f"{tmp_path}/alone", chunks=ChunksConfig())
    [chunks] = tables.read(judge.run(alone), JudgeOutput)
    whole, _ = tables.read(judge.run(cfg), JudgeOutput)
    scores: list[dict[tuple[int, ...], float]] = [{} for _ in TEXTS]
    for owner, score, span in zip(split.owners, chunks["judge_scores"], split.spans, strict=True):
        scores[owner][tuple(span)] = score
    best = [max(each.values()) for each in scores]
    assert whole["judge_scores"] == pytest.approx(best, abs=1e-4)
    named = [each[tuple(span)] for each, span in zip(scores, whole["best_chunks"], strict=True)]
    assert named == pytest.approx(best, abs=1e-4), "of chunks that read alike, any may be named"
    assert chunks["best_chunks"] == []
    assert whole["prompt_tokens"] == chunks["prompt_tokens"]
