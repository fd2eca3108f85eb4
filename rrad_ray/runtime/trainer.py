"""What train and tune share: `fit.fit` under Ray Train, its checkpoints, its curves, and the best of them kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from rrad_ray import tables
from rrad_ray.errors import InvalidInput, RradError, in_stage, stage_name
from rrad_ray.progress import say
from rrad_ray.runtime import cluster
from rrad_ray.training import trackers
from rrad_ray.training.loop import STATE, Config
from rrad_ray.training.task import Metrics, ReportFunction, TrainTask, TrainWorker
from rrad_ray.training.trackers import make_trackers

FAILED = "failed.json"  # under the output while a failure is on its way to the user

RAY_FOLDER = "ray"  # Ray Train's own storage under the output: checkpoints, from which a killed run goes on

Loop = Callable[[Any, str, TrainWorker], None]  # config, the model's folder, where the process stands


def run_training(cfg: Config, loop: Loop, source: str, task: type[TrainTask]) -> dict[str, Any]:
    """Runs `loop` in every training process, and keeps the best checkpoint in `model/`; facts for the manifest.

    Raises `RradError` for workers that the cluster has no room for, or that keep failing, and at once for what
    another attempt would only meet again: a loss that is no number, data that do not serve.
    """
    try:
        trackers.check_trackers(cfg.track)
    except ValueError as error:
        raise RradError.of("config", error, "mend the config") from error
    cluster.start_ray()
    cluster.require(cfg.resources, cfg.worker_range[0])
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    # Ray Train's workers have a working directory of their own.
    there = dataclasses.replace(cfg, input=tables.absolute(cfg.input), output=tables.absolute(cfg.output))
    _stopped(cfg)  # what an earlier run left behind is told already
    try:
        result = _trainer(there, loop, source, task).fit()
    except ray.train.TrainingFailedError as error:
        remedy = "mend the cause; run again to go on"
        raise _stopped(cfg) or RradError(cfg.output, _cause(error), remedy) from error
    if stopped := _stopped(cfg):
        raise stopped
    return _keep(cfg, result, task)


def _stopped(cfg: Config) -> RradError | None:
    """The failure that a worker wrote down because trying again would not help, once."""
    place = tables.join(cfg.output, FAILED)
    if not tables.exists(place):
        return None
    failure = json.loads(tables.read_text(place))
    fs, path = tables.filesystem(place)
    fs.rm(path)
    remedy = f"{failure['remedy']}; a changed config wants a new output"
    return RradError(cfg.output, failure["problem"], remedy)


def _trainer(cfg: Config, loop: Loop, source: str, task: type[TrainTask]) -> TorchTrainer:
    """The same storage path and name on every run: that is how Ray Train v2 goes on after a kill."""
    fs, path = tables.filesystem(tables.join(cfg.output, RAY_FOLDER))
    remote = {} if "file" in fs.protocol else {"storage_filesystem": pafs.PyFileSystem(pafs.FSSpecHandler(fs))}
    keep = CheckpointConfig(
        num_to_keep=2,
        checkpoint_score_attribute=task.dev_metric,
        checkpoint_score_order="max" if task.higher_is_better else "min",
    )
    low, high = cfg.worker_range
    elastic: Any = (low, high)  # Ray's own type does not say so
    return TorchTrainer(
        _worker,
        train_loop_config={"stage": stage_name(), "cfg": cfg, "loop": loop, "source": source},
        torch_config=TorchConfig(backend="nccl" if cfg.resources.get("GPU") else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=high if low == high else elastic,
            resources_per_worker=dict(cfg.resources),
            use_gpu=bool(cfg.resources.get("GPU")),
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
    """One training process.

    Ray Train tries again after any exception of a worker, and has no way to say that it is of no use. So the reason
    is written down, and the next attempt ends at once.
    """
    with in_stage(config["stage"]):
        _train(config)


def _train(config: dict[str, Any]) -> None:
    cfg, context = config["cfg"], ray.train.get_context()
    failed = tables.join(cfg.output, FAILED)
    if tables.exists(failed):
        return
    with tempfile.TemporaryDirectory() as scratch:
        worker = TrainWorker(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=str(ray.train.torch.get_device()),
            report=_reporter(cfg),
            resume=_resume(Path(scratch)),
        )
        try:
            config["loop"](cfg, config["source"], worker)
        except (ValueError, FloatingPointError) as error:
            known = error if isinstance(error, InvalidInput) else InvalidInput(str(error), "mend the cause")
            tables.write_text(failed, json.dumps({"problem": known.problem, "remedy": known.remedy}))
            raise


def _resume(scratch: Path) -> Path | None:
    """The newest checkpoint of this run, local; None for a fresh one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    say("goes on from the last checkpoint")
    return Path(checkpoint.to_directory(str(scratch)))


def _reporter(cfg: Config) -> ReportFunction:
    """Metrics to the terminal, the history file and the trackers; those of a checkpoint to Ray Train, from every
    worker."""
    rank = ray.train.get_context().get_world_rank()
    history = tables.read_history(cfg.output)
    trackers = make_trackers(cfg.track if rank == 0 else (), cfg.output, tables.plain(cfg))

    def report(metrics: Metrics, save: Callable[[Path], None] | None) -> None:
        if rank == 0:
            _remember(history, metrics)
            say(f"{_line(metrics)}")
            _track(trackers, metrics)
        if "final" not in metrics:
            return
        if save is None:
            ray.train.report(metrics)
            return
        tables.write_history(cfg.output, history)
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    return report


def _track(trackers: Mapping[str, trackers.Tracker], metrics: Mapping[str, Any]) -> None:
    """Hands a step's figures on; a tracker that fails is said to, and stops no training."""
    figures = {name: value for name, value in metrics.items() if name.startswith(("loss", "dev_", "pairs_per_s"))}
    for name, tracker in trackers.items():
        try:
            tracker(figures, metrics["step"], "final" in metrics, bool(metrics.get("final")))
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            say(f"warning: {name} did not take step {metrics['step']} ({said})")


def _remember(history: dict[str, list[float]], metrics: Mapping[str, Any]) -> None:
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


def _line(metrics: Mapping[str, Any]) -> str:
    left = int(metrics["left_s"])
    losses = " ".join(f"{name.replace('_', ' ')} {metrics[name]:.4f}," for name in metrics if name.startswith("loss"))
    titles = {"dev_ndcg": "dev nDCG@10"}
    dev = "".join(f" {titles.get(name, name)} {metrics[name]:.3f}," for name in metrics if name.startswith("dev_"))
    speed = f"{metrics['pairs_per_s']:.0f} pairs/s, ETA {left // 60}:{left % 60:02d}"
    return f"step {metrics['step']:.0f}, {losses}{dev} {speed}"


def _keep(cfg: Config, result: Any, task: type[TrainTask]) -> dict[str, Any]:
    """Copies the best checkpoint on dev to `model/`, without the optimizer's state; drops Ray's storage."""
    kept = [(checkpoint, found) for checkpoint, found in result.best_checkpoints]
    measured = all(task.dev_metric in found for _, found in kept)  # without dev rows, the last one is kept
    best = max if task.higher_is_better or not measured else min
    checkpoint, found = best(kept, key=lambda pair: pair[1][task.dev_metric if measured else "step"])
    with checkpoint.as_directory() as folder:
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file() and file.name != STATE:
                name = file.relative_to(folder).as_posix()
                tables.write_bytes(tables.join(cfg.output, "model", name), file.read_bytes())
    fs, path = tables.filesystem(tables.join(cfg.output, RAY_FOLDER))
    fs.rm(path, recursive=True)
    wanted = ("step", "loss", "pairs_per_s", "seconds")
    best_found = {key: value for key, value in found.items() if key in wanted or key.startswith("dev_")}
    return {"best": best_found, "ended": result.metrics["ended"], "model": "model"}


def _cause(error: BaseException) -> str:
    """The innermost line of a worker's failure."""
    failures = getattr(error, "worker_failures", None)
    inner = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1] if lines else type(inner).__name__
