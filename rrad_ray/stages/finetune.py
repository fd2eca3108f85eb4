"""finetune: train a causal LM under Ray Train: DisRanker's continued pre-training, or a listwise labeller."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from transformers import AutoTokenizer

from rrad_ray import tables
from rrad_ray.config import FinetuneConfig
from rrad_ray.data import click_log
from rrad_ray.errors import InvalidInput, RradError, at_place
from rrad_ray.languages.scripts import folded
from rrad_ray.progress import say
from rrad_ray.rows import Click, Labels, with_qrels
from rrad_ray.runtime import feed, trainer
from rrad_ray.tables import checkpoints
from rrad_ray.training import listwise, lm_task, packing
from rrad_ray.training.loop import check_patience, fit
from rrad_ray.training.packing import Example, ExampleSkipped, SkipFunction
from rrad_ray.training.stream import ReservoirSample
from rrad_ray.training.targets import Prepare, SkipReason
from rrad_ray.training.task import TrainTask, TrainWorker

ORDERS = Prepare("none", pointwise=False)  # which lists say something about an order

EXAMPLES_FOLDER = "examples"  # in the output folder: a file of each worker with the counts of its examples


def _inputs(cfg: FinetuneConfig) -> dict[str, str]:
    return {"input": cfg.input, "model": checkpoints.input_of(cfg.model)}


@tables.stage("finetune", None, _inputs, until_done=tables.RAY_FOLDER)
def run(cfg: FinetuneConfig, out: tables.Output) -> None:
    """Write a causal LM's checkpoint folder `model/`, the best one on dev, for `judge` and `train` as their model.

    Raises `RradError` for input without a row to learn from, too many bad rows, a tokenizer that does not serve, or a
    missing package, and as `trainer.run_training` does.
    """
    source = checkpoints.resolve(cfg.model)
    with at_place(cfg.model, "mend the config, or choose another model"):
        lm_task.check_finetune(source, cfg)
    rows = _count(cfg, out)
    _check_examples(cfg, source)
    say(f"{cfg.model} on {rows:,} {'clicks' if cfg.objective == 'clicks' else 'labelled queries'}")
    task: type[TrainTask] = lm_task.ClickTask if cfg.objective == "clicks" else lm_task.OrderTask
    facts = trainer.run_training(cfg, _loop, source, task)
    out.commit(rows=rows, examples=_total_counts(cfg), **facts)


def _count(cfg: FinetuneConfig, out: tables.Output) -> int:
    """Return the number of rows to learn from; quarantine bad rows.

    Raises `RradError`, before training, for too many bad rows, no row to learn from, or `patience` without a row to
    measure.
    """
    if cfg.objective == "order":
        rows = _count_lists(cfg, out)
        remedy = f"label queries of the splits {', '.join(cfg.splits)}, or name other splits"
    else:
        seen, rows, held, gaps = 0, 0, False, Counter[str]()
        for click in click_log.read_clicks(cfg.input, out.quarantine, lambda: gaps.update(("rows",))):
            seen += 1
            if click["clicks"] >= cfg.min_clicks:
                rows += 1
                held = held or (cfg.patience > 0 and _is_held(cfg, click))
        if gaps:
            say(f"{gaps['rows']:,} of {seen:,} rows have no number of clicks, and count as one click each")
        out.check_quarantine(seen + len(out.quarantined), cfg.max_quarantined)
        with at_place(cfg.input, "mend the input"):
            check_patience(cfg, min(held, cfg.eval_rows))
        remedy = "lower min_clicks"
    if not rows:
        raise RradError(cfg.input, "holds no row to learn from", remedy)
    return rows


def _count_lists(cfg: FinetuneConfig, out: tables.Output) -> int:
    """Return the number of lists, but for those with a target that is not a number, which are quarantined.

    Raises `RradError` for too many of these, and for lists none of which says anything about an order.
    """
    skipped = Counter[SkipReason]()

    def visit(query_id: str, wanted: list[float], reason: SkipReason | None) -> None:
        if reason:
            skipped[reason] += 1
            if reason.is_error:
                out.quarantine(query_id, reason.value, str(wanted))

    index = feed.index_labels([cfg.input], cfg.splits, cfg.eval_rows, cfg.seed, ORDERS, visit)
    rows = sum(index.counts) + sum(count for reason, count in skipped.items() if not reason.is_error)
    out.check_quarantine(sum(index.counts) + skipped.total(), cfg.max_quarantined)
    if rows and not sum(index.counts):
        listing = ", ".join(f"{count:,} with {reason.value}" for reason, count in skipped.items())
        raise RradError(cfg.input, f"holds no order to learn from: {listing}", "label more queries")
    with at_place(cfg.input, "mend the labels"):
        check_patience(cfg, len(index.dev))
    return rows


def _check_examples(cfg: FinetuneConfig, source: str) -> None:
    """Raise `RradError`, before a cluster starts, if the examples of a worker do not fill a step; they are read until
    they do. The last one of the most workers has the fewest rows."""
    skipped: Counter[str] = Counter()
    workers, lengths, missing = cfg.worker_range[1], list[int](), (cfg.sequences_per_step - 1) * cfg.max_length
    for example in _last_examples(cfg, source, workers, _counter(skipped)):
        lengths.append(len(example.ids))
        missing -= lengths[-1]
        if missing < 0:  # one sequence less could not hold them, however they are packed
            return
    with at_place(cfg.input, "mend the input"):
        if not lengths and (skipped or workers == 1):
            _refuse_without_example(skipped)
        sequences = len(packing.pack(lengths, cfg.max_length))
        if sequences < cfg.sequences_per_step:
            raise lm_task.step_not_filled(sequences, cfg)


def _last_examples(cfg: FinetuneConfig, source: str, workers: int, skip: SkipFunction) -> Iterator[Example]:
    """Yield the examples of the last of so many workers, as `_loop` makes them."""
    if cfg.objective == "clicks":
        own = itertools.islice(_frequent_clicks(cfg), workers - 1, None, workers)
        clicks = (click for click in own if not _is_held(cfg, click))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        yield from packing.from_clicks(clicks, tokenizer, cfg.max_length, skip)
    else:
        lists = listwise.ListwiseExamples(source, cfg)
        for row in itertools.islice(tables.read(cfg.input, Labels), workers - 1, None, workers):
            if row["split"] in cfg.splits:
                yield from lists(row, skip)


def _counter(skipped: Counter[str]) -> SkipFunction:
    """Return the function that counts why rows make no example."""

    def skip(reason: ExampleSkipped) -> None:
        skipped[reason.category] += 1

    return skip


def _frequent_clicks(cfg: FinetuneConfig) -> Iterator[Click]:
    return (row for row in click_log.read_clicks(cfg.input, lambda *bad: None) if row["clicks"] >= cfg.min_clicks)


def _is_held(cfg: FinetuneConfig, click: Click) -> bool:
    """Return True for a click of a query on which perplexity is measured, however it is written."""
    return random.Random(f"{cfg.seed}:{folded(click['query'])}").random() < cfg.held_out


def _refuse_without_example(skipped: Counter[str]) -> NoReturn:
    listing = ", ".join(f"{count:,} with {reason}" for reason, count in sorted(skipped.items()))
    problem = f"no example is left to learn from: {listing or 'all queries are held out'}"
    raise InvalidInput(problem, "mend the input, or raise the limits")


def _loop(cfg: FinetuneConfig, source: str, worker: TrainWorker) -> None:
    """Train in one process of Ray Train."""
    skipped: Counter[str] = Counter()
    skip = _counter(skipped)
    task: TrainTask
    if cfg.objective == "clicks":
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        examples, dev = _from_clicks(cfg, tokenizer, worker, skip)
        task = lm_task.ClickTask(source, tokenizer, cfg)
    else:
        lists = listwise.ListwiseExamples(source, cfg)
        examples, dev = _from_labels(cfg, lists, worker, skip)
        task = lm_task.OrderTask(source, lists, cfg)
    packs = packing.pack_examples(examples, cfg.max_length)
    _write_counts(cfg, worker, packs, skipped)
    if skipped and not len(packs.examples):
        _refuse_without_example(skipped)
    steps = lm_task.lm_steps_in_epoch(packs, cfg, worker)
    fit(task, lm_task.Packs(packs, cfg, steps), steps, cfg, worker, dev)


def _from_clicks(
    cfg: FinetuneConfig, tokenizer: Any, worker: TrainWorker, skip: SkipFunction
) -> tuple[packing.DiskExamples, list[Example]]:
    """Return the examples of a worker's share of the clicks, and those of held-out queries that are measured."""
    held = ReservoirSample[Click](cfg.eval_rows, cfg.seed)

    def local_clicks() -> Iterator[Click]:
        for number, click in enumerate(_frequent_clicks(cfg)):
            if _is_held(cfg, click):
                held.add(click)
            elif number % worker.world_size == worker.rank:
                yield click

    examples = packing.DiskExamples(packing.from_clicks(local_clicks(), tokenizer, cfg.max_length, skip))
    return examples, list(packing.from_clicks(held.rows, tokenizer, cfg.max_length, lambda reason: None))


def _from_labels(
    cfg: FinetuneConfig, lists: listwise.ListwiseExamples, worker: TrainWorker, skip: SkipFunction
) -> tuple[packing.DiskExamples, list[Any]]:
    """Return the examples of a worker's share of the label rows, and the dev rows with qrels that are measured."""
    examples, measured = packing.DiskExamples(), ReservoirSample[Any](cfg.eval_rows, cfg.seed)
    for number, row in enumerate(tables.read(cfg.input, Labels)):
        for dev_row in with_qrels([row]):
            measured.add(dev_row)
        if row["split"] in cfg.splits and number % worker.world_size == worker.rank:
            examples.extend(lists(row, skip))
    return examples, measured.rows


def _write_counts(
    cfg: FinetuneConfig, worker: TrainWorker, packs: packing.PackedSequences, skipped: Counter[str]
) -> None:
    """Write the counts of a worker's examples for the manifest; rank 0 also prints them."""
    counts = {"examples": len(packs.examples), "cut": 0, "tokens": 0, "target_tokens": 0, "sequences": len(packs)}
    for example in packs.examples:
        counts["cut"] += example.cut
        counts["tokens"] += len(example.ids)
        counts["target_tokens"] += len(example.ids) - example.start
    full = counts["tokens"] / max(1, counts["sequences"] * cfg.max_length)
    if worker.rank == 0:
        kept = f"{counts['examples']:,} examples, {counts['cut']:,} cut"
        left_out = f"{skipped.total():,} set aside {dict(skipped)}"
        say(f"worker 1 of {worker.world_size}: {kept}, {left_out}; sequences {full:.1%} full")
    content = {**counts, "set_aside": dict(skipped), "workers": worker.world_size}
    tables.write_json(tables.join(cfg.output, EXAMPLES_FOLDER, f"{worker.rank}.json"), content)


def _total_counts(cfg: FinetuneConfig) -> dict[str, Any]:
    """Return the sums of all workers' counts."""
    total: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    rank, world_size = 0, 1
    while rank < world_size:  # as many as there were at the end
        counts = json.loads(tables.read_text(tables.join(cfg.output, EXAMPLES_FOLDER, f"{rank}.json")))
        rank, world_size = rank + 1, counts.pop("workers")
        skipped.update(counts.pop("set_aside"))
        total.update(counts)
    return {**total, "set_aside": dict(skipped)}
