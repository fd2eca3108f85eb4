"""judge: an LLM labels every query's documents. Ray Data shards the prompts over vLLM engines (`ray.data.llm`).

Rows of the dataset are prompts, all planned beforehand and independent. A part of the output is written when every
prompt of its shard is answered; answers of unfinished shards stand in a journal within `durable_s`. So a run that is
killed, whatever dies, goes on where it was, and every query comes out exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray

from rrad_ray import models, plan, prompts, shards, tables, teacher
from rrad_ray.config import JudgeConfig
from rrad_ray.engine import EMPTY, carried, settled
from rrad_ray.errors import RradError
from rrad_ray.rows import Judgment
from rrad_ray.shards import Shard
from rrad_ray.stages import cluster, engines
from rrad_ray.stages.collect import Collected, drop_journal, recount, source_row

MOST_UNITS = 20_000
SIMULATED = {
    "echo": "engine: echo, these are no labels",
    "simulated": "engine: simulated, these labels come from the judgments themselves",
}


def run(cfg: JudgeConfig) -> str:
    """Judgments of every query. Raises `RradError` if the labeller fails its gate, no answer comes for `stall_s`, a
    token budget is spent, or the cluster can never fit an engine."""
    out = tables.Output("judge", cfg, Judgment, {"input": cfg.input})
    if out.finished:
        return out.uri
    every = shards.plan(cfg.input, cfg.shard_queries, source_row(cfg), "judge")
    standing = set(out.parts())
    done = [shard for shard in every if shard.part in standing]
    # Dev queries first: the labeller is checked on them before the rest is paid for.
    todo = sorted((shard for shard in every if shard.part not in standing), key=lambda shard: not shard.dev)
    if done:
        print(f"[judge] goes on: {len(done)} of {len(every)} parts stand from an earlier run", flush=True)
    check = Gate(cfg, out, [shard.part for shard in every if shard.dev and cfg.task != "explain"])
    if not check.dev and cfg.task != "explain":
        print("[judge] no dev queries: the labeller is not checked", flush=True)
    check.look([shard.part for shard in done])
    if todo:
        for part in _parts(cfg, out, todo, [shard.part for shard in done]):
            check.look([part])
    counts = recount(out, [shard.part for shard in every])
    found = {key: value for key, value in check.found.items() if key != "per_query"}
    # Reasons for simulated labels are simulated, whoever writes them.
    simulated = tables.simulated(cfg.input, "judge") if cfg.task == "explain" else {}
    if cfg.engine in SIMULATED:
        simulated = {"simulated": SIMULATED[cfg.engine]}
    seen = sum(shard.rows for shard in every)
    uri = out.commit(seen=seen, max_quarantined=cfg.max_quarantined, **counts, gate=found, **simulated)
    drop_journal(uri)
    return uri


def _parts(cfg: JudgeConfig, out: tables.Output, todo: Sequence[Shard], done: Sequence[str]) -> Iterator[str]:
    """Labels the shards; the name of each part as it is durable."""
    cluster.start()
    model = cfg.model
    if cfg.engine == "vllm":
        model = models.resolve(cfg.model, "judge")
        cluster.require("judge", cfg.worker, 1)
        cluster.end_orphans(engines.MARK, cfg.output)
    collected = Collected(cfg, out, todo, done)
    total = sum(shard.rows * cfg.repeats if cfg.task == "order" else shard.documents for shard in todo)
    least = least_rows(todo)
    work = [unit for number, shard in enumerate(todo) for unit in _units(cfg, number, shard, collected, least)]
    in_vain = partial(cluster.in_vain, cfg.worker) if cfg.engine == "vllm" else str
    return collected.parts(_answers(cfg, model, todo, work), total, in_vain)


def least_rows(todo: Sequence[Shard]) -> int:
    """Rows that a unit of work has at least: Ray's driver schedules some hundred tasks a second, so a run of millions
    must not be cut into as many."""
    return math.ceil(sum(shard.rows for shard in todo) / MOST_UNITS)


def _units(cfg: JudgeConfig, number: int, shard: Shard, collected: Collected, least: int) -> Iterator[dict[str, Any]]:
    """A shard's rows in units of about two batches of prompts: answers leave an engine with their unit."""
    per_row = cfg.repeats if cfg.task == "order" else max(1, shard.documents // shard.rows)
    rows = max(1, 2 * cfg.batch_size // per_row, least)
    answered = collected.answered(shard.part)
    for start in range(0, shard.rows, rows):
        stop = min(start + rows, shard.rows)
        known = [list(place) for place in answered if start <= place[0] < stop]
        yield {"number": number, "start": start, "stop": stop, "answered": known}


class Plan:
    """An actor: some rows of a shard to those of their prompts that are not answered yet."""

    def __init__(self, cfg: JudgeConfig, model: str, todo: Sequence[Shard]) -> None:
        self.cfg, self.todo = cfg, todo
        self.planner = plan.Planner(cfg, model)
        self.number, self.rows, self.prompts = -1, list[dict[str, Any]](), 0

    def __call__(self, unit: dict[str, Any]) -> list[dict[str, Any]]:
        shard = self.todo[unit["number"]]
        if self.number != unit["number"]:  # the units of a shard come one after another
            self.rows = shards.read(self.cfg.input, shard, source_row(self.cfg), "judge")
            self.number, self.prompts = unit["number"], sum(plan.slots(row, self.cfg) for row in self.rows)
        answered = {tuple(place) for place in unit["answered"]}
        return [
            {"part": shard.part, "row": number, "slot": slot, "prompts": self.prompts, **prompt}
            for number in range(unit["start"], unit["stop"])
            for slot, prompt in enumerate(self.planner(self.rows[number]))
            if (number, slot) not in answered
        ]


def _answers(
    cfg: JudgeConfig, model: str, todo: Sequence[Shard], work: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The prompts of the shards, in their order, through the engine; answers as they come."""
    planned = ray.data.from_items(work, override_num_blocks=len(work)).flat_map(
        Plan,
        fn_constructor_args=(cfg, model, list(todo)),
        **engines.light(cfg),
    )
    if cfg.engine == "vllm":
        answered = engines.vllm(cfg, model, len(work))(planned)
    elif cfg.engine == "openai":
        answered = engines.openai(cfg, planned)
    else:
        answered = planned.map(settled, **engines.light(cfg))
    for row in answered.iter_rows():
        # An error row skips the engine and `reduce`: it brings the prompt's columns, not ours.
        error = row.get("__inference_error__") or row.get("error", "")
        if error and not error.startswith(prompts.TOO_LONG):
            error = f"engine error: {error}"
        found = {key: empty if row.get(key) is None else row[key] for key, empty in EMPTY.items()}
        yield carried(row) | found | {"error": error}


# ---- the check before the money is spent --------------------------------------------------------------------


class Gate:
    """Looks at the dev parts as they are done; stops the run if the labeller is not worth its labels."""

    def __init__(self, cfg: JudgeConfig, out: tables.Output, dev: list[str]) -> None:
        self.cfg, self.out, self.waiting, self.dev = cfg, out, set(dev), dev
        self.found: dict[str, Any] = {}

    def look(self, done: list[str]) -> None:
        """`RradError` once all dev parts are done and the labeller beats neither shuffled input nor first stage."""
        self.waiting -= set(done)
        if self.waiting or self.found or not self.dev:
            return
        rows = [row for name in self.dev for row in tables.read_part(self.out.uri, name, Judgment, "judge")]
        judged = teacher.judged(rows)
        if len(judged) < self.cfg.gate.min_queries:
            print(f"[judge] only {len(judged)} judged dev queries: the labeller is not checked", flush=True)
            self.found = {"queries": len(judged), "checked": False}
            return
        against = self.cfg.gate.against
        if against not in judged[0]["sources"]:
            have = ", ".join(judged[0]["sources"])
            raise RradError("judge", "gate.against", f"'{against}' is not among the sources ({have})", "choose one")
        self.found = teacher.quality(judged)
        passed, text = teacher.gate(self.found, against, self.cfg.gate.max_p)
        print(f"[judge] check: {text}", flush=True)
        self.found |= {"checked": True, "passed": passed}
        if not passed and self.cfg.gate.enabled:
            remedy = "use a better model, template or task; or set gate.enabled=false to label all the same"
            raise RradError("judge", self.cfg.model, text, remedy)
