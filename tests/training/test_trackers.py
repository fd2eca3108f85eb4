"""Curves reach TensorBoard, MLflow and Weights & Biases, and a run that goes on goes on there too."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import mlflow
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rrad_ray import tables
from rrad_ray.config import TrainConfig
from rrad_ray.training import trackers

CONFIG = {"lr": 0.1, "losses": {"ranknet": 1.0}}
STEPS = [(20, {"loss": 0.5}, False), (40, {"loss": 0.25, "dev_ndcg": 0.625}, True), (60, {"loss": 0.125}, True)]


def tell(tracker: trackers.TrackFunction, steps: list[Any] = STEPS) -> None:
    for step, figures, keep in steps:
        tracker(figures, step, keep, step == 60)


# ---- TensorBoard --------------------------------------------------------------------------------------------


def events(folder: str) -> list[Any]:
    """Return the events of all files, TFRecords: length, its checksum, an `Event`, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    fs, root = tables.filesystem(folder)
    for path in sorted(fs.ls(root, detail=False)):
        content = fs.cat_file(path)
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def scalars(folder: str) -> list[tuple[int, str, float]]:
    return [(event.step, value.tag, value.simple_value) for event in events(folder) for value in event.summary.value]


def test_tensorboard_finds_every_figure_at_its_step(tmp_path: Path) -> None:
    tell(trackers.TensorBoard(str(tmp_path), CONFIG))
    expected = [(20, "loss", 0.5), (40, "loss", 0.25), (40, "dev_ndcg", 0.625), (60, "loss", 0.125)]
    assert scalars(f"{tmp_path}/tensorboard") == expected


def test_tensorboards_own_reader_agrees(tmp_path: Path) -> None:
    tell(trackers.TensorBoard(str(tmp_path), CONFIG))
    reader = EventAccumulator(f"{tmp_path}/tensorboard")
    reader.Reload()
    assert [(one.step, one.value) for one in reader.Scalars("loss")] == [(20, 0.5), (40, 0.25), (60, 0.125)]
    assert [(one.step, one.value) for one in reader.Scalars("dev_ndcg")] == [(40, 0.625)]


def test_a_run_that_goes_on_says_from_which_step_earlier_events_no_longer_hold(tmp_path: Path) -> None:
    tell(trackers.TensorBoard(str(tmp_path), CONFIG), STEPS[:2])
    [first] = Path(tmp_path, "tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.0.earlier"))  # a second later it would have another name
    tell(trackers.TensorBoard(str(tmp_path), CONFIG), STEPS[1:])
    starts = [event.step for event in events(f"{tmp_path}/tensorboard") if event.HasField("session_log")]
    assert 40 in starts
    assert len(list(Path(tmp_path, "tensorboard").iterdir())) == 2


def test_event_files_reach_an_object_store(s3_uri: str) -> None:
    tell(trackers.TensorBoard(s3_uri, CONFIG))
    assert (60, "loss", 0.125) in scalars(f"{s3_uri}/tensorboard")


# ---- MLflow and Weights & Biases ----------------------------------------------------------------------------


def test_mlflow_keeps_one_run_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database or a server needs more packages
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    tell(trackers.MLflow(str(tmp_path), CONFIG), STEPS[:2])
    mlflow.end_run()
    tell(trackers.MLflow(str(tmp_path), CONFIG), STEPS[2:])
    client = mlflow.MlflowClient()
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.1"
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")] == [
        (20, 0.5),
        (40, 0.25),
        (60, 0.125),
    ]


def test_wandb_takes_the_figures_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracker = trackers.WandB(str(tmp_path), CONFIG)
    tell(tracker)
    assert tables.read_text(f"{tmp_path}/wandb.txt") == tracker.run.id
    assert list(Path(tmp_path, "wandb").glob(f"offline-run-*-{tracker.run.id}/*.wandb"))
    assert wandb.run is None, "it was finished"
    goes_on = trackers.WandB(str(tmp_path), CONFIG)
    tell(goes_on, STEPS[2:])
    assert goes_on.run.id == tracker.run.id


# ---- what is not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=rf"track: {name} needs the package {name}.*; pip install {name}"):
        trackers.check_trackers([name])


def test_an_unknown_tracker_lists_the_known_ones() -> None:
    trackers.check_trackers(["tensorboard"])
    with pytest.raises(ValueError, match="Input should be 'tensorboard', 'mlflow' or 'wandb'"):
        TrainConfig("in", "out", track=("tensorflow",))
