"""tune: fine-tune a causal LM under Ray Train: DisRanker's continued pre-training, or a listwise labeller."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from transformers import AutoTokenizer

from rrad_ray import tables
from rrad_ray.config import FinetuneConfig
from rrad_ray.data import click_log
from rrad_ray.errors import RradError
from rrad_ray.progress import say
from rrad_ray.rows import Click, Labels, with_qrels
from rrad_ray.runtime import feed, trainer
from rrad_ray.tables import checkpoints
from rrad_ray.training import listwise, lm_task, packing
from rrad_ray.training.loop import fit
from rrad_ray.training.packing import Example
from rrad_ray.training.stream import ReservoirSample
from rrad_ray.training.task import TrainTask, TrainWorker

EXAMPLES_FOLDER = "examples"  # the folder in which every worker says what it made of its share of the rows


@tables.stage("finetune", None)
def run(cfg: FinetuneConfig, out: tables.Output) -> None:
    """A causal LM's checkpoint folder `model/`, which `judge` and `train` take as their model; the best on dev.

    Raises `RradError` for input without a row to learn from, too many bad rows, a tokenizer or a package that the
    config needs and that is not there, or what `trainer.run` raises.
    """
    source = checkpoints.resolve(cfg.model)
    try:
        lm_task.check_finetune(source, cfg)
    except ValueError as error:
        raise RradError.of(cfg.model, error, "mend the config, or choose another model") from error
    rows = _count(cfg, out)
    say(f"{cfg.model} on {rows:,} {'clicks' if cfg.objective == 'clicks' else 'labelled queries'}")
    task: type[TrainTask] = lm_task.ClickTask if cfg.objective == "clicks" else lm_task.OrderTask
    facts = trainer.run_training(cfg, _loop, source, task)
    out.commit(rows=rows, examples=_made(cfg), **facts)


def _count(cfg: FinetuneConfig, out: tables.Output) -> int:
    """How many rows there are to learn from; bad ones are set aside, and too many stop the run before it trains."""
    if cfg.objective == "order":
        rows = sum(feed.index_labels(cfg.input, cfg.splits, cfg.eval_rows, cfg.seed).counts)
        remedy = f"label queries of the splits {', '.join(cfg.splits)}, or name other splits"
    else:
        seen = rows = 0
        for click in click_log.read_clicks(cfg.input, out.quarantine):
            seen, rows = seen + 1, rows + (click["clicks"] >= cfg.min_clicks)
        out.check_quarantine(seen + len(out.quarantined), cfg.max_quarantined)
        remedy = "lower min_clicks"
    if not rows:
        raise RradError(cfg.input, "holds no row to learn from", remedy)
    return rows


def _loop(cfg: FinetuneConfig, source: str, worker: TrainWorker) -> None:
    """One training process."""
    aside: Counter[str] = Counter()

    def reject(reason: str) -> None:
        aside[reason.partition(":")[0]] += 1

    task: TrainTask
    if cfg.objective == "clicks":
        tokenizer = AutoTokenizer.from_pretrained(source)
        examples, dev = _from_clicks(cfg, tokenizer, worker, reject)
        task = lm_task.ClickTask(source, tokenizer, cfg)
    else:
        lists = listwise.ListwiseExamples(source, cfg)
        examples, dev = _from_labels(cfg, lists, worker, reject)
        task = lm_task.OrderTask(source, lists, cfg)
    packs = packing.pack_examples(examples, cfg.max_length)
    _tell(cfg, worker, packs, aside)
    steps = lm_task.lm_steps_in_epoch(packs, cfg, worker)
    fit(task, lm_task.Packs(packs, cfg, steps), steps, cfg, worker, dev)


def _from_clicks(
    cfg: FinetuneConfig, tokenizer: Any, worker: TrainWorker, reject: Callable[[str], None]
) -> tuple[packing.DiskExamples, list[Example]]:
    """A worker's share of the clicks, and those of held-out queries that are measured."""
    held = ReservoirSample[Click](cfg.eval_rows, cfg.seed)

    def mine() -> Iterator[Click]:
        for number, click in enumerate(click_log.read_clicks(cfg.input, lambda *bad: None)):
            if click["clicks"] < cfg.min_clicks:
                continue
            if random.Random(f"{cfg.seed}:{click['query']}").random() < cfg.held_out:
                held.add(click)
            elif number % worker.world_size == worker.rank:
                yield click

    examples = packing.DiskExamples(packing.from_clicks(mine(), tokenizer, cfg.max_length, reject))
    return examples, list(packing.from_clicks(held.rows, tokenizer, cfg.max_length, lambda reason: None))


def _from_labels(
    cfg: FinetuneConfig, lists: listwise.ListwiseExamples, worker: TrainWorker, reject: Callable[[str], None]
) -> tuple[packing.DiskExamples, list[Any]]:
    """A worker's share of the label rows, and the judged dev queries that are measured."""
    examples, judged = packing.DiskExamples(), ReservoirSample[Any](cfg.eval_rows, cfg.seed)
    for number, row in enumerate(tables.read(cfg.input, Labels)):
        for one in with_qrels([row]):
            judged.add(one)
        if row["split"] in cfg.splits and number % worker.world_size == worker.rank:
            examples.extend(lists(row, reject))
    return examples, judged.rows


def _tell(cfg: FinetuneConfig, worker: TrainWorker, packs: packing.PackedSequences, aside: Counter[str]) -> None:
    """Says, and leaves for the manifest, what a worker made of its share."""
    made = {"examples": len(packs.examples), "cut": 0, "tokens": 0, "target_tokens": 0, "sequences": len(packs)}
    for one in packs.examples:
        made["cut"] += one.cut
        made["tokens"] += len(one.ids)
        made["target_tokens"] += len(one.ids) - one.start
    full = made["tokens"] / max(1, made["sequences"] * cfg.max_length)
    found = f"{made['examples']:,} examples, {made['cut']:,} cut, {sum(aside.values()):,} set aside {dict(aside)}"
    if worker.rank == 0:
        say(f"worker 1 of {worker.world_size}: {found}; sequences {full:.1%} full")
    content = json.dumps({**made, "set_aside": dict(aside), "workers": worker.world_size})
    tables.write_text(tables.join(cfg.output, EXAMPLES_FOLDER, f"{worker.rank}.json"), content)


def _made(cfg: FinetuneConfig) -> dict[str, Any]:
    """What all workers made, together."""
    total: Counter[str] = Counter()
    aside: Counter[str] = Counter()
    rank, workers = 0, 1
    while rank < workers:  # as many as there were at the end
        made = json.loads(tables.read_text(tables.join(cfg.output, EXAMPLES_FOLDER, f"{rank}.json")))
        rank, workers = rank + 1, made.pop("workers")
        aside.update(made.pop("set_aside"))
        total.update(made)
    return {**total, "set_aside": dict(aside)}
