"""The judge's prompts through the engines on Ray Data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import ray

from rrad_ray import tables
from rrad_ray.config import JudgeConfig
from rrad_ray.labelling import planner
from rrad_ray.labelling.crash_ledger import Ledger
from rrad_ray.labelling.source import source_reader, source_row
from rrad_ray.runtime import cluster, engines
from rrad_ray.runtime.collector import ShardCollector, calls_per_row
from rrad_ray.runtime.dev_first import DevFirst
from rrad_ray.runtime.engine_format import engine_format, with_format
from rrad_ray.runtime.engine_rows import settled, to_answer, to_engine
from rrad_ray.tables import checkpoints, shards, spans
from rrad_ray.tables.shards import Shard

MOST_UNITS = 20_000


def label_shards(
    cfg: JudgeConfig, out: tables.Output, todo: Sequence[Shard], done: Sequence[str], first: DevFirst
) -> Iterator[str]:
    """Label the shards, the dev queries of `first` before others; yield the name of each part as it is durable."""
    cluster.start_ray()
    model, asked = cfg.model, cfg
    if cfg.engine == "vllm":
        model = checkpoints.resolve(cfg.model)
        number_format = engine_format(cfg, model)
        asked = with_format(cfg, number_format)
        out.note_versions(checkpoints.revision(model) | ({"engines": number_format} if number_format else {}))
        cluster.require_resources(cfg.resources, 1)
        cluster.end_orphans(engines.MARK, cfg.output + cfg.slice_name)
    collected = ShardCollector(cfg, out, todo, done, first)
    work = [unit for early in (True, False) for unit in units_of(cfg, todo, collected, first, early)]
    in_vain = partial(cluster.in_vain, cfg.resources) if cfg.engine == "vllm" else str
    budget = collected.spending.shared if collected.spending else None
    # A thread runs it, without the current span.
    stream = answer_stream(asked, model, todo, work, spans.outgoing(), budget)
    return collected.parts(stream, in_vain)


def least_rows(todo: Sequence[Shard]) -> int:
    """Return the rows that a unit of work has at least: Ray's driver schedules some hundred tasks a second, so a run
    of millions must not be cut into as many."""
    return math.ceil(sum(shard.rows for shard in todo) / MOST_UNITS)


def units_of(
    cfg: JudgeConfig, todo: Sequence[Shard], collected: ShardCollector, first: DevFirst, early: bool
) -> Iterator[dict[str, Any]]:
    """Yield rows of the shards in units of about so many prompts: answers leave an engine with their unit.

    `early`: the rows of `first`; false: all others.
    """
    prompts, least = engines.requests_of_unit(cfg) if cfg.engine == "openai" else 2 * cfg.batch_size, least_rows(todo)
    for number, shard in enumerate(todo):
        numbers = first.numbers(shard.part)
        rows = numbers if early else sorted(set(range(shard.rows)).difference(numbers))
        if not rows:
            continue
        size = max(1, int(prompts / max(calls_per_row(cfg, shard), 1)), least)
        answered = dict[int, list[list[int]]]()
        for key in collected.answered(shard.part):
            answered.setdefault(key[0], []).append(list(key))
        for start in range(0, len(rows), size):
            unit = rows[start : start + size]
            yield {"number": number, "rows": unit, "answered": [key for row in unit for key in answered.get(row, ())]}


class PlanPrompts:
    """An actor that plans the prompts of some rows of a shard, without those that are answered."""

    def __init__(self, cfg: JudgeConfig, model: str, todo: Sequence[Shard]) -> None:
        self.cfg, self.todo = cfg, todo
        self.planner = planner.Planner(cfg, model, source_reader(cfg.input))
        self.number, self.rows, self.prompts = -1, list[dict[str, Any]](), 0

    def __call__(self, unit: dict[str, Any]) -> list[dict[str, Any]]:
        shard = self.todo[unit["number"]]
        if self.number != unit["number"]:  # the units of a shard come one after another
            self.rows = shards.read_shard(self.cfg.input, shard, source_row(self.cfg))
            self.number = unit["number"]
            self.prompts = sum(planner.slots(row, self.cfg, self.planner.read) for row in self.rows)
        answered = {tuple(key) for key in unit["answered"]}
        return [
            {"part": shard.part, "row": number, "slot": slot, "prompts": self.prompts, **to_engine(prompt)}
            for number in unit["rows"]
            if number < len(self.rows)  # rows that fit come closed up
            for slot, prompt in enumerate(self.planner(self.rows[number]))
            if (number, slot) not in answered
        ]


def answer_stream(
    cfg: JudgeConfig,
    model: str,
    todo: Sequence[Shard],
    work: list[dict[str, Any]],
    trace: Mapping[str, str],
    budget: Any,
) -> Iterator[dict[str, Any]]:
    """Yield the answers to the prompts of the shards as they come; prompts go through the engine in their order.

    `trace`: the headers of the driver's span. `budget`: the actor of a `TokenBudget`, or None.
    """
    planned = ray.data.from_items(work, override_num_blocks=len(work)).flat_map(
        PlanPrompts,
        fn_constructor_args=(cfg, model, list(todo)),
        **engines.light(cfg),
    )
    if cfg.engine == "vllm":
        ledger = cluster.shared_actor(Ledger)  # it lives as long as this name does
        answered = engines.vllm(cfg, model, len(work), ledger)(planned)
    elif cfg.engine == "openai":
        answered = engines.openai(cfg, planned, trace, budget)
    else:
        answered = planned.map(settled, **engines.light(cfg))
    for row in answered.iter_rows():
        yield to_answer(row)
