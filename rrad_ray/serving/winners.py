"""The model that an endpoint serves: the winner that `select` named, or a checkpoint; and checks of it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrad_ray import tables
from rrad_ray.errors import RradError, at_place
from rrad_ray.evaluation.winner import parse_winner
from rrad_ray.patches import transformers_imports
from rrad_ray.rows import BM25
from rrad_ray.tables import checkpoints
from rrad_ray.tables.checkpoints import WINNER_FILE

TOLERANCE = 0.05  # of the largest stored score: what other hardware and bfloat16 may change


class ScoreMismatch(RradError):
    """A winner does not score as it did when it won."""


@dataclass(frozen=True)
class ServedModel:
    """A winner or a checkpoint, and the name that it is served under.

    `checkpoint` is the student's, empty for a first stage. `fingerprint` changes when another winner takes its place.
    `smoke` holds a query, its documents and the scores that the student gave them; it is empty for a checkpoint that
    no `select` has chosen. `student`, `weights` and `encoders` are as of `Winner`. `slope` and `offset` make a
    sum the log-odds of being relevant, which a calibrated student's scores are already.
    """

    checkpoint: str
    name: str
    fingerprint: str
    smoke: Mapping[str, Any] = field(default_factory=dict)
    student: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    slope: float = 1.0
    offset: float = 0.0
    encoders: Mapping[str, tables.EncoderFacts] = field(default_factory=dict)

    def needed(self, given: Collection[str]) -> list[str]:
        """Return the sources whose scores it sums and cannot compute, but for those that are `given`."""
        own = {self.student, *self.encoders, *given}
        return [name for name in self.weights if name not in own]


def find_winner(uri: str, root: str = "") -> ServedModel:
    """Return the winner or the checkpoint that an input stands for, under the winner's name or the folder's.

    `root` is the folder that relative paths start from, where the working directory is another one. Raises
    `RradError` if there is no checkpoint, or if it has no ranking head: a fresh one would serve random scores.
    """
    winner_uri = tables.join(uri, WINNER_FILE)
    if not uri.startswith("bundled:") and tables.exists(winner_uri):
        text = tables.read_text(winner_uri, checkpoints.MOST_WINNER_BYTES)
        winner = parse_winner(text, uri)
        checkpoint = _located(winner.checkpoint, root) if winner.student else ""
        encoders = {
            source: tables.EncoderFacts(model=_located(facts["model"], root), max_length=facts["max_length"])
            for source, facts in winner.encoders.items()
        }
        served = ServedModel(checkpoint, winner.system, hashlib.sha256(text.encode()).hexdigest(), winner.smoke or {})
        served = dataclasses.replace(served, student=winner.student, weights=winner.weights, encoders=encoders)
        if winner.weights and winner.calibration:
            slope, offset = winner.calibration["slope"], winner.calibration["offset"]
            served = dataclasses.replace(served, slope=slope, offset=offset)
    else:
        name = uri.rstrip("/").rpartition("/")[2]
        served = ServedModel(_located(uri, root), name, uri, student=name)
    if served.student:
        _check_checkpoint(served.checkpoint)
    return served


def _located(model: str, root: str) -> str:
    """Return a model as replicas find it, which may have another working directory; a URI and a hub id stay.

    One on another node needs the URI, not this machine's copy of it.
    """
    folder = os.path.join(root, model)
    return os.path.abspath(folder) if os.path.isdir(folder) else model


def check_needs(served: ServedModel, searched: bool) -> str:
    """Return what requests must bring to be ranked by all that won, in a sentence; empty where they need nothing.

    `searched`: the endpoint has a search page, which knows BM25's scores. Raises `RradError` for a first stage that
    the page cannot serve.
    """
    lacking = served.needed([BM25] if searched else [])
    if lacking and searched and not served.student:
        problem = f"the winner '{served.name}' is a first stage, and a search has no scores of {', '.join(lacking)}"
        remedy = "leave search out and send these scores in requests, or run select with allow_worse=true"
        raise RradError(f"search.corpus: {served.name}", problem, remedy)
    if not (needed := served.needed([])):
        return ""
    scores = f"requests bring scores of {', '.join(needed)} in `first_stage`"
    if served.student:
        return f"'{served.name}' is a fusion: {scores}; others are ranked by its student '{served.student}' alone"
    remedy = "for a student run select with allow_worse=true"
    return f"'{served.name}' is a first stage, and no student: {scores}; others are refused; {remedy}"


def _check_checkpoint(checkpoint: str) -> None:
    """Raise `RradError` for a checkpoint that is not there or whose config has no head with one output."""
    with transformers_imports.lean():
        from rrad_ray.rankers import loading  # torch, which only a replica's process needs

    folder = checkpoints.resolve_served(checkpoint)
    if not os.path.isfile(os.path.join(folder, "config.json")):
        problem = f"no {WINNER_FILE} and no checkpoint there (no config.json)"
        raise RradError(checkpoint, problem, "give the output of select or train, or a checkpoint folder")
    with at_place(checkpoint, "give another checkpoint"):
        loading.check_head(folder)


def local_folder(model: ServedModel) -> str:
    """Return the checkpoint's folder on this machine."""
    return checkpoints.resolve_served(model.checkpoint)


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
