"""What labels cost and what they are worth, by each way to ask: an order, blocks, grades, likelihoods, scores.

The same queries and documents for all, by two teachers: the bundled LLM through vLLM, and a simulated one that knows
the qrels, with noise. `score` asks a cross-encoder that learnt the first stage's own scores: the LLM has no head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import harness, students
from rrad_ray import tables
from rrad_ray.config import GateConfig, JudgeConfig, PrerankConfig, RetrieveConfig, SimulatedConfig, load
from rrad_ray.evaluation import fusion
from rrad_ray.evaluation.metrics import row_ndcg
from rrad_ray.labelling import teacher
from rrad_ray.rows import JUDGE, Candidates, JudgeOutput, Row, by_source
from rrad_ray.stages import judge, prerank, retrieve
from rrad_ray.tables import checkpoints

DOCUMENTS = 20
WARM = 2  # queries of a run of their own, whose time is taken off: the engine's start is in no figure
WAYS: dict[str, dict[str, Any]] = {
    "order": {"task": "order"},
    "order, 3 times": {"task": "order", "repeats": 3},
    "blocks of 10, twice": {"task": "order", "block": 10, "repeats": 2},
    "grade": {"task": "grade"},
    "likelihood": {"task": "likelihood"},
    "score": {"task": "score"},
}
# By document a simulated teacher answers `grade`, `likelihood` and `score` alike.
SIMULATED = ("order", "order, 3 times", "blocks of 10, twice", "grade")
TEACHER = SimulatedConfig(noise=0.7, lasting_noise=0.3, position_bias=0.3)


def bench(quick: bool, scratch: str) -> harness.Result:
    queries, free, steps = (12, 300, 40) if quick else (200, 1500, 200)
    data = harness.collection()
    chosen = {"dev": 0, "train": 0, "unlabelled": 0, "test": queries + WARM}
    options: dict[str, Any] = {
        "queries": chosen,
        "bm25_depth": 20,
        "dense_depth": 20,
        "vectors": f"{scratch}/vectors",
    }
    cfg = RetrieveConfig(data=data, output=f"{scratch}/candidates", **options)
    rows = candidates(retrieve.run(cfg), scratch)
    for name, some in {"warm": rows[:WARM], "whole": rows[WARM:]}.items():
        out = tables.Output("prerank", PrerankConfig(input=name, output=f"{scratch}/{name}"), Candidates, {})
        out.write_all(some, 64)
        out.commit(rows=len(some))
    with students.processes() as pool:
        ranker, _ = students.start(pool, cfg, free, steps)
    warm_s: dict[str, float] = {}
    table = [worth("first stage", "dense", rows[WARM:], [row["source_scores"][0] for row in rows[WARM:]])]
    for way, options in WAYS.items():
        scored = way == "score"
        options = {**options, "model": ranker if scored else checkpoints.BUNDLED[1]}
        table.append(asked("MiniLM" if scored else "SmolLM2-135M", way, options, scratch, warm_s))
        print(table[-1], flush=True)
    for way in SIMULATED:
        options = {"engine": "simulated", "simulated": TEACHER, **WAYS[way]}
        table.append(asked("simulated", way, options, scratch, warm_s))
    cost = {row["way"]: row["tokens/query"] for row in table if row["teacher"] == "SmolLM2-135M"}
    figures = {f"order_over_{way}_tokens": cost["order"] / cost[way] for way in ("grade", "likelihood")}
    settings = {"data": data, "queries": len(rows) - WARM, "documents": DOCUMENTS, "steps": steps}
    return harness.Result(figures, table, settings)


def candidates(uri: str, scratch: str) -> list[Row]:
    """Return the judged queries with their best documents by the bi-encoder."""
    options: dict[str, Any] = {"source": "dense", "top_k": DOCUMENTS, "bottom_k": 0, "keep_whole": ()}
    short = prerank.run(PrerankConfig(input=uri, output=f"{scratch}/short", **options))
    judged = (row for row in tables.read_split(short, Candidates, "test") if row["qrel_ids"])
    rows = (row for row in judged if len(row["doc_ids"]) == DOCUMENTS)
    return [{**row, "sources": ["dense"], "source_scores": [by_source(row)["dense"]]} for row in rows]


def asked(who: str, way: str, options: dict[str, Any], scratch: str, warm_s: dict[str, float]) -> dict[str, Any]:
    """Return a row of the table: what labels cost a query, and what they are worth. `warm_s`: the seconds of a run of
    the `WARM` queries by task, once for each."""
    changes = [f"task={options['task']}", "input=later", "output=later", "doc_tokens=64"]
    base = load.load_config(JudgeConfig, "configs/judge-cpu.yaml", changes)
    base = dataclasses.replace(base, max_tokens=96, gate=GateConfig(enabled=False), max_quarantined=1.0, **options)
    if base.engine == "vllm" and base.task not in warm_s:
        warm = dataclasses.replace(base, input=f"{scratch}/warm", output=f"{scratch}/{who}-{way}-warm")
        warm_s[base.task] = tables.read_manifest(judge.run(warm)).seconds
    cfg = dataclasses.replace(base, input=f"{scratch}/whole", output=f"{scratch}/{who}-{way}")
    whole = tables.read_manifest(judge.run(cfg))
    rows = list(tables.read(cfg.output, JudgeOutput))
    verdicts = [teacher.verdict(row) for row in rows]
    # An answer that says nothing is worth a random order.
    scores = [
        teacher.shuffled(row) if verdict.rejected else verdict.targets
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    line = worth(who, way, rows, scores)
    line["unreadable"] = sum(verdict.rejected for verdict in verdicts) / len(rows)
    line["calls/query"] = base.calls(DOCUMENTS)
    if base.engine == "vllm":
        line["tokens/query"] = (whole.facts["prompt_tokens"] + whole.facts["generated_tokens"]) / len(rows)
        line["s/query"] = (whole.seconds - warm_s[base.task]) / (len(rows) - WARM)
    return line


def worth(who: str, way: str, rows: Sequence[Row], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return a row of the table without its costs: nDCG@10 of scores, alone and fused with the first stage by weights
    that are fitted on these very queries."""
    named = [{JUDGE: some, "dense": by_source(row)["dense"]} for row, some in zip(rows, scores, strict=True)]
    alone = np.mean([row_ndcg(row, some) for row, some in zip(rows, scores, strict=True)])
    return {
        **{"teacher": who, "way": way, "calls/query": 0, "tokens/query": "", "s/query": "", "unreadable": 0.0},
        **{"nDCG@10": float(alone), "fused": fusion.fit_weights(rows, named, [JUDGE, "dense"])[1]},
    }


if __name__ == "__main__":
    harness.main("labels", bench)
