"""A model in a replica's process, without the replica: backends, scores that still hold, and its pairs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from rrad_ray.config import ServeConfig
from rrad_ray.errors import RradError, in_stage
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.serving import loaded_model, winners
from rrad_ray.serving.loaded_model import LoadedModel
from rrad_ray.serving.requests import ScoringRequest
from tests import endpoints, tiny

QUERY = "how to open a file for writing"
TEXTS = ["open(path, 'w') opens a file for writing.", "len(x) is the number of items.", "", "a socket " * 40]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student") / "tiny")
    endpoints.student(folder)
    return folder


@pytest.fixture(scope="module")
def ranker(student: str) -> Ranker:
    return Ranker.load(student)


def test_scores_are_those_of_the_ranker_for_the_pairs_that_are_wanted(student: str, ranker: Ranker) -> None:
    model = LoadedModel(winners.find_winner(student), ServeConfig(student))
    assert (model.served.name, model.explainer) == ("tiny", None)
    request = ScoringRequest([QUERY] * len(TEXTS), TEXTS)
    scores = model.score(model.encode(request, [3, 0]))
    expected = ranker.score(QUERY, TEXTS)
    assert scores == pytest.approx([expected[3], expected[0]], abs=1e-2)
    [whole], [cut] = (model.encode(dataclasses.replace(request, doc_tokens=tokens), [3]) for tokens in (0, 4))
    assert len(cut["input_ids"]) < len(whole["input_ids"])
    other = LoadedModel(winners.find_winner(student), ServeConfig(student))
    assert other.version != model.version, "the folder may have other weights by now"


@pytest.mark.parametrize("limit", [None, 1024])
def test_a_model_whose_tokenizer_has_no_limit_or_too_high_a_one_cuts_long_documents(
    limit: int | None, tmp_path: Path
) -> None:
    folder = tiny.save(tmp_path / "peer", "XLMRoberta", limit=limit, max_position_embeddings=40)
    model = LoadedModel(winners.find_winner(folder), ServeConfig(folder))
    request = ScoringRequest(["w1"] * 2, ["w2 " * 500, "w3"], doc_tokens=100)
    assert len(model.score(model.encode(request, [0, 1]))) == 2


def test_a_student_that_learnt_to_write_can_explain(writer: str) -> None:
    model = LoadedModel(winners.find_winner(writer), ServeConfig(writer))
    assert model.explainer is not None


def test_a_backend_that_does_not_serve_the_model_says_what_to_set(writer: str) -> None:
    stage = in_stage("serve")
    with stage, pytest.raises(RradError, match=r"serve: .*: backend=onnx takes encoders .*; set backend=torch"):
        LoadedModel(winners.find_winner(writer), ServeConfig(writer, backend="onnx"))


def test_int8_may_differ_from_the_scores_that_won_but_not_the_checkpoint(student: str, ranker: Ranker) -> None:
    cfg = ServeConfig(student, backend="onnx", precision="int8")
    smoke = {"query": QUERY, "documents": TEXTS, "scores": ranker.score(QUERY, TEXTS)}
    model = dataclasses.replace(winners.find_winner(student), smoke=smoke)
    assert LoadedModel(model, cfg).ranker.score(QUERY, TEXTS) != pytest.approx(smoke["scores"], abs=1e-3)
    other = dataclasses.replace(model, smoke={**smoke, "scores": [score + 1 for score in smoke["scores"]]})
    with pytest.raises(winners.ScoreMismatch):
        LoadedModel(other, cfg)


def test_a_student_whose_scores_are_no_numbers_is_not_served(tmp_path: Path) -> None:
    ranker = Ranker.load(tiny.save(tmp_path / "source", "Bert"))
    torch.nn.init.constant_(ranker.model.classifier.weight, float("nan"))
    folder = str(tmp_path / "broken")
    ranker.save(folder)
    with pytest.raises(RradError, match="it gives scores that are not numbers; train it again"):
        LoadedModel(winners.find_winner(folder), ServeConfig(folder))


def test_a_score_that_is_not_a_number_is_an_error() -> None:
    model = object.__new__(LoadedModel)
    model.tokens, model.ranker = 1, SimpleNamespace(logits=lambda pairs, tokens: torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="a score that is not a number"):
        model.score([{}, {}])


def test_weights_that_would_not_fit_into_the_memory_are_refused_before_they_are_read(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, gib = winners.find_winner(student), 2**30
    monkeypatch.setattr(loaded_model, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gib))
    assert loaded_model.free_memory() == gib
    for name, text in (("max", "max"), ("current", "5000"), ("stat", "anon 1\ninactive_file 3000")):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert loaded_model.free_memory() == gib, "a container without a limit"
    (tmp_path / "memory.max").write_text("6000\n")
    assert loaded_model.free_memory() == 4000
    with pytest.raises(RradError, match=r"has weights of [0-9,]+ bytes, and 4,000 bytes of memory are free"):
        LoadedModel(served, ServeConfig(student))
    (tmp_path / "memory.max").write_text(f"{4 * gib}\n")
    for name in ("config.json", "model.safetensors"):  # of a table of words that no file has
        shutil.copy(Path(student, name), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 10**9}))
    with pytest.raises(RradError, match=r"has weights of [0-9,]{14,} bytes, and 1,073,741,824 bytes of memory"):
        loaded_model._check_memory("its", str(tmp_path))
