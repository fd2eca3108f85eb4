"""Which loss teaches a student most? Each from the same free start, on the same labels, until dev gains no more.

The labels are orders of ten documents by a simulated teacher, of which every loss reads what it can: places, or
their z-scores within the list. The start has learnt the first stage's own scores, as both recipes begin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command, harness, students
from benchmarks.students import Scores
from rrad_ray.config import PrerankConfig, RetrieveConfig
from rrad_ray.stages import prerank, retrieve

DISTANCES: dict[str, Any] = {"normalize": "query"}  # of losses that read distances between targets
ARMS: dict[str, dict[str, Any]] = {
    "soft_ranknet": {"losses": {"soft_ranknet": 1.0}, **DISTANCES},
    "listnet": {"losses": {"listnet": 1.0}, **DISTANCES},
    "ranknet": {"losses": {"ranknet": 1.0}},
    "lambda": {"losses": {"lambda": 1.0}},
    "margin_mse": {"losses": {"margin_mse": 1.0}, **DISTANCES},
    "margin_mse + contrastive": {"losses": {"margin_mse": 1.0, "contrastive": 1.0}, **DISTANCES},
    "point_mse + margin_mse": {"losses": {"point_mse": 1.0, "margin_mse": 1.0}, **DISTANCES},
}
DEFAULT = "soft_ranknet"  # `train`'s own, with which the others are compared


@dataclasses.dataclass(frozen=True)
class Size:
    train: int  # queries, at most
    dev: int
    test: int
    free: int  # queries made of documents' sentences, for the start
    warm_steps: int
    most_steps: int
    eval_steps: int
    seeds: int


def bench(quick: bool, scratch: str, collection: Sequence[str] = (), seeds: int = 3) -> harness.Result:
    chosen = students.collections(collection, ("xquad-sentences", "klue-nli-ko"))
    size = Size(400, 60, 250, 1500, 200, 240, 30, seeds)
    if quick:
        chosen, size = dict(list(chosen.items())[:1]), Size(60, 20, 40, 60, 10, 8, 4, 1)
    rows: list[dict[str, Any]] = []
    measured: dict[str, list[list[Scores]]] = {arm: [] for arm in ["start", *ARMS]}
    with students.processes() as pool:
        for name, data in chosen.items():
            here = measure(data, f"{scratch}/{name}", size, pool, students.model_for(name))
            lines = [{"collection": name, "loss": arm, **students.compared(here[arm], here[DEFAULT])} for arm in here]
            print(command.table(lines), flush=True)
            rows += lines
            for arm, scores in here.items():
                measured[arm].append(scores)
    figures = {
        f"{arm}_ndcg": float(np.mean([students.average(each) for each in lists])) for arm, lists in measured.items()
    }
    return harness.Result(figures, rows, dataclasses.asdict(size) | {"teacher": dataclasses.asdict(students.TEACHER)})


def measure(data: str, folder: str, size: Size, pool: ProcessPoolExecutor, model: str) -> dict[str, list[Scores]]:
    """Return nDCG@10 by test query, for each seed of the start and of each loss."""
    queries = {"train": size.train, "dev": size.dev, "test": size.test, "unlabelled": 0}
    cfg = RetrieveConfig(data=data, output=f"{folder}/candidates", queries=queries, model=model)
    judged = retrieve.run(cfg)
    source, start = students.start(pool, cfg, size.free, size.warm_steps)
    short = PrerankConfig(
        input=judged, output=f"{folder}/short", source="dense", splits=("train", "dev"), top_k=6, bottom_k=4
    )
    shown = prerank.run(short)
    jobs: dict[str, list[Future[Scores]]] = {arm: [] for arm in ARMS}
    until = {"max_steps": size.most_steps, "eval_steps": size.eval_steps, "patience": 3, "eval_queries": size.dev}
    for seed in range(size.seeds):
        labels = students.simulated_labels(shown, f"{folder}/{seed}", seed)
        for arm, options in ARMS.items():
            settled = {"input": labels, "seed": seed, "lr": 3e-5, "word_dropout": 0.12, **until, **options}
            output = f"{folder}/{arm.replace(' ', '')}-{seed}"
            jobs[arm].append(students.train(pool, judged, output, source, **settled))
    done = {arm: [job.result() for job in futures] for arm, futures in jobs.items()}
    for arm in ARMS:
        steps = [Path(folder, f"{arm.replace(' ', '')}-{seed}", "steps").read_text() for seed in range(size.seeds)]
        print(f"{arm}: best on dev at step {', '.join(steps)}", flush=True)
    return {"start": [start] * size.seeds, **done}


if __name__ == "__main__":
    harness.main("losses", bench, students.ONLY, students.SEEDS)
