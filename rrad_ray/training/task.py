"""The contract between the training loop and its users: the task that it trains, and the worker that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from rrad_ray.errors import InvalidInput

Rows = list[Any]  # one batch in the form that the task takes: label rows, or packed sequences

# Figures by name; the last report also has `ended`, the reason why training ended, and `planned_steps`, the number of
# steps of the whole schedule.
Metrics = dict[str, Any]


class Diverged(InvalidInput, FloatingPointError):
    """Raised when training has failed: the loss is not finite, or all scores are alike."""


HF_HEADS = ("classifier", "score", "out_proj", "dense_head")  # Hugging Face's names of a head's last layer


def in_hf_head(name: str) -> bool:
    """Return whether a parameter, by its full name, belongs to the last layer of a Hugging Face head."""
    layer = name.rpartition(".")[0]
    return layer.rpartition(".")[2] in HF_HEADS


class TrainTask(nn.Module):
    """A module around a Hugging Face `model`, with its losses, its dev figures and its checkpoint format.

    DDP wraps this module, and all its trainable weights are optimised. All of them are in the state from which a run
    resumes; `save` writes what is used after training, and may leave some of them out.
    """

    dev_metric: ClassVar[str]  # the figure of `measure` by which checkpoints are compared
    higher_is_better: ClassVar[bool] = True
    model: Any

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """Return scalar losses by name, each already multiplied by its weight; their sum is minimised."""
        raise NotImplementedError

    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        """Return figures on dev rows by name (`dev_...`), `dev_metric` among them; called in evaluation mode."""
        raise NotImplementedError

    def save(self, folder: Path, float32_state: Mapping[str, Tensor]) -> None:
        """Write a checkpoint into `folder`. `float32_state`: this module's parameters by name, in float32."""
        raise NotImplementedError

    def sizes(self, rows: Rows) -> dict[str, float]:
        """Return how many items (documents, pairs, lists or tokens) each loss of `forward` is a mean over.

        With `accumulate`, the losses of a step's parts are averaged with these sizes as weights, which gives the
        losses of the whole step.
        """
        raise NotImplementedError

    def is_head(self, name: str) -> bool:
        """Return whether the parameter of this name belongs to a head, which trains at its own rate (`head_lr`)."""
        return in_hf_head(name)

    def pairs(self, rows: Rows) -> int:
        """Return the number of (query, document) pairs in a batch, the unit of the reported speed."""
        return sum(len(row["texts"]) for row in rows)


class ReportFunction(Protocol):
    """Receives the metrics of a step and, with a checkpoint, the function `save(folder)` that writes it."""

    def __call__(self, metrics: Metrics, save: Callable[[Path], None] | None) -> None: ...


def log_report(metrics: Metrics, save: Callable[[Path], None] | None) -> None:
    """Print the metrics on one line; write no checkpoint."""
    texts = (f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in metrics.items())
    print("  ".join(texts), flush=True)


@dataclass(frozen=True)
class TrainWorker:
    """Rank, world size, device and report function of one training process.

    `resume`: the checkpoint folder from which the run goes on; None for a fresh run.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    report: ReportFunction = log_report
    resume: Path | None = None


LOCAL_WORKER = TrainWorker()  # a process alone on its CPU, without Ray
