"""The one training loop: `fit(task, batches, ..., worker)`. Ray Train fills a `Worker`; a bare box makes one."""

from __future__ import annotations

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
from torch.nn.parallel import DistributedDataParallel

from rrad_ray.config import TrainConfig, TuneConfig
from rrad_ray.rankers import dtype_of

STATE = "state.pt"
HEADS = ("classifier", "score", "out_proj", "dense_head")  # what Hugging Face calls a head's last layer

Rows = list[Any]  # what a step learns from, as the task takes it: label rows, packed sequences
Config = TrainConfig | TuneConfig


class Task(nn.Module):
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

    def pairs(self, rows: Rows) -> int:
        """Pairs of query and document in a batch: speed is counted in them."""
        return sum(len(row["texts"]) for row in rows)


class Report(Protocol):
    """Hears the metrics of a step and, where there is one, of a fresh checkpoint: `save(folder)` writes it."""

    def __call__(self, metrics: dict[str, float], save: Callable[[Path], None] | None) -> None: ...


def log_report(metrics: dict[str, float], save: Callable[[Path], None] | None) -> None:
    """Prints."""
    print("  ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


@dataclass(frozen=True)
class Worker:
    """Where a training process stands. `resume`: a checkpoint folder to go on from."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    report: Report = log_report
    resume: Path | None = None


class MasterAdamW:
    """AdamW on a float32 master copy of the trainable weights; the model itself computes in its own dtype.

    On CPUs with AMX, bfloat16 weights train about 1.6 times faster than float32 ones under autocast; without the
    master copy, updates smaller than 2^-8 of a weight would be lost.
    """

    def __init__(self, model: nn.Module, cfg: Config) -> None:
        head, matrices, vectors = _groups(model)
        self.weights = [*head, *matrices, *vectors]
        self.masters = [weight.detach().float().clone() for weight in self.weights]
        cuts = (len(head), len(head) + len(matrices))
        parts = (self.masters[: cuts[0]], self.masters[cuts[0] : cuts[1]], self.masters[cuts[1] :])
        rates = ((cfg.head_lr, 0.0), (cfg.lr, cfg.weight_decay), (cfg.lr, 0.0))
        groups = [
            {"params": part, "lr": lr, "peak": lr, "weight_decay": decay}
            for part, (lr, decay) in zip(parts, rates, strict=True)
            if part
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.clip = cfg.clip
        self.mean: list[Tensor] = []  # of the masters as they stood `collected` times
        self.collected = 0

    def step(self, share_of_peak: float) -> float:
        """One update at a share of each group's peak rate; the gradient's norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        norm = float(nn.utils.clip_grad_norm_(self.masters, self.clip))
        if math.isfinite(norm):
            self.optimizer.step()
        self.show(self.masters)
        return norm

    def average(self) -> None:
        """Every worker's weights become the mean of all workers'; the optimizer's moments stay each worker's own."""
        flat = torch.cat([master.view(-1) for master in self.masters])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        with torch.no_grad():
            parts = flat.split([master.numel() for master in self.masters])
            for master, part in zip(self.masters, parts, strict=True):
                master.copy_(part.view_as(master))
        self.show(self.masters)

    def collect(self) -> None:
        """Takes the masters as they stand into their mean (stochastic weight averaging, Izmailov et al., 2018)."""
        self.collected += 1
        if not self.mean:
            self.mean = [master.clone() for master in self.masters]
        else:
            torch._foreach_lerp_(self.mean, self.masters, 1 / self.collected)

    @property
    def student(self) -> list[Tensor]:
        """The weights that are measured and saved: the mean, where there is one."""
        return self.mean or self.masters

    def show(self, values: Sequence[Tensor]) -> None:
        """The model computes with these weights from now on."""
        with torch.no_grad():
            for weight, value in zip(self.weights, values, strict=True):
                weight.copy_(value)

    def exact(self, model: nn.Module) -> dict[str, Tensor]:
        """The student's weights by name, trained ones in float32."""
        fine = {id(weight): value for weight, value in zip(self.weights, self.student, strict=True)}
        return {name: fine.get(id(weight), weight.detach().float()) for name, weight in model.named_parameters()}


def _groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weights: those of heads, matrices (decayed), and biases and norms (not decayed)."""
    head: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        owner = name.rpartition(".")[0]
        if owner.rpartition(".")[2] in HEADS or owner.startswith("terms."):
            head.append(weight)
        else:
            (matrices if weight.ndim > 1 else vectors).append(weight)
    return head, matrices, vectors


def steps_in_epoch(queries: int, cfg: TrainConfig, world_size: int) -> int:
    """Steps that every worker takes in an epoch. Raises `ValueError` for fewer queries than one step needs."""
    steps = queries // (cfg.queries_per_step * world_size)
    if not steps:
        found = f"{queries} training queries do not fill a step of {cfg.queries_per_step} on {world_size} worker(s)"
        raise ValueError(f"{found}; label more queries or lower queries_per_step")
    return steps


def share_of_peak(step: int, progress: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, then linear decay to 0 as progress goes from 0 to 1."""
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.0, 1.0 - progress)


def fit(
    task: Task,
    batches: Callable[[int], Iterable[Rows]],
    steps_per_epoch: int,
    cfg: Config,
    worker: Worker = Worker(),
    dev: Sequence[Any] = (),
) -> None:
    """Trains `task`; reports its losses, its figures on dev and a checkpoint every `eval_steps`, and at the end.

    A checkpoint is a folder with what the task saves and `state.pt`; `worker.resume` goes on from one with the same
    data order, rates and optimizer. Raises `FloatingPointError` if the loss is not a number.
    """
    torch.manual_seed(cfg.seed + worker.rank)
    run = _Run(task, steps_per_epoch, cfg, worker, dev)
    while not run.finished:
        for number, rows in enumerate(batches(run.step // steps_per_epoch)):
            if number < run.step % steps_per_epoch:
                continue  # done before the resume
            run.update(rows)
            if run.finished:
                break
    run.tell(final=True)


class _Run:
    """The state of one `fit`: what a checkpoint holds."""

    def __init__(self, task: Task, steps_per_epoch: int, cfg: Config, worker: Worker, dev: Sequence[Any]) -> None:
        self.task, self.cfg, self.worker, self.dev = task, cfg, worker, dev
        _prepare(task, cfg, worker)
        self.optimizer = MasterAdamW(task, cfg)
        self.total = min(cfg.max_steps or 10**12, math.ceil(cfg.epochs * steps_per_epoch))
        self.step, self.seconds, self.pairs, self.recent = 0, 0.0, 0, list[dict[str, float]]()
        self.told = self.agreed = -1
        self.alone = 0.0  # seconds since the workers last agreed on the time
        if worker.resume:
            self._load(worker.resume)
        # Where there is a process group, of one worker too: gradients are exchanged at every step, or weights are
        # averaged every few ("local SGD", Stich, 2019), which keeps workers from waiting for each other.
        self.local = dist.is_initialized() and cfg.average_every > 1
        self.forward = DistributedDataParallel(task) if dist.is_initialized() and not self.local else task

    @property
    def progress(self) -> float:
        by_time = self.seconds / self.cfg.max_seconds if self.cfg.max_seconds else 0.0
        return max(self.step / self.total, by_time)

    @property
    def finished(self) -> bool:
        return self.progress >= 1.0

    def update(self, rows: Rows) -> None:
        """One step: forward, loss, backward, update; tells when it is time."""
        began = time.monotonic()
        parts = self.forward(rows)
        loss = torch.stack(list(parts.values())).sum()
        values = {name: float(part.detach()) for name, part in parts.items()}
        if not math.isfinite(sum(values.values())):
            found = f"the loss is {sum(values.values())} at step {self.step}"
            raise FloatingPointError(f"{found}; lower lr, raise warmup_steps, or check the targets' scale")
        loss.backward()
        falling = self.progress if self.cfg.average_from >= 1 else 0.0  # a mean needs weights that still move
        self.optimizer.step(share_of_peak(self.step, falling, self.cfg.warmup_steps))
        self.step, self.pairs = self.step + 1, self.pairs + self.task.pairs(rows)
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

    def figures(self) -> dict[str, float]:
        rate = self.pairs * self.worker.world_size / max(self.seconds, 1e-9)  # every worker takes as many
        left = self.seconds * max(0.0, 1 - self.progress) / max(self.progress, 1e-9)
        names = list(self.recent[-1]) if self.recent else []
        means = {f"loss_{name}": float(np.mean([values[name] for values in self.recent])) for name in names}
        figures = {"step": self.step, "loss": sum(means.values()) if means else math.nan}
        parts = means if len(means) > 1 else {}
        return figures | parts | {"pairs_per_s": rate, "seconds": self.seconds, "left_s": left}

    def tell(self, final: bool = False) -> None:
        """Reports metrics with a checkpoint; every worker calls it, the first one measures and saves."""
        if self.told == self.step:
            return
        self.told = self.step
        self._agree()
        figures = self.figures()
        self.optimizer.show(self.optimizer.student)
        if self.worker.rank == 0 and self.dev:
            self.task.eval()
            figures |= self.task.measure(self.dev)
            self.task.train()
        self.worker.report(figures | {"final": float(final)}, self._save if self.worker.rank == 0 else None)
        if not final:
            self.optimizer.show(self.optimizer.masters)

    def _save(self, folder: Path) -> None:
        self.task.save(folder, self.optimizer.exact(self.task))
        state = {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "masters": self.optimizer.masters,
            "mean": self.optimizer.mean,
            "collected": self.optimizer.collected,
            "step": self.step,
            "seconds": self.seconds,
            "pairs": self.pairs,
            "recent": self.recent,
            "random": torch.get_rng_state(),
        }
        torch.save(state, folder / STATE)

    def _load(self, folder: Path) -> None:
        state = torch.load(folder / STATE, weights_only=True)
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for master, saved in zip(self.optimizer.masters, state["masters"], strict=True):
                master.copy_(saved)
        self.optimizer.show(self.optimizer.masters)
        self.optimizer.mean, self.optimizer.collected = list(state["mean"]), state["collected"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.pairs, self.recent = state["pairs"], list(state["recent"])
        self.told = self.agreed = self.step
        torch.set_rng_state(state["random"])


def _prepare(task: Task, cfg: Config, worker: Worker) -> None:
    """Device, dtype, frozen embeddings, and the attention that trains fastest there."""
    task.to(device=worker.device, dtype=dtype_of(cfg.dtype, worker.device))
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
    task.train()


def largest(value: float, device: str) -> float:
    """The largest over all workers: they must agree on when time is up, and on how many steps there are."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)  # NCCL knows no tensors of the CPU
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)
