"""train: distil a student from labels under Ray Train. All training is `fit.fit`; this file hands it a worker."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from rrad_ray import losses, models, tables, teacher
from rrad_ray.config import TrainConfig
from rrad_ray.errors import RradError
from rrad_ray.fit import STATE, Report, Task, Worker, fit, steps_in_epoch
from rrad_ray.ranking import Data, RankTask
from rrad_ray.rows import Labels
from rrad_ray.stages import cluster

RAY_FOLDER = "ray"  # Ray Train's own storage under the output: checkpoints, from which a killed run goes on


def run(cfg: TrainConfig) -> str:
    """A checkpoint folder `model/`, the best on dev. Raises `RradError` for labels that do not fill a step, a loss
    that is not a number, or a worker that keeps failing."""
    try:
        losses.weighted(cfg.losses)
    except ValueError as error:
        raise RradError("train", "config", str(error), "mend the config") from error
    out = tables.Output("train", cfg, None, {"input": cfg.input})
    if out.finished:
        return out.uri
    source = models.resolve(cfg.model, "train")
    rows = sum(row["split"] in cfg.splits for row in tables.read(cfg.input, Labels, "train"))
    try:
        steps_in_epoch(rows, cfg, cfg.workers)
    except ValueError as error:
        raise RradError("train", cfg.input, str(error), "or train with fewer workers") from error
    print(f"[train] {cfg.kind} student from {cfg.model} on {rows:,} labelled queries", flush=True)
    cluster.start()
    cluster.require("train", cfg.worker, cfg.workers)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    # Ray Train's workers have a working directory of their own.
    there = dataclasses.replace(cfg, input=tables.absolute(cfg.input), output=tables.absolute(cfg.output))
    try:
        result = _trainer(there, source).fit()
    except ray.train.TrainingFailedError as error:
        raise RradError("train", cfg.output, _cause(error), "mend the cause; run again to go on") from error
    facts = _keep(cfg, result)
    return out.commit(queries=rows, **facts)


def task_of(cfg: TrainConfig) -> type[Task]:
    """What is trained: it says which figure on dev makes a checkpoint the best."""
    return RankTask


def _trainer(cfg: TrainConfig, source: str) -> TorchTrainer:
    """The same storage path and name on every run: that is how Ray Train v2 goes on after a kill."""
    fs, path = tables.filesystem(tables.join(cfg.output, RAY_FOLDER))
    remote = {} if "file" in fs.protocol else {"storage_filesystem": pafs.PyFileSystem(pafs.FSSpecHandler(fs))}
    task = task_of(cfg)
    keep = CheckpointConfig(
        num_to_keep=2,
        checkpoint_score_attribute=task.best,
        checkpoint_score_order="max" if task.higher_is_better else "min",
    )
    return TorchTrainer(
        _worker,
        train_loop_config={"cfg": cfg, "source": source},
        torch_config=TorchConfig(backend="nccl" if cfg.worker.get("GPU") else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cfg.workers, resources_per_worker=dict(cfg.worker), use_gpu=bool(cfg.worker.get("GPU"))
        ),
        run_config=RunConfig(
            storage_path=path,
            name="run",
            checkpoint_config=keep,
            failure_config=FailureConfig(max_failures=cfg.max_failures),
            **remote,
        ),
    )


def _worker(config: dict[str, Any]) -> None:
    """One training process."""
    cfg: TrainConfig = config["cfg"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    rows = list(tables.read(cfg.input, Labels, "train"))
    data = Data([row for row in rows if row["split"] in cfg.splits], cfg, rank, world_size)
    judged = teacher.judged(rows)
    dev = random.Random(cfg.seed).sample(judged, min(len(judged), cfg.eval_queries))
    task = RankTask.fresh(config["source"], cfg)
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(
            rank=rank,
            world_size=world_size,
            device=str(ray.train.torch.get_device()),
            report=_reporter(cfg),
            resume=_resume(Path(scratch)),
        )
        fit(task, data, data.steps, cfg, worker, dev)


def _resume(scratch: Path) -> Path | None:
    """The newest checkpoint of this run, local; None for a fresh one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    print("[train] goes on from the last checkpoint", flush=True)
    return Path(checkpoint.to_directory(str(scratch)))


def _reporter(cfg: TrainConfig) -> Report:
    """Metrics to the terminal and the history file; those of a checkpoint to Ray Train, from every worker."""
    rank = ray.train.get_context().get_world_rank()
    place = tables.join(cfg.output, "history.json")
    history: dict[str, list[float]] = json.loads(tables.read_text(place)) if tables.exists(place) else {}

    def report(metrics: dict[str, float], save: Callable[[Path], None] | None) -> None:
        if rank == 0:
            _remember(history, metrics)
            print(_line(metrics), flush=True)
        if "final" not in metrics:
            return
        if save is None:
            ray.train.report(metrics)
            return
        tables.write_text(place, json.dumps(history))
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    return report


def _remember(history: dict[str, list[float]], metrics: Mapping[str, float]) -> None:
    """Adds to the curves, of losses by `steps` and of figures on dev by `dev_steps`; steps that a resumed run does
    again replace what the killed one wrote."""
    for at, prefix in (("steps", "loss"), ("dev_steps", "dev_")):
        found = {name: value for name, value in metrics.items() if name.startswith(prefix)}
        if not found:
            continue
        curves = [history.setdefault(name, []) for name in (at, *found)]
        while curves[0] and curves[0][-1] >= metrics["step"]:
            for curve in curves:
                curve.pop()
        for curve, value in zip(curves, (metrics["step"], *found.values()), strict=True):
            curve.append(value)


def _line(metrics: Mapping[str, float]) -> str:
    left = int(metrics["left_s"])
    losses = " ".join(f"{name.replace('_', ' ')} {metrics[name]:.4f}," for name in metrics if name.startswith("loss"))
    titles = {"dev_ndcg": "dev nDCG@10"}
    dev = "".join(f" {titles.get(name, name)} {metrics[name]:.3f}," for name in metrics if name.startswith("dev_"))
    speed = f"{metrics['pairs_per_s']:.0f} pairs/s, ETA {left // 60}:{left % 60:02d}"
    return f"[train] step {metrics['step']:.0f}, {losses}{dev} {speed}"


def _keep(cfg: TrainConfig, result: Any) -> dict[str, Any]:
    """Copies the best checkpoint on dev to `model/`, without the optimizer's state; drops Ray's storage."""
    task = task_of(cfg)
    kept = [(checkpoint, found) for checkpoint, found in result.best_checkpoints]
    measured = all(task.best in found for _, found in kept)  # without dev rows, the last one is kept
    best = max if task.higher_is_better or not measured else min
    checkpoint, found = best(kept, key=lambda pair: pair[1][task.best if measured else "step"])
    with checkpoint.as_directory() as folder:
        for name in sorted(os.listdir(folder)):
            if name != STATE:
                content = (Path(folder) / name).read_bytes()
                tables.write_bytes(tables.join(cfg.output, "model", name), content, "train")
    fs, path = tables.filesystem(tables.join(cfg.output, RAY_FOLDER))
    fs.rm(path, recursive=True)
    wanted = ("step", "loss", task.best, "pairs_per_s", "seconds")
    return {"best": {key: found[key] for key in wanted if key in found}, "model": "model"}


def _cause(error: BaseException) -> str:
    """The innermost line of a worker's failure."""
    failures = getattr(error, "worker_failures", None)
    inner = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1] if lines else type(inner).__name__
