"""Facts of the CPU that torch knows, and an in-place mean over many tensors.

Uses: `torch.cpu._is_amx_tile_supported`, the OpenMP library in torch's wheel, and `torch._foreach_lerp_`
(torch 2.13).

Upstream: `torch.cpu` has no public probes of instruction sets, torch no public foreach. Delete when it has them.

Breaks: without the probe or OpenMP's file, kernels of ours do not compile and PyTorch's take their place; without the
foreach, weight averaging fails.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor


def has_amx() -> bool:
    """Return true on a CPU with AMX tiles, unless oneDNN is told to do without them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return (limit in ("ALL", "DEFAULT") or "AMX" in limit) and _probe("_is_amx_tile_supported")


def _probe(name: str) -> bool:
    probe = getattr(torch.cpu, name, None)
    return bool(probe and probe())


def openmp_libraries() -> list[Path]:
    """Return the OpenMP library that torch itself has loaded, so that a kernel shares its threads."""
    return sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))


def lerp_all(means: list[Tensor], values: list[Tensor], weight: float) -> None:
    """Move each mean by `weight` of its distance to the value, in place."""
    torch._foreach_lerp_(means, values, weight)
