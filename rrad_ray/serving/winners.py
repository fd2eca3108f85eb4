"""What an endpoint serves: the winner that `select` named, or a checkpoint; and whether it scores as it did then."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.tables import checkpoints

TOLERANCE = 0.05  # of the largest stored score: what other hardware and bfloat16 may change

FILE = "winner.json"


class ScoreMismatch(RradError):
    """A winner does not score as it did when it won."""


@dataclass(frozen=True)
class ServedModel:
    """`mark`: changes when another winner stands there. `smoke`: a query, its documents and the scores that the
    winner gave them; empty for a checkpoint that no `select` has chosen."""

    checkpoint: str
    name: str
    mark: str
    smoke: Mapping[str, Any] = field(default_factory=dict)


def find_winner(uri: str, root: str = "") -> ServedModel:
    """The checkpoint that an input stands for, and the model's name: that of the winner, or of the folder. `root`: of
    relative paths, where the working directory is another one.

    Raises `RradError` if there is none, or if it has no ranking head: a fresh one would serve random scores.
    """
    checkpoint, name, mark = uri, uri.rstrip("/").rpartition("/")[2], uri
    smoke: dict[str, Any] = {}
    place = tables.join(uri, FILE)
    if not uri.startswith("bundled:") and tables.exists(place):
        text = tables.read_text(place)
        winner = json.loads(text)
        checkpoint, name, smoke = winner["checkpoint"], winner["system"], winner.get("smoke") or {}
        mark = hashlib.sha256(text.encode()).hexdigest()
    if os.path.isdir(os.path.join(root, checkpoint)):
        checkpoint = os.path.join(root, checkpoint)
    found = ServedModel(checkpoint, name, mark, smoke)
    config = os.path.join(folder(found), "config.json")
    if not os.path.isfile(config):
        said = f"no {FILE} and no checkpoint there (no config.json)"
        raise RradError(checkpoint, said, "give the output of select or train, or a checkpoint folder")
    content = json.loads(tables.read_text(config))
    kinds = content.get("architectures") or ["nothing"]
    if not kinds[0].endswith("ForSequenceClassification") or len(content.get("id2label", "01")) != 1:
        said = f"no ranker with one score: {kinds[0]}"
        raise RradError(checkpoint, said, "give the output of train, or a cross-encoder with one output")
    # Replicas may have another working directory; one on another node needs the URI, not this machine's copy of it.
    checkpoint = os.path.abspath(checkpoint) if os.path.isdir(checkpoint) else checkpoint
    return ServedModel(checkpoint, name, mark, smoke)


def folder(found: ServedModel) -> str:
    """The checkpoint's folder on this machine."""
    return checkpoints.resolve(found.checkpoint)


def check_scores(found: ServedModel, score: Callable[[str, Sequence[str]], list[float]]) -> None:
    """Raises `Changed` if a model does not score the stored query as it did when it won."""
    if not found.smoke:
        return
    wanted = found.smoke["scores"]
    given = score(found.smoke["query"], found.smoke["documents"])
    off = max(abs(one - other) for one, other in zip(given, wanted, strict=True))
    if not off <= TOLERANCE * max(1.0, *map(abs, wanted)):
        now, then = ([round(one, 3) for one in scores] for scores in (given, wanted))
        said = f"'{found.name}' scores {now}, and {then} when it won"
        raise ScoreMismatch(found.checkpoint, said, "the checkpoint has changed: run evaluate and select again")
