"""An engine's output rows to what the judge keeps. Standard library only: its processes start at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrad_ray import prompts

CARRIED = ("part", "row", "slot", "prompts", "start")  # where a prompt belongs


def reduce(row: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's output row to what the judge keeps: prompt log-probabilities become one number here."""
    logprobs, score = row.get("prompt_logprobs"), 0.0
    if row.get("embeddings") is not None:
        score = float(row["embeddings"][0])
    elif logprobs is not None and len(logprobs):
        values = [None if at is None else next(iter(at.values()))["logprob"] for at in logprobs]
        score = prompts.mean_logprob(values, row["start"])
    return {
        **{key: row[key] for key in CARRIED},
        "score": score,
        "text": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "generated_tokens": row["num_generated_tokens"],
    }


def echo(row: Mapping[str, Any]) -> dict[str, Any]:
    """An answer at once, without a model: documents in the order shown. For dry runs only."""
    text = " > ".join(f"[{number + 1}]" for number in range(row["tokenized_prompt"][0]))
    place = {key: row[key] for key in CARRIED}
    return {**place, "score": -float(row["slot"]), "text": text, "prompt_tokens": 0, "generated_tokens": 0}
