"""train under Ray Train with a real pretrained model: kill -9 and resume, two workers, bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from transformers import AutoTokenizer

from rrad_ray import tables
from rrad_ray.config import GenerationConfig, SelectConfig, TermsConfig, TrainConfig
from rrad_ray.errors import RradError, in_stage
from rrad_ray.evaluation import fusion
from rrad_ray.rankers.generation import Explainer
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Candidates, Labels, by_source
from rrad_ray.runtime import trainer
from rrad_ray.stages import train
from rrad_ray.training.rank_task import RankTask
from rrad_ray.training.task import Diverged, TrainTask, TrainWorker
from tests import tiny
from tests.commands import PATIENCE_S, ROOT, RRAD
from tests.fixtures import curves_of, rrad
from tests.toys import Listener, causal_lm

pytestmark = pytest.mark.ray

SMALL = {
    "layers": 2,
    "max_length": 48,
    "queries_per_step": 4,
    "docs_per_query": 4,
    "top_docs": 2,
    "resources": {"CPU": 1},
}


@pytest.fixture(scope="module")
def labels(short: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Labels whose targets are the free fusion of the sources: real scores, no engine needed."""
    folder = tmp_path_factory.mktemp("labels")
    rows = []
    for row in tables.read(short, Candidates):
        targets = fusion.fuse(by_source(row), {"bm25": 1.0, "dense": 2.0})
        label = {"targets": targets, "missing": [False] * len(targets), "confidence": [1.0] * len(targets)}
        rows.append({**row, **label, "reasons": [], "parse_status": ["ok"]})
    return written(f"{folder}/labels", rows)


def written(uri: str, rows: list[dict[str, Any]]) -> str:
    """Write these rows as an output of label; return its URI."""
    out = tables.Output("label", SelectConfig(input="", output=uri), Labels, {})
    out.write_all(rows, 16)
    return out.commit()


@pytest.mark.slow
def test_train_killed_in_the_middle_goes_on_from_its_checkpoint_to_the_end(
    labels: str, tmp_path: Path, killed: Callable[..., str]
) -> None:
    output = f"{tmp_path}/student"
    options = [f"{key}={value}" for key, value in SMALL.items() if not isinstance(value, dict)]
    arguments = ["train", "configs/train.yaml", f"input={labels}", f"output={output}", *options]
    arguments += ["epochs=40", "max_steps=120", "eval_steps=20", "eval_queries=8", "resources={CPU: 1}"]
    killed(arguments, lambda: len(curves_of(output)["dev_steps"]) >= 2)
    assert not os.path.exists(f"{output}/manifest.json")

    again = rrad(*arguments)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "goes on from the last checkpoint" in again.stdout
    curves = curves_of(output)
    assert curves["dev_steps"] == sorted(set(curves["dev_steps"]))
    assert curves["dev_steps"][-1] == 120
    assert np.mean(curves["loss"][-3:]) < curves["loss"][0]
    assert not os.path.exists(f"{output}/model/state.pt"), "the optimizer's state was shipped"
    assert "already done" in rrad(*arguments).stdout


def training_processes(command: int) -> list[psutil.Process]:
    """Return the training processes of a running `rrad`, which started a cluster of its own."""
    workers = []
    for process in psutil.Process(command).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.append(process)
        except psutil.Error:  # it has ended
            continue
    return workers


@pytest.mark.slow
def test_a_worker_killed_in_mid_epoch_costs_nothing_of_what_is_learnt(labels: str, tmp_path: Path) -> None:
    options = [f"{key}={value}" for key, value in SMALL.items() if not isinstance(value, dict)]
    options += [
        "num_workers=2",
        "resources={CPU: 1}",
        "epochs=40",
        "max_steps=100",
        "eval_steps=10",
        "eval_queries=24",
    ]

    def arguments(name: str) -> list[str]:
        return ["train", "configs/train.yaml", f"input={labels}", f"output={tmp_path}/{name}", *options]

    undisturbed = rrad(*arguments("undisturbed"))
    assert undisturbed.returncode == 0, undisturbed.stdout[-3000:] + undisturbed.stderr[-3000:]

    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen([*RRAD, *arguments("killed")], stdout=log, stderr=log, cwd=ROOT)
        while len(curves_of(f"{tmp_path}/killed")["dev_steps"]) < 2:  # at step 20, where 6 steps are an epoch
            assert process.poll() is None, Path(log.name).read_text()[-3000:]
            time.sleep(0.05)
        victims = training_processes(process.pid)
        assert len(victims) == 2
        os.kill(victims[1].pid, signal.SIGKILL)
        assert process.wait(timeout=PATIENCE_S) == 0, Path(log.name).read_text()[-3000:]
    assert "goes on from the last checkpoint" in Path(log.name).read_text()
    expected, curves = (curves_of(f"{tmp_path}/{name}") for name in ("undisturbed", "killed"))
    assert curves["dev_steps"] == expected["dev_steps"] == [float(step) for step in range(10, 101, 10)]
    assert curves["dev_ndcg"][-1] == pytest.approx(expected["dev_ndcg"][-1], abs=0.005)
    assert tables.read_manifest(f"{tmp_path}/killed").facts["ended"] == "steps"


@pytest.mark.slow
def test_two_workers_train_one_student_together(labels: str, tmp_path: Path) -> None:
    options = {"num_workers": 2, "epochs": 4, "eval_steps": 50, "dtype": "bfloat16", "terms": TermsConfig(0.5)}
    cfg = TrainConfig(input=labels, output=f"{tmp_path}/two", **options, **SMALL)
    train.run(cfg)
    manifest = tables.read_manifest(cfg.output)
    assert manifest.facts["best"]["step"] == 4 * (48 // 8), "each of two workers takes its own half of every step"
    curves = json.loads(Path(cfg.output, "history.json").read_text())
    assert len(curves["loss"]) == len(curves["steps"]) > 0
    assert {name for name in curves if name.startswith("loss_")} == {"loss_rank", "loss_terms"}
    assert all(len(curves[name]) == len(curves["steps"]) for name in ("loss_rank", "loss_terms"))
    ranker = Ranker.load(f"{cfg.output}/model", dtype="float32")
    scores = ranker.score("add two numbers", ["returns the sum of two numbers", "a red car"])
    assert len(scores) == 2
    assert all(np.isfinite(scores))


@pytest.mark.slow
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


@pytest.mark.slow
def test_as_many_workers_train_as_there_is_room_for(labels: str, tmp_path: Path) -> None:
    team = {"num_workers": {"min": 1, "max": 2}, "resources": {"CPU": 3}}  # the local cluster has 4
    options = SMALL | team | {"epochs": 4, "eval_steps": 50, "shuffle_rows": 20}
    cfg = TrainConfig(input=labels, output=f"{tmp_path}/one", **options)
    train.run(cfg)
    best = tables.read_manifest(cfg.output).facts["best"]
    assert best["step"] == 4 * (48 // 4), "one worker takes every step alone"
    assert 0.3 < best["dev_ndcg"] <= 1


@pytest.mark.slow
def test_what_would_only_happen_again_is_not_tried_again(tmp_path: Path) -> None:
    tries, cfg = tmp_path / "tries", TrainConfig(input=str(tmp_path), output=f"{tmp_path}/nan", max_failures=5)

    def loop(cfg: TrainConfig, source: str, worker: TrainWorker) -> None:
        with tries.open("a") as file:
            file.write("tried\n")
        raise Diverged("the loss is nan at step 7", "lower lr")

    with pytest.raises(RradError) as caught, in_stage("train"):
        trainer.run_training(cfg, loop, "", RankTask)
    message = f"train: {cfg.output}: the loss is nan at step 7; lower lr; a changed config wants a new output"
    assert str(caught.value) == message
    assert tries.read_text() == "tried\n"
    assert not os.path.exists(f"{cfg.output}/failed.json")


# ---- without a cluster --------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Listener:
    """Train in this process, without Ray; return the listener of the reports."""
    listener = Listener()

    def run(cfg: TrainConfig, loop: Any, source: str, task: type[TrainTask]) -> dict[str, Any]:
        loop(cfg, source, TrainWorker(report=listener))
        return {"lineage": tables.lineage_of(cfg.input)}

    monkeypatch.setattr("rrad_ray.runtime.trainer.run_training", run)
    return listener


def test_lists_that_say_nothing_are_passed_over_and_bad_ones_set_aside(
    labels: str, tmp_path: Path, here: Listener
) -> None:
    rows = list(tables.read(labels, Labels))
    learnt = [row for row in rows if row["split"] in ("train", "unlabelled")]
    assert len(learnt) == 48
    one = {key: learnt[0][key][:1] for key in ("doc_ids", "texts", "scores", "targets", "missing", "confidence")}
    learnt[0].update(one, source_scores=[scores[:1] for scores in learnt[0]["source_scores"]])
    learnt[1]["targets"] = [0.0] * len(learnt[1]["targets"])  # no positive
    learnt[2].update(targets=[0.0] * len(learnt[2]["targets"]), missing=[True] * len(learnt[2]["missing"]))
    learnt[3]["targets"][0], learnt[4]["targets"][-1] = float("nan"), float("inf")
    cfg = TrainConfig(
        input=written(f"{tmp_path}/labels", rows),
        output=f"{tmp_path}/student",
        normalize="global",
        max_quarantined=0.1,
        epochs=2.0,
        **SMALL,
    )
    train.run(cfg)
    assert here.heard[-1]["step"] == 2 * (43 // 4)
    assert np.isfinite(here.heard[-1]["loss"])
    manifest = tables.read_manifest(cfg.output)
    assert manifest.facts["queries"] == manifest.facts["targets"]["lists"] == 43
    assert manifest.facts["targets"]["passed_over"] == {
        "no preference": 2,
        "one document": 1,
        "target that is not a number": 2,
    }
    assert manifest.quarantined == {"target that is not a number": 2}
    left = [target for row in learnt[5:] for target in row["targets"]]
    assert manifest.facts["targets"]["mean"] == pytest.approx(np.mean(left), abs=1e-9)
    assert manifest.facts["targets"]["deviation"] == pytest.approx(np.std(left))


def changed_labels(labels: str, folder: Path, change: Callable[[int, list[float]], list[float]]) -> str:
    rows = list(tables.read(labels, Labels))
    for number, row in enumerate(rows):
        row["targets"] = change(number, row["targets"])
    return written(f"{folder}/labels", rows)


@pytest.mark.parametrize(
    ("change", "losses", "says"),
    [
        (lambda n, old: [1.0] * len(old), {"ranknet": 1.0}, "no list to learn from.*: 48 with no preference; label"),
        (lambda n, old: [float("nan")] * len(old), {"ranknet": 1.0}, "48 of 48 rows are bad.*not a number"),
        (
            lambda n, old: [value * 1000 ** (n % 2) for value in old],
            {"point_mse": 1.0, "margin_mse": 1.0},
            "another scale.*point_mse, margin_mse reads distances; set normalize=query",
        ),
    ],
    ids=["no preference", "no numbers", "mixed scales"],
)
def test_labels_that_cannot_teach_are_an_error_before_a_cluster_starts(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, losses: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("rrad_ray.runtime.trainer.run_training", lambda *rest: pytest.fail("training was started"))
    uri = changed_labels(labels, tmp_path, change)
    with pytest.raises(RradError, match=says):
        train.run(TrainConfig(input=uri, output=f"{tmp_path}/none", losses=losses, **SMALL))


def test_a_decoder_without_an_end_token_is_an_error_before_a_cluster_starts(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrad_ray.runtime.trainer.run_training", lambda *rest: pytest.fail("training was started"))
    source = causal_lm(tmp_path / "source", ["sort a list"], tied=True)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(source)
    with pytest.raises(RradError, match="has no eos token; set eos_token"):
        train.run(TrainConfig(input=labels, output=f"{tmp_path}/none", kind="decoder", model=source))


def test_a_model_with_too_few_positions_or_weights_is_an_error_before_a_cluster_starts(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrad_ray.runtime.trainer.run_training", lambda *rest: pytest.fail("training was started"))
    cfg = TrainConfig(input=labels, output=f"{tmp_path}/none", max_length=600)
    with pytest.raises(
        RradError, match=r"bundled:.*: max_length: 600 tokens, and the model takes 512; set max_length"
    ):
        train.run(cfg)
    sizes = {"max_position_embeddings": 60, "num_key_value_heads": 1}
    decoder = tiny.save(tmp_path / "decoder", "Llama", "ForCausalLM", **sizes)
    cfg = dataclasses.replace(cfg, kind="decoder", model=decoder, max_length=50)
    with pytest.raises(RradError, match=r"max_length \+ generation.max_tokens: 114 tokens, and the model takes 60"):
        train.run(dataclasses.replace(cfg, generation=GenerationConfig(weight=1.0)))
    two = tiny.save(tmp_path / "two", "Bert", num_labels=2)
    with pytest.raises(RradError, match=r"than a ranker with one score has: classifier\.bias \(2,\) for \(1,\)"):
        train.run(TrainConfig(input=labels, output=f"{tmp_path}/none", model=two))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_length": 3}, "bundled:.*: max_length: 3 tokens, and the tokenizer puts 3 around a pair"),
        ({"kind": "decoder", "model": "tiny", "max_length": 10}, "max_length: 10 tokens, and the tokenizer puts"),
        ({"layers": 50}, "layers: 50, and the model has 6; set layers to 6 or less"),
        ({"losses": {"bce": 1.0}}, "and the loss bce takes those in"),
        ({"patience": 2, "eval_queries": 0}, "labels: patience=2 but there are no dev rows to measure; judge some"),
    ],
)
def test_a_training_that_would_teach_nothing_is_an_error_before_a_cluster_starts(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("rrad_ray.runtime.trainer.run_training", lambda *rest: pytest.fail("training was started"))
    if changes.get("model"):
        changes = changes | {"model": causal_lm(tmp_path / "source", ["sort a list"], tied=True)}
    with pytest.raises(RradError, match=says):
        train.run(TrainConfig(input=labels, output=f"{tmp_path}/none", **{**SMALL, **changes}))


def test_a_table_that_is_named_twice_in_two_ways_is_refused(labels: str, tmp_path: Path) -> None:
    """Its rows counted twice."""
    cfg = TrainConfig(input=labels, output=f"{tmp_path}/twice", more=[f"{labels}/../labels"], **SMALL)
    with pytest.raises(RradError, match=r"more\.0=.*: is the table that input names; name every table once"):
        train.run(cfg)


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


def test_adapters_without_peft_say_what_to_install_before_a_cluster_starts(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RradError, match=r"lora_rank=4 needs peft.*pip install peft"):
        train.run(TrainConfig(input=labels, output=f"{tmp_path}/none", kind="decoder", lora_rank=4))


def test_a_student_hands_on_the_teachers_of_all_that_it_has_learnt_and_the_mark_of_simulated_labels(
    tmp_path: Path,
) -> None:
    def output(name: str, **facts: Any) -> str:
        empty: dict[str, Any] = {"schema": {}, "config": {}, "inputs": {}, "quarantined": {}, "versions": {}}
        manifest = tables.Manifest("a stage", seconds=1.0, facts={}, lineage=tables.Lineage(**facts), **empty)
        (tmp_path / name).mkdir()
        (tmp_path / name / tables.MANIFEST).write_text(manifest.to_json())
        return str(tmp_path / name)

    own = tables.Lineage(judge=tables.JudgeFacts("A"), training=tables.TrainingFacts(splits=["train"]))
    others = [
        output("labels", labels=tables.LabelFacts("B", {})),
        output("warm", judge=tables.JudgeFacts("D"), simulated="from the judgments"),
        output("student", judge=tables.JudgeFacts("B"), training=tables.TrainingFacts(teachers=["C"])),
    ]
    labels, warm, student = map(tables.lineage_of, others)
    plain = train._with_others(own, [labels, student])
    assert (plain.teachers, plain.simulated) == (["A", "B", "C"], "")
    assert plain.training == tables.TrainingFacts(splits=["train"], teachers=["B", "C"])
    mixed = train._with_others(own, [labels, warm, student])
    assert (mixed.teachers, mixed.simulated) == (["B", "C"], "from the judgments")
