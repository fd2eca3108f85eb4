"""train: distil a student from labels under Ray Train. All training is `fit.fit`; this file hands it a task."""

from __future__ import annotations

import dataclasses
from functools import partial

from transformers import AutoTokenizer

from rrad_ray import tables
from rrad_ray.config import TrainConfig
from rrad_ray.errors import RradError
from rrad_ray.progress import say
from rrad_ray.rankers import lora
from rrad_ray.rankers.checkpoint import check_tokenizer
from rrad_ray.runtime import feed, trainer
from rrad_ray.runtime.feed import LabelFeed
from rrad_ray.tables import checkpoints
from rrad_ray.training import targets, weighted_loss
from rrad_ray.training.loop import fit
from rrad_ray.training.rank_task import RankBatches, RankTask, rank_steps_in_epoch
from rrad_ray.training.stream import ShuffledRows
from rrad_ray.training.task import TrainWorker


@tables.stage("train", None)
def run(cfg: TrainConfig, out: tables.Output) -> None:
    """A checkpoint folder `model/`, the best on dev.

    Raises `RradError` for labels that do not fill a step or whose targets are on mixed scales, a tokenizer that does
    not serve, `lora_rank` without peft, a loss that is not a number, scores that are all one value, or a worker that
    keeps failing.
    """
    try:
        weighted_loss.weighted(cfg.losses)
        lora.check_lora(cfg.lora_rank)
    except ValueError as error:
        raise RradError.of("config", error, "mend the config") from error
    source = checkpoints.resolve(cfg.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    try:
        check_tokenizer(tokenizer, cfg.kind)
    except ValueError as error:
        raise RradError.of(cfg.model, error, "choose another model") from error
    survey, found = _survey(cfg, out)
    say(f"{cfg.kind} student from {cfg.model} on {survey.lists:,} labelled queries")
    facts = trainer.run_training(cfg, partial(_loop, found), source, RankTask)
    out.commit(queries=survey.lists, targets=survey.facts(), **facts)


def _survey(cfg: TrainConfig, out: tables.Output) -> tuple[targets.TargetStats, LabelFeed]:
    """What there is to learn from, and where it stands. Lists with a target that is no number are set aside; those
    that carry no preference are passed over and counted: nothing is wrong with them."""
    survey, seen = targets.TargetStats(cfg), 0

    def useful(query_id: str, wanted: list[float]) -> bool:
        nonlocal seen
        seen += 1
        why = survey.add(wanted)
        if why.startswith("target"):
            out.quarantine(query_id, why, str(wanted))
        return not why

    found = feed.index_labels(tables.absolute(cfg.input), cfg.splits, cfg.eval_queries, cfg.seed, useful)
    out.check_quarantine(seen, cfg.max_quarantined)
    passed = ", ".join(f"{count:,} with {why}" for why, count in sorted(survey.skipped.items()))
    if passed:
        say(f"lists passed over: {passed}")
    if not survey.lists:
        said = f"no list to learn from in the splits {', '.join(cfg.splits)}" + (f": {passed}" if passed else "")
        raise RradError(cfg.input, said, "label more queries, or name other splits")
    try:
        rank_steps_in_epoch(survey.lists, cfg, cfg.worker_range[1])
        warning = survey.check()
    except ValueError as error:
        raise RradError.of(cfg.input, error, "mend the labels") from error
    if warning:
        say(f"warning: {warning}")
    return survey, dataclasses.replace(found, prepare=survey.prepare())


def _loop(found: LabelFeed, cfg: TrainConfig, source: str, worker: TrainWorker) -> None:
    """One training process."""
    rows = ShuffledRows(found.counts, found.read, seed=cfg.seed, shuffle_rows=cfg.shuffle_rows)
    data = RankBatches(rows, cfg, worker.rank, worker.world_size)
    fit(RankTask.fresh(source, cfg), data, data.steps, cfg, worker, found.dev_rows())
