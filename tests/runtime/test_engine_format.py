"""The number format of vLLM's engines on CPUs: by measurement, unless the config or a GPU decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rrad_ray.config import JudgeConfig
from rrad_ray.rankers import loading, precision
from rrad_ray.runtime import cluster, engine_format
from tests import tiny

pytestmark = pytest.mark.ray


def config(**options: Any) -> JudgeConfig:
    return JudgeConfig(input="in", output="out", task="order", engine="vllm", **options)


@pytest.mark.parametrize("fastest", [torch.float32, torch.bfloat16])
def test_engines_on_cpus_compute_in_the_format_that_is_the_fastest_for_the_models_layers(
    fastest: torch.dtype, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pinned bfloat16 made a CPU without units for it label at a sixth of its speed."""
    layers = []

    def measured(_device: str, layer: tuple[int, int]) -> torch.dtype:
        layers.append(layer)
        return fastest

    monkeypatch.setattr(precision, "best_dtype", measured)
    cluster.start_ray()
    model = tiny.save(tmp_path / "model", "Bert")
    cfg = config(resources={"CPU": 1}, engine_kwargs={"max_model_len": 64})
    name = engine_format.engine_format(cfg, model)
    assert name == str(fastest).removeprefix("torch.")
    assert layers == [precision.layer_of(loading.config_of(model))]
    assert engine_format.with_format(cfg, name).engine_kwargs == {"max_model_len": 64, "dtype": name}
    assert f"engines compute in {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        {"resources": {"GPU": 1}},
        {"resources": {"CPU": 1}, "engine_kwargs": {"dtype": "bfloat16"}},
        {"resources": {"CPU": 2, "GPU": 0.5}},
    ],
)
def test_a_gpu_or_a_format_of_the_config_is_left_to_vllm(options: dict[str, Any]) -> None:
    cfg = config(**options)
    assert engine_format.engine_format(cfg, "no such model") == ""
    assert engine_format.with_format(cfg, "") is cfg
