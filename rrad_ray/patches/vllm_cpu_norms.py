"""A vLLM plugin for CPU builds: RMS norms by vLLM's own fused CPU kernels.

vLLM's CPU build has these kernels, but its dispatcher (0.29) offers them to GPUs only and computes the norms in
eager PyTorch, in float32: a third of a small model's time. An engine uses them with
`ir_op_priority: {rms_norm: [rrad_cpu], fused_add_rms_norm: [rrad_cpu]}`. vLLM finds `register_cpu_norms` by the
entry point `vllm.general_plugins`, in each of its processes.

Uses: `vllm.ir.ops`, `torch.ops._C` and `current_platform.import_kernels` (vLLM 0.29).

Upstream: vLLM's dispatcher offers the fused kernels to GPUs only. Delete when it offers them to CPUs.

Breaks: an engine that names the provider does not start; without the name it computes the norms a third slower.
"""

# No `from __future__ import annotations`: vLLM infers each operator's schema from types, not from their names.

from typing import Any

PROVIDER = "rrad_cpu"


def register_cpu_norms() -> None:
    """Register the kernels as a provider of vLLM's norm operators; on other platforms do nothing."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import torch
    from torch import Tensor
    from vllm import ir

    if PROVIDER in ir.ops.rms_norm.impls:  # vLLM may load its plugins more than once in a process
        return
    current_platform.import_kernels()
    kernels: Any = torch.ops._C

    def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
        out = torch.empty(x.shape, device=x.device, dtype=x.dtype)
        kernels.rms_norm(out, x.contiguous(), weight, epsilon)
        return out

    def fused_add_rms_norm(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        kernels.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual

    def norm_fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
        return _fits(x, weight, variance_size)

    def add_fits(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> bool:
        return _fits(x, weight, variance_size) and x.is_contiguous() and x_residual.is_contiguous()

    ir.ops.rms_norm.register_impl(PROVIDER, supports_args=norm_fits)(rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=add_fits, inplace=True)(fused_add_rms_norm)


def _fits(x: Any, weight: Any, variance_size: int | None) -> bool:
    """Return true within the kernels' limits: a weight of the input's dtype, and the variance of the whole row."""
    return variance_size is None and weight is not None and weight.dtype == x.dtype
