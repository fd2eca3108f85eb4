"""C kernels, compiled in seconds by the machine that runs them.

Nothing is built when the package is installed, and nothing is kept on disk.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rrad_ray.patches import torch_cpu

POINTER, INT64, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float

logger = logging.getLogger(__name__)


def compile_kernels(name: str, flags: Sequence[str], functions: Mapping[str, Sequence[Any]]) -> ctypes.CDLL | None:
    """Return the compiled file `name` of this folder, or None without a C compiler, as the log then says.

    `flags`: the instruction sets that it may use. `functions`: the types of each function's arguments.
    """
    try:
        kernels = _compiled(Path(__file__).with_name(name), flags)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        warn_of_slower(f"no C compiler makes ours ({''.join(reason[:1])})")
        return None
    for function, types in functions.items():
        getattr(kernels, function).argtypes = types
    return kernels


def warn_of_slower(reason: str) -> None:
    """Log why torch's kernels are taken in place of ours."""
    logger.warning("scoring by torch's kernels, which are slower: %s", reason)


def _compiled(source: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """Compile a source by `$CC` or `cc` and load it.

    Raises `OSError` without a compiler, `subprocess.CalledProcessError` if the compiler fails.
    """
    with tempfile.TemporaryDirectory(prefix="rrad-kernels-") as folder:
        target = f"{folder}/kernels.so"
        # Linked to the OpenMP that torch brings, so that torch's threads run these kernels too. A second OpenMP would
        # start as many threads of its own.
        openmp = torch_cpu.openmp_libraries()
        command = [os.environ.get("CC", "cc"), "-O3", "-shared", "-fPIC", "-fopenmp", "-Wl,--as-needed", "-o", target]
        command += [*(f"-m{flag}" for flag in flags), str(source), *map(str, openmp), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return ctypes.CDLL(target)
