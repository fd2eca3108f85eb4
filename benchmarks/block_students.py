"""What are labels of 100 documents by blocks, whole lists or a sliding window worth to students, at equal numbers of
a simulated teacher's calls, beside one call about the best ten?"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks import blocks, command, harness, students
from benchmarks.students import Scores
from rrad_ray import tables
from rrad_ray.config import LabelConfig, RetrieveConfig
from rrad_ray.labelling import teacher
from rrad_ray.rows import Candidates, Labels, Row, by_source
from rrad_ray.stages import retrieve

BASE = "the best 10, one call"
WINDOW, BLOCKS, LISTS = "sliding window, 20 by 10", "blocks of 20, twice", "whole lists, 10 times"
WAYS: dict[str, dict[str, Any]] = {BASE: {"repeats": 1}, **{way: blocks.WAYS[way] for way in (WINDOW, BLOCKS, LISTS)}}
TEACHER = blocks.TEACHERS["harder lists"]
PAIRS = ((WINDOW, BASE), (BLOCKS, BASE), (LISTS, BASE), (BLOCKS, WINDOW), (BLOCKS, LISTS))
# Losses and rates of small sets of labels, as in configs/rradistill/laptop.yaml.
OPTIONS: dict[str, Any] = {"losses": {"margin_mse": 1.0, "contrastive": 1.0}, "normalize": "query", "lr": 3e-5}
OPTIONS |= {"word_dropout": 0.12, "docs_per_query": 10, "top_docs": 5}


@dataclass(frozen=True)
class Size:
    train: int  # queries whose lists may be labelled, at most
    test: int
    free: int  # queries made of documents' sentences, for the start
    warm_steps: int
    steps: int
    seeds: int


def bench(quick: bool, scratch: str, seeds: int = 3) -> harness.Result:
    size = Size(20, 40, 60, 10, 6, 1) if quick else Size(150, 250, 1500, 200, 80, seeds)
    data = harness.collection()
    candidates = _candidates(data, scratch, 20, {"train": size.train, "test": size.test})
    lists = _candidates(data, scratch, blocks.DEPTH, {"train": size.train, "test": 0})
    retrieve.run(candidates)
    rows = [row for row in map(_best, tables.read(retrieve.run(lists), Candidates)) if row]
    print(f"{len(rows)} lists hold a relevant document", flush=True)
    with students.processes() as pool:
        source, _ = students.start(pool, candidates, size.free, size.warm_steps)
        found = _trained(rows, f"{scratch}/students", pool, candidates.output, source, size)
    pairs = [
        {"students": f"{after}, over {before}", **students.compared(found[after][1], found[before][1])}
        for after, before in PAIRS
    ]
    print(command.table(pairs), flush=True)
    table = []
    for way, (ndcg, scores) in found.items():
        cost = {"calls/query": 1, "shown/query": 10} if way == BASE else blocks.cost_of(WAYS[way])
        table.append({"labels": way, **cost, "nDCG@10 of labels": ndcg, "of students": students.average(scores)})
    gained = {"blocks_over_window": students.gains(found[BLOCKS][1], found[WINDOW][1])}
    settings = {"data": data, "lists": len(rows), **asdict(size), "teacher": asdict(TEACHER)}
    return harness.Result(students.gain_figures(gained), table, settings)


def _candidates(data: str, scratch: str, depth: int, queries: dict[str, int]) -> RetrieveConfig:
    depths: Any = {"bm25_depth": depth, "dense_depth": depth}
    queries = {"dev": 0, "unlabelled": 0, **queries}
    return RetrieveConfig(data=data, output=f"{scratch}/candidates-{depth}", queries=queries, **depths)


def _best(row: Row) -> Row | None:
    """Return a query with its best 100 documents by the bi-encoder, best first; None if no relevant one is there."""
    scores = by_source(row)["dense"]
    best = sorted(range(len(scores)), key=lambda number: -scores[number])[: blocks.DEPTH]
    ids = [row["doc_ids"][number] for number in best]
    relevant = {name for name, grade in zip(row["qrel_ids"], row["qrel_grades"], strict=True) if grade > 0}
    if relevant.isdisjoint(ids) or len(ids) < blocks.DEPTH:
        return None
    return {**row, "doc_ids": ids, "texts": [row["texts"][number] for number in best]}


def _trained(
    rows: Sequence[Row], folder: str, pool: ProcessPoolExecutor, test: str, source: str, size: Size
) -> dict[str, tuple[float, list[Scores]]]:
    """Return, by way, nDCG@10 of its labels, and that of a student of each seed by test query."""
    jobs = {}
    for way, options in WAYS.items():
        shown = [_first(row, 10) for row in rows] if way == BASE else rows
        ndcg, trained = [], []
        for seed in range(size.seeds):
            targets = [_targets(row, options, seed) for row in shown]
            ndcg.append(blocks.mean_ndcg(shown, targets))
            name = f"{folder}/{way.replace(' ', '-')}-{seed}"
            asked = {"input": _written(shown, targets, f"{name}-labels"), "max_steps": size.steps, "seed": seed}
            trained.append(students.train(pool, test, name, source, **asked, **OPTIONS))
        jobs[way] = (float(np.mean(ndcg)), trained)
    return {way: (ndcg, [job.result() for job in trained]) for way, (ndcg, trained) in jobs.items()}


def _first(row: Row, count: int) -> Row:
    return {**row, "doc_ids": row["doc_ids"][:count], "texts": row["texts"][:count]}


def _targets(row: Row, options: dict[str, Any], seed: int) -> list[float]:
    """Return the label that the teacher's answers make of a list."""
    numbered = {**row, "texts": list(map(str, range(len(row["doc_ids"]))))}
    return list(teacher.verdict(blocks.judged_row(numbered, options, TEACHER, seed), "borda").targets)


def _written(rows: Sequence[Row], targets: Sequence[Sequence[float]], folder: str) -> str:
    """Write labels as `label` does; return the folder. Sources and qrels are left out: training reads none."""
    out = tables.Output("label", LabelConfig("", folder), Labels, {})
    nothing: Any = {"sources": [], "source_scores": [], "qrel_ids": [], "qrel_grades": [], "reasons": []}
    nothing["parse_status"] = []
    labels = []
    for row, values in zip(rows, targets, strict=True):
        kept = {name: row[name] for name in ("query_id", "query", "split", "doc_ids", "texts")}
        every: dict[str, list[Any]] = {"scores": [0.0], "missing": [False], "confidence": [1.0]}
        whole = {name: value * len(values) for name, value in every.items()}
        labels.append({**kept, **whole, **nothing, "targets": list(values)})
    out.write_all(labels, 1000)
    return out.commit()


if __name__ == "__main__":
    harness.main("block_students", bench, students.SEEDS)
