"""What computes a student's scores, by one config value: PyTorch as it comes or compiled, OpenVINO or ONNX Runtime.
The scores are the same but for rounding, and for what int8 costs.

The last two convert an encoder's checkpoint when it is loaded, in seconds and without a network; nothing is kept on
disk.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import packed_encoder

Pairs = Sequence[dict[str, list[int]]]

Scorer = Callable[[Pairs, int], Tensor]  # encoded pairs, tokens of a pass -> scores (P,) in float32

Inputs = Mapping[str, Tensor]  # (P, L) each, in the order in which the tokenizer makes them

NEEDS = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}


def make(ranker: Any, backend: str, precision: str) -> Scorer | None:
    """The backend of a `Ranker`; none where its model itself is as good.

    The model is in the type in which it is computed; in float32 for `onnx` and `openvino`. Raises `ValueError` if the
    library is not installed, does not serve such a model, or cannot compile it.
    """
    model = ranker.model
    if backend == "torch":
        return packed_encoder.PackedEncoder(model) if packed_encoder.fits(model) else None
    for package in NEEDS.get(backend, ()):
        if importlib.util.find_spec(package) is None:
            raise InvalidInput(f"backend={backend} needs the package {package}", f"pip install 'rrad-ray[{backend}]'")
    encoder = model.device.type == "cpu" and model.config.model_type in packed_encoder.FAMILIES
    if backend in NEEDS and not encoder:
        found = f"backend={backend} serves encoders ({', '.join(packed_encoder.FAMILIES)}) on CPUs"
        raise InvalidInput(
            f"{found}, this is a {model.config.model_type} on {model.device.type}", "set backend=torch"
        )
    example = ranker.padded(ranker.encode(["a"] * 2, ["one", "two words, and padding beside them"]))
    run = {"compile": _compiled, "openvino": _openvino, "onnx": _onnx}[backend](model, dict(example), precision)
    return lambda pairs, tokens: ranker.in_passes(pairs, tokens, run)


def _compiled(model: Any, example: Inputs, precision: str) -> Callable[[Inputs], Tensor]:
    """For any number of pairs of any length, and once more for one pair alone: a minute, before a request comes."""
    from torch._dynamo.exc import TorchDynamoException

    compiled = torch.compile(model, dynamic=True)
    run = lambda inputs: compiled(**inputs).logits  # noqa: E731
    try:
        with torch.inference_mode():
            for pairs in (2, 1):
                run({name: tensor[:pairs].clone() for name, tensor in example.items()})  # of this mode, as later
    except TorchDynamoException as error:
        why = str(error).strip().splitlines()[0]
        raise InvalidInput(f"backend=compile: torch.compile failed ({why})", "on a CPU it needs g++") from error
    return run


class _Plain(nn.Module):
    """A model whose inputs are tensors in a fixed order, and whose output is one: what converters trace."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def _openvino(model: Any, example: Inputs, precision: str) -> Callable[[Inputs], Tensor]:
    # OpenVINO reports each import and conversion over the network where that package is installed; not from here.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    hint = {"bfloat16": "bf16", "float32": "f32"}[precision]
    with warnings.catch_warnings():  # the tracer's, about shapes, which stay dynamic
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(_Plain(model, list(example)), example_input=tuple(example.values()))
    # As many threads as PyTorch has, which Ray sets by what the replica was given.
    options = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(converted, "CPU", options)
    return lambda inputs: torch.from_numpy(compiled([inputs[name].numpy() for name in example])[0])


def _onnx(model: Any, example: Inputs, precision: str) -> Callable[[Inputs], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="rrad-onnx-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            _Plain(model, list(example)),
            tuple(example.values()),
            str(file),
            input_names=list(example),
            output_names=["logits"],
            dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in example},
            dynamo=False,  # what the other exporter writes cannot be quantized: its shapes contradict each other
        )
        if precision == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(file, file.with_name("int8.onnx"), weight_type=QuantType.QInt8, per_channel=True)
            file = file.with_name("int8.onnx")
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in example})[0])
