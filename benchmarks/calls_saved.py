"""One listwise call over a pre-ranker's top and bottom (RRADistill) against RankGPT's sliding window over all."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks import harness
from rrad_ray import prompts, settings, tables
from rrad_ray.config import JudgeConfig, PrerankConfig, RetrieveConfig
from rrad_ray.rows import Judgment
from rrad_ray.stages import judge, prerank, retrieve

CANDIDATES, WINDOW, STEP = 100, 20, 10
TOP, BOTTOM = 10, 5


def bench(quick: bool, scratch: str) -> harness.Result:
    queries = 16 if quick else 100
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
    base = settings.load(JudgeConfig, "configs/judge-cpu.yaml", ["task=order", "input=", "output=", "doc_tokens=64"])
    base = dataclasses.replace(base, max_tokens=96, engine_kwargs={**base.engine_kwargs, "max_model_len": 4096})
    one = dataclasses.replace(base, input=short, output=f"{scratch}/one")
    slide = dataclasses.replace(base, input=whole, output=f"{scratch}/slide", window=WINDOW, window_step=STEP)
    rows = [_measured("one call, top 10 + bottom 5", one), _measured("sliding window, 20 by 10", slide)]
    found, over = rows
    figures = {
        "tokens_over_sliding_window": found["tokens/query"] / over["tokens/query"],
        "calls_over_sliding_window": found["calls/query"] / over["calls/query"],
    }
    return harness.Result(figures, rows, {"queries": queries, "candidates": CANDIDATES, "model": base.model})


def _measured(name: str, cfg: JudgeConfig) -> dict[str, Any]:
    """Calls and tokens that a query took, of those that were answered."""
    uri = judge.run(cfg)
    rows = list(tables.read(uri, Judgment))
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


if __name__ == "__main__":
    harness.main("calls_saved", bench)
