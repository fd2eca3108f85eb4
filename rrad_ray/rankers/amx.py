"""Attention and layer norm over packed tokens by kernels of our own (`kernels.c`), for CPUs with AMX.

Attention reads each pair's tokens where they stand. torch's wants them copied to a padded place of their own, and
spends more on packing operands for heads of 32 dimensions and on the softmax than on the products.
Compiled where they run, in two seconds: nothing is built when the package is installed, nothing is kept on disk.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

FLAGS = ("avx512f", "avx512bw", "avx512dq", "avx512bf16", "amx-tile", "amx-bf16")

PLACE, SIZE, NUMBER, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float

ARGUMENTS = {
    "rrad_attention": [PLACE, PLACE, SIZE, SIZE, SIZE, FLOAT, NUMBER, PLACE, NUMBER],
    "rrad_layer_norm": [PLACE, PLACE, PLACE, FLOAT, SIZE, SIZE, PLACE, NUMBER],
}

WIDTHS = (32, 64)  # dimensions of a head that attention knows

logger = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels. None on a CPU without AMX; and, which is logged, without a C compiler, or where the
    system does not grant the use of AMX."""
    if not torch.cpu._is_amx_tile_supported():
        return None
    try:
        found = _compiled()
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        logger.warning(
            "scoring by torch's kernels, which are slower: no C compiler makes ours (%s)", "".join(said[:1])
        )
        return None
    if found.rrad_start():
        logger.warning("scoring by torch's kernels, which are slower: the system does not grant the use of AMX")
        return None
    for name, types in ARGUMENTS.items():
        getattr(found, name).argtypes = types
    return found


def _compiled() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="rrad-kernels-") as folder:
        made = f"{folder}/kernels.so"
        # Linked to the OpenMP that torch brings: its threads do this work too, instead of as many more.
        threads = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
        command = [os.environ.get("CC", "cc"), "-O3", "-shared", "-fPIC", "-fopenmp", "-Wl,--as-needed", "-o", made]
        command += [f"-m{flag}" for flag in FLAGS]
        command += [str(Path(__file__).with_suffix(".c")), *map(str, threads)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return ctypes.CDLL(made)


def attention(
    kernels: ctypes.CDLL, qkv_TX: Tensor, starts: Tensor, heads: int, *, rows: int, first_only: bool
) -> Tensor:
    """What each token, or each pair's first one only, reads of its pair's: (`rows`, D) in bfloat16, zeros behind.

    `qkv_TX`: queries, keys and values side by side, bfloat16 (T, 3 D), contiguous; `starts` (P + 1): where each
    pair's tokens begin, and where the last one's end. D / heads is one of `WIDTHS`.
    """
    across = qkv_TX.shape[1] // 3
    pairs, wide = len(starts) - 1, across // heads
    out = qkv_TX.new_empty(rows, across)
    out[pairs if first_only else int(starts[-1]) :] = 0
    read = (qkv_TX.data_ptr(), starts.data_ptr(), pairs, heads, wide, wide**-0.5, first_only)
    if kernels.rrad_attention(*read, out.data_ptr(), torch.get_num_threads()):
        raise MemoryError(f"no memory for the attention of {pairs} pairs")
    return out


class LayerNorm:
    """A layer norm, of a multiple of 32 dimensions, over bfloat16 (T, D), contiguous."""

    def __init__(self, kernels: ctypes.CDLL, norm: nn.LayerNorm) -> None:
        self.kernels, self.eps = kernels, norm.eps
        self.weight, self.bias = norm.weight.detach().float(), norm.bias.detach().float()

    def __call__(self, x_TD: Tensor) -> Tensor:
        out = torch.empty_like(x_TD)
        weights = (self.weight.data_ptr(), self.bias.data_ptr(), self.eps)
        self.kernels.rrad_layer_norm(x_TD.data_ptr(), *weights, *x_TD.shape, out.data_ptr(), torch.get_num_threads())
        return out
