"""Parts of torch's compilers without a public name.

Uses: `torch._dynamo.exc.TorchDynamoException`, and the older ONNX exporter (`dynamo=False`, torch 2.13).

Upstream: files of the newer exporter cannot be quantized by ONNX Runtime: their shapes contradict each other. Delete
when they can, or when torch removes the older exporter (it is deprecated).

Breaks: `backend: onnx` fails to load a student, and `export` to write one; a failed `backend: compile` shows torch's
traceback.
"""

from __future__ import annotations

from typing import Any

OLDER_EXPORTER: dict[str, Any] = {"dynamo": False}


def compile_error() -> type[Exception]:
    """Return the exception of torch.compile; its module takes seconds to import."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException
