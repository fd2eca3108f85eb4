"""Every backend gives a pretrained encoder's scores, and their order, on real texts of uneven lengths."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from transformers import AutoModelForSequenceClassification, AutoTokenizer, XLMRobertaConfig
from transformers import XLMRobertaForSequenceClassification as XLMRoberta

from rrad_ray.config import EvaluateConfig, ServeConfig
from rrad_ray.config.load import build_config
from rrad_ray.errors import RradError
from rrad_ray.patches import torch_onednn
from rrad_ray.rankers import conversion, packed_encoder
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.tables import checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")
QUERY = "how do I sort a list of numbers"
DOCS = {name: text for name in dir(builtins) if (text := getattr(builtins, name).__doc__) and name[0].islower()}
TEXTS = ["", "x", *DOCS.values()]
# Most that a score may differ, as a share of the scores' range; least Kendall's tau.
WAYS = {
    ("torch", "float32"): (1e-4, 0.999),
    ("torch", "bfloat16"): (0.05, 0.95),
    ("torch", "int8"): (0.1, 0.95),
    ("openvino", "float32"): (1e-4, 0.999),
    ("openvino", "bfloat16"): (0.05, 0.95),
    ("onnx", "float32"): (1e-4, 0.999),
    ("onnx", "int8"): (0.3, 0.8),
}


@functools.cache
def exact(folder: str) -> list[float]:
    """By transformers alone, one pair at a time: nothing is padded, nothing packed."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        encoded = [tokenizer([QUERY], [text], truncation=True, return_tensors="pt") for text in TEXTS]
        return [float(model(**pair).logits) for pair in encoded]


def test_the_texts_are_many_and_uneven_and_their_scores_differ(student: str) -> None:
    lengths = [len(pair["input_ids"]) for pair in Ranker.load(student).encode([QUERY] * len(TEXTS), TEXTS)]
    assert len(TEXTS) > 50
    assert (min(lengths), max(lengths)) == (11, 128)
    assert len(set(lengths)) > 30
    assert len({round(score, 4) for score in exact(student)}) > 50


@pytest.mark.parametrize(("backend", "precision"), WAYS, ids=[" ".join(way) for way in WAYS])
def test_a_backend_gives_the_models_scores_and_their_order(student: str, backend: str, precision: str) -> None:
    ranker, wanted = Ranker.load(student, dtype=precision, backend=backend), np.asarray(exact(student))
    # oneDNN has no products in bfloat16 on CPUs with AVX2 alone, where plain PyTorch scores.
    plain = (backend, precision) == ("torch", "bfloat16") and not torch_onednn.multiplies(torch.bfloat16)
    assert (ranker.backend is None) == plain
    scores = np.asarray(ranker.score(QUERY, TEXTS))
    share, tau = WAYS[backend, precision]
    assert np.abs(scores - wanted).max() <= share * np.ptp(wanted)
    assert kendalltau(scores, wanted).statistic >= tau
    backwards = ranker.score(QUERY, TEXTS[::-1])[::-1]
    assert np.asarray(backwards) == pytest.approx(scores, rel=0, abs=share * np.ptp(wanted))


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_equal_pairs_have_equal_scores_wherever_they_stand(student: str, precision: str) -> None:
    mixed = [text for each in TEXTS for text in (each, "the same text " * 20)]
    scores = Ranker.load(student, dtype=precision).score(QUERY, [*mixed, *TEXTS])
    assert len(set(scores[1 : len(mixed) : 2])) == 1
    assert scores[: len(mixed) : 2] == scores[len(mixed) :]


def test_what_is_loaded_to_score_still_learns(student: str) -> None:
    ranker = Ranker.load(student, dtype="float32")
    scores = ranker(ranker.encode([QUERY] * 2, TEXTS[:2]), torch.ones(1, 2, dtype=torch.bool), 10**6)
    scores.sum().backward()
    assert ranker.model.classifier.weight.grad.abs().sum() > 0
    assert scores[0].tolist() == pytest.approx(exact(student)[:2], abs=1e-4)


def test_whatever_the_lengths_products_have_few_numbers_of_rows(
    student: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: set[int] = set()
    there = packed_encoder.Linear.__call__

    def seen(self: packed_encoder.Linear, x_TD: torch.Tensor, **options: Any) -> torch.Tensor:
        rows.add(len(x_TD))
        return there(self, x_TD, **options)

    monkeypatch.setattr(packed_encoder.Linear, "__call__", seen)
    ranker = Ranker.load(student)
    for count in range(1, 30):
        assert len(ranker.score(QUERY, TEXTS[-count:])) == count
    assert {size % packed_encoder.ROW_MULTIPLE for size in rows} == {0}
    assert len(rows) > 5


def test_products_have_eight_numbers_of_rows_for_each_doubling_and_an_eighth_of_them_at_most_is_padding() -> None:
    padded = {count: packed_encoder.product_rows(count) for count in range(1, 4097)}
    assert all(count <= rows < count + max(32, count / 8) for count, rows in padded.items())
    assert {rows % packed_encoder.ROW_MULTIPLE for rows in padded.values()} == {0}
    for power in (256, 512, 1024, 2048):
        assert len({rows for rows in padded.values() if power < rows <= 2 * power}) == 8


def test_lanes_change_no_score_and_leave_other_threads_as_many_threads_as_they_had(
    student: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, found = torch.get_num_threads(), []
    ranker = Ranker.load(student, dtype="float32")
    own, there = list[tuple[bool, int]](), packed_encoder.Linear.__call__

    def seen(self: packed_encoder.Linear, x_TD: torch.Tensor, **options: Any) -> torch.Tensor:
        out = there(self, x_TD, **options)
        own.append((threading.current_thread().name.startswith("rrad-lane"), torch.get_num_threads()))
        return out

    monkeypatch.setattr(packed_encoder.Linear, "__call__", seen)
    try:
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            own.clear()
            found.append(ranker.score(QUERY, TEXTS))
            assert set(own) == {(threads > 1, max(1, threads // packed_encoder.LANES))}
            with ThreadPoolExecutor(1) as another:
                assert another.submit(torch.get_num_threads).result() == threads
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert {lane.name.partition("_")[0] for lane in threading.enumerate()} >= {"rrad-lane"}
    for scores in found:
        assert scores == pytest.approx(found[0], abs=1e-4)


def test_scores_are_the_same_while_another_thread_loads_a_model_in_another_type(student: str) -> None:
    ranker = Ranker.load(student, dtype="bfloat16")
    wanted = ranker.score(QUERY, TEXTS)
    torch.set_default_dtype(torch.bfloat16)  # as transformers does for as long as it loads
    try:
        assert ranker.score(QUERY, TEXTS) == wanted
    finally:
        torch.set_default_dtype(torch.float32)


def test_robertas_family_is_packed_with_its_own_positions_and_head(student: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=140, num_labels=1, **sizes)
    model = XLMRoberta(config).eval()
    assert packed_encoder.fits(model)
    torch.nn.init.normal_(model.classifier.out_proj.weight, std=1)
    pairs = [
        {key: tokenizer(QUERY, text)[key][:100] for key in ("input_ids", "attention_mask")} for text in TEXTS[1:9]
    ]
    with torch.inference_mode():
        # XLM-R takes its pad token (1) for no position; none of these pairs has it.
        wanted = [float(model(input_ids=torch.tensor([pair["input_ids"]])).logits) for pair in pairs]
        assert packed_encoder.PackedEncoder(model)(pairs, 10**6).tolist() == pytest.approx(wanted, abs=1e-4)


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    student: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    absent = conversion.NEEDS[backend][-1]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == absent else there(name, *rest)
    )
    with pytest.raises(ValueError, match=rf"needs the package {absent}; pip install 'rrad-ray\[{backend}\]'"):
        Ranker.load(student, backend=backend)


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_a_decoder_is_refused_by_the_backends_for_encoders(tmp_path: Path, backend: str) -> None:
    Ranker.decoder(checkpoints.resolve(checkpoints.BUNDLED[1]), max_length=16, layers=1).save(tmp_path)
    with pytest.raises(
        ValueError, match=rf"backend={backend} takes encoders .*, this is a llama on cpu; set backend"
    ):
        Ranker.load(str(tmp_path), backend=backend)
    assert Ranker.load(str(tmp_path)).backend is None


@pytest.mark.parametrize(
    ("kind", "dtype", "close"),
    [
        pytest.param("encoder", "float32", 1e-4, marks=pytest.mark.slow),
        pytest.param("encoder", "bfloat16", 0.02, marks=pytest.mark.slow),
        pytest.param("decoder", "float32", 1e-4, marks=pytest.mark.slow),
    ],
)
def test_a_student_is_compiled_once_for_all_shapes_and_scores_as_before(
    tmp_path: Path, kind: str, dtype: str, close: float
) -> None:
    source = checkpoints.resolve(checkpoints.BUNDLED[kind == "decoder"])
    getattr(Ranker, kind)(source, max_length=128, layers=1).save(tmp_path)
    plain, compiled = (Ranker.load(str(tmp_path), dtype=dtype, backend=name) for name in ("torch", "compile"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (1, 2, 7, 40):
            wanted = plain.score(QUERY, TEXTS[-count:])
            assert compiled.score(QUERY, TEXTS[-count:]) == pytest.approx(wanted, rel=0, abs=close)


def test_without_a_compiler_compile_says_so(student: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(ValueError, match=r"backend=compile: torch.compile failed .*needs g\+\+"):
        Ranker.load(student, dtype="float32", backend="compile")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"backend": "openvin"}, "choose one of torch, compile, openvino, onnx"),
        ({"precision": "int4"}, "choose one of auto, bfloat16, float32, int8"),
        ({"backend": "compile", "precision": "int8"}, "int8 is made by backend=torch and onnx"),
        ({"backend": "onnx", "precision": "bfloat16"}, "knows float32 and int8"),
    ],
)
def test_a_backend_or_precision_that_is_not_there_is_refused_by_the_config(values: dict[str, str], said: str) -> None:
    for schema, paths in ((ServeConfig, {"input": "in"}), (EvaluateConfig, {"input": "in", "output": "out"})):
        with pytest.raises(RradError, match=said):
            build_config(schema, {**paths, **values}, "c.yaml")


def test_a_backend_or_number_format_that_is_not_there_is_refused_by_name(student: str) -> None:
    with pytest.raises(ValueError, match="choose one of torch, compile"):
        Ranker.load(student, backend="vino")
    with pytest.raises(ValueError, match="choose one of auto, bfloat16"):
        Ranker.load(student, dtype="int64")


def test_openvino_beside_a_gpu_is_refused_by_the_config() -> None:
    with pytest.raises(ValueError, match=r"backend.*scores on CPUs; set backend=torch or compile"):
        ServeConfig("in", backend="openvino", resources={"GPU": 1})
