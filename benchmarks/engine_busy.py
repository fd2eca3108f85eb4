"""`judge` against plain `vllm.LLM` on the same prompts: what Ray Data, resume and bookkeeping cost the engine."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import harness
from rrad_ray import tables
from rrad_ray.config import GateConfig, JudgeConfig, PrerankConfig, RetrieveConfig, load
from rrad_ray.labelling.planner import Planner
from rrad_ray.rows import Candidates
from rrad_ray.runtime import engines
from rrad_ray.stages import judge, prerank, retrieve
from rrad_ray.tables import checkpoints

DOCUMENTS = 10
WARM = 16  # queries of a run of their own, whose time is taken off: the engine's start is in neither figure
PLAIN = """
import json, sys, time
work = json.load(open(sys.argv[1]))
from vllm import LLM, PoolingParams, SamplingParams
llm = LLM(**work["engine"])
def ask(asked):
    prompts = [{"prompt_token_ids": one["token_ids"]} for one in asked]
    began = time.perf_counter()
    if work["engine"]["runner"] == "pooling":
        params = [PoolingParams(**one["pooling_params"]) for one in asked]
        found, written = llm.encode(prompts, params, pooling_task="embed", use_tqdm=False), 0
    else:
        found = llm.generate(prompts, [SamplingParams(**one["sampling_params"]) for one in asked], use_tqdm=False)
        written = sum(len(one.outputs[0].token_ids) for one in found)
    return sum(len(one.prompt_token_ids) for one in found) + written, time.perf_counter() - began
ask(work["warm"])
print("TOOK " + json.dumps(ask(work["whole"])))
"""


def bench(quick: bool, scratch: str) -> harness.Result:
    queries = 64 if quick else 512
    collection = harness.collection()
    wanted = queries + WARM
    candidates = retrieve.run(
        RetrieveConfig(
            data=collection,
            output=f"{scratch}/candidates",
            queries={"dev": 0, "test": wanted, "train": wanted, "unlabelled": wanted},
        )
    )
    options: dict[str, Any] = {"source": "dense", "top_k": DOCUMENTS, "bottom_k": 0, "keep_whole": ()}
    short = prerank.run(PrerankConfig(input=candidates, output=f"{scratch}/short", **options))
    rows = list(itertools.islice(tables.read(short, Candidates), wanted))
    parts = {"warm": rows[:WARM], "whole": rows}
    for name, some in parts.items():
        out = tables.Output(
            "prerank", PrerankConfig(input=name, output=f"{scratch}/{name}", **options), Candidates, {}
        )
        out.write_all(some, 64)
        out.commit(rows=len(some))
    table, figures = [], {}
    for task in ("order", "likelihood"):
        cfg = load.load_config(
            JudgeConfig, "configs/judge-cpu.yaml", [f"task={task}", "input=later", "output=later", "doc_tokens=64"]
        )
        cfg = dataclasses.replace(cfg, max_tokens=64, num_workers=1, gate=GateConfig(enabled=False))
        ways = {"judge": _judge(cfg, scratch), "vllm.LLM": _plain(cfg, parts["warm"], rows[WARM:], scratch)}
        speed = {way: tokens / seconds for way, (tokens, seconds) in ways.items()}
        figures[f"judge_over_vllm_{task}"] = speed["judge"] / speed["vllm.LLM"]
        for way, (tokens, seconds) in ways.items():
            table.append({"task": task, "way": way, "tokens": tokens, "seconds": seconds, "tokens/s": speed[way]})
    shown = {
        "queries": queries,
        "documents": DOCUMENTS,
        "collection": os.path.basename(collection),
        "model": cfg.model,
    }
    return harness.Result(figures, table, shown)


def _judge(cfg: JudgeConfig, scratch: str) -> tuple[int, float]:
    """Tokens and seconds of the whole run beyond those of the warm one."""
    took = []
    for name in ("warm", "whole"):
        uri = judge.run(dataclasses.replace(cfg, input=f"{scratch}/{name}", output=f"{scratch}/{cfg.task}-{name}"))
        manifest = tables.read_manifest(uri)
        tokens = manifest.facts["prompt_tokens"] + manifest.facts["generated_tokens"]
        took.append((tokens, manifest.seconds))
    (less, start), (all_tokens, seconds) = took
    return all_tokens - less, seconds - start


def _plain(
    cfg: JudgeConfig, warm: Sequence[dict[str, Any]], whole: Sequence[dict[str, Any]], scratch: str
) -> tuple[int, float]:
    """Tokens and seconds of one offline engine in a process of its own, with the same arguments and prompts."""
    model = checkpoints.resolve(cfg.model)
    planner = Planner(cfg, model)
    runner = "generate" if engines.kind(cfg) == "generate" else "pooling"
    work = {
        "engine": {"model": model, "runner": runner, **engines.engine_kwargs(cfg, model)},
        "warm": [prompt for row in warm for prompt in planner(row)],
        "whole": [prompt for row in whole for prompt in planner(row)],
    }
    place = f"{scratch}/{cfg.task}.json"
    with open(place, "w", encoding="utf-8") as file:
        json.dump(work, file)
    threads = {"OMP_NUM_THREADS": str(int(cfg.resources["CPU"])), "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**cfg.engine_env, **threads, "VLLM_LOGGING_LEVEL": "ERROR"}
    tokens, seconds = harness.figures_of([sys.executable, "-c", PLAIN, place], "TOOK ", environment)
    return tokens, seconds


if __name__ == "__main__":
    harness.main("engine_busy", bench)
