"""A student in the files of other engines, scored by them as their own programs do it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from rrad_ray import tables
from rrad_ray.config import EvaluateConfig, ExportConfig
from rrad_ray.config.load import build_config
from rrad_ray.errors import RradError
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.stages import evaluate, export
from rrad_ray.tables import checkpoints
from tests import tiny, winners

pytestmark = pytest.mark.usefixtures("one_thread")
QUERY = "how do I sort a list of numbers"
TEXTS = ["x", "", "list.sort() sorts a list in place", "len(x) is a length", "sorted numbers " * 200]
CLS, SEP = 101, 102


def exported(source: str, folder: Path, **options: str) -> str:
    return export.run(ExportConfig(source, str(folder), **options))  # type: ignore[arg-type]


def session(folder: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(f"{folder}/onnx/model.onnx", providers=["CPUExecutionProvider"])


def padded(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    return np.asarray([[*row, *[0] * (length - len(row))] for row in rows], dtype=np.int64)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two layers of a pretrained encoder with a head whose scores differ."""
    folder = str(tmp_path_factory.mktemp("student"))
    torch.manual_seed(0)
    ranker = Ranker.encoder(checkpoints.resolve(checkpoints.BUNDLED[0]), max_length=128, layers=2)
    torch.nn.init.normal_(ranker.model.classifier.weight, std=0.4)
    ranker.save(folder)
    return folder


@pytest.fixture(scope="module")
def onnx(student: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return exported(student, tmp_path_factory.mktemp("onnx") / "out", format="onnx")


@pytest.fixture(scope="module")
def wanted(student: str) -> list[float]:
    return Ranker.load(student, dtype="float32").score(QUERY, TEXTS)


def test_sentence_transformers_gets_the_students_scores_from_the_file_that_it_looks_for(
    onnx: str, wanted: list[float]
) -> None:
    # What `CrossEncoder(folder, backend="onnx")` does by way of optimum, which wants an older transformers.
    tokens = AutoTokenizer.from_pretrained(onnx)(
        [(QUERY, text) for text in TEXTS], padding=True, truncation=True, return_tensors="np"
    )
    model = session(onnx)
    inputs = {one.name: tokens[one.name] for one in model.get_inputs()}
    assert model.run(["logits"], inputs)[0][:, 0] == pytest.approx(wanted, abs=1e-3)
    config = json.loads(Path(onnx, "config.json").read_text())
    assert config["sentence_transformers"]["activation_fn"].endswith("Identity")  # scores, not their sigmoids
    assert tables.read_manifest(onnx).facts["files"] == [
        "config.json",
        "onnx/model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("together", [True, False])
def test_opensearchs_cross_encoder_gets_the_students_scores(onnx: str, wanted: list[float], together: bool) -> None:
    # As ml-commons does it: tokenizer.json alone, which has to cut, and tensors by their places.
    pairs = [Tokenizer.from_file(f"{onnx}/tokenizer.json").encode(QUERY, text) for text in TEXTS]
    model, scores = session(onnx), list[float]()
    assert [one.name for one in model.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {one.type for one in model.get_inputs()} == {"tensor(int64)"}
    for batch in [pairs] if together else [[pair] for pair in pairs]:
        columns = ([p.ids for p in batch], [p.attention_mask for p in batch], [p.type_ids for p in batch])
        longest = max(len(pair.ids) for pair in batch)
        tensors = [padded(column, longest) for column in columns]
        (output,) = model.run(None, {one.name: x for one, x in zip(model.get_inputs(), tensors, strict=True)})
        scores += output.ravel().tolist()
    assert scores == pytest.approx(wanted, abs=1e-3)


def test_vespas_token_functions_give_the_students_scores(onnx: str, wanted: list[float]) -> None:
    # tokenInputIds(128, ...) and its like: CLS, query, SEP, document, SEP and zeros, of tokens without these.
    tokenizer, model = Tokenizer.from_file(f"{onnx}/tokenizer.json"), session(onnx)
    query = tokenizer.encode(QUERY, add_special_tokens=False).ids
    for index in (0, 2, 3):
        document = tokenizer.encode(TEXTS[index], add_special_tokens=False).ids
        first, second = [CLS, *query, SEP], [*document, SEP]
        inputs = {
            "input_ids": padded([first + second], 128),
            "token_type_ids": padded([[0] * len(first) + [1] * len(second)], 128),
            "attention_mask": padded([[1] * len(first + second)], 128),
        }
        assert model.run(None, inputs)[0][0, 0] == pytest.approx(wanted[index], abs=1e-3)


def test_openvino_gets_the_students_scores_by_the_names_of_its_tensors(
    student: str, tmp_path: Path, wanted: list[float]
) -> None:
    import openvino

    folder = exported(student, tmp_path / "out", format="openvino")
    model = openvino.compile_model(
        f"{folder}/openvino/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    tokens = AutoTokenizer.from_pretrained(folder)([QUERY] * len(TEXTS), TEXTS, padding=True, truncation=True)
    scores = model({name: np.asarray(values, dtype=np.int64) for name, values in tokens.items()})["logits"]
    assert scores[:, 0] == pytest.approx(wanted, abs=1e-3)


def test_int8_is_a_quarter_as_large_and_scores_as_the_backend_that_evaluate_measures(
    student: str, onnx: str, tmp_path: Path
) -> None:
    winners.write(tmp_path / "winner", "encoder", student, {})  # the output of select stands for its student
    folder = exported(str(tmp_path / "winner"), tmp_path / "out", format="onnx", precision="int8")
    sizes = [Path(each, "onnx", "model.onnx").stat().st_size for each in (onnx, folder)]
    assert sizes[1] < 0.3 * sizes[0]
    ranker = Ranker.load(student, dtype="int8", backend="onnx")
    tokens = ranker.padded(ranker.encode([QUERY] * 2, TEXTS[2:4]))
    scores = session(folder).run(None, {name: values.numpy() for name, values in tokens.items()})[0][:, 0]
    assert scores == pytest.approx(ranker.score(QUERY, TEXTS[2:4]), abs=1e-5)


def test_a_model_without_token_types_has_two_inputs(tmp_path: Path) -> None:
    source = tiny.save(tmp_path / "student", "XLMRoberta", limit=30, max_position_embeddings=40)
    folder = exported(source, tmp_path / "out", format="onnx")
    ranker, model, texts = Ranker.load(source, dtype="float32"), session(folder), ["w1 w2", "w3", "w4 " * 50]
    tokens = AutoTokenizer.from_pretrained(folder)(["w9 w8"] * 3, texts, padding=True, truncation=True)
    assert {one.name for one in model.get_inputs()} == {"input_ids", "attention_mask"}
    scores = model.run(None, {name: np.asarray(values) for name, values in tokens.items()})[0][:, 0]
    assert scores == pytest.approx(ranker.score("w9 w8", texts), abs=1e-3)


# ---- what is refused -------------------------------------------------------------------------------------------


def test_a_decoder_and_a_first_stage_are_refused(tmp_path: Path) -> None:
    decoder = str(tmp_path / "decoder")
    Ranker.decoder(checkpoints.resolve(checkpoints.BUNDLED[1]), max_length=16, layers=1).save(decoder)
    with pytest.raises(
        RradError, match=r"format=onnx takes encoders .*, this is a llama on cpu; take the checkpoint"
    ):
        exported(decoder, tmp_path / "out", format="onnx")
    first = {"system": "bm25", "student": "", "checkpoint": "", "weights": {"bm25": 1.0}}
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "winner.json").write_text(json.dumps(first))
    with pytest.raises(RradError, match="its winner, 'bm25', is a first stage, which has no student"):
        exported(str(tmp_path / "first"), tmp_path / "out2", format="openvino")


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, there = tiny.save(tmp_path / "student", "Bert"), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else there(name, *rest)
    )
    with pytest.raises(RradError, match=r"format=onnx needs the package onnx; pip install 'rrad-ray\[onnx\]'"):
        exported(source, tmp_path / "out", format="onnx")


@pytest.mark.parametrize("kind", ["openvino", "rankllm"])
def test_int8_of_another_format_is_refused_by_the_config(kind: str) -> None:
    with pytest.raises(RradError, match=r"precision='int8': needs format=onnx"):
        build_config(ExportConfig, {"input": "a", "output": "b", "format": kind, "precision": "int8"}, "c.yaml")


def test_what_is_made_of_a_folder_with_a_winner_is_made_of_the_student_that_it_names(tmp_path: Path) -> None:
    """`publish` writes another winner there, beside a manifest that stays."""
    for name in ("old", "new"):
        tiny.save(tmp_path / name, "Bert")
    winners.write(tmp_path / "store", "student", tmp_path / "old", {})
    evaluated = EvaluateConfig(
        "candidates", "report", students={"last": f"{tmp_path}/store", "own": f"{tmp_path}/new"}
    )
    files = ExportConfig(f"{tmp_path}/store", f"{tmp_path}/files", format="onnx")
    read = evaluate.run.inputs(evaluated)
    assert (read["student.last"], read["student.own"]) == (f"{tmp_path}/old", f"{tmp_path}/new")
    assert export.run.inputs(files) == {"input": f"{tmp_path}/old"}
    winners.write(tmp_path / "store", "student", tmp_path / "new", {})
    assert evaluate.run.inputs(evaluated)["student.last"] == export.run.inputs(files)["input"] == f"{tmp_path}/new"


def test_a_winner_of_a_winner_is_the_student_at_its_end_and_a_ring_of_them_is_an_error(tmp_path: Path) -> None:
    """A winner is a model of `evaluate` too, and may win again."""
    student = tiny.save(tmp_path / "student", "Bert")
    winners.write(tmp_path / "first", "student", student, {})
    winners.write(tmp_path / "second", "last", tmp_path / "first", {})
    assert checkpoints.resolve(f"{tmp_path}/second") == checkpoints.resolve(student)
    winners.write(tmp_path / "first", "student", tmp_path / "second", {})
    with pytest.raises(RradError, match=r"second: its winner\.json leads back to .*second; run select again"):
        checkpoints.resolve(f"{tmp_path}/second")
