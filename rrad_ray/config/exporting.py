"""Config of `export`: labels and students in other software's files."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from rrad_ray.config.base import CHECKED, Share, Splits, StagePaths, require

STUDENT_FORMATS, LOG_FORMATS = ("onnx", "openvino"), ("ubi",)  # the others are of labels

ExportFormat = Literal[
    "trec",
    "rankllm",
    "rankllm-train",
    "first",
    "rankgpt",
    "sentence-transformers",
    "clicks",
    "onnx",
    "openvino",
    "ubi",
]


@dataclass(frozen=True, config=CHECKED)
class ExportConfig(StagePaths):
    """Labels in the files of other trainers, a student in those of other engines, or an online test's log. `input`:
    the output of `label`; for `onnx` and `openvino` that of `select` or `train`, or a checkpoint folder; for `ubi`
    the folder of `online.events`."""

    format: ExportFormat = "rankllm"
    """`trec`: a run file. `rankllm`: requests, best first. `rankllm-train`, `first`: RankLLM's training conversations
    with numbers, or with letters for its rank loss. `rankgpt`: passages and permutations. `sentence-transformers`:
    listwise columns. `clicks`: what `finetune` reads; documents with a target above 0 stand in for clicked ones.
    `onnx`, `openvino`: an encoder student with its tokenizer, for sentence-transformers, Vespa, OpenSearch.
    `ubi`: queries and events of OpenSearch's User Behavior Insights, for `_bulk`."""
    splits: Splits = ("train", "unlabelled")
    """The splits of labels that are written."""
    precision: Literal["float32", "int8"] = "float32"
    """Number format of a student's weights; `int8` with `onnx`."""
    max_quarantined: Share = 0.05
    """The share of bad rows, of labels or of the log, above which the stage stops."""

    def __post_init__(self) -> None:
        require(
            self.precision == "float32" or self.format == "onnx", "precision", self.precision, "needs format=onnx"
        )
