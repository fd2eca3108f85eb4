"""Importing transformers' models without packages that scoring never calls: they would take 100 MiB of each replica.

transformers imports scikit-learn and SciPy where they are installed, for one way to generate text and for losses of
object detection, and accelerate imports boto3; torch's compiler imports Triton, which compiles for GPUs.

Uses: that `importlib.util.find_spec` and `import` take a name that is None in `sys.modules` for a package that is not
there, that these libraries look for these packages once and do without them, and `has_triton_package` of torch, which
keeps what it saw (transformers 5.17, torch 2.13).

Upstream: none has a way to leave them out. Delete when they are imported where they are called.

Breaks: a replica takes more memory again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

UNCALLED = ("boto3", "scipy", "sklearn", "triton")


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Let what is imported in the block do without `UNCALLED`, which may be imported behind it.

    Nothing is left out of a process that may compile for a GPU, nor of one that has imported transformers, which may
    have seen these packages; and nothing that is imported already.
    """
    import torch

    too_late = torch.cuda.is_available() or "transformers" in sys.modules
    names = [] if too_late else [name for name in UNCALLED if name not in sys.modules]
    modules: dict[str, Any] = sys.modules  # None stands for a module that is not there
    modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name in names:
            del modules[name]
