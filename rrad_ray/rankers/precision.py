"""The number format in which a model computes: the fastest that the hardware multiplies."""

from __future__ import annotations

import torch


def best_dtype(device: str = "cpu") -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it (CUDA; CPUs with AMX or AVX512-BF16), float32 elsewhere."""
    if device.startswith("cuda"):
        return torch.bfloat16
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return torch.bfloat16 if fast else torch.float32


def dtype_of(name: str, device: str = "cpu") -> torch.dtype:
    """Return the torch dtype of `auto` (`best_dtype`), `bfloat16` or `float32`."""
    return best_dtype(device) if name == "auto" else getattr(torch, name)
