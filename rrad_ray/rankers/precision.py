"""The number format in which a model computes: the fastest that the hardware multiplies."""

from __future__ import annotations

import torch

from rrad_ray.patches import torch_cpu


def best_dtype(device: str = "cpu") -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it (CUDA; CPUs with AMX or AVX512-BF16), float32 elsewhere."""
    if device.startswith("cuda"):
        return torch.bfloat16
    return torch.bfloat16 if torch_cpu.multiplies_bfloat16() else torch.float32


def dtype_of(name: str, device: str = "cpu") -> torch.dtype:
    """Return the torch dtype of `auto` (`best_dtype`), `bfloat16` or `float32`."""
    return best_dtype(device) if name == "auto" else getattr(torch, name)
