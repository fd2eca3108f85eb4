"""train: distil a student from labels under Ray Train. All training is `fit.fit`; this file hands it a task."""

from __future__ import annotations

import random

from rrad_ray import losses, models, tables, teacher
from rrad_ray.config import TrainConfig
from rrad_ray.errors import RradError
from rrad_ray.fit import Worker, fit, steps_in_epoch
from rrad_ray.ranking import Data, RankTask
from rrad_ray.rows import Labels
from rrad_ray.stages import trainer


def run(cfg: TrainConfig) -> str:
    """A checkpoint folder `model/`, the best on dev. Raises `RradError` for labels that do not fill a step, a loss
    that is not a number, or a worker that keeps failing."""
    try:
        losses.weighted(cfg.losses)
    except ValueError as error:
        raise RradError("train", "config", str(error), "mend the config") from error
    out = tables.Output("train", cfg, None, {"input": cfg.input})
    if out.finished:
        return out.uri
    source = models.resolve(cfg.model, "train")
    rows = sum(row["split"] in cfg.splits for row in tables.read(cfg.input, Labels, "train"))
    try:
        steps_in_epoch(rows, cfg, cfg.workers)
    except ValueError as error:
        raise RradError("train", cfg.input, str(error), "or train with fewer workers") from error
    print(f"[train] {cfg.kind} student from {cfg.model} on {rows:,} labelled queries", flush=True)
    facts = trainer.run("train", cfg, _loop, source, RankTask)
    return out.commit(queries=rows, **facts)


def _loop(cfg: TrainConfig, source: str, worker: Worker) -> None:
    """One training process."""
    rows = list(tables.read(cfg.input, Labels, "train"))
    data = Data([row for row in rows if row["split"] in cfg.splits], cfg, worker.rank, worker.world_size)
    judged = teacher.judged(rows)
    dev = random.Random(cfg.seed).sample(judged, min(len(judged), cfg.eval_queries))
    fit(RankTask.fresh(source, cfg), data, data.steps, cfg, worker, dev)
