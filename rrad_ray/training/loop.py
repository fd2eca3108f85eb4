"""The training loop, `fit(task, batches, ..., worker)`.

Under Ray Train `runtime.trainer` fills the `TrainWorker`; without Ray the caller makes one.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from rrad_ray.config import FitConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers.precision import dtype_of
from rrad_ray.training import fsdp
from rrad_ray.training.optimizer import MasterAdamW, share_of_peak
from rrad_ray.training.task import LOCAL_WORKER, Diverged, Metrics, Rows, TrainTask, TrainWorker

STATE = "state.pt"


def fit(
    task: TrainTask,
    batches: Callable[[int, int], Iterable[Rows]],
    steps_per_epoch: int,
    cfg: FitConfig,
    worker: TrainWorker = LOCAL_WORKER,
    dev: Sequence[Any] = (),
) -> None:
    """Train `task`; report losses, dev figures and a checkpoint every `eval_steps` steps and at the end.

    `batches(epoch, first)` yields the batches of an epoch from its step `first` on. A checkpoint is a folder with the
    files that the task saves and `state.pt`. A run resumed from one (`worker.resume`) continues with the same data
    order, learning rates and optimizer state, also with another number of workers. Raises `FloatingPointError` if the
    loss is not finite, and `ValueError` for `patience` without dev rows.
    """
    check_patience(cfg, len(dev))
    torch.manual_seed(cfg.seed + worker.rank)
    run = _Run(task, steps_per_epoch, cfg, worker, dev)
    while not run.finished:
        for rows in batches(*divmod(run.position, steps_per_epoch)):
            run.update(rows)
            if run.finished:
                break
    run.evaluate_and_report()


def check_patience(cfg: FitConfig, measured: int) -> None:
    """Raise `ValueError` for `patience` where no row is measured, by which it would end the training."""
    if cfg.patience and not measured:
        problem = f"patience={cfg.patience} but there are no dev rows to measure"
        raise InvalidInput(problem, "judge some, or set it to 0")


class _Run:
    """The state of one `fit`, most of which a checkpoint holds."""

    def __init__(
        self, task: TrainTask, steps_per_epoch: int, cfg: FitConfig, worker: TrainWorker, dev: Sequence[Any]
    ) -> None:
        self.task, self.cfg, self.worker, self.dev = task, cfg, worker, dev
        self.sharded = dist.is_initialized() and cfg.parallel == "fsdp"
        self.dtype = _prepare(task, cfg, worker, self.sharded)
        self.optimizer = MasterAdamW(task, cfg, task.is_head)
        self.steps_per_epoch = steps_per_epoch
        # Progress through the epochs, counted in steps of the present number of workers; `step` counts updates.
        self.position, self.last_position = 0, math.ceil(cfg.epochs * steps_per_epoch)
        self.step, self.seconds, self.pairs, self.recent = 0, 0.0, 0.0, list[dict[str, float]]()
        self.reported_step = self.synchronized_step = -1
        self.local_seconds = 0.0  # of this worker, since the workers last agreed on the time
        self.best, self.stale = math.nan, 0  # the best value of `dev_metric`, and the evaluations since then
        if worker.resume:
            self._load(worker.resume)
        # In a process group, even of one worker, either gradients are exchanged at every step (DDP) or weights are
        # averaged every few steps ("local SGD", Stich, 2019), so that workers do not wait for each other.
        self.local_sgd = dist.is_initialized() and cfg.average_every > 1
        plain = not dist.is_initialized() or self.local_sgd or self.sharded
        self.forward: Any = task if plain else DistributedDataParallel(task)

    @property
    def progress(self) -> float:
        """The share of the schedule that is done, by whichever ends first, epochs or steps; no clock counts."""
        by_steps = self.step / self.cfg.max_steps if self.cfg.max_steps else 0.0
        return max(self.position / self.last_position, by_steps)

    @property
    def planned_steps(self) -> int:
        """The number of steps at which the schedule ends, with the present number of workers."""
        by_epochs = self.step + self.last_position - self.position
        return min(by_epochs, self.cfg.max_steps) if self.cfg.max_steps else by_epochs

    @property
    def ended(self) -> str:
        """The reason why training has ended: `patience`, `epochs`, `steps` or `time`; empty while it goes on.

        `time` cuts it short: the schedule was not at its end.
        """
        if self.cfg.max_steps and self.step >= self.cfg.max_steps:
            return "steps"
        if self.position >= self.last_position:
            return "epochs"
        if self.cfg.max_seconds and self.seconds >= self.cfg.max_seconds:
            return "time"
        return "patience" if self.cfg.patience and self.stale >= self.cfg.patience else ""

    @property
    def finished(self) -> bool:
        return bool(self.ended)

    def update(self, rows: Rows) -> None:
        """Take one step on a batch (forward, losses, backward, update), and report where a report is due."""
        began = time.monotonic()
        values = self._backward(rows)
        # The mean of weights (SWA) is taken at a rate that does not fall.
        falling = self.progress if self.cfg.average_from >= 1 else 0.0
        self.optimizer.step(share_of_peak(self.step, falling, self.cfg.warmup_steps))
        self.step, self.position = self.step + 1, self.position + 1
        self.pairs += self.task.pairs(rows)
        self.recent = [*self.recent[-19:], values]
        self.local_seconds += time.monotonic() - began
        if self.step % self.cfg.average_every == 0:
            self._synchronize()
            if self.progress >= self.cfg.average_from:
                self.optimizer.update_average()
        if self.step % self.cfg.eval_steps == 0 and not self.finished:
            self.evaluate_and_report()
        elif self.step % 20 == 0 and self.worker.rank == 0:
            self.worker.report(self.figures(), None)

    def _backward(self, rows: Rows) -> dict[str, float]:
        """Accumulate the gradient of a step's losses over `accumulate` parts; return the losses by name."""
        count = min(self.cfg.accumulate, len(rows))
        cuts = [len(rows) * index // count for index in range(count + 1)]
        parts = [rows[start:stop] for start, stop in itertools.pairwise(cuts)]
        shares = _shares([self.task.sizes(part) for part in parts]) if count > 1 else [{}]
        values: dict[str, float] = {}
        for index, (part, share) in enumerate(zip(parts, shares, strict=True)):
            # DDP exchanges the accumulated gradients once, with the last part.
            with contextlib.nullcontext() if index == count - 1 else self._no_sync():
                losses = {name: loss * share.get(name, 1.0) for name, loss in self.forward(part).items()}
                loss = torch.stack(list(losses.values())).sum()
                values = {name: values.get(name, 0.0) + float(value.detach()) for name, value in losses.items()}
                if not math.isfinite(sum(values.values())):
                    problem = f"the loss is {sum(values.values())} at step {self.step}"
                    raise Diverged(problem, "lower lr, raise warmup_steps, or check the targets' scale")
                loss.backward()
        return values

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which gradients are accumulated without being exchanged between workers."""
        if isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return contextlib.nullcontext()

    def _synchronize(self) -> None:
        """Average the workers' weights (local SGD), and agree on the time: the slowest worker's."""
        if self.synchronized_step == self.step:
            return
        self.synchronized_step = self.step
        began = time.monotonic()
        if self.local_sgd:
            self.optimizer.average_workers()
        seconds = self.seconds + self.local_seconds + time.monotonic() - began
        self.seconds, self.local_seconds = max_over_workers(seconds, self.worker.device), 0.0

    def figures(self) -> Metrics:
        """Return step, mean losses of the last 20 steps, pairs per second, and seconds so far and still to go."""
        rate = self.pairs * self.worker.world_size / max(self.seconds, 1e-9)  # every worker takes as many
        left = self.seconds * max(0.0, 1 - self.progress) / max(self.progress, 1e-9)
        if self.cfg.max_seconds:
            left = min(left, max(0.0, self.cfg.max_seconds - self.seconds))
        names = list(self.recent[-1]) if self.recent else []
        means = {f"loss_{name}": float(np.mean([values[name] for values in self.recent])) for name in names}
        figures = {"step": self.step, "loss": sum(means.values()) if means else math.nan}
        parts = means if len(means) > 1 else {}
        dtype = str(self.dtype).removeprefix("torch.")
        return figures | parts | {"pairs_per_s": rate, "dtype": dtype, "seconds": self.seconds, "left_s": left}

    def evaluate_and_report(self) -> None:
        """Measure on dev and report the metrics with a checkpoint; at most once in a step.

        Every worker calls it. Rank 0 alone measures and saves, except that all workers gather sharded weights.
        """
        if self.reported_step == self.step:
            return
        self.reported_step = self.step
        self._synchronize()
        figures = self.figures()
        self.optimizer.copy_to_model(self.optimizer.averaged)
        first = self.worker.rank == 0
        if (first or self.sharded) and self.dev:
            self.task.eval()
            figures |= self.task.measure(self.dev)
            self.task.train()
            self._compare(figures[self.task.dev_metric])
        if isinstance(self.task, FSDPModule):
            self.task.reshard()  # a forward pass without a backward pass, as in measuring, leaves weights gathered
        # Only rank 0 has measured, so the others take over its count.
        self.stale = int(max_over_workers(self.stale if first else 0, self.worker.device))
        save = self._checkpoint() if first or self.sharded else None
        end = {"ended": self.ended, "planned_steps": self.planned_steps} if self.finished else {}
        self.worker.report(figures | {"final": float(self.finished)} | end, save if first else None)
        if not self.finished:
            self.optimizer.copy_to_model(self.optimizer.masters)

    def _compare(self, figure: float) -> None:
        """Update the best dev figure and the number of evaluations since it."""
        better = figure > self.best if self.task.higher_is_better else figure < self.best
        if better or math.isnan(self.best):
            self.best, self.stale = figure, 0
        else:
            self.stale += 1

    def _checkpoint(self) -> Callable[[Path], None]:
        """Return a function that writes the present weights and state into a folder."""
        float32_state = self.optimizer.float32_state(self.task)
        state = {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "masters": self.optimizer.masters,
            "mean": self.optimizer.mean,
            "mean_count": self.optimizer.mean_count,
            "step": self.step,
            "epochs": self.position / self.steps_per_epoch,
            "seconds": self.seconds,
            "pairs": self.pairs * self.worker.world_size,
            "recent": self.recent,
            "best": self.best,
            "stale": self.stale,
            "final": self.finished,
            "random": torch.get_rng_state(),
        }
        gathered = fsdp.gather(state)

        def save(folder: Path) -> None:
            self.task.save(folder, float32_state)
            torch.save(gathered, folder / STATE)

        return save

    def _load(self, folder: Path) -> None:
        """Restore the state that `_checkpoint` saved, also for another number of workers."""
        state = torch.load(folder / STATE, weights_only=True)
        self.optimizer.load(state["optimizer"], state["masters"], state["mean"])
        self.optimizer.mean_count = state["mean_count"]
        self.step = self.synchronized_step = state["step"]
        self.position = round(state["epochs"] * self.steps_per_epoch)
        self.pairs, self.recent = state["pairs"] / self.worker.world_size, list(state["recent"])
        self.seconds, self.best, self.stale = state["seconds"], state["best"], state["stale"]
        # A run that is at its end by a lower limit than it was saved under has yet to say so.
        self.reported_step = self.step if state.get("final") or not self.finished else -1
        if self.worker.rank == 0:  # the state is rank 0's; the others must not draw the same dropout masks
            torch.set_rng_state(state["random"])
        else:
            torch.manual_seed(self.cfg.seed + self.worker.rank + self.worker.world_size * self.step)


def _shares(sizes: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return each part's weight in the losses of its step: its share of the step's items, 0 where it has none."""
    whole = {name: sum(size[name] for size in sizes) for name in sizes[0]}
    return [{name: size[name] / (whole[name] or 1.0) for name in whole} for size in sizes]


def _prepare(task: TrainTask, cfg: FitConfig, worker: TrainWorker, sharded: bool) -> torch.dtype:
    """Set the task's device, dtype, dropout, frozen embeddings and attention, and share it between the workers.

    Returns the dtype in which it computes.
    """
    dtype = dtype_of(cfg.dtype, worker.device, getattr(task.model, "config", None))
    task.to(device=worker.device, dtype=torch.float32 if sharded else dtype)
    if worker.device == "cpu":
        task.model.set_attn_implementation("eager")  # 1.2 to 1.45 times as fast as SDPA in training on CPUs
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = cfg.dropout
    if cfg.freeze_embeddings:
        task.model.get_input_embeddings().weight.requires_grad_(False)
    if dist.is_initialized():
        for weight in task.parameters():  # each worker has drawn a head of its own: rank 0's is used by all
            dist.broadcast(weight.detach(), 0)
    if sharded:
        fsdp.shard(task, worker.device, dtype)
    task.train()
    return dtype


def max_over_workers(value: float, device: str) -> float:
    """Return the maximum over all workers, for what they must agree on: elapsed time, steps in an epoch."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)  # NCCL reduces only tensors on the GPU
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)
