"""Orders of 100 documents by a simulated teacher: overlapping blocks, whole lists repeated, a sliding window."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import random
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from rrad_ray import prompts
from rrad_ray.config import PromptConfig, SimulatedConfig
from rrad_ray.data.bm25 import BM25Index, top_k
from rrad_ray.data.reader import read_collection
from rrad_ray.evaluation import fusion, metrics
from rrad_ray.labelling import planner, simulated_answers, teacher
from rrad_ray.rows import Row
from rrad_ray.runtime import engines

DEPTH, SEEDS = 100, 3
FIRST_STAGE = {"judge": 1.0, "first stage": 0.5}  # weights of labels that are fused with it
CRANFIELD = harness.COSQA.parent / "cranfield"
WAYS: dict[str, dict[str, Any]] = {  # at depth 100: 9 to 10 calls, then 19 to 20
    "sliding window, 20 by 10": {"window": 20, "window_step": 10},
    "blocks of 20, twice": {"block": 20, "repeats": 2},
    "whole lists, 10 times": {"repeats": 10},
    "sliding window, 10 by 5": {"window": 10, "window_step": 5},
    "blocks of 10, twice": {"block": 10, "repeats": 2},
    "blocks of 20, 4 times": {"block": 20, "repeats": 4},
    "whole lists, 20 times": {"repeats": 20},
}
TEACHERS = {  # grades are 0 and 1; part of the error stays, whatever is asked how often
    "same noise": SimulatedConfig(noise=0.7, lasting_noise=0.3, position_bias=0.3),
    "harder lists": SimulatedConfig(noise=0.7, lasting_noise=0.3, position_bias=0.3, length_noise=0.5),
}


def bench(quick: bool, scratch: str) -> harness.Result:
    data = str(CRANFIELD) if CRANFIELD.exists() else harness.collection()
    queries = candidates(data, 40 if quick else 150)
    first_stage = float(np.mean([metrics.row_ndcg(row, [0.0] * DEPTH) for row in queries]))
    rows: list[dict[str, Any]] = []
    for way, options in WAYS.items():
        row = {"way": way, **cost_of(options)}
        for name, simulated in TEACHERS.items():
            seeds = [
                quality([judged_row(each, options, simulated, seed) for each in queries]) for seed in range(SEEDS)
            ]
            for method in seeds[0]:
                row[f"{name}: {method}"] = f"{np.mean([values[method] for values in seeds]):.3f}"
            row[f"{name}: deviation"] = f"{np.std([values['borda'] for values in seeds]):.3f}"
        print(row, flush=True)
        rows.append(row)
    figures = {"first_stage": first_stage}
    by = {row["way"]: row for row in rows}
    for name in TEACHERS:
        blocks, window, lists = (
            float(by[way][f"{name}: borda"])
            for way in ("blocks of 20, twice", "sliding window, 20 by 10", "whole lists, 10 times")
        )
        figures |= {f"blocks_less_window, {name}": blocks - window, f"blocks_less_lists, {name}": blocks - lists}
    settings = {"data": data, "queries": len(queries), "depth": DEPTH, "seeds": SEEDS}
    return harness.Result(
        figures, rows, settings | {name: dataclasses.asdict(each) for name, each in TEACHERS.items()}
    )


def quality(judged: Sequence[Row]) -> dict[str, float]:
    """Return the mean nDCG@10 of labels by each way to make them."""
    by_borda, by_strength = (
        [teacher.verdict(row, method).targets for row in judged] for method in ("borda", "bradley_terry")
    )
    ranks = [-math.log2(rank + 2) for rank in range(DEPTH)]
    fused = [fusion.fuse({"judge": targets, "first stage": ranks}, FIRST_STAGE) for targets in by_borda]
    ways = {"borda": by_borda, "bradley_terry": by_strength, "borda + BM25": fused}
    return {name: mean_ndcg(judged, scores) for name, scores in ways.items()}


def candidates(data: str, count: int) -> list[Row]:
    """Return queries with their best 100 documents by BM25, of those whose qrels name a relevant one."""
    collection = read_collection(data)
    ids, index = list(collection.corpus), BM25Index(list(collection.corpus.values()))
    judged = [query for query in collection.queries if any(grade > 0 for grade in query.judged.values())]
    judged.sort(key=lambda query: zlib.crc32(query.query_id.encode()))
    rows: list[Row] = []
    for query in judged:
        docs = top_k(index.scores(query.text), DEPTH)
        if len(docs) == DEPTH and len(rows) < count:
            row: dict[str, Any] = {"query_id": query.query_id, "query": query.text, "split": "train"}
            row |= {"doc_ids": [ids[doc] for doc in docs], "texts": list(map(str, range(DEPTH)))}
            rows.append({**row, "qrel_ids": list(query.judged), "qrel_grades": list(query.judged.values())})
    return rows


def cost_of(options: dict[str, Any]) -> dict[str, int]:
    """Return calls and documents shown for a query."""
    if "window" in options:
        windows = prompts.windows(DEPTH, options["window"], options["window_step"])
        return {"calls/query": len(windows), "shown/query": sum(stop - start for start, stop in windows)}
    cfg = PromptConfig(task="order", engine="simulated", **options)
    return {"calls/query": int(cfg.calls(DEPTH)), "shown/query": DEPTH * cfg.repeats}


def judged_row(row: Row, options: dict[str, Any], simulated: SimulatedConfig, seed: int) -> Row:
    """Return the judge's output for a row."""
    if "window" in options:
        cfg = PromptConfig(task="order", engine="openai", simulated=simulated, seed=seed, **options)
        return {
            **row,
            "task": "order",
            "shown": [list(range(DEPTH))],
            "responses": [slid(row, cfg)],
            "judge_scores": [],
        }
    cfg = PromptConfig(task="order", engine="simulated", simulated=simulated, seed=seed, **options)
    shown = planner.shown(row, cfg)
    answers = [answer(row, each, cfg, f"{slot}") for slot, each in enumerate(shown)]
    return {**row, "task": "order", "shown": shown, "responses": answers, "judge_scores": []}


def slid(row: Row, cfg: PromptConfig) -> str:
    """Return the order that a sliding window ends with, by the engines' own code."""
    calls = 0

    async def ask(query: str, texts: list[str]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return {"text": answer(row, list(map(int, texts)), cfg, f"window {calls}")}

    sliding = json.dumps({"query": row["query"], "texts": row["texts"]})
    return str(asyncio.run(engines.slide(sliding, cfg, ask))["text"])


def answer(row: Row, shown: Sequence[int], cfg: PromptConfig, call: str) -> str:
    """Return one answer of the simulated teacher: all documents shown, in the order that they seem to have."""
    source = random.Random(f"{cfg.seed}:{row['query_id']}:{call}")
    scores = simulated_answers.simulated_scores(row, shown, cfg, source)
    return str(cfg.prompt.written(sorted(range(len(shown)), key=lambda position: -scores[position])))


def mean_ndcg(rows: Sequence[Row], scores: Sequence[Sequence[float]]) -> float:
    return float(np.mean([metrics.row_ndcg(row, each) for row, each in zip(rows, scores, strict=True)]))


if __name__ == "__main__":
    harness.main("blocks", bench)
