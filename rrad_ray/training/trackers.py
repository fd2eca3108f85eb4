"""Curves of a training for TensorBoard, MLflow or Weights & Biases, by the client of each.

MLflow and Weights & Biases are set up by their own environment variables (`MLFLOW_TRACKING_URI`,
`MLFLOW_EXPERIMENT_NAME`, `WANDB_API_KEY`, `WANDB_PROJECT`, `WANDB_MODE`), where the training workers run.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rrad_ray import tables
from rrad_ray.errors import InvalidInput

TRACKER_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}  # what each name imports


class Tracker(Protocol):
    """Takes the figures of a step. `keep`: a checkpoint is made of it too; `last`: nothing follows."""

    def __call__(self, figures: Mapping[str, float], step: int, keep: bool, last: bool) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raises `ValueError` for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(TRACKER_PACKAGES[name]) is None:
            found = f"track: {name} needs the package {TRACKER_PACKAGES[name]}, which is not installed here"
            raise InvalidInput(
                found, f"pip install {TRACKER_PACKAGES[name]}, where the workers run too, or leave it out"
            )


def make_trackers(names: Sequence[str], output: str, config: Mapping[str, Any]) -> dict[str, Tracker]:
    """The trackers of a run that writes `output`; a run that goes on goes on in them too."""
    makers: dict[str, Callable[[str, Mapping[str, Any]], Tracker]]
    makers = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
    return {name: makers[name](output, config) for name in names}


class TensorBoard:
    """Event files in `OUTPUT/tensorboard/`. A run that goes on writes one more, which says from where on what stands
    in the earlier ones no longer holds."""

    def __init__(self, output: str, config: Mapping[str, Any]) -> None:
        self.place = tables.join(output, "tensorboard")
        self.scratch = tempfile.TemporaryDirectory()  # an object store takes whole files only
        self.writer: Any = None

    def __call__(self, figures: Mapping[str, float], step: int, keep: bool, last: bool) -> None:
        if self.writer is None:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(self.scratch.name, purge_step=step)
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        if not keep:
            return
        if last:
            self.writer.close()  # waits for the thread that writes
        else:
            self.writer.flush()
        for name in os.listdir(self.scratch.name):
            with open(os.path.join(self.scratch.name, name), "rb") as file:
                tables.write_bytes(tables.join(self.place, name), file.read())


class MLflow:
    """A run named after the output, with the config as its parameters."""

    def __init__(self, output: str, config: Mapping[str, Any]) -> None:
        import mlflow

        self.client = mlflow
        place = tables.join(output, "mlflow.txt")
        known = tables.read_text(place) if tables.exists(place) else None
        run = mlflow.start_run(run_id=known, run_name=None if known else output)
        if known is None:
            mlflow.log_params(dict(config))
            tables.write_text(place, run.info.run_id)

    def __call__(self, figures: Mapping[str, float], step: int, keep: bool, last: bool) -> None:
        self.client.log_metrics(dict(figures), step=step)
        if last:
            self.client.end_run()


class WandB:
    """A run named after the output, with the config."""

    def __init__(self, output: str, config: Mapping[str, Any]) -> None:
        import wandb

        place = tables.join(output, "wandb.txt")
        known = tables.read_text(place) if tables.exists(place) else None
        self.run = wandb.init(id=known, name=output, config=dict(config), resume="allow")
        tables.write_text(place, self.run.id)

    def __call__(self, figures: Mapping[str, float], step: int, keep: bool, last: bool) -> None:
        self.run.log(dict(figures), step=step)
        if last:
            self.run.finish()
