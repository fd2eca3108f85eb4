"""The number format in which a model computes: the one that multiplies fastest where it runs, by measurement.

The flags of a CPU do not say it: without AMX, a CPU that has AVX512-BF16 may multiply float32 twice as fast.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

LAYER = (384, 1536)  # the feed-forward layer of MiniLM-L6: hidden and intermediate size
_ROWS = 128  # tokens of a product: about a millisecond on a CPU, less than a time slice
_SECONDS = 0.08  # for all formats
_LEAST_TURNS = 4
_GAIN = 1.1  # float32, the more exact one, stays where another format is hardly faster


def dtype_of(name: str, device: str = "cpu", config: Any = None) -> torch.dtype:
    """Return the torch dtype of `bfloat16`, `float32` or `auto`: `best_dtype` for the layers of a model's config.

    In a process group, rank 0 measures for all.
    """
    if name != "auto":
        return getattr(torch, name)
    dtype = [best_dtype(device, layer_of(config))]
    if dist.is_initialized():
        dist.broadcast_object_list(dtype, 0)
    return dtype[0]


@functools.cache
def best_dtype(device: str = "cpu", layer: tuple[int, int] = LAYER) -> torch.dtype:
    """Return bfloat16 if products of a layer (hidden and intermediate size) are faster in it than in float32.

    Measured once a process for a device and layer, in less than 100 ms on a CPU.
    """
    times = product_seconds((torch.float32, torch.bfloat16), device, layer)
    return torch.bfloat16 if times[torch.bfloat16] * _GAIN < times[torch.float32] else torch.float32


@torch.inference_mode()
def product_seconds(formats: Sequence[torch.dtype], device: str, layer: tuple[int, int]) -> dict[torch.dtype, float]:
    """Return the shortest time of a product with a layer's weight in each format, in seconds, on one thread of a CPU.

    The formats take turns, and one thread waits for no other: a busy machine slows all of them alike.
    """
    linears = {dtype: torch.nn.Linear(*layer, dtype=dtype, device=device) for dtype in formats}
    inputs = {dtype: torch.ones(_ROWS, layer[0], dtype=dtype, device=device) for dtype in formats}
    shortest = dict.fromkeys(formats, float("inf"))
    threads, began, turns = torch.get_num_threads(), time.perf_counter(), 0
    torch.set_num_threads(1)
    try:
        while turns < _LEAST_TURNS or time.perf_counter() - began < _SECONDS:
            for dtype, linear in linears.items():
                start = time.perf_counter()
                linear(inputs[dtype])
                if device.startswith("cuda"):
                    torch.cuda.synchronize(device)
                shortest[dtype] = min(shortest[dtype], time.perf_counter() - start)
            turns += 1
    finally:
        torch.set_num_threads(threads)
    return shortest


def layer_of(config: Any) -> tuple[int, int]:
    """Return the hidden and intermediate size of a model's config, at most 2,048 each; without one, MiniLM's."""
    hidden = getattr(config, "hidden_size", None) or LAYER[0]
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    return min(int(hidden), 2048), min(int(inner), 2048)
