"""Two processes that share one sharded model train what two whole ones train, and leave the same checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from rrad_ray.config import FinetuneConfig, TermsConfig, TrainConfig
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints
from rrad_ray.training.loop import STATE, fit
from rrad_ray.training.rank_task import RankBatches, RankTask
from rrad_ray.training.task import TrainWorker
from tests import toys
from tests.toys import ROWS, Listener

CFG = dataclasses.replace(toys.CFG, layers=2, max_steps=6, eval_steps=3, queries_per_step=2, terms=TermsConfig(0.5))
FSDP = dataclasses.replace(CFG, parallel="fsdp")
RUNS: dict[str, tuple[TrainConfig, str]] = {  # a config, and the checkpoint to go on from
    "ddp": (CFG, ""),
    "fsdp": (FSDP, ""),
    "fsdp-again": (FSDP, "fsdp/step-3"),
    "ddp-from-fsdp": (CFG, "fsdp/step-3"),
    "fsdp-mean": (dataclasses.replace(FSDP, average_from=0.5), ""),
    "ddp-mean": (dataclasses.replace(CFG, average_from=0.5), ""),
    "fsdp-bfloat16": (dataclasses.replace(FSDP, dtype="bfloat16"), ""),
}


def work(rank: int, folder: str) -> None:
    """Train every run, one after the other, as one process of two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    heard: dict[str, Any] = {}
    for name, (cfg, resume) in RUNS.items():
        torch.manual_seed(7 + rank)
        task = RankTask(Ranker.encoder(checkpoints.resolve(checkpoints.BUNDLED[0]), max_length=24, layers=2), cfg)
        checkpoints_folder = Path(folder, name)
        checkpoints_folder.mkdir(exist_ok=True)
        listener, data = Listener(checkpoints_folder if rank == 0 else None), RankBatches(ROWS, cfg, rank, 2)
        worker = TrainWorker(rank, 2, report=listener, resume=Path(folder, resume) if resume else None)
        fit(task, data, data.steps, cfg, worker, ROWS)
        sharded = [
            weight.to_local().numel() / weight.numel() for weight in task.parameters() if type(weight.data) is DTensor
        ]
        heard[name] = (listener.heard, sharded)
        dist.barrier()
    torch.save(heard, f"{folder}/heard-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sharded")
    mp.spawn(work, (str(folder),), nprocs=2)
    return folder, [torch.load(folder / f"heard-{rank}.pt", weights_only=False) for rank in (0, 1)]


Trained = tuple[Path, list[dict[str, Any]]]


def same(trained: Trained, one: str, other: str, tolerance: float) -> None:
    folder, heard = trained
    for ours, theirs in zip(heard[0][one][0][-1:], heard[0][other][0][-1:], strict=True):
        for name in ("step", "loss", "loss_rank", "loss_terms", "dev_ndcg"):
            assert ours[name] == pytest.approx(theirs[name], abs=tolerance), name
    saved = [Ranker.load(f"{folder}/{name}/step-6", dtype="float32").model.state_dict() for name in (one, other)]
    for name, weight in saved[0].items():
        assert float((weight - saved[1][name]).abs().max()) <= tolerance, name


def test_sharded_workers_train_what_whole_ones_train(trained: Trained) -> None:
    same(trained, "fsdp", "ddp", 2e-5)
    same(trained, "fsdp-mean", "ddp-mean", 2e-5)


def test_every_worker_holds_its_share_of_each_weight(trained: Trained) -> None:
    for heard in trained[1]:
        shares = heard["fsdp"][1]
        assert len(shares) > 30
        assert sorted(shares)[len(shares) // 2] == 0.5
        assert heard["ddp"][1] == []


def test_the_state_is_whole_so_that_either_kind_goes_on_from_it(trained: Trained) -> None:
    folder, _ = trained
    ours, theirs = (torch.load(folder / name / "step-3" / STATE, weights_only=True) for name in ("fsdp", "ddp"))
    assert [master.shape for master in ours["masters"]] == [master.shape for master in theirs["masters"]]
    assert ours["optimizer"]["state"].keys() == theirs["optimizer"]["state"].keys()
    moments = (state["optimizer"]["state"][0]["exp_avg"] for state in (ours, theirs))
    torch.testing.assert_close(*moments, atol=1e-6, rtol=1e-3)
    same(trained, "fsdp-again", "fsdp", 1e-6)
    same(trained, "ddp-from-fsdp", "fsdp", 2e-5)


def test_bfloat16_computes_and_float32_is_kept(trained: Trained) -> None:
    saved = Ranker.load(f"{trained[0]}/fsdp-bfloat16/step-6", dtype="float32").model.state_dict()["classifier.weight"]
    assert not torch.equal(saved, saved.bfloat16().float())
    losses = [trained[1][0][name][0][-1]["loss"] for name in ("fsdp-bfloat16", "fsdp")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_what_fsdp_cannot_do_is_an_error_of_the_config() -> None:
    with pytest.raises(ValueError, match=r"average_every=4.*nothing to average"):
        TrainConfig("", "", parallel="fsdp", average_every=4)
    with pytest.raises(ValueError, match=r"lora_rank=8.*set parallel=ddp"):
        FinetuneConfig("", "", parallel="fsdp", lora_rank=8)
