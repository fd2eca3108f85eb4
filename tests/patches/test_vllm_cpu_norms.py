"""The CPU norms that the judge's engine runs on, against vLLM's own reference for the same operators."""

from __future__ import annotations

import pytest
import torch

from rrad_ray.patches import vllm_cpu_norms


@pytest.mark.parametrize("name", ["rms_norm", "fused_add_rms_norm"])
def test_cpu_norms_compute_what_vllms_reference_computes(name: str) -> None:
    from vllm import ir
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("this vLLM is not a CPU build")
    vllm_cpu_norms.register_cpu_norms()
    vllm_cpu_norms.register_cpu_norms()  # vLLM loads plugins in several places
    op = getattr(ir.ops, name)
    inputs = op.generate_inputs(num_tokens=64, hidden_size=576, dtype=torch.bfloat16)
    ours, reference = op.impls[vllm_cpu_norms.PROVIDER], op.impls["native"]
    assert ours.supports_args(*inputs)
    assert not ours.supports_args(*inputs[:-2], None, inputs[-1]), "a norm without weight is not the kernel's"
    before = [value.clone() for value in inputs if isinstance(value, torch.Tensor)]
    torch.testing.assert_close(
        ours.func_impl_fn(*inputs), reference.impl_fn(*inputs), **op.get_tolerance(torch.bfloat16)
    )
    after = [value for value in inputs if isinstance(value, torch.Tensor)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True)), "an input was overwritten"
