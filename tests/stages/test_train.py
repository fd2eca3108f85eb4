"""train under Ray Train with a real pretrained model: kill -9 and resume, two workers, bad input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rrad_ray import metrics, tables, teacher
from rrad_ray.config import GenerationConfig, SelectConfig, TermsConfig, TrainConfig
from rrad_ray.errors import RradError
from rrad_ray.generation import Explainer
from rrad_ray.rankers import Ranker
from rrad_ray.rows import Candidates, Labels
from rrad_ray.stages import train
from tests.toys import causal_lm

SMALL = {
    "layers": 2,
    "max_length": 48,
    "queries_per_step": 4,
    "docs_per_query": 4,
    "top_docs": 2,
    "worker": {"CPU": 1},
}


@pytest.fixture(scope="module")
def labels(short: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Labels whose targets are the free fusion of the sources: real scores, no engine needed."""
    place = tmp_path_factory.mktemp("labels")
    rows = []
    for row in tables.read(short, Candidates):
        targets = metrics.fuse(teacher.by_source(row), {"bm25": 1.0, "dense": 2.0})
        found = {"targets": targets, "missing": [False] * len(targets), "confidence": [1.0] * len(targets)}
        rows.append({**row, **found, "reasons": [], "parse_status": ["ok"]})
    out = tables.Output("label", SelectConfig(input="", output=f"{place}/labels"), Labels, {})
    out.write_all(rows, 16)
    return out.commit()


def test_train_killed_in_the_middle_goes_on_from_its_checkpoint_to_the_end(
    labels: str, tmp_path: Path, killed: Callable[..., str]
) -> None:
    output = f"{tmp_path}/student"
    options = [f"{key}={value}" for key, value in SMALL.items() if not isinstance(value, dict)]
    arguments = ["train", "configs/train.yaml", f"input={labels}", f"output={output}", *options]
    arguments += ["epochs=40", "max_steps=120", "eval_steps=20", "eval_queries=8", "worker={CPU: 1}"]
    history = Path(output) / "history.json"

    def two_checkpoints() -> bool:
        try:
            return len(json.loads(history.read_text())["dev_steps"]) >= 2
        except (OSError, ValueError):
            return False

    killed(arguments, two_checkpoints)
    assert not os.path.exists(f"{output}/manifest.json")

    from .conftest import rrad

    again = rrad(*arguments)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "goes on from the last checkpoint" in again.stdout
    curves = json.loads(history.read_text())
    assert curves["dev_steps"] == sorted(set(curves["dev_steps"]))
    assert curves["dev_steps"][-1] == 120
    assert np.mean(curves["loss"][-3:]) < curves["loss"][0]
    assert not os.path.exists(f"{output}/model/state.pt"), "the optimizer's state was shipped"
    assert "already done" in rrad(*arguments).stdout


@pytest.mark.parametrize(("average_every", "weight"), [(1, 0.5), (3, 0.0)], ids=["gradients, terms", "weights"])
def test_two_workers_train_one_student_together(
    labels: str, tmp_path: Path, average_every: int, weight: float
) -> None:
    options = {"workers": 2, "epochs": 4, "eval_steps": 50, "dtype": "bfloat16", "average_every": average_every}
    cfg = TrainConfig(input=labels, output=f"{tmp_path}/two", terms=TermsConfig(weight), **options, **SMALL)
    train.run(cfg)
    manifest = tables.read_manifest(cfg.output)
    assert manifest["best"]["step"] == 4 * (48 // 8), "each of two workers takes its own half of every step"
    curves = json.loads(Path(cfg.output, "history.json").read_text())
    assert len(curves["loss"]) == len(curves["steps"]) > 0
    parts = {"loss_rank", "loss_terms"} if weight else set()
    assert {name for name in curves if name.startswith("loss_")} == parts
    assert all(len(curves[name]) == len(curves["steps"]) for name in parts)
    ranker = Ranker.load(f"{cfg.output}/model", dtype="float32")
    scores = ranker.score("add two numbers", ["returns the sum of two numbers", "a red car"])
    assert len(scores) == 2
    assert all(np.isfinite(scores))


def test_a_decoder_that_learns_to_write_keeps_its_output_layer_beside_a_plain_checkpoint(
    labels: str, tmp_path: Path
) -> None:
    source = causal_lm(tmp_path / "source", ["sort a list", "irrelevant"], tied=False)
    options = {"kind": "decoder", "model": source, "max_steps": 4, "generation": GenerationConfig(weight=0.5)}
    cfg = TrainConfig(input=labels, output=f"{tmp_path}/writes", **(SMALL | options | {"layers": 0}))
    train.run(cfg)
    assert {"loss", "loss_rank", "loss_tokens"} <= set(json.loads(Path(cfg.output, "history.json").read_text()))
    assert np.isfinite(Ranker.load(f"{cfg.output}/model").score("add", ["sum", "a car"])).all()
    assert isinstance(Explainer.load(f"{cfg.output}/model").explain("add", "sum", max_tokens=3), str)
    assert not os.path.exists(f"{cfg.output}/model/state.pt")


def test_too_few_labels_for_a_step_say_so(labels: str, tmp_path: Path) -> None:
    cfg = TrainConfig(input=labels, output=f"{tmp_path}/few", **(SMALL | {"queries_per_step": 512}))
    with pytest.raises(RradError, match="do not fill a step of 512"):
        train.run(cfg)


def test_an_unknown_loss_lists_the_known_ones(labels: str, tmp_path: Path) -> None:
    with pytest.raises(RradError, match=r"losses.hinge.*margin_mse.*ranknet"):
        train.run(TrainConfig(input=labels, output=f"{tmp_path}/hinge", losses={"hinge": 1.0}))


def test_a_base_model_that_does_not_exist_is_named(labels: str, tmp_path: Path) -> None:
    with pytest.raises(RradError, match="no such model folder"):
        train.run(TrainConfig(input=labels, output=f"{tmp_path}/none", model="/no/such/model"))
