"""Two training processes act as one: they start from the same weights, whatever each of them drew at random, learn
from both halves of a step, and end together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from rrad_ray.config import TrainConfig
from rrad_ray.training.loop import fit
from rrad_ray.training.rank_task import RankBatches
from rrad_ray.training.task import Rows, TrainWorker
from tests import toys
from tests.toys import ROWS, Line, Listener

CFG: dict[str, Any] = {"max_steps": 3, "eval_steps": 99, "freeze_embeddings": False}
HALVES = [[[1.0, 0.0, 2.0], [5.0, 1.0, 0.0], [1.0, -2.0, 1.0]], [[2.0, 1.0, 1.0], [1.0, 1.0, 3.0], [4.0, 0.5, 0.0]]]


class Seen(Line):
    """A task that keeps the ids of the queries of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        self.batches.append([row["query_id"] for row in rows])
        return super().forward([[1.0, 2.0, 3.0]])


def seen(cfg: TrainConfig, rank: int, workers: int, folder: Path, resume: Path | None = None) -> list[list[str]]:
    """Return the query ids of a worker's batches; rank 0 writes its checkpoints to the folder."""
    task, data = Seen(), RankBatches(ROWS, cfg, rank, workers)
    listener = Listener(folder if rank == 0 else None)
    fit(task, data, data.steps, cfg, TrainWorker(rank, workers, report=listener, resume=resume))
    return task.batches


def pair(rank: int, folder: str, cfg: TrainConfig, resume: Path | None) -> None:
    """Run one process of two that share the rows, and save its batches."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    torch.save(seen(cfg, rank, 2, Path(folder), resume), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def work(rank: int, folder: str, changes: dict[str, Any], figures: list[float]) -> None:
    """Run one process of two, and save its initial and final weights and last report; rank 0 measures."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(100 + rank)
    task, listener = Line(figures if rank == 0 else []), Listener()
    drawn = task.model.weight.detach().clone()
    cfg = TrainConfig("", "", **(CFG | changes))
    worker = TrainWorker(rank, 2, report=listener)
    fit(task, lambda epoch, first: [HALVES[rank]] * 50, 50, cfg, worker, dev=["a row"] if figures else [])
    torch.save((drawn, task.model.weight.detach().float(), listener.heard[-1]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def both(
    folder: Path, changes: dict[str, Any], figures: list[float] | None = None
) -> list[tuple[Tensor, Tensor, Any]]:
    folder.mkdir(exist_ok=True)
    mp.spawn(work, (str(folder), changes, figures or []), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("average_every", [1, 3])
def test_workers_that_drew_other_weights_end_with_the_same(tmp_path: Path, average_every: int) -> None:
    (first, one, _), (second, other, _) = both(tmp_path, {"dtype": "bfloat16", "average_every": average_every})
    assert not torch.equal(first, second)
    assert torch.equal(one, other)
    assert float((one - first).abs().max()) < 0.1, "three small steps from what the first worker drew"


def test_a_step_in_parts_is_the_step_on_two_workers_too(tmp_path: Path) -> None:
    exact = {"dtype": "float32", "lr": 1e-2, "warmup_steps": 0}
    (_, whole, _), _ = both(tmp_path / "whole", exact)
    (first, parts, _), (_, other, _) = both(tmp_path / "parts", exact | {"accumulate": 3})
    assert torch.equal(parts, other)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    assert float((whole - first).abs().max()) > 1e-2


def test_what_the_first_worker_measures_ends_both(tmp_path: Path) -> None:
    """Better at the second evaluation, so that a worker which keeps its own count would stop at another step."""
    options = {"dtype": "float32", "eval_steps": 2, "max_steps": 50, "patience": 2}
    ends = both(tmp_path, options, [0.5, 0.4, 0.6, 0.6, 0.1, 0.9])
    assert [last["step"] for _, _, last in ends] == [10, 10]
    assert [last["ended"] for _, _, last in ends] == ["patience"] * 2


def flat(batches: list[list[str]]) -> list[str]:
    return sorted(name for batch in batches for name in batch)


def together(folder: Path, cfg: TrainConfig, resume: Path | None = None) -> list[list[list[str]]]:
    """Return the batches of each of two workers."""
    folder.mkdir()
    mp.spawn(pair, (str(folder), cfg, resume), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_a_run_goes_on_with_another_number_of_workers_where_it_was(tmp_path: Path) -> None:
    everything = sorted(row["query_id"] for row in ROWS)
    half = dataclasses.replace(toys.CFG, queries_per_step=2, max_steps=0, epochs=2.0, freeze_embeddings=False)
    two = together(tmp_path / "two", dataclasses.replace(half, max_steps=3))
    (tmp_path / "one").mkdir()
    one = seen(half, 0, 1, tmp_path / "one", tmp_path / "two" / "step-3")
    assert [len(worker) for worker in two] == [3, 3], "12 of the 16 rows of the first epoch"
    assert flat([*two[0], *two[1], *one[:2]]) == everything
    assert flat(one[2:]) == everything, "and the second epoch whole"
    (tmp_path / "alone").mkdir()
    alone = seen(dataclasses.replace(half, max_steps=6), 0, 1, tmp_path / "alone")
    rest = together(tmp_path / "rest", half, tmp_path / "alone" / "step-6")
    assert flat([*alone, rest[0][0], rest[1][0]]) == everything
    assert flat([*rest[0][1:], *rest[1][1:]]) == everything
