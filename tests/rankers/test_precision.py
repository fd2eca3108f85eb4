"""The number format of `auto` is what multiplies fastest where it runs, and every format scores on every CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from rrad_ray.rankers import precision
from tests.commands import PATIENCE_S, ROOT


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ((2.0, 1.0), torch.bfloat16),
        ((1.0, 2.0), torch.float32),
        ((1.0, 0.95), torch.float32),  # hardly faster: the more exact one stays
    ],
)
def test_auto_is_the_faster_format_and_float32_where_the_other_is_hardly_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], best: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "product_seconds", lambda formats, *_: dict(zip(formats, seconds, strict=True)))
    precision.best_dtype.cache_clear()
    try:
        assert precision.dtype_of("auto") == best
    finally:
        precision.best_dtype.cache_clear()
    assert precision.dtype_of("bfloat16") == torch.bfloat16


def test_products_of_the_models_own_layers_are_timed_and_the_threads_stay_as_they_were() -> None:
    assert precision.layer_of(SimpleNamespace(hidden_size=576, intermediate_size=1536)) == (576, 1536)
    assert precision.layer_of(SimpleNamespace(hidden_size=8192)) == (2048, 2048), "a weight too large to time"
    threads = torch.get_num_threads()
    times = precision.product_seconds((torch.float32, torch.bfloat16), "cpu", (64, 128))
    assert all(0 < seconds < 1 for seconds in times.values())
    assert torch.get_num_threads() == threads


def test_a_student_scores_in_every_format_on_a_cpu_with_avx2_alone(student: str) -> None:
    """oneDNN and PyTorch believe these variables; without bfloat16 products, `auto` must be float32."""
    program = f"""
from rrad_ray.rankers.ranker import Ranker
for dtype in ("auto", "float32", "bfloat16"):
    ranker = Ranker.load({student!r}, dtype=dtype)
    print(dtype, ranker.model.dtype, ranker.score("open a file", ["open(path)"])[0])
"""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | limits,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    auto, exact, half = (line.split() for line in done.stdout.strip().splitlines())
    assert (auto[1], exact[1], half[1]) == ("torch.float32", "torch.float32", "torch.bfloat16")
    assert float(auto[2]) == float(exact[2])
    assert float(half[2]) == pytest.approx(float(exact[2]), abs=0.05)
