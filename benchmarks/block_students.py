"""Students of blocks, of whole lists and of a sliding window over 100 documents, at equal numbers of calls.

The simulated teachers of `benchmarks.blocks` order the bi-encoder's best 100 documents of each training query. All
students begin with the first stage's own scores and learn for as many steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from benchmarks import blocks, command, harness, students
from benchmarks.students import Scores
from rrad_ray import tables
from rrad_ray.config import LabelConfig, PrerankConfig, RetrieveConfig
from rrad_ray.evaluation.metrics import row_ndcg
from rrad_ray.labelling import teacher
from rrad_ray.rows import Candidates, Labels, Row
from rrad_ray.stages import prerank, retrieve

WAYS = ("sliding window, 20 by 10", "blocks of 20, twice", "whole lists, 10 times")  # 9 or 10 calls each
TRAINING: dict[str, Any] = {"losses": {"margin_mse": 1.0, "contrastive": 1.0}, "normalize": "query", "lr": 3e-5}


@dataclasses.dataclass(frozen=True)
class Size:
    train: int  # queries with labels, at most
    test: int
    free: int  # queries made of documents' sentences, for the start
    warm_steps: int
    steps: int
    seeds: int


def bench(quick: bool, scratch: str, collection: Sequence[str] = (), seeds: int = 3) -> harness.Result:
    chosen = students.collections(collection or ("cosqa",), ())
    size = Size(60, 40, 60, 10, 8, 1) if quick else Size(300, 250, 1500, 200, 120, seeds)
    rows: list[dict[str, Any]] = []
    with students.processes() as pool:
        for name, data in chosen.items():
            rows += measure(name, data, f"{scratch}/{name}", size, pool)
    figures = {f"{row['way']}, {row['teacher']}": float(row["with"]) for row in rows}
    errors = {name: dataclasses.asdict(each) for name, each in blocks.TEACHERS.items()}
    return harness.Result(figures, rows, dataclasses.asdict(size) | errors)


def measure(name: str, data: str, folder: str, size: Size, pool: ProcessPoolExecutor) -> list[dict[str, Any]]:
    """Return the lines of a collection: each way's students against those of the window."""
    queries = {"train": size.train, "dev": 0, "test": size.test, "unlabelled": 0}
    cfg = RetrieveConfig(data=data, output=f"{folder}/candidates", queries=queries)
    judged = retrieve.run(cfg)
    source, start = students.start(pool, cfg, size.free, size.warm_steps)
    shown = deep_lists(cfg, folder)
    jobs: dict[tuple[str, str], list[Future[Scores]]] = {}
    label_ndcg: dict[tuple[str, str], list[float]] = {}
    for who in blocks.TEACHERS:
        for way in WAYS:
            for seed in range(size.seeds):
                output = f"{folder}/{who}-{way}-{seed}".replace(" ", "").replace(",", "-")
                labels, ndcg = labelled(shown, f"{output}-labels", way, who, seed)
                label_ndcg.setdefault((who, way), []).append(ndcg)
                options = {"input": labels, "seed": seed, "max_steps": size.steps, **TRAINING}
                job = students.train(pool, judged, output, source, **options)
                jobs.setdefault((who, way), []).append(job)
    done = {arm: [job.result() for job in futures] for arm, futures in jobs.items()}
    lines = []
    for (who, way), scores in done.items():
        labels_are = f"{sum(label_ndcg[who, way]) / size.seeds:.3f}"
        compared = students.compared(scores, done[who, WAYS[0]])
        lines.append({"collection": name, "teacher": who, "way": way, "labels": labels_are, **compared})
    print(f"the students' start: {students.average([start]):.3f}\n{command.table(lines)}", flush=True)
    return lines


def deep_lists(cfg: RetrieveConfig, folder: str) -> list[Row]:
    """Return the training queries with their best 100 documents by the bi-encoder, and what judges them."""
    queries = {**cfg.queries, "test": 0}
    depths: dict[str, Any] = {"bm25_depth": blocks.DEPTH, "dense_depth": blocks.DEPTH}
    deep = retrieve.run(dataclasses.replace(cfg, output=f"{folder}/deep", queries=queries, **depths))
    options: dict[str, Any] = {"source": "dense", "top_k": blocks.DEPTH, "bottom_k": 0, "keep_whole": ()}
    short = prerank.run(PrerankConfig(input=deep, output=f"{folder}/short", **options))
    rows = tables.read(short, Candidates)
    return [dict(row) for row in rows if row["qrel_ids"] and len(row["doc_ids"]) == blocks.DEPTH]


def labelled(rows: Sequence[Row], output: str, way: str, who: str, seed: int) -> tuple[str, float]:
    """Return the table of labels that a teacher's orders make, and their mean nDCG@10."""
    cfg, made_of = blocks.TEACHERS[who], blocks.WAYS[way]
    out = tables.Output("label", LabelConfig(input=way, output=output), Labels, {})
    labels, ndcg = [], []
    for row in rows:
        verdict = teacher.verdict(blocks.judged_row(row, made_of, cfg, seed))
        ndcg.append(row_ndcg(row, verdict.targets))
        targets = {"targets": verdict.targets, "missing": verdict.missing, "confidence": verdict.confidence}
        labels.append({**row, **targets, "reasons": [], "parse_status": verdict.statuses})
    out.write_all(labels, 64)
    return out.commit(rows=len(labels)), sum(ndcg) / len(ndcg)


if __name__ == "__main__":
    harness.main("block_students", bench, students.ONLY, students.SEEDS)
