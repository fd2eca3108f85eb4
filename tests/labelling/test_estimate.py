"""`rrad judge CONFIG --estimate`: calls, tokens, hours and price, with nothing started and nothing written."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import prompts, tables
from rrad_ray.config import JudgeConfig, OpenAIConfig, SelectConfig
from rrad_ray.config.chunks import ChunksConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling import gate, teacher
from rrad_ray.labelling.estimate import SAMPLE_QUERIES, estimate_lines, estimated
from rrad_ray.labelling.planner import Planner
from rrad_ray.rows import Candidates, JudgeOutput
from rrad_ray.tables import checkpoints, shards
from tests.commands import PATIENCE_S, ROOT
from tests.fixtures import row_of, table_of


@pytest.fixture
def candidates(tmp_path: Path) -> str:
    rows = [row_of(f"q{number}", ["adds numbers " * (number + 1), f"opens file {number}"]) for number in range(5)]
    return table_of(tmp_path / "candidates", [*rows, row_of("empty", [])])


def config(source: str, **options: Any) -> JudgeConfig:
    return JudgeConfig(**{"input": source, "output": f"{source}-judged", "task": "order", **options})


def planned_tokens(cfg: JudgeConfig) -> list[int]:
    plan = Planner(cfg, checkpoints.resolve(cfg.model))
    return [len(prompt["token_ids"]) for row in tables.read(cfg.input, Candidates) for prompt in plan(row)]


def test_where_all_queries_are_planned_calls_and_tokens_are_exact(candidates: str) -> None:
    cfg = config(candidates, repeats=2, max_tokens=7)
    cost = estimated(cfg)
    assert (cost.queries, cost.documents, cost.sampled, cost.margin) == (6, 10, 6, 0.0)
    assert (cost.calls, cost.prompt_tokens) == (10, sum(planned_tokens(cfg)))
    assert (cost.answer_tokens, cost.most_tokens) == (80, 110), "[1] > [2] has 7, and room beside max_tokens"
    for by, most in (("pooler", 0), ("prompt_logprobs", 10)):
        cfg = config(candidates, task="likelihood", likelihood_by=by)
        cost = estimated(cfg)
        assert (cost.calls, cost.prompt_tokens, cost.most_tokens) == (10, sum(planned_tokens(cfg)), most)


@pytest.mark.parametrize(
    "options", [{"task": "grade"}, {"task": "likelihood"}, {"task": "grade", "engine": "openai"}]
)
def test_every_chunk_is_a_call(candidates: str, options: dict[str, Any]) -> None:
    whole = estimated(config(candidates, **options))
    parts = estimated(config(candidates, **options, chunks=ChunksConfig(tokens=4, overlap=1, most=3)))
    assert whole.calls == 10 < parts.calls <= 30
    assert parts.documents == whole.documents


def test_a_sliding_window_is_every_call_of_it(candidates: str) -> None:
    for engine, most in (("vllm", 11), ("openai", 7)):  # an endpoint's answers are not given room beside max_tokens
        cost = estimated(config(candidates, window=2, window_step=1, engine=engine, max_tokens=7))
        assert cost.calls == 5 * len(prompts.windows(2, 2, 1))
        assert cost.most_tokens == most * cost.calls


def test_a_sample_of_many_queries_is_as_near_as_its_margin_says(tmp_path: Path) -> None:
    source = random.Random(1)
    rows = [row_of(f"q{n}", ["adds numbers " * source.randint(1, 20)] * source.randint(2, 6)) for n in range(600)]
    folder = table_of(tmp_path / "candidates", rows)
    for size in (16, 300):  # parts of 100 rows: 32 of 42 shards, or all of 6
        cfg = config(folder, shard_queries=size, doc_tokens=40)
        cost, truth = estimated(cfg), sum(planned_tokens(cfg))
        assert cost.calls == 600
        assert 0.8 * SAMPLE_QUERIES < cost.sampled < 1.2 * SAMPLE_QUERIES
        assert 0.003 < cost.margin / truth < 0.1
        assert abs(cost.prompt_tokens - truth) < 1.5 * cost.margin


def test_price_is_of_tokens_or_of_the_hours_that_the_speed_makes(candidates: str) -> None:
    prices = OpenAIConfig(prompt_price=2.0, answer_price=10.0, tokenizer="bundled:smollm2-135m-instruct")
    cfg = config(candidates, engine="openai", openai=prices, max_tokens=7)
    cost = estimated(cfg)
    price = (2 * cost.prompt_tokens + 10 * 35) / 1e6
    assert estimate_lines(cfg, cost)[-1] == f"price           {price:,.2f} expected, at most {price:,.2f}"
    cfg = config(candidates, max_tokens=7, num_workers=4, engine_tokens_per_s=2.0, gpu_hour_price=3.0)
    cost = estimated(cfg)
    hours = (cost.prompt_tokens + 40) / 2.0 / 3600  # an order with its end is not cut
    *_, hour_line, price_line = estimate_lines(cfg, cost)
    assert f"{hours:,.3g} at 2 tokens/s (engine_tokens_per_s); {hours / 4:,.3g} hours on 4 engines" in hour_line
    assert price_line == f"price           {3 * hours:,.2f}"
    cfg = config(candidates, num_workers=2)
    assert "set engine_tokens_per_s" in estimate_lines(cfg, estimated(cfg))[-1]
    rates = {"prompt_tokens_per_s": 900.0, "generated_tokens_per_s": 100.0}
    run = {"host": "node", "pid": 1, "updated": 1.0}
    tables.write_json(tables.join(cfg.output, tables.PROGRESS), {**run, **rates})
    assert estimated(cfg).engine_tokens_per_s == 500.0
    tables.write_json(tables.join(cfg.output, tables.PROGRESS), [rates])
    with pytest.raises(RradError, match=r"progress\.json: is no record of progress .*; delete the file"):
        estimated(cfg)


def test_an_engine_that_asks_nothing_and_an_input_without_documents_are_refused(tmp_path: Path) -> None:
    source = table_of(tmp_path / "none", [row_of("q0", [])])
    with pytest.raises(RradError, match="engine: echo asks no model"):
        estimated(config(source, engine="echo"))
    with pytest.raises(RradError, match="no query that task=order asks about"):
        estimated(config(source, engine="openai"))


def test_the_command_starts_and_writes_nothing(candidates: str) -> None:
    program = (
        "import os, sys; from rrad_ray.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print({'ray', 'vllm', 'openai'} & set(sys.modules), flush=True); os._exit(0)"  # pyarrow may abort at the end
    )
    command = ["judge", "configs/judge-openai.yaml", f"input={candidates}", f"output={candidates}-out", "--estimate"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert "calls           5\n" in done.stdout
    assert done.stdout.strip().endswith("set()")
    assert not Path(f"{candidates}-out").exists()


def test_the_gate_checks_a_folder_of_ones_own_by_its_graded_qrels(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in ("query_id", "query", "split", "doc_ids", "texts")}
    columns |= {"qrel_ids": [], "qrel_grades": []}
    for number in range(40):
        ids = [f"d{number}-{index}" for index in range(6)]
        values = (
            f"q{number}",
            "how",
            "dev",
            ids,
            ["text"] * 6,
            ids,
            [*random.Random(number).sample(range(4), 4), 0, 0],
        )
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    (tmp_path / "own").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "own" / "rows.parquet")
    cfg = config(str(tmp_path / "own"))
    rows = [
        row
        for each in shards.plan_shards(cfg.input, 16, Candidates)
        for row in shards.read_shard(cfg.input, each, Candidates)
    ]
    check = gate.Gate(cfg, tables.Output("judge", SelectConfig(input="", output=cfg.output), None, {}), ["part"])
    check.look_ahead(rows)
    assert check.against == teacher.GIVEN
    judged = [row | {"task": "score", "judge_scores": row["qrel_grades"]} for row in rows]
    passed, text = gate.gate(teacher.teacher_quality(judged, given=True), check.against, cfg.gate.max_p)
    assert passed
    assert "the labeller reaches nDCG@10 1.000" in text
    swapped = [row | {"judge_scores": [min(grade, 1) for grade in row["qrel_grades"]]} for row in judged]
    assert teacher.teacher_quality(swapped, given=True)["ndcg_10"]["judge"] < 0.99, (
        "grades count, not relevance alone"
    )


def test_a_slice_costs_what_its_own_queries_cost(candidates: str) -> None:
    cost = estimated(config(candidates, shard_queries=1, slice="2/3"))
    assert (cost.queries, cost.documents) == (2, 4), "the second and the fifth query"


def test_a_model_that_cannot_be_asked_is_an_error_that_names_it(candidates: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints.resolve(JudgeConfig(input="", output="").model), folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    asked = [{"model": str(folder)}, {"engine": "openai", "openai": OpenAIConfig(tokenizer=str(folder))}]
    for options in asked:
        with pytest.raises(RradError, match="the model has no chat template") as caught:
            estimated(config(candidates, **options))
        assert caught.value.place == str(folder)
    settings["chat_template"] = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert estimated(config(candidates, **asked[1])).calls == 5, "the instruction heads the user's message then"


def test_prompts_that_are_all_too_long_are_told_from_an_input_without_documents(candidates: str) -> None:
    with pytest.raises(RradError, match="doc_tokens: all 5 prompts of the sample are too long for the model; lower"):
        estimated(config(candidates, engine_kwargs={"max_model_len": 64}))


def test_a_slice_goes_by_the_speed_of_its_own_last_run(candidates: str) -> None:
    cfg = config(candidates, slice="2/3", shard_queries=1)
    rates = {"prompt_tokens_per_s": 90.0, "generated_tokens_per_s": 10.0}
    state = {"unit": "prompts", "done": 1, "total": 2, "rate": 1.0, "ended": False, **rates}
    tables.Output("judge", cfg, JudgeOutput, {}).write_progress(state)
    assert estimated(cfg).engine_tokens_per_s == 100.0
