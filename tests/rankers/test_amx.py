"""Our kernels compute what the layers that they stand for do, beside each other and beside oneDNN's."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rrad_ray.rankers import amx, packed_encoder
from rrad_ray.rankers.ranker import Ranker

needs_amx = pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="this CPU has no AMX")
TEXTS = ["", "sort a list", "sorted(iterable) returns a new list " * 9, "x " * 70]


@pytest.fixture(scope="module")
def ours() -> ctypes.CDLL:
    found = amx.library()
    assert found is not None
    return found


def read(ours: ctypes.CDLL, qkv_TX: Tensor, lengths: Sequence[int], heads: int, first_only: bool = False) -> Tensor:
    rows = len(lengths) + 3 if first_only else len(qkv_TX)
    return amx.attention(ours, qkv_TX, starts_of(lengths), heads, rows=rows, first_only=first_only)


def starts_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def by_torch(qkv_TX: Tensor, lengths: Sequence[int], heads: int) -> tuple[Tensor, Tensor]:
    """One pair at a time, in float32, from the formula; and how far off bfloat16 may lead: it rounds powers (of the
    numerator and of the denominator) and what comes out by 2^-8 each; 2^-8 more is for all that is in float32."""
    found, off = [], []
    for qkv in qkv_TX[: sum(lengths)].float().split(list(lengths)):
        query, key, value = qkv.view(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
        weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
        found.append((weights @ value).transpose(0, 1).flatten(1))
        off.append((weights @ value.abs()).transpose(0, 1).flatten(1) * 2**-6)
    return torch.cat(found), torch.cat(off)


def drawn(rows: int, heads: int, wide: int, scale: float = 2) -> Tensor:
    return (torch.randn(rows, 3 * heads * wide) * scale).bfloat16()


@needs_amx
@given(st.lists(st.integers(1, 150), min_size=1, max_size=6), st.sampled_from(amx.WIDTHS), st.integers(0, 9))
def test_each_token_reads_all_of_its_pair_and_nothing_else(
    ours: ctypes.CDLL, lengths: list[int], wide: int, behind: int
) -> None:
    torch.manual_seed(sum(lengths))
    qkv = drawn(sum(lengths) + behind, 3, wide)
    qkv[sum(lengths) :] = float("nan")
    (wanted, off), found = by_torch(qkv, lengths, 3), read(ours, qkv, lengths, 3)
    assert ((found[: sum(lengths)] - wanted).abs() <= off).all()
    assert not found[sum(lengths) :].any()
    first, firsts = read(ours, qkv, lengths, 3, first_only=True), starts_of(lengths)[:-1]
    assert ((first[: len(lengths)] - wanted[firsts]).abs() <= off[firsts]).all()
    assert not first[len(lengths) :].any()


@needs_amx
@pytest.mark.parametrize("wide", amx.WIDTHS)
def test_a_tokens_logits_may_lie_far_below_its_neighbours_and_below_zero(ours: ctypes.CDLL, wide: int) -> None:
    lengths, heads = [21, 40], 2
    qkv = drawn(61, heads, wide, 0.1).view(61, 3, heads, wide)
    qkv[:, 0, :, 0], qkv[:, 1, :, 0] = 1, torch.linspace(-60, -50, 61)[:, None].bfloat16() * wide**0.5
    qkv[3, 0, :, 0] = -3  # its logits are about 165, the others' about -55, those behind the last key 0
    qkv = qkv.flatten(1)
    wanted, off = by_torch(qkv, lengths, heads)
    assert wanted.isfinite().all()
    assert ((read(ours, qkv, lengths, heads) - wanted).abs() <= off).all()


@needs_amx
def test_any_number_of_threads_computes_the_same(ours: ctypes.CDLL) -> None:
    lengths = [5, 100, 64, 33] * 3
    qkv, before = drawn(sum(lengths), 12, 32), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(read(ours, qkv, lengths, 12))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_amx
def test_onednns_products_which_use_the_same_registers_are_as_before(ours: ctypes.CDLL) -> None:
    a, b, qkv = torch.randn(70, 48).bfloat16(), torch.randn(48, 33).bfloat16(), drawn(70, 4, 64)
    before = a @ b
    wanted = read(ours, qkv, [70], 4)
    for _ in range(3):
        assert torch.equal(read(ours, qkv, [70], 4), wanted)
        assert torch.equal(a @ b, before)


@needs_amx
@given(st.integers(1, 40), st.sampled_from([32, 64, 384, 768]), st.sampled_from([0.01, 1.0, 300.0]))
def test_layer_norm_is_torchs(ours: ctypes.CDLL, rows: int, wide: int, scale: float) -> None:
    torch.manual_seed(rows)
    norm = nn.LayerNorm(wide, eps=1e-12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(rows, wide) * scale + 3 * scale).bfloat16()
    wanted = F.layer_norm(x.float(), (wide,), norm.weight, norm.bias, norm.eps)
    found = amx.LayerNorm(ours, norm)(x)
    torch.testing.assert_close(found.float(), wanted, rtol=2**-8, atol=1e-3)


# ---- where they are, and where they are not ---------------------------------------------------------------------


@pytest.fixture
def uncompiled() -> Iterator[None]:
    amx.library.cache_clear()
    yield
    amx.library.cache_clear()


@needs_amx
def test_a_student_in_bfloat16_scores_by_them_and_one_in_float32_does_not(student: str) -> None:
    found = {dtype: Ranker.load(student, dtype=dtype).backend for dtype in ("bfloat16", "float32")}
    assert isinstance(found["bfloat16"], packed_encoder.PackedEncoder)
    assert isinstance(found["float32"], packed_encoder.PackedEncoder)
    assert found["bfloat16"].kernels is amx.library()
    assert found["float32"].kernels is None


@needs_amx
@pytest.mark.usefixtures("uncompiled")
def test_without_a_compiler_torch_scores_and_the_log_says_so(
    student: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        scores = Ranker.load(student, dtype="bfloat16").score("how do I sort", TEXTS)
    assert "by torch's kernels" in caplog.text
    assert "no-such-compiler" in caplog.text
    exact = Ranker.load(student, dtype="float32").score("how do I sort", TEXTS)
    assert scores == pytest.approx(exact, rel=0, abs=0.05 * (max(exact) - min(exact)))


@pytest.mark.usefixtures("uncompiled")
def test_a_cpu_without_amx_has_none_and_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert amx.library() is None
