"""An engine's output rows to what the judge keeps. Standard library only: its processes start at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrad_ray import prompts

# Where a prompt belongs: shard, row, slot; of how many prompts of the shard; over how many documents, and how cut.
CARRIED = ("part", "row", "slot", "prompts", "documents", "start", "truncated")

EMPTY = {"text": "", "score": 0.0, "prompt_tokens": 0, "generated_tokens": 0, "error": ""}


def carried(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in CARRIED}


def reduce(row: Mapping[str, Any]) -> dict[str, Any]:
    """A vLLM output row to what the judge keeps: prompt log-probabilities become one number here."""
    logprobs, score = row.get("prompt_logprobs"), 0.0
    if row.get("embeddings") is not None:
        score = float(row["embeddings"][0])
    elif logprobs is not None and len(logprobs):
        values = [None if at is None else next(iter(at.values()))["logprob"] for at in logprobs]
        score = prompts.mean_logprob(values, row["start"])
    return carried(row) | {
        "score": score,
        "text": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "generated_tokens": row["num_generated_tokens"],
        "error": "",
    }


def settled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an answer that was there before any engine: `echo` and `simulated`."""
    return carried(row) | EMPTY | dict(row["answer"])
