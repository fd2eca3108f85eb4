"""Our float32 kernels compute what the layers that they stand for do, in AVX-512 and in AVX2, and int8 is close."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rrad_ray.errors import InvalidInput
from rrad_ray.patches import torch_onednn
from rrad_ray.rankers import int8, packed_encoder, vectors
from rrad_ray.rankers.int8 import Int8Layer, Int8Linear
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rankers.vectors import Product, Vectors
from tests.commands import ROOT

AVX2 = torch.backends.cpu.get_cpu_capability() in vectors.INSTRUCTIONS
needs_avx2 = pytest.mark.skipif(not AVX2, reason="this CPU has no AVX2")
TEXTS = ["", "sort a list", "sorted(iterable) returns a new list " * 9, "x " * 70]
sizes = st.sampled_from([32, 64, 384])


@pytest.fixture(scope="module")
def ours() -> Vectors:
    library = vectors.vector_kernels()
    assert library is not None
    return Vectors(library)


def starts_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def by_formula(qkv_TX: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
    outputs = []
    for qkv in qkv_TX[: sum(lengths)].double().split(list(lengths)):
        query, key, value = qkv.view(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
        weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
        outputs.append((weights @ value).transpose(0, 1).flatten(1))
    return torch.cat(outputs).float()


def by_matrix(x_TD: Tensor, factors_D: Tensor) -> Tensor:
    """Rows times factors, of which each block is multiplied by a Hadamard matrix (Sylvester's)."""
    block = vectors.rotated_block(x_TD.shape[1])
    matrix = torch.ones(1, 1)
    while len(matrix) < block:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return ((x_TD * factors_D).view(len(x_TD), -1, block) @ matrix).flatten(1)


def product_of(values: Tensor) -> tuple[Product, Tensor]:
    """Return an int8 product as oneDNN leaves it, and the layer's output that it stands for."""
    ranges, sums, bias = torch.rand(len(values), 2), torch.randn(values.shape[1]), torch.randn(values.shape[1])
    return Product(values, ranges, sums, bias), values * ranges[:, :1] + ranges[:, 1:] * sums + bias


@needs_avx2
@given(st.lists(st.integers(1, 150), min_size=1, max_size=6), st.sampled_from([32, 64, 96]), st.integers(0, 9))
def test_each_token_reads_all_of_its_pair_and_nothing_else(
    ours: Vectors, lengths: list[int], wide: int, behind: int
) -> None:
    torch.manual_seed(sum(lengths))
    qkv = torch.randn(sum(lengths) + behind, 3 * 3 * wide) * 2
    qkv[sum(lengths) :] = float("nan")
    wanted, starts = by_formula(qkv, lengths, 3), starts_of(lengths)
    every = ours.attention(qkv, starts, 3, rows=len(qkv), first_only=False)
    torch.testing.assert_close(every[: sum(lengths)], wanted, rtol=1e-4, atol=1e-4)
    halves = ours.attention(qkv.bfloat16(), starts, 3, rows=len(qkv), first_only=False)
    assert halves.dtype == torch.bfloat16
    exact = by_formula(qkv.bfloat16().float(), lengths, 3)
    torch.testing.assert_close(halves[: sum(lengths)].float(), exact, rtol=2**-8, atol=1e-4)
    assert not every[sum(lengths) :].any()
    first = ours.attention(qkv, starts, 3, rows=len(lengths) + 3, first_only=True)
    torch.testing.assert_close(first[: len(lengths)], wanted[starts[:-1]], rtol=1e-4, atol=1e-4)
    assert not first[len(lengths) :].any()


@needs_avx2
def test_logits_may_lie_far_below_zero_and_far_apart(ours: Vectors) -> None:
    qkv = torch.randn(61, 3, 2, 32) * 0.1
    qkv[:, 0, :, 0], qkv[:, 1, :, 0] = 1, torch.linspace(-60, -50, 61)[:, None] * 32**0.5
    qkv[3, 0, :, 0] = -3  # its logits are about 165, the others' about -55, those behind the last key 0
    qkv = qkv.flatten(1)
    out = ours.attention(qkv, starts_of([21, 40]), 2, rows=61, first_only=False)
    torch.testing.assert_close(out, by_formula(qkv, [21, 40], 2), rtol=1e-4, atol=1e-4)


@needs_avx2
def test_any_number_of_threads_computes_the_same(ours: Vectors) -> None:
    lengths, outputs, before = [5, 100, 64, 33] * 3, [], torch.get_num_threads()
    qkv = torch.randn(sum(lengths), 3 * 12 * 32)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outputs.append(ours.attention(qkv, starts_of(lengths), 12, rows=len(qkv), first_only=False))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@needs_avx2
def test_attention_of_an_int8_product_is_that_of_what_it_stands_for(ours: Vectors) -> None:
    product, output = product_of(torch.randn(90, 3 * 2 * 32))
    out = ours.attention(product, starts_of([50, 40]), 2, rows=90, first_only=False)
    torch.testing.assert_close(out, by_formula(output, [50, 40], 2), rtol=1e-4, atol=1e-4)


@needs_avx2
@given(st.integers(1, 40), sizes, st.sampled_from([0.01, 1.0, 300.0]))
def test_a_layer_norm_of_a_product_and_a_residual_is_torchs(
    ours: Vectors, rows: int, size: int, scale: float
) -> None:
    torch.manual_seed(rows)
    norm, residual = nn.LayerNorm(size, eps=1e-12), torch.randn(rows, size) * scale
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    product, output = product_of(torch.randn(rows, size) * scale)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours.layer_norm(product, residual, norm), norm(output + residual), rtol=1e-4, atol=1e-4
        )


@needs_avx2
@given(st.integers(1, 40), st.sampled_from([16, 48, 384, 1024, 1536]), st.sampled_from([0.01, 1.0, 300.0]))
def test_a_rotated_row_is_its_blocks_times_a_hadamard_matrix_and_keeps_products(
    ours: Vectors, rows: int, size: int, scale: float
) -> None:
    torch.manual_seed(rows)
    x, weight, factors = torch.randn(rows, size) * scale, torch.randn(7, size), int8.rotation_factors(size)
    rotated = ours.rotated(x, factors)
    torch.testing.assert_close(rotated, by_matrix(x, factors), rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(
        rotated @ ours.rotated(weight, factors).T, x @ weight.T, rtol=1e-3, atol=1e-4 * scale * size**0.5
    )


@needs_avx2
@given(st.integers(1, 40), sizes, st.sampled_from([0.01, 1.0, 300.0]))
def test_a_quantized_number_is_off_by_half_a_step_at_most(ours: Vectors, rows: int, size: int, scale: float) -> None:
    torch.manual_seed(rows)
    x, factors = torch.randn(rows, size) * scale + scale, int8.rotation_factors(size)
    x[0] = 0  # a row without any range
    quantized = ours.quantized(x, factors)
    steps, least = quantized.ranges.split(1, dim=1)
    wanted = by_matrix(x, factors)
    assert ((quantized.numbers * steps + least - wanted).abs() <= steps * 0.501 + 1e-5 * scale).all()
    assert quantized.numbers.float().amax(1)[1:].eq(255).all()


@needs_avx2
def test_gelu_of_a_product_is_torchs_up_to_half_a_step(ours: Vectors) -> None:
    product, output = product_of(torch.linspace(-9, 9, 20 * 64).view(20, 64))
    factors = int8.rotation_factors(64)
    wanted = by_matrix(F.gelu(output), factors)
    quantized = ours.gelu(product, factors)
    steps, least = quantized.ranges.split(1, dim=1)
    assert ((quantized.numbers * steps + least - wanted).abs() <= steps * 0.501 + 1e-5).all()


@needs_avx2
@pytest.mark.parametrize("wide", [False, True])
def test_an_int8_layer_is_near_the_one_in_float32_also_where_some_columns_are_wide(ours: Vectors, wide: bool) -> None:
    torch.manual_seed(0)
    linear, norm, x = nn.Linear(384, 64), nn.LayerNorm(384), torch.randn(200, 384)
    if wide:
        nn.init.constant_(norm.weight[:4], 30)
    with torch.inference_mode():
        x = norm(x)
        wanted = linear(x)
        quantizing = Int8Linear(ours, linear, norm=norm)
        product = quantizing(ours.quantized(x, quantizing.factors))
        output = product.values * product.ranges[:, :1] + product.ranges[:, 1:] * product.sums + product.bias
    # Without VNNI the weights have 63 steps each way in place of 127, so that their products are added up exactly.
    bound = 0.012 if torch_onednn.int8_most() == 127 else 0.02
    assert (output - wanted).norm() <= bound * wanted.norm()


def test_weights_are_as_large_as_onednn_adds_their_products_up_exactly() -> None:
    most = torch_onednn.int8_most()
    rows, weight = torch.full((32, 64), 255, dtype=torch.uint8), torch.full((32, 64), most, dtype=torch.int8)
    sums = torch_onednn.int8_linear(rows, torch_onednn.int8_reordered(weight), torch.ones(32))
    assert most in (63, 127)
    assert (sums == 64 * 255 * most).all()


# ---- where they are, and where they are not ---------------------------------------------------------------------


@pytest.fixture
def uncompiled() -> Iterator[None]:
    vectors.vector_kernels.cache_clear()
    yield
    vectors.vector_kernels.cache_clear()


@needs_avx2
def test_students_in_every_format_score_by_them(student: str) -> None:
    loaded = {dtype: Ranker.load(student, dtype=dtype).backend for dtype in ("float32", "bfloat16", "int8")}
    if not torch_onednn.multiplies(torch.bfloat16):
        assert loaded.pop("bfloat16") is None, "oneDNN has no products in it here: plain PyTorch scores"
    for encoder in loaded.values():
        assert isinstance(encoder, packed_encoder.PackedEncoder)
        assert encoder.vectors is not None
    assert isinstance(loaded["int8"].layers[0], Int8Layer)
    assert isinstance(loaded["float32"].layers[0], packed_encoder.Layer)


SCORES = f"""
from rrad_ray.rankers.ranker import Ranker
import sys
for dtype in ("float32", "int8"):
    print("scores:", Ranker.load(sys.argv[1], dtype=dtype).score("how do I sort", {TEXTS!r}))
"""


@needs_avx2
def test_with_avx2_alone_they_give_the_same_scores(student: str) -> None:
    narrow = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", SCORES, student]
    done = subprocess.run(command, env={**os.environ, **narrow}, cwd=ROOT, check=True, capture_output=True, text=True)
    exact, quantized = (json.loads(line.partition(":")[2]) for line in done.stdout.splitlines() if "scores:" in line)
    wanted = Ranker.load(student, dtype="float32").score("how do I sort", TEXTS)
    spread = max(wanted) - min(wanted)
    assert exact == pytest.approx(wanted, rel=0, abs=1e-4 * spread)
    # The error of int8 itself, whatever the instructions: with this random head up to .08 of the spread.
    assert quantized == pytest.approx(wanted, rel=0, abs=0.1 * spread)


@needs_avx2
@pytest.mark.usefixtures("uncompiled")
def test_without_a_compiler_torch_scores_and_int8_is_refused(
    student: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = Ranker.load(student, dtype="float32").score("how do I sort", TEXTS)
    vectors.vector_kernels.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        scores = Ranker.load(student, dtype="float32").score("how do I sort", TEXTS)
    assert "no-such-compiler" in caplog.text
    assert scores == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(InvalidInput, match="precision=int8 needs a CPU with AVX2, a C compiler") as refused:
        Ranker.load(student, dtype="int8")
    assert refused.value.remedy == "set precision=auto"


@pytest.mark.usefixtures("uncompiled")
def test_a_cpu_without_avx2_has_none_and_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert vectors.vector_kernels() is None


def test_a_decoder_has_no_int8(writer: str) -> None:
    with pytest.raises(InvalidInput, match="precision=int8 serves encoders on CPUs"):
        Ranker.load(writer, dtype="int8")
