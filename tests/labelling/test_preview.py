"""`rrad judge CONFIG --show-prompts N`: what would be sent, with nothing started and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import JudgeConfig, OpenAIConfig, SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling.preview import preview
from rrad_ray.rows import JudgeOutput
from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.fixtures import row_of, table_of


@pytest.fixture
def candidates(tmp_path: Path) -> str:
    rows = [row_of(f"q{number}", ["adds numbers", f"opens file {number}"]) for number in range(4)]
    rows[3]["split"] = "dev"
    return table_of(tmp_path / "candidates", rows)


def config(source: str, **options: Any) -> JudgeConfig:
    return JudgeConfig(
        **{"input": source, "output": f"{source}-judged", "task": "order", "shard_queries": 2, **options}
    )


def test_the_command_prints_three_queries_and_neither_starts_nor_writes_anything(candidates: str) -> None:
    program = (
        "import os, sys; from rrad_ray.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print({'ray', 'vllm', 'openai'} & set(sys.modules), flush=True); os._exit(0)"  # pyarrow may abort at the end
    )
    command = [
        "judge",
        "configs/judge-openai.yaml",
        f"input={candidates}",
        f"output={candidates}-out",
        "shard_queries=2",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "template=order-ko", "--show-prompts", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert done.stdout.count("===== query") == 3
    assert done.stdout.index("query q2") < done.stdout.index("query q0"), "the shard with dev queries comes first"
    assert "[1] adds numbers" in done.stdout or "[2] adds numbers" in done.stdout
    assert "식별자만 답하세요" in done.stdout
    assert done.stdout.strip().endswith("set()")
    assert not Path(f"{candidates}-out").exists()


def test_an_output_of_a_narrow_encoding_gets_escapes_of_the_letters_that_it_lacks(candidates: str) -> None:
    command = ["judge", "configs/judge-openai.yaml", f"input={candidates}", f"output={candidates}-out"]
    done = subprocess.run(
        [*RRAD, *command, "template=order-ko", "--show-prompts", "1"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert "\\uc2dd\\ubcc4\\uc790" in done.stdout


def test_for_vllm_it_is_the_very_text_that_the_engine_gets(candidates: str) -> None:
    cfg = config(candidates, template="rankgpt", repeats=2)
    heading, query, first, second = preview(cfg, 1)
    assert heading.startswith(f"template rankgpt ({cfg.prompt.digest}), task order, engine vllm")
    assert query == "===== query q2: add two numbers"
    assert first.startswith("----- prompt 1 of 2, ")
    assert "<|im_start|>assistant\nI have noted passage [2].<|im_end|>" in first
    assert first != second


@pytest.mark.parametrize("engine", ["vllm", "echo"])
def test_every_task_shows_its_prompts(candidates: str, tmp_path: Path, engine: str) -> None:
    _, _, one, _ = preview(config(candidates, engine=engine, task="likelihood", template="search-ja"), 1)
    assert "文書：adds numbers\nこの文書が答えになる検索クエリ：" in one
    row = row_of("q9", ["adds numbers", "opens a file"]) | {"split": "train"}
    judged = {"task": "order", "model": "m", "shown": [[0, 1]], "responses": ["[2]"], "judge_scores": []}
    counts = {"reasons": [], "truncated": 0, "prompt_tokens": 0, "generated_tokens": 0}
    out = tables.Output("judge", SelectConfig(input="", output=f"{tmp_path}/judged"), JudgeOutput, {})
    out.write_all([row | judged | counts], 1)
    source = out.commit()
    _, _, one, two = preview(config(source, engine=engine, task="explain", template="explain-ko"), 3)
    assert "평가 결과: 관련이 없어 순위에서 제외됨" in one
    assert "평가 결과: 문서 2개 중 1위" in two
    window = list(preview(config(candidates, engine="vllm", window=2, window_step=1), 1))
    assert "the first window of 2" in window[2]


def test_an_endpoint_that_knows_no_system_role_is_shown_what_it_gets(candidates: str) -> None:
    options = {"engine": "openai", "openai": OpenAIConfig(system_role="user")}
    for more in ({}, {"window": 2, "window_step": 1}, {"task": "grade"}):
        _, _, prompt, *_ = preview(config(candidates, **options, **more), 1)
        assert "<system>" not in prompt
        assert "<user>\nYou " in prompt


def test_without_a_query_to_ask_about_it_says_so(tmp_path: Path) -> None:
    source = table_of(tmp_path / "none", [row_of("q0", [])])
    with pytest.raises(RradError, match=r"judge: .*no query that task=order asks about"):
        list(preview(config(source, engine="openai"), 1))
    assert tables.exists(source)
