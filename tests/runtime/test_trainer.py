"""What training under Ray Train keeps and says: curves, lines, the best checkpoint, failures. Without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pytest
from ray.train import Checkpoint

from rrad_ray import tables
from rrad_ray.config import TrainConfig
from rrad_ray.errors import in_stage
from rrad_ray.runtime import trainer
from rrad_ray.stages import finetune, train
from rrad_ray.training.loop import STATE
from tests.toys import Line

SPEED = {"pairs_per_s": 12.4, "dtype": "float32", "left_s": 65.0}


class Perplexity(Line):
    """A task of which the lowest figure is the best."""

    higher_is_better = False


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_uri")


def checkpoint(folder: str, name: str) -> Checkpoint:
    """Return a checkpoint as Ray Train keeps it in its storage, whose weights are its name."""
    for file in ("model.safetensors", "adapter/adapter.safetensors", STATE):
        tables.write_text(f"{folder}/{name}/{file}", name)
    fs, path = tables.filesystem(f"{folder}/{name}")
    return Checkpoint(path, None if "file" in fs.protocol else pafs.PyFileSystem(pafs.FSSpecHandler(fs)))


@pytest.mark.parametrize(
    ("task", "figures", "best"),
    [(Line, [0.5, 0.7, 0.6], 1), (Perplexity, [9.0, 7.0, 8.0], 1), (Perplexity, [None, None, None], 2)],
    ids=["highest", "lowest", "last without dev rows"],
)
def test_the_best_checkpoint_is_kept_without_the_optimizers_state_and_rays_storage_stays_until_the_manifest(
    uri: str, task: type[Line], figures: list[float | None], best: int
) -> None:
    kept = []
    for index, figure in enumerate(figures):
        dev = {} if figure is None else {"dev_given": figure}
        metrics = {"step": 10 * (index + 1), "loss": 0.5, "recent": 1.0, **dev}
        kept.append((checkpoint(f"{uri}/out/{tables.RAY_FOLDER}/run", str(index)), metrics))
    result = SimpleNamespace(best_checkpoints=kept, metrics={"ended": "steps", "step": 30, "planned_steps": 30})
    facts = trainer._keep(TrainConfig("in", f"{uri}/out"), result, task)
    dev = {} if figures[best] is None else {"dev_given": figures[best]}
    expected = {"step": 10 * (best + 1), "loss": 0.5, **dev}
    lineage = tables.Lineage(training=tables.TrainingFacts(splits=["train", "unlabelled"]))
    assert facts == {"best": expected, "ended": "steps", "model": "model", "lineage": lineage}
    files = {file.name for file in tables.data_files(f"{uri}/out/model")}
    assert files == {"model.safetensors", "adapter/adapter.safetensors"}
    assert tables.read_text(f"{uri}/out/model/model.safetensors") == str(best)
    assert tables.exists(f"{uri}/out/{tables.RAY_FOLDER}/run/{best}/{STATE}")
    assert {train.run.until_done, finetune.run.until_done} == {tables.RAY_FOLDER}


def test_a_run_that_the_clock_cut_short_says_so_on_the_terminal_and_in_its_manifest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut = {"ended": "time", "step": 64, "planned_steps": 1420}
    said = trainer._cut_short(TrainConfig("in", "out", max_seconds=90), cut)
    assert said == "was cut short by max_seconds=90 at step 64 of 1,420"
    assert said in capsys.readouterr().out
    for ended in ("steps", "epochs", "patience"):
        assert trainer._cut_short(TrainConfig("in", "out", max_seconds=90), {**cut, "ended": ended}) == ""
    assert capsys.readouterr().out == ""


def test_steps_that_a_resumed_run_repeats_replace_those_of_the_killed_one() -> None:
    history: dict[str, list[float]] = {}
    for step, loss in ((20, 0.9), (40, 0.8), (60, 0.7)):
        trainer._remember(history, {"step": step, "loss": loss, **SPEED})
    trainer._remember(history, {"step": 50, "dev_ndcg": 0.4, **SPEED})
    trainer._remember(history, {"step": 40, "loss": 0.5, "dev_ndcg": 0.3, **SPEED})
    assert history == {"steps": [20, 40], "loss": [0.9, 0.5], "dev_steps": [40], "dev_ndcg": [0.3]}


def test_a_steps_line_has_its_losses_dev_figures_speed_and_time_to_go() -> None:
    metrics = {"step": 40, "loss": 0.75, "loss_rank": 0.5, "dev_ndcg": 0.625, "dev_token_loss": 2.0, **SPEED}
    line = "step 40, loss 0.7500, loss rank 0.5000, dev nDCG@10 0.625, dev_token_loss 2.000, "
    line += "12 pairs/s in float32, ETA 1:05"
    assert trainer._line(metrics) == line


def test_a_tracker_that_fails_is_a_warning_and_the_others_get_their_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[Any] = []

    def broken(*arguments: Any) -> None:
        raise OSError("no space\nleft")

    metrics = {"step": 40, "loss": 0.5, "dev_ndcg": 0.625, "final": 1.0, "seconds": 3.0, **SPEED}
    with in_stage("train"):
        trainer._track({"wandb": broken, "mlflow": lambda *arguments: calls.append(arguments)}, metrics)
    assert calls == [({"loss": 0.5, "dev_ndcg": 0.625, "pairs_per_s": 12.4}, 40, True, True)]
    assert "warning: wandb did not take step 40 (OSError: no space)" in capsys.readouterr().out


def test_a_failure_that_is_not_worth_a_retry_is_taken_once(tmp_path: Path) -> None:
    cfg = TrainConfig("in", str(tmp_path))
    assert trainer._take_failure(cfg) is None
    failure = {"problem": "the loss is nan at step 7", "remedy": "lower lr"}
    (tmp_path / trainer.FAILED).write_text(json.dumps(failure))
    error = trainer._take_failure(cfg)
    assert error is not None
    assert str(error) == f"{tmp_path}: the loss is nan at step 7; lower lr; a changed config wants a new output"
    assert trainer._take_failure(cfg) is None


def test_the_cause_of_a_failure_is_the_last_line_of_the_first_workers() -> None:
    error = RuntimeError("training failed")
    assert trainer._cause(error) == "training failed"
    error.worker_failures = {1: "Traceback ...\n  File ...\nValueError: 3 rows\n\n"}  # type: ignore[attr-defined]
    assert trainer._cause(error) == "ValueError: 3 rows"
    assert trainer._cause(KeyboardInterrupt()) == "KeyboardInterrupt"
