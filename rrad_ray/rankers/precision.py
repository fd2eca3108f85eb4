"""Number formats that the hardware multiplies well."""

from __future__ import annotations

import torch


def best_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where the hardware multiplies it (CUDA; CPUs with AMX or AVX512-BF16), float32 elsewhere."""
    if device.startswith("cuda"):
        return torch.bfloat16
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return torch.bfloat16 if fast else torch.float32


def dtype_of(name: str, device: str = "cpu") -> torch.dtype:
    """`auto`, `bfloat16` or `float32` as a torch dtype."""
    return best_dtype(device) if name == "auto" else getattr(torch, name)
