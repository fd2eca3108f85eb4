"""Prompts to the rows of Ray's engine stage, and its rows to answers: the only place that knows both kinds of names.

Standard library only: the processes around the engines start at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rrad_ray import prompts
from rrad_ray.patches.ray_engine_stage import ERROR_COLUMN

Value = TypeVar("Value")

# Which prompt an answer belongs to: shard, row, slot; of how many prompts of the shard and of the query; over how
# many documents; where the scored tokens start; how many documents were cut.
CARRIED = ("part", "row", "slot", "prompts", "calls", "documents", "start", "truncated")
EMPTY: dict[str, Any] = {
    "text": "",
    "score": 0.0,
    "scores": [],
    "chunk": [],
    "cut": [],
    "prompt_tokens": 0,
    "generated_tokens": 0,
    "error": "",
}
# The name of an answer's field here -> in the rows of Ray's engine stage.
ANSWER_COLUMNS = {
    "text": "generated_text",
    "prompt_tokens": "num_input_tokens",
    "generated_tokens": "num_generated_tokens",
    "error": ERROR_COLUMN,
}


def to_engine(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prompt of the planner as the engine stage reads it; one that is too long passes the engine by."""
    row = {key: value for key, value in prompt.items() if key != "token_ids"}
    if "token_ids" in prompt:
        row["tokenized_prompt"] = prompt["token_ids"]
    return row | {ERROR_COLUMN: prompt.get("too_long", "")}


def carried(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that say which prompt a row belongs to."""
    return {key: row[key] for key in CARRIED}


def vllm_score(row: Mapping[str, Any]) -> float:
    """Return the score in a vLLM output row; prompt log-probabilities become one number here, those of labels have
    become one in the engine's process."""
    logprobs = row.get("prompt_logprobs")
    if row.get("score") is not None:
        return float(row["score"])
    if row.get("embeddings") is not None:
        return float(row["embeddings"][0])
    if logprobs is not None and len(logprobs):
        values = [None if token is None else next(iter(token.values()))["logprob"] for token in logprobs]
        return prompts.mean_logprob(values, row["start"])
    return 0.0


def from_vllm(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer in a vLLM output row."""
    fields = {name: row[column] for name, column in ANSWER_COLUMNS.items() if name != "error"}
    scored = {"score": vllm_score(row), "scores": row.get("scores") or [], "chunk": chunk_of(row)}
    return carried(row) | scored | fields | {"cut": _values(row, "cut", bool), "error": ""}


def cut_of(most: int | None, row: Mapping[str, Any]) -> list[bool]:
    """Return `[True]` for a vLLM output row whose answer has all of its `most` tokens, else an empty list."""
    return [True] if most and row.get(ANSWER_COLUMNS["generated_tokens"], 0) >= most else []


def chunk_of(row: Mapping[str, Any]) -> list[int]:
    """Return the characters of the chunk that an answer is about; none where documents are not in chunks."""
    return _values(row, "chunk", int)


def _values(row: Mapping[str, Any], name: str, kind: Callable[[Any], Value]) -> list[Value]:
    """Return a list of a row, which Arrow may have made an array of; empty where there is none."""
    return [] if row.get(name) is None else list(map(kind, row[name]))


def settled(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer that was there before any engine: that of `echo` and `simulated`."""
    return carried(row) | EMPTY | dict(row["answer"])


def to_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row at the end of the dataset as an answer, with the error in words.

    An error row skips the engine and `from_vllm`: it brings the prompt's columns, not ours.
    """
    error = ""
    if row.get("too_long"):
        error = f"{prompts.TOO_LONG}: {row['too_long']}"
    elif failure := row.get(ERROR_COLUMN) or row.get("error"):
        error = f"engine error: {failure}"
    fields = {key: empty if row.get(key) is None else row[key] for key, empty in EMPTY.items()}
    lists = {"scores": list(fields["scores"]), "chunk": chunk_of(fields), "cut": _values(fields, "cut", bool)}
    return carried(row) | fields | lists | {"error": error}
