"""The one training loop: `fit(ranker, batches, ..., worker)`. Ray Train fills a `Worker`; a bare box makes one."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rrad_ray import losses, metrics
from rrad_ray.config import TrainConfig
from rrad_ray.rankers import Encoded, Ranker, dtype_of

STATE = "state.pt"
PASS_TOKENS = 2048  # of one forward pass within a step; passes hold pairs of like length

Rows = list[Mapping[str, Any]]


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

    def __init__(self, model: nn.Module, cfg: TrainConfig) -> None:
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
    """Trainable weights: the head's, matrices (decayed), and biases and norms (not decayed)."""
    head: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if name.rpartition(".")[0].rpartition(".")[2] in ("classifier", "score", "out_proj", "dense_head"):
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


class Data:
    """Label rows as training batches: deterministic in seed, epoch and query."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], cfg: TrainConfig, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows, self.cfg, self.rank, self.world_size = rows, cfg, rank, world_size
        self.steps = steps_in_epoch(len(rows), cfg, world_size)

    def __call__(self, epoch: int) -> Iterator[Rows]:
        """The epoch's batches of this worker, `queries_per_step` rows each, every worker the same number."""
        order = list(range(len(self.rows)))
        random.Random(f"{self.cfg.seed}:{epoch}").shuffle(order)
        size = self.cfg.queries_per_step
        for step in range(self.steps):
            first = (step * self.world_size + self.rank) * size
            yield [self._sample(self.rows[index], epoch) for index in order[first : first + size]]

    def _sample(self, row: Mapping[str, Any], epoch: int) -> Mapping[str, Any]:
        """`docs_per_query` documents of a row: `top_docs` of the best by target, the rest at random; all of them, and
        the query, with `word_dropout`."""
        cfg, count = self.cfg, len(row["doc_ids"])
        source = random.Random(f"{cfg.seed}:{epoch}:{row['query_id']}")
        chosen = list(range(count))
        if count > cfg.docs_per_query:
            best = sorted(chosen, key=lambda index: -row["targets"][index])
            rest = source.sample(best[cfg.top_docs :], cfg.docs_per_query - cfg.top_docs)
            chosen = [*best[: cfg.top_docs], *rest]
        return {
            **row,
            "query": thinned(row["query"], cfg.word_dropout, source),
            "texts": [thinned(row["texts"][index], cfg.word_dropout, source) for index in chosen],
            "targets": [row["targets"][index] for index in chosen],
        }


def thinned(text: str, share: float, source: random.Random) -> str:
    """A text without about a share of its words, never without all of them (word dropout, Iyyer et al., 2015)."""
    if not share:
        return text
    return " ".join(word for word in text.split() if source.random() >= share) or text


def collate(ranker: Ranker, rows: Rows) -> tuple[Encoded, Tensor, Tensor]:
    """Encoded pairs, mask_BN, targets_BN of a batch of label rows."""
    widest = max(len(row["texts"]) for row in rows)
    mask = torch.zeros(len(rows), widest, dtype=torch.bool)
    targets = torch.zeros(len(rows), widest)
    for number, row in enumerate(rows):
        mask[number, : len(row["texts"])] = True
        targets[number, : len(row["texts"])] = torch.tensor(row["targets"])
    queries = [row["query"] for row in rows for _ in row["texts"]]
    return ranker.encode(queries, [text for row in rows for text in row["texts"]]), mask, targets


def dev_ndcg(ranker: Ranker, rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean nDCG@10 of a ranker over judged rows."""
    ranker.eval()
    queries = [row["query"] for row in rows for _ in row["texts"]]
    scores = iter(ranker.score_pairs(queries, [text for row in rows for text in row["texts"]]))
    values = [metrics.row_ndcg(row, [next(scores) for _ in row["texts"]]) for row in rows]
    ranker.train()
    return float(np.mean(values))


def share_of_peak(step: int, progress: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, then linear decay to 0 as progress goes from 0 to 1."""
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.0, 1.0 - progress)


def fit(
    ranker: Ranker,
    batches: Callable[[int], Iterable[Rows]],
    steps_per_epoch: int,
    cfg: TrainConfig,
    worker: Worker = Worker(),
    dev: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Trains `ranker`; reports loss, dev nDCG@10 and a checkpoint every `eval_steps`, and at the end.

    A checkpoint is a folder with the student as it stands and `state.pt`; `worker.resume` goes on from one with the
    same data order, rates and optimizer. Raises `FloatingPointError` if the loss is not a number.
    """
    torch.manual_seed(cfg.seed + worker.rank)
    run = _Run(ranker, steps_per_epoch, cfg, worker, dev)
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

    def __init__(
        self, ranker: Ranker, steps_per_epoch: int, cfg: TrainConfig, worker: Worker, dev: Sequence[Mapping[str, Any]]
    ) -> None:
        self.ranker, self.cfg, self.worker, self.dev = ranker, cfg, worker, dev
        _prepare(ranker, cfg, worker)
        self.loss = losses.weighted(cfg.losses, target_scale=cfg.target_scale)
        self.optimizer = MasterAdamW(ranker, cfg)
        self.total = min(cfg.max_steps or 10**12, math.ceil(cfg.epochs * steps_per_epoch))
        self.step, self.seconds, self.pairs, self.recent = 0, 0.0, 0, list[float]()
        self.told = self.agreed = -1
        self.alone = 0.0  # seconds since the workers last agreed on the time
        if worker.resume:
            self._load(worker.resume)
        # Where there is a process group, of one worker too: gradients are exchanged at every step, or weights are
        # averaged every few ("local SGD", Stich, 2019), which keeps workers from waiting for each other.
        self.local = dist.is_initialized() and cfg.average_every > 1
        self.forward = DistributedDataParallel(ranker) if dist.is_initialized() and not self.local else ranker

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
        pairs, mask_BN, targets_BN = collate(self.ranker, rows)
        scores_BN = self.forward(pairs, mask_BN, PASS_TOKENS)
        device = scores_BN.device
        loss = self.loss(scores_BN, targets_BN.to(device), mask_BN.to(device))
        value = float(loss.detach())
        if not math.isfinite(value):
            found = f"the loss is {value} at step {self.step}"
            raise FloatingPointError(f"{found}; lower lr, raise warmup_steps, or check the targets' scale")
        loss.backward()
        falling = self.progress if self.cfg.average_from >= 1 else 0.0  # a mean needs weights that still move
        self.optimizer.step(share_of_peak(self.step, falling, self.cfg.warmup_steps))
        self.step, self.pairs = self.step + 1, self.pairs + len(pairs)
        self.recent.append(value)
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
        self.seconds = _together(self.seconds + self.alone + time.monotonic() - began)
        self.alone = 0.0

    def figures(self) -> dict[str, float]:
        rate = self.pairs * self.worker.world_size / max(self.seconds, 1e-9)  # every worker takes as many
        left = self.seconds * max(0.0, 1 - self.progress) / max(self.progress, 1e-9)
        loss = float(np.mean(self.recent[-20:])) if self.recent else math.nan
        return {"step": self.step, "loss": loss, "pairs_per_s": rate, "seconds": self.seconds, "left_s": left}

    def tell(self, final: bool = False) -> None:
        """Reports metrics with a checkpoint; every worker calls it, the first one measures and saves."""
        if self.told == self.step:
            return
        self.told = self.step
        self._agree()
        figures = self.figures()
        self.optimizer.show(self.optimizer.student)
        if self.worker.rank == 0 and self.dev:
            figures["dev_ndcg"] = dev_ndcg(self.ranker, self.dev)
        self.worker.report(figures | {"final": float(final)}, self._save if self.worker.rank == 0 else None)
        if not final:
            self.optimizer.show(self.optimizer.masters)

    def _save(self, folder: Path) -> None:
        self.ranker.save(folder, self.optimizer.exact(self.ranker))
        state = {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "masters": self.optimizer.masters,
            "mean": self.optimizer.mean,
            "collected": self.optimizer.collected,
            "step": self.step,
            "seconds": self.seconds,
            "pairs": self.pairs,
            "recent": self.recent[-20:],
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


def _prepare(ranker: Ranker, cfg: TrainConfig, worker: Worker) -> None:
    """Device, dtype, frozen embeddings, and the attention that trains fastest there."""
    ranker.to(device=worker.device, dtype=dtype_of(cfg.dtype, worker.device))
    if worker.device == "cpu":
        ranker.model.set_attn_implementation("eager")  # 1.2 to 1.45 times as fast as SDPA in training on CPUs
    for module in ranker.modules():
        if isinstance(module, nn.Dropout):
            module.p = cfg.dropout
    if cfg.freeze_embeddings:
        ranker.model.get_input_embeddings().weight.requires_grad_(False)
    ranker.train()


def _together(value: float) -> float:
    """The largest over all workers: they must agree on when time is up."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)
