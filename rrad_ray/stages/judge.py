"""judge: an LLM labels every query's documents. Ray Data shards the prompts over vLLM engines (`ray.data.llm`).

Rows of the dataset are prompts, all planned beforehand and independent. A part of the output is written when every
prompt of its shard is answered; answers of unfinished shards stand in a journal within `durable_s`. So a run that is
killed, whatever dies, goes on where it was, and every query comes out exactly once.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping

from rrad_ray import tables
from rrad_ray.config import JudgeConfig
from rrad_ray.errors import at_place
from rrad_ray.labelling.answer_patterns import check_template
from rrad_ray.labelling.gate import Gate
from rrad_ray.labelling.planner import slots
from rrad_ray.labelling.source import source_reader, source_row
from rrad_ray.progress import say
from rrad_ray.rows import JudgeOutput, Row
from rrad_ray.runtime.answer_journal import drop_journal
from rrad_ray.runtime.collector import recount
from rrad_ray.runtime.dev_first import DevFirst, PromptKey
from rrad_ray.runtime.first_errors import ASKED_AGAIN
from rrad_ray.runtime.judging import label_shards
from rrad_ray.runtime.token_budget import spent_before
from rrad_ray.tables import checkpoints, shards
from rrad_ray.tables.shards import Shard

SIMULATED = {
    "echo": "engine: echo, these are no labels",
    "simulated": "engine: simulated, these labels come from the judgments themselves",
}


def _inputs(cfg: JudgeConfig) -> dict[str, str]:
    return {"input": cfg.input, "model": checkpoints.input_of(cfg.model) if cfg.engine == "vllm" else ""}


@tables.stage("judge", JudgeOutput, _inputs, until_done=tables.JOURNAL, keeps_quarantine=True)
def run(cfg: JudgeConfig, out: tables.Output) -> None:
    """Write the judge's output for every query. Raises `RradError` if the labeller fails its gate, no answer comes
    for `stall_s`, a token budget is spent, or the cluster can never fit an engine."""
    check_template(cfg)
    lineage = tables.lineage_of(cfg.input)
    if cfg.engine not in SIMULATED and cfg.task != "explain":
        with at_place("model", "name another one"):
            lineage.check_teachers([cfg.model])
    every = shards.plan_shards(cfg.input, cfg.shard_queries, source_row(cfg))
    own = cfg.own(every)
    check = _labelled(cfg, out, own)
    if cfg.share[1] > 1:
        if _refused_parts(out).keys().isdisjoint(shard.part for shard in own):
            drop_journal(cfg)
        ended = {"unit": "parts", "done": len(own), "total": len(own), "rate": 0.0, "ended": True}
        out.write_progress(ended | spent_before(out))
        standing = set(out.parts())
        if lacking := sum(shard.part not in standing for shard in every):
            say(f"slice {cfg.slice} is done; {lacking} parts of others are not: the last run finishes the table")
            return
        check, _ = _check(dataclasses.replace(cfg, gate=dataclasses.replace(cfg.gate, enabled=False)), out, every)
        check.look(sorted(standing))
    counts = recount(out, [shard.part for shard in every])
    if cfg.task == "order" and counts["single_documents"]:
        say(f"{counts['single_documents']:,} queries have one document: nothing to order, so the LLM was not asked")
    gate_facts = {key: value for key, value in check.facts.items() if key != "per_query"}
    # Reasons for simulated labels are simulated, whoever writes them.
    simulated = SIMULATED.get(cfg.engine, lineage.simulated if cfg.task == "explain" else "")
    # What `explain` adds is no order: labeller and answers in its output are still those of its input.
    labeller = lineage.judge if cfg.task == "explain" else None
    facts = labeller or tables.JudgeFacts(cfg.model, gate_facts, cfg.answer_regex, cfg.grades)
    lineage = dataclasses.replace(lineage, judge=facts, simulated=simulated)
    counts |= shards.repeats(every)
    seen = sum(shard.rows for shard in every)
    planned = [shard.part for shard in every]
    out.commit(seen=seen, max_quarantined=cfg.max_quarantined, lineage=lineage, planned=planned, **counts)


def _labelled(cfg: JudgeConfig, out: tables.Output, own: list[Shard]) -> Gate:
    """Label the shards that no earlier run has labelled; return the check of the labeller on their dev queries."""
    standing = set(out.parts())
    if cfg.engine == "openai" and out.resumed and (refused := _refused_parts(out)):
        say(f"asks again: {refused.total():,} queries without an answer, of {len(refused)} parts")
        standing -= set(refused)
    done = [shard.part for shard in own if shard.part in standing]
    # Dev queries first: the labeller is checked on them before the rest is paid for.
    todo = sorted((shard for shard in own if shard.part not in standing), key=lambda shard: not shard.dev)
    if done:
        say(f"goes on: {len(done)} of {len(own)} parts stand from an earlier run")
    check, dev = _check(cfg, out, own)
    if not check.dev and cfg.task != "explain":
        say("no dev queries: the labeller is not checked")
    check.look(done)
    if todo:
        for part in label_shards(cfg, out, todo, done, DevFirst(_scattered(cfg, todo, dev), check.look_at)):
            check.look([part])
    return check


def _scattered(cfg: JudgeConfig, todo: list[Shard], dev: Mapping[str, list[PromptKey]]) -> dict[str, list[PromptKey]]:
    """Return the prompts about dev queries, by part, where most of what would be paid for with them before the check
    are other queries; else none."""
    count = sum(shard.dev for shard in todo)
    beside = sum(shard.rows for shard in todo if shard.dev) - count
    if not dev or not cfg.gate.enabled or beside <= count:
        return {}
    say(f"the {count:,} dev queries stand among {beside:,} others: they are asked first, and the labeller is checked")
    return {shard.part: dev[shard.part] for shard in todo if shard.dev}


def _refused_parts(out: tables.Output) -> Counter[str]:
    """Return the parts with queries that an endpoint did not answer for a reason that may be over by now, such as a
    key without credit, and how many: a run that goes on asks those queries again."""
    refused = Counter[str]()
    for name, reasons in out.set_aside():
        refused[name] += sum(reason.startswith(ASKED_AGAIN) for reason in reasons)
    return +refused


def _check(cfg: JudgeConfig, out: tables.Output, own: list[Shard]) -> tuple[Gate, dict[str, list[PromptKey]]]:
    """Return the gate of these shards' dev queries, before any of them is asked about, and their prompts by part."""
    dev = {shard.part: list[PromptKey]() for shard in own if shard.dev and cfg.task != "explain"}
    check, read = Gate(cfg, out, list(dev)), source_reader(cfg.input)

    def rows() -> Iterator[Row]:
        for shard in (shard for shard in own if shard.part in dev):
            for number, row in enumerate(shards.read_shard(cfg.input, shard, source_row(cfg))):
                if row["split"] == "dev":
                    dev[shard.part] += [(number, slot) for slot in range(slots(row, cfg, read))]
                    yield row

    if dev:
        check.look_ahead(rows())
    return check, dev
