"""Each patch says what it uses, what would end it and what happens when it breaks; and its canary lives."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest
import torch

from rrad_ray.patches import peft_merge, torch_cpu, torch_export, torch_onednn
from tests.commands import PATIENCE_S, ROOT

PATCHES = sorted(path.name for path in (ROOT / "rrad_ray/patches").glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_says_what_it_uses_its_upstream_and_what_happens_when_it_breaks(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / "rrad_ray/patches" / name).read_text(encoding="utf-8"))) or ""
    for section in ("Uses: ", "Upstream: ", "Delete when ", "Breaks: "):
        assert section in docstring.replace("\n", " "), section


def test_ray_still_has_what_the_patches_read() -> None:
    from ray import serve
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.data import DataContext
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.train.v2.api.exceptions import WorkerGroupError

    context = DataContext.get_current()
    assert hasattr(context.issue_detectors_config, "detectors")
    assert hasattr(context, "raise_original_map_exception")
    assert "_blocking" in inspect.signature(serve.delete).parameters
    assert callable(get_cluster_status)
    assert callable(_internal_kv_get)
    assert "worker_failures" in inspect.signature(WorkerGroupError).parameters
    start = inspect.getsource(ActorPoolMapOperator._start_actor)
    assert "self._actor_cls.options(" in start, "actors get references again"
    assert "ctx=self._data_context_ref" in start, "actors no longer get references: delete ray_actor_arguments"


def test_onednns_fused_layers_compute_what_torchs_layers_do() -> None:
    torch.manual_seed(0)
    x, weight, bias, add = torch.randn(32, 64), torch.randn(48, 64), torch.randn(48), torch.randn(32, 48)
    reordered, product = torch_onednn.reordered(weight), torch.nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(torch_onednn.linear(x, reordered, bias), product, atol=1e-3, rtol=1e-3)
    gelu = torch.nn.functional.gelu(product)
    torch.testing.assert_close(torch_onednn.linear(x, reordered, bias, gelu=True), gelu, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(torch_onednn.linear_add(x, reordered, bias, add), product + add, atol=1e-3, rtol=1e-3)


def test_torch_knows_the_cpu_and_brings_openmp() -> None:
    assert hasattr(torch.cpu, "_is_amx_tile_supported"), "AMX would be taken for missing"
    assert isinstance(torch_cpu.has_amx(), bool)
    assert torch_cpu.openmp_libraries()
    mean = [torch.zeros(2)]
    torch_cpu.lerp_all(mean, [torch.ones(2)], 0.25)
    assert mean[0].tolist() == [0.25, 0.25]


def test_torchs_older_onnx_exporter_can_still_be_asked_for() -> None:
    assert torch_export.OLDER_EXPORTER.keys() <= inspect.signature(torch.onnx.export).parameters.keys()
    assert issubclass(torch_export.compile_error(), Exception)


def test_transformers_still_marks_a_model_with_adapters_by_these_attributes() -> None:
    from transformers.integrations import peft

    source = inspect.getsource(peft)
    assert "_hf_peft_config_loaded" in source
    assert "peft_config" in source

    class Model:
        peft_config = "adapters"
        _hf_peft_config_loaded = True

        def __delattr__(self, name: str) -> None:
            setattr(type(self), name, None)

    model = Model()
    peft_merge.forget_adapters(model)
    assert not model._hf_peft_config_loaded


def test_openvino_is_imported_without_its_telemetry() -> None:
    program = (
        "from rrad_ray.patches import openvino_telemetry; openvino_telemetry.switch_off()\n"
        "import openvino\n"
        "try:\n    import openvino_telemetry\nexcept ImportError:\n    print('off')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    if "No module named 'openvino'" in done.stderr:
        pytest.skip("openvino is not installed")
    assert done.stdout.strip() == "off", done.stderr
