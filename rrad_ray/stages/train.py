"""train: distil a student from labels under Ray Train. This file hands `training.loop.fit` its task and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from rrad_ray import tables
from rrad_ray.config import TrainConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.evaluation.learnt import write_learnt
from rrad_ray.languages.scripts import folded
from rrad_ray.progress import say
from rrad_ray.rankers import loading, lora
from rrad_ray.rankers.checkpoint import PAD, check_tokenizer, with_pair_template
from rrad_ray.rows import MEASURED
from rrad_ray.runtime import feed, trainer
from rrad_ray.runtime.feed import LabelFeed
from rrad_ray.tables import checkpoints
from rrad_ray.training import targets, weighted_loss
from rrad_ray.training.loop import check_patience, fit
from rrad_ray.training.rank_task import RankBatches, RankTask, rank_steps_in_epoch
from rrad_ray.training.stream import ShuffledRows
from rrad_ray.training.task import TrainWorker


def _inputs(cfg: TrainConfig) -> dict[str, str]:
    more = {f"more.{number}": uri for number, uri in enumerate(cfg.more)}
    return {"input": cfg.input, **more, "model": checkpoints.input_of(cfg.model)}


@tables.stage("train", None, _inputs, until_done=tables.RAY_FOLDER)
def run(cfg: TrainConfig, out: tables.Output) -> None:
    """Write a checkpoint folder `model/`, the best one on dev.

    Raises `RradError` for labels that do not fill a step or whose targets are on mixed scales, a model or tokenizer
    that does not serve, `lora_rank` without peft, a loss that is not a number, scores that are all one value, or a
    worker that keeps failing.
    """
    with at_place("config", "mend the config"):
        weighted_loss.weighted(cfg.losses)
        lora.check_lora(cfg.lora_rank)
    source = checkpoints.resolve(cfg.model)
    with at_place(cfg.model, "choose another model"):
        _check_model(source, cfg)
    stats, labels = _index(cfg, out)
    say(f"{cfg.kind} student from {cfg.model} on {stats.lists:,} labelled queries")
    facts = trainer.run_training(cfg, partial(_loop, labels), source, RankTask)
    others = [*map(tables.lineage_of, cfg.more), checkpoints.student_lineage(cfg.model)]
    facts["lineage"] = _with_others(facts["lineage"], others)
    write_learnt(out.uri, _queries(cfg, labels), cfg.model)
    out.commit(queries=stats.lists, targets=stats.facts(), **facts)


def _queries(cfg: TrainConfig, labels: LabelFeed) -> Iterator[str]:
    """Yield the queries that are learnt from."""
    for uri, name in labels.parts:
        others = labels.held.get(uri, frozenset())
        table = tables.read_columns(uri, name, ["query", "split"])
        for query, split in zip(table["query"].to_pylist(), table["split"].to_pylist(), strict=True):
            if split in cfg.splits and (split in MEASURED or folded(query) not in others):
                yield query


def _with_others(lineage: tables.Lineage, others: Sequence[tables.Lineage]) -> tables.Lineage:
    """Return a student's lineage with the teachers of other labels and of what its model had learnt before, and with
    the mark of simulated ones."""
    teachers = list(dict.fromkeys(name for each in others for name in each.teachers))
    simulated = next(filter(None, (each.simulated for each in (lineage, *others))), "")
    training = dataclasses.replace(lineage.training or tables.TrainingFacts(), teachers=teachers)
    return dataclasses.replace(lineage, training=training, simulated=simulated)


def _check_model(source: str, cfg: TrainConfig) -> None:
    """Raise `ValueError`, before a cluster starts, for a model that cannot be trained with this config."""
    model = loading.load_student(source, device_map="meta")
    loading.check_positions(model, cfg.max_length)
    if cfg.generation.weight:
        together = "max_length + generation.max_tokens"
        loading.check_positions(model, cfg.max_length + cfg.generation.max_tokens, together)
    loading.check_layers(model, cfg.layers)
    tokenizer = loading.load_tokenizer(source, model)
    check_tokenizer(tokenizer, cfg.kind)
    if cfg.kind == "decoder" and tokenizer.pad_token != PAD:  # its own words around a pair count too
        tokenizer = with_pair_template(tokenizer)
    loading.check_room(tokenizer, cfg.max_length, pair=True)


def _index(cfg: TrainConfig, out: tables.Output) -> tuple[targets.TargetStats, LabelFeed]:
    """Return counts and scale of the targets, and the feed of the rows to learn from.

    Lists with a target that is not a number are quarantined. Lists without a preference are skipped and counted:
    nothing is wrong with them. Raises `RradError` if too few rows remain, or lists have mixed scales.
    """
    stats = targets.TargetStats(cfg)

    def visit(query_id: str, wanted: list[float], reason: targets.SkipReason | None) -> None:
        stats.add(wanted, reason)
        if reason and reason.is_error:
            out.quarantine(query_id, reason.value, str(wanted))

    uris = [tables.absolute(uri) for uri in (cfg.input, *cfg.more)]
    labels = feed.index_labels(uris, cfg.splits, cfg.eval_queries, cfg.seed, stats.rules, visit)
    out.check_quarantine(stats.seen, cfg.max_quarantined)
    skipped = ", ".join(f"{count:,} with {reason}" for reason, count in sorted(stats.skipped_by_name().items()))
    if skipped:
        say(f"lists passed over: {skipped}")
    if not stats.lists:
        problem = f"no list to learn from in the splits {', '.join(cfg.splits)}" + (f": {skipped}" if skipped else "")
        raise RradError(cfg.input, problem, "label more queries, or name other splits")
    with at_place(cfg.input, "mend the labels"):
        rank_steps_in_epoch(stats.lists, cfg, cfg.worker_range[1])
        check_patience(cfg, len(labels.dev))
        warning = stats.check()
    if warning:
        say(f"warning: {warning}")
    return stats, dataclasses.replace(labels, prepare=stats.prepare())


def _loop(labels: LabelFeed, cfg: TrainConfig, source: str, worker: TrainWorker) -> None:
    """Train in one process of Ray Train."""
    lanes: Any = {"lanes": cfg.worker_range[1], "lane_rows": cfg.queries_per_step}
    rows = ShuffledRows(labels.counts, labels.read, seed=cfg.seed, shuffle_rows=cfg.shuffle_rows, **lanes)
    data = RankBatches(rows, cfg, worker.rank, worker.world_size)
    fit(RankTask.fresh(source, cfg), data, data.steps, cfg, worker, labels.dev_rows())
