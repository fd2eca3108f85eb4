"""Scoring backends, chosen by one config value: PyTorch eager or compiled, OpenVINO, ONNX Runtime.

All give the same scores up to rounding, and up to the loss of int8. OpenVINO and ONNX Runtime convert an encoder's
checkpoint when it is loaded, in seconds and without a network; nothing is kept on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rrad_ray.errors import InvalidInput
from rrad_ray.patches import torch_export
from rrad_ray.rankers import conversion, packed_encoder
from rrad_ray.rankers.conversion import Inputs

Pairs = Sequence[dict[str, list[int]]]

Scorer = Callable[[Pairs, int], Tensor]  # encoded pairs and the tokens of a pass to scores (P,) in float32


def make(ranker: Any, backend: str, precision: str) -> Scorer | None:
    """Return the scorer of a `Ranker` for a backend; None where the model itself is as fast.

    The model has the dtype in which it computes; float32 for `onnx` and `openvino`, which convert it to `precision`.
    Raises `ValueError` if the backend's library is not installed, does not support the model or cannot compile it.
    """
    model = ranker.model
    if backend == "torch":
        if packed_encoder.fits(model):
            return packed_encoder.PackedEncoder(model, int8=precision == "int8")
        if precision == "int8":
            raise InvalidInput("precision=int8 serves encoders on CPUs", "set precision=auto")
        return None
    if backend in conversion.NEEDS:
        conversion.check_convertible(model, backend)
    run = {"compile": _compiled, "openvino": _openvino, "onnx": _onnx}[backend](
        model, conversion.example_of(ranker), precision
    )
    return lambda pairs, tokens: ranker.in_passes(pairs, tokens, run)


def _compiled(model: Any, example: Inputs, precision: str) -> Callable[[Inputs], Tensor]:
    """Return the model compiled by torch, for any number of pairs of any length.

    Compiles right away, for several pairs and again for one pair: this takes a minute, so no request waits for it.
    Raises `ValueError` if torch cannot compile.
    """
    compiled = torch.compile(model, dynamic=True)
    run = lambda inputs: compiled(**inputs).logits  # noqa: E731
    try:
        with torch.inference_mode():
            for pairs in (2, 1):
                run(
                    {name: tensor[:pairs].clone() for name, tensor in example.items()}
                )  # inference tensors, as in use
    except torch_export.compile_error() as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(f"backend=compile: torch.compile failed ({reason})", "on a CPU it needs g++") from error
    return run


def _openvino(model: Any, example: Inputs, precision: str) -> Callable[[Inputs], Tensor]:
    """Return the model converted to OpenVINO, on as many threads as torch has."""
    converted = conversion.to_openvino(model, example)
    import openvino

    hint = {"bfloat16": "bf16", "float32": "f32"}[precision]
    # Ray sets the number of torch's threads to the CPUs of the replica.
    options = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(converted, "CPU", options)
    return lambda inputs: torch.from_numpy(compiled([inputs[name].numpy() for name in example])[0])


def _onnx(model: Any, example: Inputs, precision: str) -> Callable[[Inputs], Tensor]:
    """Return the model converted to ONNX Runtime, quantized for int8, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="rrad-onnx-") as folder:
        file = Path(folder) / "model.onnx"
        conversion.write_onnx(model, example, file, precision)
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in example})[0])
