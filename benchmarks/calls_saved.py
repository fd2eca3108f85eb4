"""One listwise call over a pre-ranker's top and bottom (RRADistill) against RankGPT's sliding window over all: ours,
and RankLLM's own code where that is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from typing import Any

from benchmarks import harness
from benchmarks.rankllm_slides import PREFIX
from rrad_ray import prompts, tables
from rrad_ray.config import JudgeConfig, PrerankConfig, RetrieveConfig, load
from rrad_ray.labelling.planner import Planner
from rrad_ray.rows import Candidates, JudgeOutput
from rrad_ray.runtime import engines
from rrad_ray.stages import judge, prerank, retrieve
from rrad_ray.tables import checkpoints

CANDIDATES, WINDOW, STEP = 100, 20, 10
TOP, BOTTOM = 10, 5


def bench(quick: bool, scratch: str) -> harness.Result:
    queries = 4 if quick else 32
    candidates = retrieve.run(
        RetrieveConfig(
            data=harness.collection(),
            output=f"{scratch}/candidates",
            bm25_depth=CANDIDATES // 2,
            dense_depth=CANDIDATES,
            queries={"dev": 0, "train": 0, "unlabelled": 0, "test": queries},
        )
    )
    options: dict[str, Any] = {"source": "dense", "keep_whole": ()}
    whole = prerank.run(
        PrerankConfig(input=candidates, output=f"{scratch}/whole", top_k=CANDIDATES, bottom_k=0, **options)
    )
    short = prerank.run(PrerankConfig(input=whole, output=f"{scratch}/short", top_k=TOP, bottom_k=BOTTOM, **options))
    base = load.load_config(
        JudgeConfig, "configs/judge-cpu.yaml", ["task=order", "input=later", "output=later", "doc_tokens=64"]
    )
    base = dataclasses.replace(base, max_tokens=96, engine_kwargs={**base.engine_kwargs, "max_model_len": 4096})
    one = dataclasses.replace(base, input=short, output=f"{scratch}/one")
    slide = dataclasses.replace(base, input=whole, output=f"{scratch}/slide", window=WINDOW, window_step=STEP)
    rows = [_measured("one call, top 10 + bottom 5", one), _measured("sliding window, 20 by 10", slide)]
    found, over = rows
    figures = {
        "tokens_over_sliding_window": found["tokens/query"] / over["tokens/query"],
        "calls_over_sliding_window": found["calls/query"] / over["calls/query"],
    }
    if importlib.util.find_spec("rank_llm"):
        rows.append(_rankllm(slide, scratch))
        figures["tokens_over_rankllm"] = found["tokens/query"] / rows[-1]["tokens/query"]
    else:
        print(
            "RankLLM is not installed (see benchmarks/README.md): only our own sliding window is measured", flush=True
        )
    return harness.Result(figures, rows, {"queries": queries, "candidates": CANDIDATES, "model": base.model})


def _measured(name: str, cfg: JudgeConfig) -> dict[str, Any]:
    """Calls and tokens that a query took, of those that were answered."""
    uri = judge.run(cfg)
    rows = list(tables.read(uri, JudgeOutput))
    calls = [
        len(prompts.windows(len(row["doc_ids"]), cfg.window, cfg.window_step)) if cfg.window else 1 for row in rows
    ]
    tokens = sum(row["prompt_tokens"] + row["generated_tokens"] for row in rows)
    generated = sum(row["generated_tokens"] for row in rows)
    return {
        "way": name,
        "queries": len(rows),
        "documents/query": sum(len(row["doc_ids"]) for row in rows) / len(rows),
        "calls/query": sum(calls) / len(rows),
        "tokens/query": tokens / len(rows),
        "generated/query": generated / len(rows),
    }


def _rankllm(cfg: JudgeConfig, scratch: str) -> dict[str, Any]:
    """RankLLM's sliding window over the same documents, cut to the same length."""
    model = checkpoints.resolve(cfg.model)
    planner, rows = Planner(cfg, model), []
    for row in tables.read(cfg.input, Candidates):
        [prompt] = planner(row)
        rows.append({"query_id": row["query_id"], "doc_ids": row["doc_ids"], **json.loads(prompt["sliding"])})
    rows = [row for row in rows if len(row["texts"]) == CANDIDATES]  # RankLLM takes equally many of each query only
    engine = {"model": model, **engines.engine_kwargs(cfg, model)}
    work = {"engine": engine, "rows": rows, "window": WINDOW, "step": STEP, "candidates": CANDIDATES}
    place = f"{scratch}/rankllm.json"
    with open(place, "w", encoding="utf-8") as file:
        json.dump(work, file)
    command = [sys.executable, "-m", "benchmarks.rankllm_slides", place]
    figures = harness.figures_of(command, PREFIX, {**cfg.engine_env, "VLLM_LOGGING_LEVEL": "ERROR"})
    queries = figures["queries"]
    return {
        "way": "sliding window, RankLLM's own code",
        "queries": queries,
        "documents/query": float(CANDIDATES),
        "calls/query": figures["calls"] / queries,
        "tokens/query": (figures["read"] + figures["written"]) / queries,
        "generated/query": figures["written"] / queries,
    }


if __name__ == "__main__":
    harness.main("calls_saved", bench)
