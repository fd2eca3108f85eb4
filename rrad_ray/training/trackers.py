"""Training curves in TensorBoard, MLflow or Weights & Biases, written by each one's own client.

MLflow and Weights & Biases are configured by their own environment variables (`MLFLOW_TRACKING_URI`,
`MLFLOW_EXPERIMENT_NAME`, `WANDB_API_KEY`, `WANDB_PROJECT`, `WANDB_MODE`) where the training workers run.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rrad_ray import tables
from rrad_ray.errors import InvalidInput

TRACKER_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}  # imported by each tracker


class TrackFunction(Protocol):
    """Records the figures of a step. `keep`: the step also has a checkpoint; `last`: no step follows."""

    def __call__(self, figures: Mapping[str, float], step: int, keep: bool, last: bool) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise `ValueError` for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(TRACKER_PACKAGES[name]) is None:
            package = TRACKER_PACKAGES[name]
            problem = f"track: {name} needs the package {package}, which is not installed here"
            raise InvalidInput(problem, f"pip install {package}, where the workers run too, or leave it out")


def make_trackers(names: Sequence[str], output: str, config: Mapping[str, Any]) -> dict[str, TrackFunction]:
    """Return the named trackers for the run that writes `output`; a resumed run continues its earlier curves."""
    kinds: dict[str, Callable[[str, Mapping[str, Any]], TrackFunction]]
    kinds = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
    return {name: kinds[name](output, config) for name in names}


class TensorBoard:
    """Event files in `OUTPUT/tensorboard/`.

    A resumed run writes one more file, whose `purge_step` says from which step on earlier files no longer hold.
    """

    def __init__(self, output: str, config: Mapping[str, Any]) -> None:
        self.uri = tables.join(output, "tensorboard")
        self.scratch = tempfile.TemporaryDirectory()  # an object store takes only whole files
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
            self.writer.close()  # waits for its writer thread
        else:
            self.writer.flush()
        for name in os.listdir(self.scratch.name):
            with open(os.path.join(self.scratch.name, name), "rb") as file:
                tables.write_bytes(tables.join(self.uri, name), file.read())


class MLflow:
    """A run named after the output, with the config as its parameters; its id is kept in `OUTPUT/mlflow.txt`."""

    def __init__(self, output: str, config: Mapping[str, Any]) -> None:
        import mlflow

        self.client = mlflow
        uri = tables.join(output, "mlflow.txt")
        run_id = tables.read_text(uri) if tables.exists(uri) else None
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else output)
        if run_id is None:
            mlflow.log_params(dict(config))
            tables.write_text(uri, run.info.run_id)

    def __call__(self, figures: Mapping[str, float], step: int, keep: bool, last: bool) -> None:
        self.client.log_metrics(dict(figures), step=step)
        if last:
            self.client.end_run()


class WandB:
    """A run named after the output, with the config; its id is kept in `OUTPUT/wandb.txt`."""

    def __init__(self, output: str, config: Mapping[str, Any]) -> None:
        import wandb

        uri = tables.join(output, "wandb.txt")
        run_id = tables.read_text(uri) if tables.exists(uri) else None
        self.run = wandb.init(id=run_id, name=output, config=dict(config), resume="allow")
        tables.write_text(uri, self.run.id)

    def __call__(self, figures: Mapping[str, float], step: int, keep: bool, last: bool) -> None:
        self.run.log(dict(figures), step=step)
        if last:
            self.run.finish()
