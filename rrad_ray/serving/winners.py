"""The model that an endpoint serves: the winner that `select` named, or a checkpoint; and a check of its scores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrad_ray import tables
from rrad_ray.errors import RradError, at_place
from rrad_ray.evaluation.winner import WINNER_FILE, parse_winner
from rrad_ray.tables import checkpoints

TOLERANCE = 0.05  # of the largest stored score: what other hardware and bfloat16 may change


class ScoreMismatch(RradError):
    """A winner does not score as it did when it won."""


@dataclass(frozen=True)
class ServedModel:
    """A checkpoint and the name that it is served under.

    `fingerprint` changes when another winner takes its place. `smoke` holds a query, its documents and the scores
    that the winner gave them; it is empty for a checkpoint that no `select` has chosen.
    """

    checkpoint: str
    name: str
    fingerprint: str
    smoke: Mapping[str, Any] = field(default_factory=dict)


def find_winner(uri: str, root: str = "") -> ServedModel:
    """Return the checkpoint that an input stands for, under the winner's name or the folder's.

    `root` is the folder that relative paths start from, where the working directory is another one. Raises
    `RradError` if there is no checkpoint, or if it has no ranking head: a fresh one would serve random scores.
    """
    checkpoint, name, fingerprint = uri, uri.rstrip("/").rpartition("/")[2], uri
    smoke: Mapping[str, Any] = {}
    winner_uri = tables.join(uri, WINNER_FILE)
    if not uri.startswith("bundled:") and tables.exists(winner_uri):
        text = tables.read_text(winner_uri)
        winner = parse_winner(text, uri)
        checkpoint, name, smoke = winner.checkpoint, winner.system, winner.smoke or {}
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
    if os.path.isdir(os.path.join(root, checkpoint)):
        checkpoint = os.path.join(root, checkpoint)
    _check_checkpoint(checkpoint)
    # Replicas may have another working directory; one on another node needs the URI, not this machine's copy of it.
    checkpoint = os.path.abspath(checkpoint) if os.path.isdir(checkpoint) else checkpoint
    return ServedModel(checkpoint, name, fingerprint, smoke)


def _check_checkpoint(checkpoint: str) -> None:
    """Raise `RradError` for a checkpoint that is not there or whose config has no head with one output."""
    from rrad_ray.rankers import loading  # torch, which only a replica's process needs

    folder = checkpoints.resolve(checkpoint)
    if not os.path.isfile(os.path.join(folder, "config.json")):
        problem = f"no {WINNER_FILE} and no checkpoint there (no config.json)"
        raise RradError(checkpoint, problem, "give the output of select or train, or a checkpoint folder")
    with at_place(checkpoint, "give another checkpoint"):
        loading.check_head(folder)


def local_folder(model: ServedModel) -> str:
    """Return the checkpoint's folder on this machine."""
    return checkpoints.resolve(model.checkpoint)


def check_scores(model: ServedModel, score: Callable[[str, Sequence[str]], list[float]]) -> None:
    """Raise `ScoreMismatch` if `score(query, documents)` is not what the winner gave the stored query when it won."""
    if not model.smoke:
        return
    stored = model.smoke["scores"]
    scores = score(model.smoke["query"], model.smoke["documents"])
    allowed = TOLERANCE * max(1.0, *map(abs, stored))
    if not all(abs(one - other) <= allowed for one, other in zip(scores, stored, strict=True)):  # NaN is not either
        now, then = ([round(one, 3) for one in values] for values in (scores, stored))
        problem = f"'{model.name}' scores {now}, and {then} when it won"
        raise ScoreMismatch(model.checkpoint, problem, "the checkpoint has changed: run evaluate and select again")
