"""Students of benchmarks: each trained in a process of a pool, without Ray, and measured on test queries."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import harness
from rrad_ray import tables
from rrad_ray.config import GateConfig, JudgeConfig, LabelConfig, RetrieveConfig, SimulatedConfig, TrainConfig
from rrad_ray.evaluation import statistics
from rrad_ray.evaluation.metrics import row_ndcg
from rrad_ray.rows import Candidates, Labels
from rrad_ray.stages import judge, label, retrieve
from rrad_ray.tables import checkpoints
from rrad_ray.training.loop import fit
from rrad_ray.training.rank_task import RankBatches, RankTask
from rrad_ray.training.task import TrainWorker

CORES = os.cpu_count() or 1
Scores = dict[str, float]  # nDCG@10 by query

TEACHER = SimulatedConfig(noise=0.5, missing=0.2, malformed=0.02)  # as in configs/rradistill/laptop.yaml
STUDENT: dict[str, Any] = {"max_length": 96, "docs_per_query": 8, "queries_per_step": 5, "epochs": 1000.0}

BESIDE = ("xquad-sentences", "cranfield")  # by default, with CoSQA and the demo's collection
MULTILINGUAL = ("klue-nli-ko", "xquad-zh-sentences")  # which only the multilingual bundled model reads

FUSED_ON = 60  # dev queries, of which the first stage's weights in the free labels are fitted

SEEDS = click.Option(["--seeds"], type=click.IntRange(min=1), default=3, show_default=True, help="trainings of each")
ONLY = click.Option(["--collection"], multiple=True, help="this one alone, by its name in the table; may be repeated")


def collections(names: Sequence[str], beside: Sequence[str] = BESIDE) -> dict[str, str]:
    """Return the collections of these names, or all: CoSQA (or its stand-in), the demo's, and those beside it.

    Raises `click.BadParameter` for a name that is none of them.
    """
    first = harness.collection()
    folders = {name: harness.COSQA.parent / name for name in beside}
    available = {os.path.basename(first): first, "pydoc:": "pydoc:"}
    available |= {name: str(folder) for name, folder in folders.items() if folder.exists()}
    if unknown := set(names) - set(available):
        raise click.BadParameter(f"no collection {', '.join(sorted(unknown))} here; there are {', '.join(available)}")
    return {name: data for name, data in available.items() if name in names or not names}


def model_for(collection: str) -> str:
    """Return the bundled model that reads a collection's language."""
    return checkpoints.BUNDLED[2 if collection in MULTILINGUAL else 0]


def simulated_labels(short: str, folder: str, seed: int) -> str:
    """Return labels, of orders of the table `short` by a simulated teacher with the noise of a seed."""
    orders = JudgeConfig(
        input=short,
        output=f"{folder}-orders",
        task="order",
        engine="simulated",
        simulated=TEACHER,
        gate=GateConfig(enabled=False),
        resources={"CPU": 1},
        seed=seed,
    )
    return label.run(LabelConfig(input=judge.run(orders), output=f"{folder}-labels", max_quarantined=0.2))


def start(pool: ProcessPoolExecutor, cfg: RetrieveConfig, free: int, steps: int) -> tuple[str, Scores]:
    """Train the student from which all others start; return its checkpoint and its figures on `cfg.output`.

    It learns the first stage's own scores, of the training queries and of `free` ones made of documents' sentences.
    """
    folder = Path(cfg.output).parent
    queries = {**cfg.queries, "dev": cfg.queries["dev"] or FUSED_ON, "test": 0, "unlabelled": free}
    more = dataclasses.replace(cfg, output=f"{folder}/more", queries=queries, document_queries=free)
    labels = label.run(LabelConfig(input=retrieve.run(more), output=f"{folder}/free"))
    figures = train(pool, cfg.output, f"{folder}/start", cfg.model, input=labels, max_steps=steps).result()
    return f"{folder}/start/model", figures


def train(pool: ProcessPoolExecutor, test: str, output: str, source: str, **options: Any) -> Future[Scores]:
    """Train a student in the pool, to be measured on the test queries of the table `test`."""
    cfg = TrainConfig(output=output, **{"eval_steps": 10**9, **STUDENT, **options})
    return pool.submit(trained, cfg, source, test)


def processes() -> ProcessPoolExecutor:
    """Return a pool of as many processes as there are cores, of one thread each."""
    return ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))


# ---- in a process of the pool -------------------------------------------------------------------------------


def trained(cfg: TrainConfig, source: str, test: str) -> Scores:
    """Train a student, save it in the config's output, and return nDCG@10 by test query of the table `test`.

    With `patience` the student is the one of the best measurement on the dev queries of the labels, as in `train`.
    """
    uris = [cfg.input, *cfg.more]
    rows = [row for uri in uris for row in tables.read(uri, Labels) if row["split"] in cfg.splits]
    judged = (row for row in tables.read_split(cfg.input, Labels, "dev") if row["qrel_ids"])
    dev = list(judged)[: cfg.eval_queries] if cfg.patience else []
    data, task = RankBatches(rows, cfg), RankTask.fresh(checkpoints.resolve(source), cfg)
    best = Best(task)
    fit(task, data, data.steps, cfg, TrainWorker(report=best.keep), dev)
    best.restore()
    task.ranker.save(f"{cfg.output}/model")
    Path(cfg.output, "steps").write_text(f"{best.step}")
    return measured(task.ranker.eval().score, tables.read_split(test, Candidates, "test"))


class Best:
    """The weights of the best measurement on dev; the last ones where nothing is measured."""

    def __init__(self, task: RankTask) -> None:
        self.task, self.figure, self.step = task, -np.inf, 0
        self.weights: dict[str, torch.Tensor] = {}

    def keep(self, metrics: dict[str, Any], save: Callable[[Path], None] | None) -> None:
        """Keep the task's present weights if they are the best so far; a report of `fit`."""
        figure = metrics.get(self.task.dev_metric)
        if save and figure is not None and figure > self.figure:
            self.figure, self.step = figure, metrics["step"]
            self.weights = {name: value.detach().clone() for name, value in self.task.state_dict().items()}

    def restore(self) -> None:
        """Give the task the weights that were kept."""
        if self.weights:
            self.task.load_state_dict(self.weights)


def measured(score: Callable[[str, Sequence[str]], list[float]], rows: Iterable[Mapping[str, Any]]) -> Scores:
    """Return nDCG@10 by query of a ranker."""
    return {row["query_id"]: row_ndcg(row, score(row["query"], row["texts"])) for row in rows}


# ---- what they say ------------------------------------------------------------------------------------------


def mean_over_seeds(seeds: Sequence[Scores]) -> Scores:
    """Return each query's figure as the mean over seeds."""
    return {query: float(np.mean([scores[query] for scores in seeds])) for query in seeds[0]}


def gains(with_it: Sequence[Scores], without: Sequence[Scores]) -> list[float]:
    """Return what the first gain in nDCG@10 over the second for each query, as means over seeds."""
    after, before = mean_over_seeds(with_it), mean_over_seeds(without)
    return [after[query] - before[query] for query in before]


def gain_figures(gained: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return `NAME_delta`, the mean of each name's paired gains, and `NAME_p`, of the test that they are not 0."""
    figures: dict[str, float] = {}
    for name, differences in gained.items():
        p = statistics.paired_p(differences, [0.0] * len(differences))
        figures |= {f"{name}_delta": float(np.mean(differences)), f"{name}_p": p}
    return figures


def average(seeds: Sequence[Scores]) -> float:
    return float(np.mean(list(mean_over_seeds(seeds).values())))


def compared(with_it: Sequence[Scores], without: Sequence[Scores]) -> dict[str, Any]:
    """Return the cells of a table's row: both means, their paired difference, its interval, p, and each seed."""
    differences = gains(with_it, without)
    low, high = statistics.bootstrap_interval(differences)
    return {
        "queries": len(differences),
        "without": round(average(without), 3),
        "with": round(average(with_it), 3),
        "delta [95 % CI]": f"{np.mean(differences):+.3f} [{low:+.3f}, {high:+.3f}]",
        "p": statistics.paired_p(differences, [0.0] * len(differences)),
        "seeds": " ".join(f"{np.mean(list(scores.values())):.3f}" for scores in with_it),
    }
