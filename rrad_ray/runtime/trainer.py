"""Training under Ray Train, for `train` and `finetune`: workers, checkpoints, curves, and the best model kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from rrad_ray import tables
from rrad_ray.config import FitConfig
from rrad_ray.errors import RradError, at_place, in_stage, stage_name
from rrad_ray.patches import ray_train_address, ray_train_failures
from rrad_ray.progress import say
from rrad_ray.runtime import cluster
from rrad_ray.runtime.gauges import OutputGauges
from rrad_ray.tables.private_folders import scratch_folder
from rrad_ray.training import trackers
from rrad_ray.training.loop import STATE
from rrad_ray.training.task import Metrics, ReportFunction, TrainTask, TrainWorker
from rrad_ray.training.trackers import make_trackers

FAILED = "failed.json"  # in the output folder: a failure that a retry would meet again, until the user has read it


Loop = Callable[[Any, str, TrainWorker], None]  # config, the model's folder, this process's worker


def run_training(cfg: FitConfig, loop: Loop, source: str, task: type[TrainTask]) -> dict[str, Any]:
    """Run `loop` in every training process and keep the best checkpoint in `model/`; return facts and lineage for it.

    Raises `RradError` for workers that the cluster has no room for or that keep failing, and without a retry for
    failures that would only repeat: a loss that is not finite, or unusable data.
    """
    with at_place("config", "mend the config"):
        trackers.check_trackers(cfg.track)
    cluster.start_ray()
    cluster.require_resources(cfg.resources, cfg.worker_range[0])
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    # Ray Train's workers have a working directory of their own.
    remote_cfg = dataclasses.replace(cfg, input=tables.absolute(cfg.input), output=tables.absolute(cfg.output))
    _take_failure(cfg)  # of an earlier run, which has reported it
    try:
        with ray_train_address.known(ray.get_runtime_context().gcs_address):
            result = _trainer(remote_cfg, loop, source, task).fit()
    except ray.train.TrainingFailedError as error:
        remedy = "mend the cause; run again to go on"
        raise _take_failure(cfg) or RradError(cfg.output, _cause(error), remedy) from error
    if failure := _take_failure(cfg):
        raise failure
    return _keep(cfg, result, task)


def _take_failure(cfg: FitConfig) -> RradError | None:
    """Return the failure that a worker wrote down as not worth a retry, and delete its file; None without one."""
    uri = tables.join(cfg.output, FAILED)
    if not tables.exists(uri):
        return None
    failure = json.loads(tables.read_text(uri))
    tables.remove(uri)
    remedy = f"{failure['remedy']}; a changed config wants a new output"
    return RradError(cfg.output, failure["problem"], remedy)


def _trainer(cfg: FitConfig, loop: Loop, source: str, task: type[TrainTask]) -> TorchTrainer:
    """Return Ray Train's trainer, with the same storage path and name on every run: so Ray Train v2 resumes it."""
    fs, path = tables.filesystem(tables.join(cfg.output, tables.RAY_FOLDER))
    remote = {} if "file" in fs.protocol else {"storage_filesystem": pafs.PyFileSystem(pafs.FSSpecHandler(fs))}
    keep = CheckpointConfig(
        num_to_keep=2,
        checkpoint_score_attribute=task.dev_metric,
        checkpoint_score_order="max" if task.higher_is_better else "min",
    )
    low, high = cfg.worker_range
    elastic: Any = (low, high)  # Ray takes a range, though its type annotation does not say so
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
    """Train in one process of Ray Train, with the name of the stage that started it."""
    with in_stage(config["stage"]):
        _train(config)


def _train(config: dict[str, Any]) -> None:
    """Run the loop with this process's worker, unless an earlier attempt has failed for good.

    Ray Train retries after any exception of a worker, and has no way to say that a retry is useless. So such a reason
    is written to `FAILED`, and the next attempt ends at once.
    """
    cfg, context = config["cfg"], ray.train.get_context()
    failed = tables.join(cfg.output, FAILED)
    if tables.exists(failed):
        return
    with scratch_folder() as scratch:
        worker = TrainWorker(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=str(ray.train.torch.get_device()),
            report=_reporter(cfg, scratch),
            resume=_resume(scratch / "resumed"),
        )
        try:
            config["loop"](cfg, config["source"], worker)
        except (ValueError, FloatingPointError) as error:
            known = RradError.of(cfg.output, error, "change the key or the input that it names, and run again")
            tables.write_json(failed, {"problem": known.problem, "remedy": known.remedy})
            raise


def _resume(folder: Path) -> Path | None:
    """Return `folder` with a copy of this run's newest checkpoint; None for a fresh run."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    say("goes on from the last checkpoint")
    return Path(checkpoint.to_directory(str(folder)))


def _reporter(cfg: FitConfig, scratch: Path) -> ReportFunction:
    """Return the report function of this worker, which writes checkpoints into `scratch` first.

    Rank 0 writes metrics to the terminal, the history file and the trackers. Every worker reports the metrics of a
    checkpoint to Ray Train, which waits for all of them.
    """
    rank = ray.train.get_context().get_world_rank()
    history = tables.read_history(cfg.output)
    trackers = make_trackers(cfg.track, cfg.output, tables.plain(cfg)) if rank == 0 else {}
    gauges = OutputGauges("train", cfg.output)

    def report(metrics: Metrics, save: Callable[[Path], None] | None) -> None:
        if rank == 0:
            _remember(history, metrics)
            say(f"{_line(metrics)}")
            _track(trackers, metrics)
            gauges.set({"step": metrics["step"], **_curves(metrics)})
        if "final" not in metrics:
            return
        if save is None:
            ray.train.report(metrics)
            return
        tables.write_history(cfg.output, history)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            save(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    return report


def _track(trackers: Mapping[str, trackers.TrackFunction], metrics: Mapping[str, Any]) -> None:
    """Send a step's figures to the trackers; one that fails is a warning, and does not stop the training."""
    figures = _curves(metrics)
    for name, tracker in trackers.items():
        try:
            tracker(figures, metrics["step"], "final" in metrics, bool(metrics.get("final")))
        except Exception as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            say(f"warning: {name} did not take step {metrics['step']} ({cause})")


def _curves(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a step that are drawn over steps."""
    return {name: value for name, value in metrics.items() if name.startswith(("loss", "dev_", "pairs_per_s"))}


def _remember(history: dict[str, list[float]], metrics: Mapping[str, Any]) -> None:
    """Append a step to the curves: losses over `steps`, dev figures over `dev_steps`.

    Steps that a resumed run repeats replace those that the killed run wrote.
    """
    for at, prefix in (("steps", "loss"), ("dev_steps", "dev_")):
        figures = {name: value for name, value in metrics.items() if name.startswith(prefix)}
        if not figures:
            continue
        curves = [history.setdefault(name, []) for name in (at, *figures)]
        while curves[0] and curves[0][-1] >= metrics["step"]:
            for curve in curves:
                curve.pop()
        for curve, value in zip(curves, (metrics["step"], *figures.values()), strict=True):
            curve.append(value)


def _line(metrics: Mapping[str, Any]) -> str:
    """Return the line of a step for the terminal."""
    left = int(metrics["left_s"])
    losses = " ".join(f"{name.replace('_', ' ')} {metrics[name]:.4f}," for name in metrics if name.startswith("loss"))
    titles = {"dev_ndcg": "dev nDCG@10"}
    dev = "".join(f" {titles.get(name, name)} {metrics[name]:.3f}," for name in metrics if name.startswith("dev_"))
    speed = f"{metrics['pairs_per_s']:.0f} pairs/s in {metrics['dtype']}, ETA {left // 60}:{left % 60:02d}"
    return f"step {metrics['step']:.0f}, {losses}{dev} {speed}"


def _keep(cfg: FitConfig, result: Any, task: type[TrainTask]) -> dict[str, Any]:
    """Copy the best checkpoint on dev to `model/`, without the optimizer's state.

    Without dev rows the last checkpoint is the best. Returns facts for the manifest.
    """
    kept = [(checkpoint, metrics) for checkpoint, metrics in result.best_checkpoints]
    measured = all(task.dev_metric in metrics for _, metrics in kept)
    best = max if task.higher_is_better or not measured else min
    checkpoint, metrics = best(kept, key=lambda pair: pair[1][task.dev_metric if measured else "step"])
    with tables.io_errors(cfg.output):
        for file in checkpoint.filesystem.get_file_info(pafs.FileSelector(checkpoint.path, recursive=True)):
            if file.is_file and file.base_name != STATE:
                name = file.path.removeprefix(checkpoint.path).lstrip("/")
                with checkpoint.filesystem.open_input_stream(file.path) as content:
                    tables.write_bytes(tables.join(cfg.output, "model", name), content.read())
    wanted = ("step", "loss", "pairs_per_s", "dtype", "seconds")
    figures = {key: value for key, value in metrics.items() if key in wanted or key.startswith("dev_")}
    training = tables.TrainingFacts(_cut_short(cfg, result.metrics), list(cfg.splits))
    lineage = dataclasses.replace(tables.lineage_of(cfg.input), training=training)
    return {"best": figures, "ended": result.metrics["ended"], "model": "model", "lineage": lineage}


def _cut_short(cfg: FitConfig, last: Mapping[str, Any]) -> str:
    """Return, and say, that a time limit cut the schedule short; empty for a run that it did not."""
    if last["ended"] != "time":
        return ""
    steps = f"step {last['step']:,} of {last['planned_steps']:,}"
    cut = f"was cut short by max_seconds={cfg.max_seconds:g} at {steps}"
    say(f"warning: the training {cut}: a faster machine trains another student; raise max_seconds")
    return cut


def _cause(error: BaseException) -> str:
    """Return the last line of the first worker's failure: the exception that caused it."""
    inner = ray_train_failures.first_failure(error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1] if lines else type(inner).__name__
