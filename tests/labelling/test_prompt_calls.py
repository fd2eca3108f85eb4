"""Prompts about the chunks of long documents: what is asked, and which answer is the document's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from rrad_ray.config import ChunksConfig, JudgeConfig, PromptConfig
from rrad_ray.labelling import planner
from rrad_ray.labelling.prompt_calls import best_answer, calls_of
from rrad_ray.rankers.chunker import Chunker
from rrad_ray.tables import checkpoints

MODEL = checkpoints.BUNDLED[1]
LONG = "numpy returns the cumulative sum of the elements along a given axis of the array, " * 4
TEXTS = ["adds two numbers", LONG, "  a text that fits  ", LONG + "and more"]
CHUNKS = ChunksConfig(tokens=24, overlap=6)
ROW: dict[str, Any] = {
    **{"query_id": "q", "query": "add numbers", "split": "unlabelled"},
    **{"doc_ids": ["a", "b", "c", "d"], "texts": TEXTS},
}


def planned(row: dict[str, Any], model: str = MODEL, **options: Any) -> list[Any]:
    return planner.Planner(PromptConfig(**options), checkpoints.resolve(model))(row)


@pytest.mark.parametrize(
    "options",
    [
        {"task": "grade"},
        {"task": "likelihood"},
        {"task": "likelihood", "likelihood_by": "prompt_logprobs"},
        {"task": "score", "model": checkpoints.BUNDLED[0]},
    ],
)
def test_each_chunk_is_asked_about_as_a_document_and_a_document_that_fits_as_without_chunks(
    options: dict[str, Any],
) -> None:
    model = options.pop("model", MODEL) if "model" in (options := dict(options)) else MODEL
    alone = planned(ROW, model, **options)
    prompts = planned(ROW, model, chunks=CHUNKS, **options)
    tokenizer = planner.Planner(PromptConfig(**options), checkpoints.resolve(model)).tokenizer
    split = Chunker(tokenizer, CHUNKS)(TEXTS)
    of_chunks = planned({**ROW, "doc_ids": list(map(str, split.owners)), "texts": split.texts}, model, **options)
    calls = [call for prompt in prompts for call in calls_of(prompt)]
    assert len(prompts) == 4, "a slot for each document"
    assert [call["token_ids"] for call in calls] == [prompt["token_ids"] for prompt in of_chunks]
    assert [call["chunk"] for call in calls] == split.spans
    for call, chunk in zip(calls, of_chunks, strict=True):
        for name in ("start", "sampling_params", "pooling_params"):
            assert call.get(name) == chunk.get(name)
    for index in (0, 2):
        assert {**alone[index], "chunk": [0, len(TEXTS[index])], "chunks": ""} == prompts[index]
    for index in (1, 3):
        assert len(calls_of(prompts[index])) > 1
        assert prompts[index]["token_ids"] == calls_of(prompts[index])[0]["token_ids"]


def test_an_endpoint_is_asked_about_chunks_of_so_many_words() -> None:
    options: dict[str, Any] = {"task": "grade", "engine": "openai"}
    cfg = PromptConfig(**options, chunks=ChunksConfig(tokens=20))
    prompts = planner.Planner(cfg, "")(ROW)
    [fits, *_] = planner.Planner(PromptConfig(**options), "")(ROW)
    assert (prompts[0]["messages"], prompts[0]["chunks"]) == (fits["messages"], "")
    asked = [json.loads(call["messages"])[-1]["content"] for call in calls_of(prompts[1])]
    words = LONG.split()
    for number, text in enumerate(asked):
        assert " ".join(words[20 * number : 20 * number + 20]) in text
    assert len(asked) == 3


def test_a_document_with_no_room_in_the_model_is_not_asked_about() -> None:
    long = {**ROW, "query": "numbers " * 400}
    prompts = planned(long, task="grade", chunks=CHUNKS, engine_kwargs={"max_model_len": 256})
    assert all(prompt["too_long"] and not prompt["chunks"] for prompt in prompts)


def answered(scores: dict[str, float], failing: str = "") -> dict[str, Any]:
    calls = [{"start": number, "chunk": [number, number + 1], "name": name} for number, name in enumerate(scores)]

    async def ask(call: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        error = "it died" if call["name"] == failing else ""
        return {"score": scores[call["name"]], "in": 10, "out": 1, "error": error}

    row = {"chunks": json.dumps(calls), "chunk": [0, 1], "start": 0}
    return asyncio.run(best_answer(row, ask, lambda answer: answer["score"], "error", ("in", "out")))


def test_the_best_chunks_answer_is_the_documents_and_all_tokens_are_counted() -> None:
    best = answered({"a": -2.0, "b": -1.0, "c": -1.0})
    assert best == {"start": 1, "chunk": [1, 2], "score": -1.0, "in": 30, "out": 3, "error": ""}
    assert answered({"a": -2.0, "b": -1.0}, failing="a")["error"] == "it died", "a document is judged whole, or not"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"task": "order"}, "needs task=grade, likelihood or score"),
        ({"task": "grade", "engine": "simulated"}, "and engine=vllm or openai"),
        ({"task": "grade", "doc_tokens": 23}, "a chunk would be cut to doc_tokens=23"),
    ],
)
def test_chunks_where_they_mean_nothing_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        JudgeConfig("in", "out", chunks=CHUNKS, **options)
