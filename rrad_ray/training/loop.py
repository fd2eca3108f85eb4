"""The one training loop: `fit(task, batches, ..., worker)`. Ray Train fills a `Worker`; a bare box makes one."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from rrad_ray.config import TrainConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers.precision import dtype_of
from rrad_ray.training import fsdp
from rrad_ray.training.optimizer import Config, MasterAdamW, share_of_peak

STATE = "state.pt"


class Diverged(InvalidInput, FloatingPointError):
    """Training in which the loss is no longer a number."""


Rows = list[Any]  # what a step learns from, as the task takes it: label rows, packed sequences


Metrics = dict[str, Any]  # figures by name; of the last report also `ended`: by what


class TrainTask(nn.Module):
    """What `fit` trains: a module around a Hugging Face `model`. The module is what DDP wraps and what is optimised.

    Every trainable weight of the module is in the state that a resumed run goes on from; `save` writes what is used
    afterwards, and may leave some of them out.
    """

    best: ClassVar[str]  # the figure of `measure` by which checkpoints are compared
    higher_is_better: ClassVar[bool] = True
    model: Any

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """Losses by name, scalars, each times its weight: their sum is minimised."""
        raise NotImplementedError

    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        """Figures on dev rows, `dev_...`, `best` among them; called in evaluation mode."""
        raise NotImplementedError

    def save(self, folder: Path, exact: Mapping[str, Tensor]) -> None:
        """Writes a checkpoint. `exact`: this module's parameters by name, trained ones in float32."""
        raise NotImplementedError

    def sizes(self, rows: Rows) -> dict[str, float]:
        """What each loss of `forward` is a mean over: how many documents, pairs, lists or tokens. The losses of a
        step's parts, weighed by their sizes, are those of the step (`accumulate`)."""
        raise NotImplementedError

    def pairs(self, rows: Rows) -> int:
        """Pairs of query and document in a batch: speed is counted in them."""
        return sum(len(row["texts"]) for row in rows)


class ReportFunction(Protocol):
    """Hears the metrics of a step and, where there is one, of a fresh checkpoint: `save(folder)` writes it."""

    def __call__(self, metrics: Metrics, save: Callable[[Path], None] | None) -> None: ...


def log_report(metrics: Metrics, save: Callable[[Path], None] | None) -> None:
    """Prints."""
    told = (f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in metrics.items())
    print("  ".join(told), flush=True)


@dataclass(frozen=True)
class TrainWorker:
    """Where a training process stands. `resume`: a checkpoint folder to go on from."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    report: ReportFunction = log_report
    resume: Path | None = None


def rank_steps_in_epoch(queries: int, cfg: TrainConfig, world_size: int) -> int:
    """Steps that every worker takes in an epoch. Raises `ValueError` for fewer queries than one step needs."""
    steps = queries // (cfg.queries_per_step * world_size)
    if not steps:
        found = f"{queries} training queries do not fill a step of {cfg.queries_per_step} on {world_size} worker(s)"
        raise InvalidInput(found, "label more queries, lower queries_per_step, or train with fewer workers")
    return steps


def fit(
    task: TrainTask,
    batches: Callable[[int, int], Iterable[Rows]],
    steps_per_epoch: int,
    cfg: Config,
    worker: TrainWorker = TrainWorker(),
    dev: Sequence[Any] = (),
) -> None:
    """Trains `task`; reports its losses, its figures on dev and a checkpoint every `eval_steps`, and at the end.

    `batches(epoch, first)`: an epoch's, from its step `first` on. A checkpoint is a folder with what the task saves
    and `state.pt`; `worker.resume` goes on from one with the same data order, rates and optimizer, with as many
    workers or with others. Raises `FloatingPointError` if the loss is not a number, and `ValueError` for `patience`
    without dev rows.
    """
    if cfg.patience and not dev:
        raise InvalidInput(
            f"patience={cfg.patience} but there are no dev rows to measure", "judge some, or set it to 0"
        )
    torch.manual_seed(cfg.seed + worker.rank)
    run = _Run(task, steps_per_epoch, cfg, worker, dev)
    while not run.finished:
        for rows in batches(*divmod(run.place, steps_per_epoch)):
            run.update(rows)
            if run.finished:
                break
    run.tell()


class _Run:
    """The state of one `fit`: what a checkpoint holds."""

    def __init__(
        self, task: TrainTask, steps_per_epoch: int, cfg: Config, worker: TrainWorker, dev: Sequence[Any]
    ) -> None:
        self.task, self.cfg, self.worker, self.dev = task, cfg, worker, dev
        self.sharded = dist.is_initialized() and cfg.parallel == "fsdp"
        _prepare(task, cfg, worker, self.sharded)
        self.optimizer = MasterAdamW(task, cfg)
        self.steps_per_epoch = steps_per_epoch
        self.epochs = math.ceil(cfg.epochs * steps_per_epoch)  # in steps
        self.place = 0  # in the epochs, in steps of as many workers as there are now
        self.step, self.seconds, self.pairs, self.recent = 0, 0.0, 0.0, list[dict[str, float]]()
        self.told = self.agreed = -1
        self.alone = 0.0  # seconds since the workers last agreed on the time
        self.best, self.stale = math.nan, 0  # the best figure on dev, and evaluations since then
        if worker.resume:
            self._load(worker.resume)
        # Where there is a process group, of one worker too: gradients are exchanged at every step, or weights are
        # averaged every few ("local SGD", Stich, 2019), which keeps workers from waiting for each other.
        self.local = dist.is_initialized() and cfg.average_every > 1
        alone = not dist.is_initialized() or self.local or self.sharded
        self.forward: Any = task if alone else DistributedDataParallel(task)

    @property
    def progress(self) -> float:
        by_time = self.seconds / self.cfg.max_seconds if self.cfg.max_seconds else 0.0
        by_steps = self.step / self.cfg.max_steps if self.cfg.max_steps else 0.0
        return max(self.place / self.epochs, by_steps, by_time)

    @property
    def ended(self) -> str:
        """Why no step follows: `patience`, `epochs`, `steps` or `time`; empty while one does."""
        if self.cfg.max_steps and self.step >= self.cfg.max_steps:
            return "steps"
        if self.place >= self.epochs:
            return "epochs"
        if self.progress >= 1.0:
            return "time"
        return "patience" if self.cfg.patience and self.stale >= self.cfg.patience else ""

    @property
    def finished(self) -> bool:
        return bool(self.ended)

    def update(self, rows: Rows) -> None:
        """One step: forward, loss, backward, update; tells when it is time."""
        began = time.monotonic()
        values = self._backward(rows)
        falling = self.progress if self.cfg.average_from >= 1 else 0.0  # a mean needs weights that still move
        self.optimizer.step(share_of_peak(self.step, falling, self.cfg.warmup_steps))
        self.step, self.place, self.pairs = self.step + 1, self.place + 1, self.pairs + self.task.pairs(rows)
        self.recent = [*self.recent[-19:], values]
        self.alone += time.monotonic() - began
        if self.step % self.cfg.average_every == 0:
            self._agree()
            if self.progress >= self.cfg.average_from:
                self.optimizer.collect()
        if self.step % self.cfg.eval_steps == 0 and not self.finished:
            self.tell()
        elif self.step % 20 == 0 and self.worker.rank == 0:
            self.worker.report(self.figures(), None)

    def _backward(self, rows: Rows) -> dict[str, float]:
        """The gradient of a step's losses, made in `accumulate` passes; the losses."""
        count = min(self.cfg.accumulate, len(rows))
        cuts = [len(rows) * number // count for number in range(count + 1)]
        passes = [rows[start:stop] for start, stop in itertools.pairwise(cuts)]
        shares = _shares([self.task.sizes(some) for some in passes]) if count > 1 else [{}]
        values: dict[str, float] = {}
        for number, (some, share) in enumerate(zip(passes, shares, strict=True)):
            with contextlib.nullcontext() if number == count - 1 else self._alone():  # exchanged with the last one
                parts = {name: part * share.get(name, 1.0) for name, part in self.forward(some).items()}
                loss = torch.stack(list(parts.values())).sum()
                values = {name: values.get(name, 0.0) + float(part.detach()) for name, part in parts.items()}
                if not math.isfinite(sum(values.values())):
                    found = f"the loss is {sum(values.values())} at step {self.step}"
                    raise Diverged(found, "lower lr, raise warmup_steps, or check the targets' scale")
                loss.backward()
        return values

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Gradients that are made within stay with their worker."""
        return (
            self.forward.no_sync() if isinstance(self.forward, DistributedDataParallel) else contextlib.nullcontext()
        )

    def _agree(self) -> None:
        """The workers' weights and time become one."""
        if self.agreed == self.step:
            return
        self.agreed = self.step
        began = time.monotonic()
        if self.local:
            self.optimizer.average()
        self.seconds = largest(self.seconds + self.alone + time.monotonic() - began, self.worker.device)
        self.alone = 0.0

    def figures(self) -> Metrics:
        rate = self.pairs * self.worker.world_size / max(self.seconds, 1e-9)  # every worker takes as many
        left = self.seconds * max(0.0, 1 - self.progress) / max(self.progress, 1e-9)
        names = list(self.recent[-1]) if self.recent else []
        means = {f"loss_{name}": float(np.mean([values[name] for values in self.recent])) for name in names}
        figures = {"step": self.step, "loss": sum(means.values()) if means else math.nan}
        parts = means if len(means) > 1 else {}
        return figures | parts | {"pairs_per_s": rate, "seconds": self.seconds, "left_s": left}

    def tell(self) -> None:
        """Reports metrics with a checkpoint; every worker calls it, the first one measures and saves. Sharded
        weights are put together by all for it."""
        if self.told == self.step:
            return
        self.told = self.step
        self._agree()
        figures = self.figures()
        self.optimizer.show(self.optimizer.student)
        first = self.worker.rank == 0
        if (first or self.sharded) and self.dev:
            self.task.eval()
            figures |= self.task.measure(self.dev)
            self.task.train()
            self._compare(figures[self.task.best])
        if isinstance(self.task, FSDPModule):
            self.task.reshard()  # measuring, a forward pass without a backward one, leaves some weights together
        self.stale = int(largest(self.stale if first else 0, self.worker.device))  # the first one's word
        save = self._checkpoint() if first or self.sharded else None
        end = {"final": float(self.finished)} | ({"ended": self.ended} if self.finished else {})
        self.worker.report(figures | end, save if first else None)
        if not self.finished:
            self.optimizer.show(self.optimizer.masters)

    def _compare(self, found: float) -> None:
        """Counts evaluations since the best one."""
        better = found > self.best if self.task.higher_is_better else found < self.best
        if better or math.isnan(self.best):
            self.best, self.stale = found, 0
        else:
            self.stale += 1

    def _checkpoint(self) -> Callable[[Path], None]:
        """What writes the checkpoint of now into a folder."""
        exact = self.optimizer.exact(self.task)
        state = {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "masters": self.optimizer.masters,
            "mean": self.optimizer.mean,
            "collected": self.optimizer.collected,
            "step": self.step,
            "epochs": self.place / self.steps_per_epoch,
            "seconds": self.seconds,
            "pairs": self.pairs * self.worker.world_size,
            "recent": self.recent,
            "best": self.best,
            "stale": self.stale,
            "random": torch.get_rng_state(),
        }
        whole = fsdp.gathered(state)

        def save(folder: Path) -> None:
            self.task.save(folder, exact)
            torch.save(whole, folder / STATE)

        return save

    def _load(self, folder: Path) -> None:
        state = torch.load(folder / STATE, weights_only=True)
        self.optimizer.load(state["optimizer"], state["masters"], state["mean"])
        self.optimizer.collected = state["collected"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.place = round(state["epochs"] * self.steps_per_epoch)
        self.pairs, self.recent = state["pairs"] / self.worker.world_size, list(state["recent"])
        self.best, self.stale = state["best"], state["stale"]
        self.told = self.agreed = self.step
        if self.worker.rank == 0:  # whose state it is; the others must not draw the same masks
            torch.set_rng_state(state["random"])
        else:
            torch.manual_seed(self.cfg.seed + self.worker.rank + self.worker.world_size * self.step)


def _shares(sizes: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The weight of each part's losses in a step's, from what they are means over; 0 where there is nothing."""
    whole = {name: sum(size[name] for size in sizes) for name in sizes[0]}
    return [{name: size[name] / (whole[name] or 1.0) for name in whole} for size in sizes]


def _prepare(task: TrainTask, cfg: Config, worker: TrainWorker, sharded: bool) -> None:
    """Device, dtype, frozen embeddings, and the attention that trains fastest there."""
    dtype = dtype_of(cfg.dtype, worker.device)
    task.to(device=worker.device, dtype=torch.float32 if sharded else dtype)
    if worker.device == "cpu":
        task.model.set_attn_implementation("eager")  # 1.2 to 1.45 times as fast as SDPA in training on CPUs
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = cfg.dropout
    if cfg.freeze_embeddings:
        task.model.get_input_embeddings().weight.requires_grad_(False)
    if dist.is_initialized():
        for weight in task.parameters():  # each worker has drawn a head of its own; the first one's is everybody's
            dist.broadcast(weight.detach(), 0)
    if sharded:
        fsdp.shard(task, worker.device, dtype)
    task.train()


def largest(value: float, device: str) -> float:
    """The largest over all workers: they must agree on when time is up, and on how many steps there are."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)  # NCCL knows no tensors of the CPU
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)
