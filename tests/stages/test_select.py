"""A calibrated winner: the copy of its student is a plain checkpoint with log-odds for scores; a sum has them too."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rrad_ray.config import EvaluateConfig, SelectConfig, ServeConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.winner import parse_winner
from rrad_ray.rankers.checkpoint import scale_head
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.serving import requests
from rrad_ray.serving.loaded_model import load_model
from rrad_ray.serving.requests import WireFormat
from rrad_ray.serving.service import RerankService
from rrad_ray.serving.winners import find_winner
from rrad_ray.stages import evaluate, select
from tests import tiny
from tests.fixtures import row_of, table_of
from tests.serving.test_service import Recorder, call

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [f"w{number} w{number + 7}" for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a student that is right about most documents, and far too sure of all: 24 queries of each split."""
    folder, source = tmp_path_factory.mktemp("evaluated"), np.random.default_rng(0)
    student = tiny.save(folder / "student", "Bert")
    ranker = Ranker.load(student, dtype="float32")
    ranker.backend = None  # it has a copy of the head
    scale_head(ranker.model, 300.0, 0.0)
    middle = float(np.median(ranker.score("w1 w2", TEXTS)))
    scale_head(ranker.model, 1.0, 9.0 - middle)
    ranker.save(student)
    rows: list[dict[str, Any]] = []
    for number in range(48):
        query = f"w{number % 50} w{number % 31}"
        scores = np.asarray(ranker.score(query, TEXTS))
        relevant = np.flatnonzero(scores + source.normal(0, scores.std(), 5) > scores.mean())
        ids = [f"{number}-{index}" for index in relevant] or [f"{number}-0"]
        judged = {"qrel_ids": ids, "qrel_grades": [1] * len(ids), "split": ("dev", "test")[number % 2]}
        lexical = (source.normal(size=5) + np.isin(np.arange(5), relevant)).tolist()
        found = {"sources": ["bm25"], "source_scores": [lexical], "query": query}
        rows.append(row_of(str(number), TEXTS) | judged | found)
    cfg = {"students": {"mine": student}, "latency_docs": 2, "latency_repeats": 1, "precision": "float32"}
    evaluate.run(EvaluateConfig(table_of(folder / "candidates", rows), f"{folder}/report", **cfg))
    return folder


def selected(folder: Path, output: Path, system: str, calibrate: bool = True) -> dict[str, Any]:
    """Select a system of the report as the winner; the content of winner.json."""
    report = json.loads((folder / "report" / "report.json").read_text())
    for each in report["systems"]:
        each["metrics"]["nDCG@10"]["mean"] = float(each["system"] == system)
    copy = output.with_name(f"{output.name}-report")
    copy.mkdir()
    (copy / "manifest.json").write_text((folder / "report" / "manifest.json").read_text())
    (copy / "report.json").write_text(json.dumps(report))
    select.run(SelectConfig(str(copy), str(output), max_p99_ms=1e6, calibrate=calibrate))
    winner: dict[str, Any] = json.loads((output / "winner.json").read_text())
    parse_winner(json.dumps(winner), str(output))
    return winner


def answer(output: Path, body: dict[str, Any], wire: WireFormat = requests.COHERE_V2) -> Any:
    cfg = ServeConfig(str(output), precision="float32")
    service = RerankService(cfg, {"winner": load_model(find_winner(str(output)), cfg)}, Recorder())
    return asyncio.run(service.rerank(call("/v2/rerank", body), wire)).content


def test_a_student_gets_its_calibration_into_the_head_of_a_plain_checkpoint(folder: Path, tmp_path: Path) -> None:
    winner = selected(folder, tmp_path / "winner", "mine")
    fit = winner["calibration"]
    assert (winner["student"], winner["weights"], winner["checkpoint"]) == ("mine", {}, f"{tmp_path}/winner/model")
    assert fit["slope"] > 0
    assert fit["ece_after"] < fit["ece_before"] / 2
    before = Ranker.load(str(folder / "student"), dtype="float32").score("w1 w2", TEXTS)
    wanted = [fit["slope"] * score + fit["offset"] for score in before]
    model = AutoModelForSequenceClassification.from_pretrained(winner["checkpoint"])
    tokens = AutoTokenizer.from_pretrained(winner["checkpoint"])
    with torch.inference_mode():
        scores = model(**tokens(["w1 w2"] * 5, TEXTS, padding=True, return_tensors="pt")).logits[:, 0]
    assert scores.tolist() == pytest.approx(wanted, abs=1e-3)
    results = answer(tmp_path / "winner", {"query": "w1 w2", "documents": TEXTS})["results"]
    assert [one["index"] for one in results] == sorted(range(5), key=lambda index: -before[index])
    shown = [one["relevance_score"] for one in results]
    assert shown == pytest.approx(sorted(expit(wanted).tolist(), reverse=True), abs=1e-3)
    assert "Scores as probabilities" in (tmp_path / "winner" / "report.html").read_text()


@pytest.mark.parametrize("system", ["mine+first", "bm25"])
def test_a_sum_and_a_source_are_probabilities_at_the_endpoint_in_every_format(
    folder: Path, tmp_path: Path, system: str
) -> None:
    plain, winner = (selected(folder, tmp_path / name, system, name == "winner") for name in ("plain", "winner"))
    body = {"query": "w1 w2", "documents": TEXTS, "first_stage": {"bm25": [1.0, 0.5, None, 2.0, 0.2]}}
    raw = answer(tmp_path / "plain", {**body, "use_activation": False}, requests.VLLM_RERANK)["results"]
    assert plain["calibration"] is None
    fit = winner["calibration"]
    scores = {one["index"]: fit["slope"] * one["relevance_score"] + fit["offset"] for one in raw}
    order = [one["index"] for one in raw]
    for wire in (requests.COHERE_V2, requests.COHERE_V1, requests.VLLM_RERANK):
        results = answer(tmp_path / "winner", body, wire)["results"]
        assert [one["index"] for one in results] == order
        shown = [one["relevance_score"] for one in results]
        assert shown == pytest.approx([expit(scores[index]) for index in order], abs=1e-4)
    tei = {**body, "texts": body["documents"]}
    del tei["documents"]
    results = answer(tmp_path / "winner", tei, requests.VLLM_RERANK)
    assert [one["score"] for one in results] == pytest.approx([expit(scores[index]) for index in order], abs=1e-4)
    log_odds = answer(tmp_path / "winner", {**tei, "raw_scores": True}, requests.VLLM_RERANK)
    assert [one["score"] for one in log_odds] == pytest.approx([scores[index] for index in order], abs=1e-3)


def test_a_fused_winners_student_has_its_own_probabilities_where_it_answers_alone(
    folder: Path, tmp_path: Path
) -> None:
    selected(folder, tmp_path / "winner", "mine+first")
    report = json.loads((folder / "report" / "report.json").read_text())
    [own] = [each["calibration"] for each in report["systems"] if each["system"] == "mine"]
    before = Ranker.load(str(folder / "student"), dtype="float32").score("w1 w2", TEXTS)
    results = answer(tmp_path / "winner", {"query": "w1 w2", "documents": TEXTS})["results"]
    wanted = [expit(own["slope"] * before[one["index"]] + own["offset"]) for one in results]
    assert [one["relevance_score"] for one in results] == pytest.approx(wanted, abs=1e-3)


def test_a_system_without_a_calibration_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    report = json.loads((folder / "report" / "report.json").read_text())
    for each in report["systems"]:
        del each["calibration"]
        each["uncalibrated"] = "dev has 3 relevant candidates and 9 others, and 10 of each are needed"
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(json.dumps(report))
    (tmp_path / "report" / "manifest.json").write_text((folder / "report" / "manifest.json").read_text())
    cfg = SelectConfig(f"{tmp_path}/report", f"{tmp_path}/winner", max_p99_ms=1e6, calibrate=True)
    with pytest.raises(
        RradError, match=r"cannot be calibrated: dev has 3 relevant .*; judge more queries of dev, or set"
    ):
        select.run(cfg)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_every_number_format_scores_by_the_scaled_head(student: str, tmp_path: Path, precision: str) -> None:
    ranker = Ranker.load(student, dtype="float32")
    scale_head(ranker.model, 3.0, -2.0)
    ranker.save(tmp_path)
    texts = ["x", "sorts a list", "len(x) is a length " * 9]
    was, now = (Ranker.load(each, dtype=precision).score("how to sort", texts) for each in (student, str(tmp_path)))
    assert now == pytest.approx([3.0 * score - 2.0 for score in was], abs=0.03 if precision == "bfloat16" else 1e-3)


@pytest.mark.parametrize("name", ["Roberta", "Llama", "ModernBert"])
def test_heads_of_other_families_are_scaled_and_one_without_a_bias_is_refused(tmp_path: Path, name: str) -> None:
    ranker = Ranker.load(tiny.save(tmp_path / name, name), dtype="float32")
    ranker.backend = None
    before = ranker.score("w1 w2", TEXTS)
    if name == "Llama":
        with pytest.raises(ValueError, match="the head of a llama has no bias, so it takes no offset; set calibrate"):
            scale_head(ranker.model, 2.0, 1.0)
        return
    scale_head(ranker.model, 2.0, 1.0)
    assert ranker.score("w1 w2", TEXTS) == pytest.approx([2 * score + 1 for score in before], abs=1e-4)
    assert not math.isclose(before[0], ranker.score("w1 w2", TEXTS)[0])
