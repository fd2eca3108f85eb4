"""What computes an encoder's scores, by one config value: PyTorch, OpenVINO or ONNX Runtime. The scores are the same
but for rounding, and for what int8 costs.

The last two convert the checkpoint when it is loaded, in seconds and without a network; nothing is kept on disk.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrad_ray import packed

Pairs = Sequence[dict[str, list[int]]]
Scorer = Callable[[Pairs], Tensor]  # encoded pairs of one pass -> scores (P,) in float32
NEEDS = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}


def make(model: Any, tokenizer: Any, backend: str, precision: str) -> Scorer | None:
    """The backend of a Hugging Face model; none where the model itself is as good.

    `model`: in the type in which it is computed; in float32 for `onnx` and `openvino`. Raises `ValueError` if the
    library is not installed, or does not serve such a model.
    """
    if backend == "torch":
        return packed.Packed(model) if packed.fits(model) else None
    for package in NEEDS[backend]:
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"backend={backend} needs the package {package}; pip install 'rrad-ray[{backend}]'")
    if model.device.type != "cpu" or model.config.model_type not in packed.FAMILIES:
        found = f"backend={backend} serves encoders ({', '.join(packed.FAMILIES)}) on CPUs"
        raise ValueError(f"{found}, this is a {model.config.model_type} on {model.device.type}; set backend=torch")
    names = tokenizer.model_input_names
    run = {"openvino": _openvino, "onnx": _onnx}[backend](model, tokenizer, names, precision)

    def score(pairs: Pairs) -> Tensor:
        padded = tokenizer.pad(list(pairs), return_tensors="np")
        return torch.from_numpy(run({name: padded[name] for name in names})[:, 0]).float()

    return score


class _Plain(nn.Module):
    """A model whose inputs are tensors in a fixed order, and whose output is one: what converters trace."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def _example(tokenizer: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    """Two pairs of unlike lengths."""
    pairs = tokenizer(["a", "b"], ["one", "two words, and padding beside them"], padding=True, return_tensors="pt")
    return tuple(pairs[name] for name in names)


def _openvino(model: Any, tokenizer: Any, names: Sequence[str], precision: str) -> Callable[[dict[str, Any]], Any]:
    # OpenVINO reports each import and conversion over the network where that package is installed; not from here.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    hint = {"bfloat16": "bf16", "float32": "f32"}[precision]
    with warnings.catch_warnings():  # the tracer's, about shapes, which stay dynamic
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(_Plain(model, names), example_input=_example(tokenizer, names))
    # As many threads as PyTorch has, which Ray sets by what the replica was given.
    options = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(converted, "CPU", options)
    return lambda inputs: compiled(list(inputs.values()))[0]


def _onnx(model: Any, tokenizer: Any, names: Sequence[str], precision: str) -> Callable[[dict[str, Any]], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="rrad-onnx-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            _Plain(model, names),
            _example(tokenizer, names),
            str(file),
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in names},
            dynamo=False,  # what the other exporter writes cannot be quantized: its shapes contradict each other
        )
        if precision == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(file, file.with_name("int8.onnx"), weight_type=QuantType.QInt8, per_channel=True)
            file = file.with_name("int8.onnx")
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]
