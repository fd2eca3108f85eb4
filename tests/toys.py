"""A toy set that small students learn in seconds, and a listener that keeps what `fit` says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rrad_ray.config import TrainConfig
from rrad_ray.fit import Task, Worker, fit
from rrad_ray.ranking import Data

TOPICS = [
    "sort a list",
    "open a file",
    "add numbers",
    "parse json",
    "send mail",
    "read a socket",
    "join paths",
    "hash",
]


def label(number: int, documents: int = 4) -> dict[str, Any]:
    """A query and documents on topics; the teacher prefers the topics in the order above."""
    topics = [(number * 3 + step * step) % len(TOPICS) for step in range(documents)]
    ids = [f"d{number}-{step}" for step in range(documents)]
    return {
        "query_id": f"q{number}",
        "query": f"question {number}",
        "doc_ids": ids,
        "texts": [f"this can {TOPICS[topic]}" + "!" * step for step, topic in enumerate(topics)],
        "targets": [-float(topic) for topic in topics],
        "judged_ids": [ids[topics.index(min(topics))]],
        "judged_grades": [1],
    }


ROWS = [label(number) for number in range(16)]


class Listener:
    """Keeps what `fit` reports and, given a folder, every checkpoint in one named after its step."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.heard = folder, list[dict[str, float]]()

    def __call__(self, metrics: dict[str, float], save: Callable[[Path], None] | None) -> None:
        self.heard.append(metrics)
        if save and self.folder:
            place = self.folder / f"step-{metrics['step']}"
            place.mkdir()
            save(place)

    def each(self, name: str) -> list[float]:
        """A figure of every step, of a short run that told after each one: `fit` tells the mean of the last 20."""
        assert len(self.heard) <= 20
        sums = [0.0, *(told[name] * told["step"] for told in self.heard)]
        return [after - before for before, after in itertools.pairwise(sums)]


def fitted(
    task: Task,
    cfg: TrainConfig,
    folder: Path | None = None,
    *,
    rows: Sequence[Any] = ROWS,
    dev: Sequence[Any] = (),
    resume: Path | None = None,
) -> Listener:
    """Trains; what was heard."""
    listener, data = Listener(folder), Data(rows, cfg)
    fit(task, data, data.steps, cfg, Worker(report=listener, resume=resume), dev)
    return listener
