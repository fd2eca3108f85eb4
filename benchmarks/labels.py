"""What each kind of label costs and is worth: orders, blocks, grades, likelihoods and scores of the same documents.

The bundled LLM answers through vLLM, and a simulated teacher, which knows the qrels, beside it. All see the same ten
documents of the same test queries.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np

from benchmarks import harness, students
from rrad_ray import tables
from rrad_ray.config import JudgeConfig, LabelConfig, PrerankConfig, RetrieveConfig, TrainConfig, load
from rrad_ray.errors import RradError
from rrad_ray.evaluation import metrics
from rrad_ray.rows import Candidates, JudgeOutput, Labels, by_source
from rrad_ray.stages import judge, label, prerank, retrieve, train
from rrad_ray.tables import checkpoints

LLM = checkpoints.BUNDLED[1]
TOP, BOTTOM = 6, 4
FIRST_STAGE = "dense"  # what the pre-ranker orders by
ORDER: dict[str, Any] = {"task": "order", "max_tokens": 64}
BLOCKS: dict[str, Any] = {**ORDER, "block": 5, "repeats": 2, "max_tokens": 32}
WAYS: dict[str, dict[str, Any]] = {
    "order, simulated": {**ORDER, "engine": "simulated", "simulated": students.TEACHER},
    "blocks of 5 twice, simulated": {**BLOCKS, "engine": "simulated", "simulated": students.TEACHER},
    "order": ORDER,
    "blocks of 5 twice": BLOCKS,
    "grade": {"task": "grade"},
    "likelihood": {"task": "likelihood"},
    "score": {"task": "score"},
}


def bench(quick: bool, scratch: str) -> harness.Result:
    count, steps = (30, 8) if quick else (150, 60)
    queries = {"train": 10 * steps, "dev": 0, "test": count, "unlabelled": 0}
    candidates = retrieve.run(
        RetrieveConfig(data=harness.collection(), output=f"{scratch}/candidates", queries=queries)
    )
    options: dict[str, Any] = {"source": FIRST_STAGE, "top_k": TOP, "bottom_k": BOTTOM, "keep_whole": ()}
    short = prerank.run(PrerankConfig(input=candidates, output=f"{scratch}/short", splits=("test",), **options))
    first = {
        row["query_id"]: metrics.row_ndcg(row, by_source(row)[FIRST_STAGE]) for row in tables.read(short, Candidates)
    }
    models = {"score": _scorer(candidates, scratch, steps)}
    rows = []
    for way, asked in WAYS.items():
        rows.append({"labels": way, **_measured(way, short, scratch, models.get(way, LLM), asked, first)})
        print(rows[-1], flush=True)
    figures = {"first_stage": statistics.fmean(first.values())}
    figures |= {f"{row['labels']}, less first stage": row["nDCG@10"] - figures["first_stage"] for row in rows}
    settings = {"model": LLM, "queries": count, "documents": TOP + BOTTOM, "teacher's steps": steps}
    return harness.Result(figures, rows, settings)


def _scorer(candidates: str, scratch: str, steps: int) -> str:
    """Train the LLM as a DisRanker teacher for some steps, on the qrels of the training queries."""
    grades = LabelConfig(input=candidates, output=f"{scratch}/grades", targets="grades", unjudged="negative")
    options: dict[str, Any] = {"losses": {"margin": {"weight": 1.0, "tau": 0.5}}, "top_docs": 1, "eval_queries": 0}
    options |= {"max_length": 96, "docs_per_query": 4, "queries_per_step": 2, "epochs": 20.0, "max_steps": steps}
    options |= {"lr": 1e-4, "head_lr": 1e-3, "warmup_steps": steps // 6, "resources": {"CPU": 2.0}}
    output = f"{scratch}/scorer"
    return train.run(TrainConfig(input=label.run(grades), output=output, kind="decoder", model=LLM, **options))


def _measured(
    way: str, short: str, scratch: str, model: str, asked: dict[str, Any], first: dict[str, float]
) -> dict[str, Any]:
    """Return what the labels cost, and their nDCG@10 alone and fused with the first stage, whose own, by query, is
    `first`: it stands for queries without a label."""
    folder = f"{scratch}/{way.replace(' ', '-').replace(',', '')}"
    given = [f"input={short}", f"output={folder}", f"model={model}", "gate.enabled=false", "max_quarantined=1"]
    base = load.load_config(JudgeConfig, "configs/judge-cpu.yaml", given)
    cfg = dataclasses.replace(base, **asked)
    uri = judge.run(cfg)
    answered = list(tables.read(uri, JudgeOutput))
    tokens = [row["prompt_tokens"] + row["generated_tokens"] for row in answered]
    alone = _ndcg(uri, f"{folder}-alone", {} if cfg.task == "order" else {"judge": 1.0})
    fused = _ndcg(uri, f"{folder}-fused", {"judge": 1.0, FIRST_STAGE: 1.0})
    return {
        "calls/query": cfg.calls(TOP + BOTTOM),
        "tokens/query": float(np.mean(tokens)),
        "seconds": tables.read_manifest(uri).seconds,
        "labelled": len(alone) / len(first),
        "nDCG@10": statistics.fmean({**first, **alone}.values()),
        "fused with the first stage": statistics.fmean({**first, **fused}.values()),
    }


def _ndcg(judged: str, output: str, weights: dict[str, float]) -> dict[str, float]:
    """Return nDCG@10 of labels by query; none where the labeller's answers tell no documents apart."""
    try:
        uri = label.run(LabelConfig(input=judged, output=output, weights=weights, max_quarantined=1.0))
    except RradError as error:
        print(f"no labels: {error}", flush=True)
        return {}
    return {row["query_id"]: metrics.row_ndcg(row, row["targets"]) for row in tables.read(uri, Labels)}


if __name__ == "__main__":
    harness.main("labels", bench)
