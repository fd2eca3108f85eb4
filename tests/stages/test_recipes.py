"""Both papers' recipes from their configs, whole and small: `rrad run` as a user calls it, with a real vLLM."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rrad_ray import tables
from rrad_ray.config import load
from rrad_ray.rows import JudgeOutput, Labels
from tests.commands import ROOT
from tests.fixtures import rrad

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ENGINE = ["max_num_batched_tokens=2048", "max_num_seqs=64"]  # of which less memory has to be set up


def ran(recipe: str, beir: Path, out: Path, overrides: list[str]) -> Path:
    """One `rrad run` of a recipe's laptop config to its end; the folder of its output."""
    common = ["num_workers=1", "trainers=1", "queries={train: 16, dev: 8, test: 8, unlabelled: 8}", "depth=3"]
    common += ["more_queries={train: 16, dev: 16, test: 0, unlabelled: 8}", "document_queries=8"]
    common += ["steps.warm.layers=1", "steps.warm.max_steps=4", "steps.warm.eval_steps=4"]
    # So little training may end below the first stage, and these tests are about the students.
    common += ["steps.evaluate.latency_repeats=3", "steps.select.max_p99_ms=60000", "steps.select.allow_worse=true"]
    places = [f"data={beir}", f"out={out}"]
    done = rrad("run", f"configs/{recipe}/laptop.yaml", *places, *common, *overrides)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out


def manifest(out: Path, step: str) -> tables.Manifest:
    return tables.read_manifest(f"{out}/{step}")


def curves(out: Path, step: str) -> set[str]:
    return set(json.loads((out / step / "history.json").read_text()))


def is_plain(folder: Path) -> bool:
    """Whether transformers finds every weight that it wants, and no other one."""
    _, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    return not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


# ---- RRADistill ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rradistill(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = [f"steps.reasons.engine_kwargs.{option}" for option in ENGINE]
    overrides += [
        "steps.order.gate.min_queries=5",
    ]
    overrides += ["steps.order.simulated={noise: 0.2, missing: 0.3, malformed: 0.0}", "steps.reasons.max_tokens=8"]
    for student in ("encoder", "decoder"):
        overrides += [f"steps.{student}.{option}" for option in ("max_steps=4", "eval_steps=4")]
    overrides += ["steps.decoder.layers=1"]
    return ran("rradistill", beir, tmp_path_factory.mktemp("rradistill") / "run", overrides)


def test_rradistill_ends_with_a_winner_and_says_what_was_simulated(rradistill: Path) -> None:
    winner = json.loads((rradistill / "winner" / "winner.json").read_text())
    assert winner["student"] in ("encoder", "decoder")
    verdict = r"(beats|does not beat|is not clearly better than) the best first stage, \w+"
    assert re.match(rf"{winner['student']} student( \+ first stage)? {verdict}", winner["finding"])
    assert not manifest(rradistill, "short").lineage.simulated
    for step in ("orders", "reasons", "labels"):
        assert "come from the judgments themselves" in manifest(rradistill, step).lineage.simulated
    systems = json.loads((rradistill / "report.json").read_text())["systems"]
    [teacher] = [system for system in systems if system["kind"] == "teacher"]
    assert teacher["note"].startswith("simulated from the judgments")
    judge = manifest(rradistill, "orders").lineage.judge
    assert judge is not None
    assert judge.gate["passed"]


def test_rradistills_labels_have_hard_negatives_and_reasons_of_a_real_llm_for_what_is_trained_on(
    rradistill: Path,
) -> None:
    gone = 0
    for row in tables.read(f"{rradistill}/labels", Labels):
        learnt = row["split"] in ("train", "unlabelled")
        assert [bool(reason) for reason in row["reasons"]] == [learnt] * len(row["doc_ids"])
        assert len(row["doc_ids"]) <= 10 or not learnt, "top-6 and bottom-4"
        lowest = [target for target, missing in zip(row["targets"], row["missing"], strict=True) if missing]
        ranked = [target for target, missing in zip(row["targets"], row["missing"], strict=True) if not missing]
        assert len(set(lowest)) <= 1, "no pair between two missing documents"
        assert not lowest or lowest[0] < min(ranked)
        gone += len(lowest)
    assert gone > 0
    assert manifest(rradistill, "reasons").facts["generated_tokens"] > 0


def test_rradistills_encoder_learns_free_labels_first_of_documents_own_sentences_too(rradistill: Path) -> None:
    ids = {row["query_id"] for row in tables.read(f"{rradistill}/free", Labels)}
    assert sum(query_id.startswith("document:") for query_id in ids) == 8
    asked = {row["query_id"] for row in tables.read(f"{rradistill}/orders", JudgeOutput)}
    assert not any(query_id.startswith("document:") for query_id in asked), "they cost no LLM"
    assert manifest(rradistill, "encoder").config["model"] == f"{rradistill}/warm"


def test_rradistills_students_learn_by_both_losses_and_are_plain_checkpoints(rradistill: Path) -> None:
    both = {f"loss_{kind}_{loss}" for kind in ("rank", "terms") for loss in ("margin_mse", "contrastive")}
    assert both <= curves(rradistill, "encoder")
    assert {"loss_rank", "loss_tokens"} <= curves(rradistill, "decoder")
    for student in ("encoder", "decoder"):
        folder = rradistill / student / "model"
        assert is_plain(folder)
        assert not any("terms" in name for name in load_file(folder / "model.safetensors"))


# ---- DisRanker ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disranker(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = [f"steps.scores.engine_kwargs.{option}" for option in (*ENGINE, "dtype=float32")]
    overrides += ["lora_rank=4", "steps.cpt.layers=2", "steps.cpt.max_length=256"]
    overrides += ["steps.label.weights=${teacher_alone}", "steps.label.scale=table"]  # as in the paper
    overrides += ["steps.teacher.head_lr=0.02"]
    for step, steps in (("cpt", 3), ("teacher", 6), ("student", 4)):
        overrides += [f"steps.{step}.max_steps={steps}", f"steps.{step}.eval_steps={steps}"]
    return ran("disranker", beir, tmp_path_factory.mktemp("disranker") / "run", overrides)


def test_disranker_goes_on_with_pretraining_on_clicks_of_train_queries_alone(disranker: Path, beir: Path) -> None:
    texts = {item["_id"]: item["text"] for item in _lines(beir / "queries.jsonl")}
    train = {texts[line.split("\t")[0]] for line in (beir / "qrels" / "train.tsv").read_text().splitlines()[1:]}
    clicks = _lines(disranker / "clicks" / "clicks.jsonl")
    assert clicks
    assert {click["query"] for click in clicks} <= train
    facts = manifest(disranker, "cpt").facts
    assert facts["rows"] == len(clicks)
    assert facts["best"]["step"] == 3
    assert (disranker / "cpt" / "model" / "adapter" / "adapter_config.json").is_file()


def test_vllm_scores_as_transformers_does_what_train_has_fine_tuned(disranker: Path) -> None:
    folder = disranker / "teacher" / "model"
    assert is_plain(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spread = []
    for row in tables.read(f"{disranker}/scores", JudgeOutput):
        inputs = tokenizer(
            [row["query"]] * len(row["texts"]), row["texts"], truncation=True, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            expected = model(**inputs).logits[:, 0].tolist()
        assert row["judge_scores"] == pytest.approx(expected, abs=1e-2)
        assert _order(row["judge_scores"]) == _order(expected)
        spread.append(max(expected) - min(expected))
    assert max(spread) > 0.1, "all scores are alike"


def test_disrankers_student_learns_the_teachers_scores_over_judged_and_unlabelled_queries(disranker: Path) -> None:
    scores = {row["query_id"]: row["judge_scores"] for row in tables.read(f"{disranker}/scores", JudgeOutput)}
    every = np.concatenate(list(scores.values()))
    scale = manifest(disranker, "labels").facts["scale"]
    assert (scale["over"], scale["mean"]) == ("table", pytest.approx(every.mean(), abs=1e-6))
    splits = set()
    for row in tables.read(f"{disranker}/labels", Labels):
        expected = (np.array(scores[row["query_id"]]) - every.mean()) / every.std()
        assert row["targets"] == pytest.approx(expected.tolist(), abs=1e-4)
        splits.add(row["split"])
    assert {"train", "unlabelled"} <= splits
    _, steps = load.load_pipeline(str(ROOT / "configs" / "disranker" / "laptop.yaml"))
    [losses] = [step.values["losses"] for step in steps if step.name == "student"]
    assert losses == manifest(disranker, "student").config["losses"] == {"point_mse": 1.0, "margin_mse": 1.0}
    assert manifest(disranker, "teacher").config["losses"] == {"margin": {"weight": 1.0, "tau": 0.5}}
    assert is_plain(disranker / "student" / "model")
    assert json.loads((disranker / "winner" / "winner.json").read_text())["student"] == "student"


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])
