"""Prompts to the rows of Ray's engine stage, and its rows to answers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from rrad_ray.patches.ray_engine_stage import ERROR_COLUMN
from rrad_ray.runtime.engine_rows import EMPTY, cut_of, from_vllm, settled, to_answer, to_engine

KEY = {
    "part": "part-00000.parquet",
    "row": 3,
    "slot": 1,
    "prompts": 8,
    "calls": 4,
    "documents": 2,
    "start": 2,
    "truncated": 0,
}


def test_a_prompt_has_rays_names_in_an_engine_row_and_none_of_ours_for_them() -> None:
    row = to_engine({**KEY, "token_ids": [1, 2, 3], "too_long": "", "sampling_params": {"max_tokens": 1}})
    assert row["tokenized_prompt"] == [1, 2, 3]
    assert row[ERROR_COLUMN] == ""
    assert "token_ids" not in row


def test_a_prompt_that_is_too_long_passes_the_engine_by_and_comes_back_with_the_reason() -> None:
    row = to_engine({**KEY, "too_long": "about 900 tokens"})
    assert row[ERROR_COLUMN]
    assert to_answer(row) == {**KEY, **EMPTY, "error": "prompt too long: about 900 tokens"}


def test_an_engine_error_says_so() -> None:
    row = to_engine({**KEY, "token_ids": [1], "too_long": ""}) | {ERROR_COLUMN: "3 engines died"}
    assert to_answer(row)["error"] == "engine error: 3 engines died"
    assert to_answer({**KEY, **EMPTY, "error": "429"})["error"] == "engine error: 429"


def output(**columns: Any) -> dict[str, Any]:
    return {**KEY, "generated_text": "[2] > [1]", "num_input_tokens": 9, "num_generated_tokens": 5, **columns}


def test_a_text_and_its_tokens_are_the_answer() -> None:
    answer = to_answer(from_vllm(output()))
    assert (answer["text"], answer["prompt_tokens"], answer["generated_tokens"]) == ("[2] > [1]", 9, 5)
    assert (answer["score"], answer["error"]) == (0.0, "")


def test_an_answer_that_has_all_the_tokens_it_was_allowed_is_cut_off() -> None:
    assert [cut_of(most, output()) for most in (None, 4, 5, 6)] == [[], [True], [True], []]
    assert to_answer(from_vllm(output()))["cut"] == []
    assert to_answer(from_vllm(output(cut=[True])))["cut"] == [True]
    assert to_answer(from_vllm(output(cut=[])))["cut"] == []


def test_a_pooled_number_is_the_score() -> None:
    assert from_vllm(output(embeddings=[-1.25]))["score"] == -1.25


def test_prompt_logprobs_become_their_mean_from_the_first_scored_token_on() -> None:
    logprobs = [None, *({token: {"logprob": value}} for token, value in ((7, -9.0), (8, -1.0), (9, -3.0)))]
    assert from_vllm(output(prompt_logprobs=logprobs))["score"] == pytest.approx(-2.0)


def test_an_answer_without_an_engine_keeps_its_place() -> None:
    row = settled({**KEY, "answer": {"text": "echo", "score": -1.0}, "more": SimpleNamespace()})
    assert row == {**KEY, **EMPTY, "text": "echo", "score": -1.0}
    assert not math.isnan(row["score"])
