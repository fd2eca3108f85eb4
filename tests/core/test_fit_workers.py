"""Two training processes are one: they begin from the same weights, whatever each of them drew at random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from rrad_ray.config import TrainConfig
from rrad_ray.fit import Rows, Task, Worker, fit


class Drawn(Task):
    """A linear layer drawn at random, and nothing that costs time."""

    best = "dev_none"

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = nn.Linear(3, 1)
        self.model.set_attn_implementation = lambda name: None

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        return {"square": self.model(torch.tensor(rows, dtype=self.model.weight.dtype)).pow(2).mean()}

    def pairs(self, rows: Rows) -> int:
        return len(rows)

    def save(self, folder: Path, exact: Mapping[str, Tensor]) -> None:
        raise NotImplementedError


def work(rank: int, folder: str, average_every: int) -> None:
    """One process of two: what it drew, and what it has after three steps."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(100 + rank)
    task = Drawn()
    drawn = task.model.weight.detach().clone()
    cfg = TrainConfig(
        "", "", max_steps=3, eval_steps=99, freeze_embeddings=False, dtype="bfloat16", average_every=average_every
    )
    rows = [[1.0, float(rank), 2.0]]
    fit(task, lambda epoch: [rows] * 3, 3, cfg, Worker(rank, 2, report=lambda metrics, save: None))
    torch.save((drawn, task.model.weight.detach().float()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("average_every", [1, 3])
def test_workers_that_drew_other_weights_end_with_the_same(tmp_path: Path, average_every: int) -> None:
    mp.spawn(work, (str(tmp_path), average_every), nprocs=2)
    (first, one), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(one, other)
    assert float((one - first).abs().max()) < 0.1, "three small steps from what the first worker drew"
