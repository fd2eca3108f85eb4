"""Answers that no model gives: the echo of dry runs, and a teacher that is simulated from the qrels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rrad_ray.config import PromptConfig
from rrad_ray.rows import Row

GARBAGE = (  # what `simulated` writes where an answer is to say nothing
    "",
    "I'm sorry, I cannot rank these passages.",
    "The most relevant passage is the one that answers the query.",
    "<think>Let me compare the passages. [1] speaks of",
)


def echoed_answer(row: Row, slot: int, cfg: PromptConfig) -> dict[str, Any]:
    """Return the documents in the order shown. For dry runs and scale tests only."""
    text = cfg.prompt.written(range(len(row["doc_ids"]))) if cfg.task == "order" else "echo"
    return {"text": text, "score": -float(slot)}


def simulated_answer(row: Row, slot: int, cfg: PromptConfig, order: Sequence[int]) -> dict[str, Any]:
    """Return the answer of a teacher that knows the qrels, with the config's noise, gaps and garbage.

    `slot`: the call, of those about the row; `order`: the documents that it shows.
    """
    source = random.Random(f"{cfg.seed}:{row['query_id']}:{slot if cfg.task == 'order' else ''}")
    scores = simulated_scores(row, order, cfg, source)
    if cfg.task != "order":
        return {"text": "a simulated reason", "score": scores[slot]}
    if source.random() < cfg.simulated.malformed:
        return {"text": source.choice(GARBAGE), "score": 0.0}
    best_first = sorted(range(len(order)), key=lambda position: -scores[position])
    kept = max(1, len(best_first) - sum(source.random() < cfg.simulated.missing for _ in best_first))
    return {"text": cfg.prompt.written(best_first[:kept]), "score": 0.0}


def simulated_scores(row: Row, order: Sequence[int], cfg: PromptConfig, source: random.Random) -> list[float]:
    """Return how good each document shown seems to a simulated teacher in one answer."""
    teacher_cfg, grades = cfg.simulated, dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    lasting = random.Random(f"{cfg.seed}:{row['query_id']}:lasting")
    errors = [lasting.gauss(0.0, teacher_cfg.lasting_noise) for _ in row["doc_ids"]]
    noise = teacher_cfg.noise * (len(order) / 10) ** teacher_cfg.length_noise
    noises = [source.gauss(0.0, noise) for _ in row["doc_ids"]]
    bias = teacher_cfg.position_bias / max(len(order) - 1, 1) if cfg.task == "order" else 0.0
    return [
        grades.get(row["doc_ids"][index], 0) + errors[index] + noises[index] - bias * position
        for position, index in enumerate(order)
    ]
