"""tune: fine-tune a causal LM under Ray Train: DisRanker's continued pre-training, or a listwise labeller."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from transformers import AutoTokenizer

from rrad_ray import causal, clicks, labeller, models, tables, teacher, tuning
from rrad_ray.causal import Example
from rrad_ray.config import TuneConfig
from rrad_ray.errors import RradError
from rrad_ray.fit import Task, Worker, fit
from rrad_ray.rows import Click, Labels
from rrad_ray.stages import feed, trainer
from rrad_ray.stream import Sample

EXAMPLES = "examples"  # the folder in which every worker says what it made of its share of the rows


def run(cfg: TuneConfig) -> str:
    """A causal LM's checkpoint folder `model/`, which `judge` and `train` take as their model; the best on dev.

    Raises `RradError` for input without a row to learn from, too many bad rows, a tokenizer or a package that the
    config needs and that is not there, or what `trainer.run` raises.
    """
    out = tables.Output("tune", cfg, None, {"input": cfg.input})
    if out.finished:
        return out.uri
    source = models.resolve(cfg.model, "tune")
    try:
        tuning.check(source, cfg)
    except ValueError as error:
        raise RradError.of("tune", cfg.model, error, "mend the config, or choose another model") from error
    rows = _count(cfg, out)
    print(f"[tune] {cfg.model} on {rows:,} {'clicks' if cfg.task == 'clicks' else 'labelled queries'}", flush=True)
    task: type[Task] = tuning.ClickTask if cfg.task == "clicks" else tuning.OrderTask
    facts = trainer.run("tune", cfg, _loop, source, task)
    return out.commit(rows=rows, examples=_made(cfg), **facts)


def _count(cfg: TuneConfig, out: tables.Output) -> int:
    """How many rows there are to learn from; bad ones are set aside, and too many stop the run before it trains."""
    if cfg.task == "order":
        rows = sum(feed.look("tune", cfg.input, cfg.splits, cfg.eval_rows, cfg.seed).counts)
        remedy = f"label queries of the splits {', '.join(cfg.splits)}, or name other splits"
    else:
        seen = rows = 0
        for click in clicks.read_clicks(cfg.input, out.quarantine):
            seen, rows = seen + 1, rows + (click["clicks"] >= cfg.min_clicks)
        out.bear(seen + len(out.quarantined), cfg.max_quarantined)
        remedy = "lower min_clicks"
    if not rows:
        raise RradError("tune", cfg.input, "holds no row to learn from", remedy)
    return rows


def _loop(cfg: TuneConfig, source: str, worker: Worker) -> None:
    """One training process."""
    aside: Counter[str] = Counter()

    def reject(reason: str) -> None:
        aside[reason.partition(":")[0]] += 1

    task: Task
    if cfg.task == "clicks":
        tokenizer = AutoTokenizer.from_pretrained(source)
        examples, dev = _from_clicks(cfg, tokenizer, worker, reject)
        task = tuning.ClickTask(source, tokenizer, cfg)
    else:
        lists = labeller.Lists(source, cfg)
        examples, dev = _from_labels(cfg, lists, worker, reject)
        task = tuning.OrderTask(source, lists, cfg)
    packs = causal.packed(examples, cfg.max_length)
    _tell(cfg, worker, packs, aside)
    steps = tuning.steps_in_epoch(packs, cfg, worker)
    fit(task, tuning.Packs(packs, cfg, steps), steps, cfg, worker, dev)


def _from_clicks(
    cfg: TuneConfig, tokenizer: Any, worker: Worker, reject: Callable[[str], None]
) -> tuple[causal.Shelf, list[Example]]:
    """A worker's share of the clicks, and those of held-out queries that are measured."""
    held = Sample[Click](cfg.eval_rows, cfg.seed)

    def mine() -> Iterator[Click]:
        for number, click in enumerate(clicks.read_clicks(cfg.input, lambda *bad: None)):
            if click["clicks"] < cfg.min_clicks:
                continue
            if random.Random(f"{cfg.seed}:{click['query']}").random() < cfg.held_out:
                held.see(click)
            elif number % worker.world_size == worker.rank:
                yield click

    examples = causal.Shelf(causal.from_clicks(mine(), tokenizer, cfg.max_length, reject))
    return examples, list(causal.from_clicks(held.rows, tokenizer, cfg.max_length, lambda reason: None))


def _from_labels(
    cfg: TuneConfig, lists: labeller.Lists, worker: Worker, reject: Callable[[str], None]
) -> tuple[causal.Shelf, list[Any]]:
    """A worker's share of the label rows, and the judged dev queries that are measured."""
    examples, judged = causal.Shelf(), Sample[Any](cfg.eval_rows, cfg.seed)
    for number, row in enumerate(tables.read(cfg.input, Labels, "tune")):
        for one in teacher.judged([row]):
            judged.see(one)
        if row["split"] in cfg.splits and number % worker.world_size == worker.rank:
            examples.extend(lists(row, reject))
    return examples, judged.rows


def _tell(cfg: TuneConfig, worker: Worker, packs: causal.Packed, aside: Counter[str]) -> None:
    """Says, and leaves for the manifest, what a worker made of its share."""
    made = {"examples": len(packs.examples), "cut": 0, "tokens": 0, "target_tokens": 0, "sequences": len(packs)}
    for one in packs.examples:
        made["cut"] += one.cut
        made["tokens"] += len(one.ids)
        made["target_tokens"] += len(one.ids) - one.start
    full = made["tokens"] / max(1, made["sequences"] * cfg.max_length)
    found = f"{made['examples']:,} examples, {made['cut']:,} cut, {sum(aside.values()):,} set aside {dict(aside)}"
    if worker.rank == 0:
        print(f"[tune] worker 1 of {worker.world_size}: {found}; sequences {full:.1%} full", flush=True)
    content = json.dumps({**made, "set_aside": dict(aside), "workers": worker.world_size})
    tables.write_text(tables.join(cfg.output, EXAMPLES, f"{worker.rank}.json"), content, "tune")


def _made(cfg: TuneConfig) -> dict[str, Any]:
    """What all workers made, together."""
    total: Counter[str] = Counter()
    aside: Counter[str] = Counter()
    rank, workers = 0, 1
    while rank < workers:  # as many as there were at the end
        made = json.loads(tables.read_text(tables.join(cfg.output, EXAMPLES, f"{rank}.json"), "tune"))
        rank, workers = rank + 1, made.pop("workers")
        aside.update(made.pop("set_aside"))
        total.update(made)
    return {**total, "set_aside": dict(aside)}
