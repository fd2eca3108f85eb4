"""An encoder student as a model of another engine: ONNX, or OpenVINO's own format.

Tensors go by the names that transformers gives them and come out as `logits`, with any number of pairs of any length:
what ONNX Runtime, Vespa, OpenSearch and sentence-transformers expect.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrad_ray.errors import InvalidInput
from rrad_ray.patches import openvino_telemetry, torch_export
from rrad_ray.rankers import packed_encoder

NEEDS = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}  # the packages of an engine

FILES = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}  # where sentence-transformers looks

OPSET = 17  # of ONNX: what engines know since 2022, OpenSearch's of 2.12 too

ORDER = ("input_ids", "attention_mask", "token_type_ids")  # OpenSearch hands tensors over by their places

Inputs = Mapping[str, Tensor]  # tensors (P, L), in the model's order of inputs


def check_convertible(model: Any, engine: str, key: str = "backend") -> None:
    """Raise `ValueError` where an engine's packages are not installed, and for a model that is no encoder on a CPU.

    `key`: the config's key that names the engine.
    """
    for package in NEEDS[engine]:
        if importlib.util.find_spec(package) is None:
            raise InvalidInput(f"{key}={engine} needs the package {package}", f"pip install 'rrad-ray[{engine}]'")
    if model.device.type != "cpu" or model.config.model_type not in packed_encoder.FAMILIES:
        supported = f"{key}={engine} takes encoders ({', '.join(packed_encoder.FAMILIES)}) on CPUs"
        remedy = "set backend=torch" if key == "backend" else "take the checkpoint itself, which transformers loads"
        raise InvalidInput(f"{supported}, this is a {model.config.model_type} on {model.device.type}", remedy)


def write_student(ranker: Any, folder: Path, engine: str, precision: str) -> None:
    """Write a float32 `Ranker` for an engine, with its config and tokenizer, as sentence-transformers finds them.

    `precision`: `float32`, or for ONNX also `int8`. Raises `ValueError` as `check_convertible`.
    """
    check_convertible(ranker.model, engine, "format")
    file, example = folder / FILES[engine], example_of(ranker)
    file.parent.mkdir()
    if engine == "onnx":
        write_onnx(ranker.model, example, file, precision)
    else:
        import openvino

        openvino.save_model(to_openvino(ranker.model, example), file, compress_to_fp16=False)
    ranker.model.config.save_pretrained(folder)
    ranker.tokenizer.save_pretrained(
        folder
    )  # it cuts pairs as it did for the example: engines read that from its file


def example_of(ranker: Any) -> dict[str, Tensor]:
    """Return the tensors of two pairs of different lengths, from which a model's operations are read."""
    batch = ranker.padded(ranker.encode(["a"] * 2, ["one", "two words, and padding beside them"]))
    return {name: batch[name] for name in ORDER if name in batch}


class _PositionalModel(nn.Module):
    """A model for converters to trace: it takes tensors in a fixed order and returns one tensor, the logits."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def to_openvino(model: Any, example: Inputs) -> Any:
    """Return a float32 model as OpenVINO's."""
    # Without this OpenVINO reports each import and conversion over the network, if that package is installed.
    openvino_telemetry.switch_off()
    import openvino

    with warnings.catch_warnings():  # the tracer warns about shapes, which do stay dynamic
        warnings.simplefilter("ignore")
        positional = _PositionalModel(model, list(example))
        converted = openvino.convert_model(positional, example_input=tuple(example.values()))
    for port, name in zip([*converted.inputs, *converted.outputs], [*example, "logits"], strict=True):
        port.get_tensor().set_names({name})
    return converted


def write_onnx(model: Any, example: Inputs, file: Path, precision: str) -> None:
    """Write a float32 model in the format ONNX, its weights quantized for `int8`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _PositionalModel(model, list(example)),
            tuple(example.values()),
            str(file),
            input_names=list(example),
            output_names=["logits"],
            dynamic_axes={"logits": {0: "pairs"}} | {name: {0: "pairs", 1: "tokens"} for name in example},
            opset_version=OPSET,
            **torch_export.OLDER_EXPORTER,
        )
        if precision == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            whole = file.rename(file.with_name("float32.onnx"))
            quantize_dynamic(whole, file, weight_type=QuantType.QInt8, per_channel=True)
            whole.unlink()
