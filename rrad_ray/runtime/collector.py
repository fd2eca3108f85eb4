"""Answers back into parts: each shard is written whole as its last answer comes. Figures are told as the run goes."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow.compute as pc

from rrad_ray import tables
from rrad_ray.config import JudgeConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling import planner
from rrad_ray.labelling.answer_patterns import answer_reader
from rrad_ray.labelling.source import source_reader, source_row
from rrad_ray.progress import Progress, say
from rrad_ray.rows import Answer
from rrad_ray.runtime.answer_journal import AnswerJournal
from rrad_ray.runtime.dev_first import DevFirst, PromptKey
from rrad_ray.runtime.first_errors import ASKED_AGAIN, FirstErrors
from rrad_ray.runtime.gauges import OutputGauges
from rrad_ray.runtime.token_budget import SPENT, Spending, spent_before
from rrad_ray.tables import shards, spans
from rrad_ray.tables.shards import Shard

# Figures of an answer that are summed for its query and its run.
TOTALS: tuple[Literal["prompt_tokens", "generated_tokens", "truncated"], ...] = (
    "prompt_tokens",
    "generated_tokens",
    "truncated",
)

TICK_S = 10.0  # without an answer for so long, the run looks around

FIT_S = 30.0  # what an autoscaler may take to begin starting a node


def calls_per_row(cfg: JudgeConfig, shard: Shard) -> float:
    """Return about how many prompts a query of a shard has."""
    return cfg.calls(shard.documents / shard.rows)


class RunMetrics:
    """The figures of a run: for its progress lines, `progress.json` and Prometheus."""

    def __init__(self, cfg: JudgeConfig) -> None:
        self.cfg, self.read = cfg, answer_reader(cfg.answer_regex)
        self.began: float | None = None
        self.queries = 0.0  # answered so far, also in part
        self.counts: Counter[str] = Counter()
        self.gauges = OutputGauges("judge", cfg.output)

    def add(self, answer: Answer, shown: int, calls: int) -> None:
        """Count one answer over `shown` documents, of `calls` about its query."""
        self.began = self.began or time.monotonic()
        self.queries += 1 / calls
        self.counts["errors"] += bool(answer["error"])
        for key in TOTALS:
            self.counts[key] += answer[key]
        if self.cfg.task == "order" and not answer["error"] and not answer["scores"]:
            order = self.read(answer["text"], shown)
            self.counts["shown"] += shown
            self.counts[order.kind] += 1
            self.counts["missing"] += 0 if order.rejected else len(order.missing)

    def facts(self) -> dict[str, float]:
        """Return rates per second, shares from 0 to 1, and what the labels have cost so far."""
        counts, seconds = self.counts, time.monotonic() - (self.began or time.monotonic())
        used, seconds = counts["prompt_tokens"] + counts["generated_tokens"], max(seconds, 1.0)
        facts = {
            "queries": round(self.queries),
            "queries_per_s": self.queries / seconds,
            "prompt_tokens_per_s": counts["prompt_tokens"] / seconds,
            "generated_tokens_per_s": counts["generated_tokens"] / seconds,
            "tokens_per_query": used / self.queries if self.queries else 0.0,
            "truncated_documents": counts["truncated"],
            "errors": counts["errors"],
        }
        if self.cfg.task == "order":
            replies = max(counts["ok"] + counts["repaired"] + counts["rejected"], 1)
            facts |= {f"{name}_share": counts[name] / replies for name in ("repaired", "rejected")}
            facts["missing_share"] = counts["missing"] / max(counts["shown"], 1)
        # Where the cluster gives fewer engines than are asked for, this is the most it can be.
        if cost := self.cfg.price(counts["prompt_tokens"], counts["generated_tokens"], seconds):
            facts["cost"] = cost
        return facts

    def note(self) -> str:
        """Return the figures as a progress line has them."""
        facts = self.facts()
        texts = [
            f"{facts['queries_per_s']:.2g} queries/s",
            f"tokens/s {facts['prompt_tokens_per_s']:,.0f} in {facts['generated_tokens_per_s']:,.0f} out",
            f"{facts['tokens_per_query']:,.0f} tokens/query",
        ]
        texts += [
            f"{name} {100 * facts[f'{name}_share']:.1f} %"
            for name in ("missing", "repaired", "rejected")
            if f"{name}_share" in facts
        ]
        texts += [f"cost {facts['cost']:.2f}"] if "cost" in facts else []
        return ", ".join(texts)

    def export(self) -> None:
        """Export the figures as gauges `rrad_judge_...`, which Ray serves to Prometheus."""
        self.gauges.set(self.facts())


class ShardCollector:
    """A collector of answers by shard, which writes each shard's part as its last answer comes."""

    def __init__(
        self, cfg: JudgeConfig, out: tables.Output, todo: Sequence[Shard], done: Sequence[str], first: DevFirst
    ) -> None:
        self.cfg, self.out, self.first, self.read = cfg, out, first, source_reader(cfg.input)
        self.todo = {shard.part: shard for shard in todo}
        self.journal, self.meter, self.errors = AnswerJournal(cfg, out), RunMetrics(cfg), FirstErrors()
        self.waiting = self.journal.load(set(self.todo))
        self.spans = dict[str, spans.TraceSpan]()  # of parts, from the first answer that came
        self.expected = {shard.part: round(shard.rows * calls_per_row(cfg, shard)) for shard in todo}
        self.progress = Progress(sum(self.expected.values()), "prompts", done=sum(map(len, self.waiting.values())))
        if known := sum(map(len, self.waiting.values())):
            say(f"goes on: {known:,} answers of unfinished shards stand in the journal")
        self.spending: Spending | None = None
        if budget := cfg.openai.token_budget if cfg.engine == "openai" else 0:
            recorded = spent_before(out).get(SPENT, 0)
            self.spending = Spending(budget, max(recorded, _spent(out, done, self.waiting)))

    def answered(self, part: str) -> list[PromptKey]:
        """Return row and slot of the answers that earlier runs have of a shard."""
        return list(self.waiting[part])

    def parts(self, incoming: Iterator[dict[str, Any]], in_vain: Callable[[], str]) -> Iterator[str]:
        """Write parts and yield the name of each as it is durable.

        While no answer has come, `in_vain` is asked now and then why none ever will: then `RradError`.
        """
        try:
            yield from self._written(incoming, in_vain)
        except (RradError, GeneratorExit):  # the latter: the labeller has failed its check
            if self.spending:
                self.spending.close()
            self._publish()
            raise
        self._publish()

    def _written(self, incoming: Iterator[dict[str, Any]], in_vain: Callable[[], str]) -> Iterator[str]:
        """Do what `parts` does, but for the record of progress at the end."""
        began, published, progress = time.monotonic(), 0.0, self.progress
        for name, known in self.waiting.items():
            for prompt in known:
                if self.first.take(name, prompt):
                    self._check_labeller()
        for answer in _watched(incoming, self.cfg.stall_s, min(TICK_S, self.cfg.durable_s)):
            if answer is not None and self._asked(answer):
                yield from self._take(answer)
                progress.add(1, self.meter.note)
            elif answer is None and not progress.began and time.monotonic() - began > FIT_S and (why := in_vain()):
                raise RradError("resources", why, "lower resources in the config, or use a cluster that has it")
            if self.journal.due() and self.errors.answered:  # errors alone are worth another try
                self.journal.flush()
            self._check_budget()
            if time.monotonic() - published > progress.every_s:
                published = time.monotonic()
                self._publish()
        self._check_budget(over=True)
        for name in list(self.waiting):  # shards without any prompt left, or that lost one
            self._write(name)
            yield name

    def _take(self, answer: dict[str, Any]) -> Iterator[str]:
        """Keep one answer; yield the name of its shard's part, if that was the last one and the part is written."""
        name, prompt_key, expected = answer["part"], (answer["row"], answer["slot"]), answer["prompts"]
        part = self.waiting.get(name)
        if part is None or prompt_key in part:
            return  # Ray may do a task again whose answers were on their way when its node died
        kept: Answer = {key: answer[key] for key in Answer.__annotations__}  # type: ignore[assignment]
        self.errors.add(kept["error"])
        part[prompt_key] = kept
        if name not in self.spans:  # now it is known how many prompts the part has
            self.progress.total += expected - self.expected[name]
            self.spans[name] = spans.begin("part", {"rrad.part": name, "rrad.prompts": expected})
        self.meter.add(kept, answer["documents"], answer["calls"])
        self.journal.add(kept)
        if self.first.take(name, prompt_key):
            self._check_labeller()
        if len(part) == expected:
            self._write(name)
            yield name

    def _check_labeller(self) -> None:
        """Have the labeller checked on the dev queries that were asked first, with every answer durable."""
        if self.errors.answered:
            self.journal.flush()
        unwritten = [name for name in self.first.prompts if name in self.waiting]
        self.first.look({name: self._rows(name, self.first.numbers(name)) for name in unwritten})

    def _check_budget(self, over: bool = False) -> None:
        """Raise the error by which a spent budget ends the run, with every answer durable; see `Spending.end`."""
        if self.spending and (why := self.spending.end(over)):
            self.journal.flush()
            raise why

    def _asked(self, answer: dict[str, Any]) -> bool:
        return self.spending is None or self.spending.take(answer["error"])

    def _publish(self) -> None:
        self.meter.export()
        spent = self.spending.facts() if self.spending else {}
        self.out.write_progress({**self.progress.state(), **self.meter.facts(), **spent})

    def _rows(self, name: str, numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the labelled rows of a shard. `numbers`: these alone, and none goes to the quarantine."""
        collected, rows = self.waiting[name], []
        reject = self.out.quarantine if numbers is None else shards.ignore
        source = shards.read_shard(self.cfg.input, self.todo[name], source_row(self.cfg), reject)
        for number, row in enumerate(source):
            if numbers is not None and number not in numbers:
                continue
            given = [collected.get((number, slot)) for slot in range(planner.slots(row, self.cfg, self.read))]
            errors = [answer["error"] if answer else "engine error: no answer came" for answer in given]
            if not row["doc_ids"] or any(errors):
                reason = next(filter(None, errors), "no candidates: the query has no documents")
                reject(row["query_id"], reason, row["query"])
                continue
            rows.append(self._row(row, [answer for answer in given if answer]))
        return rows

    def _write(self, name: str) -> None:
        rows, collected = self._rows(name), self.waiting.pop(name)
        if any(answer["error"].startswith(ASKED_AGAIN) for answer in collected.values()):
            self.journal.flush()  # a run that asks these again finds the part's other answers there
        self.out.write_quarantine(name)  # before the part: a part that stands has lost nothing
        self.out.write_part(name, rows)
        self.journal.forget(name)
        span = self.spans.pop(name, spans.OFF)
        span.set({"rrad.queries": len(rows), "rrad.tokens": sum(map(_tokens, collected.values()))})
        span.end()

    def _row(self, row: dict[str, Any], given: Sequence[Answer]) -> dict[str, Any]:
        tokens: dict[str, int] = {key: sum(answer[key] for answer in given) for key in TOTALS}
        if self.cfg.task == "explain":
            reasons = [answer["text"].strip() for answer in given] or [""] * len(row["doc_ids"])
            return {**row, **tokens, "reasons": reasons}
        order, shown = self.cfg.task == "order", planner.shown(row, self.cfg)
        first_tokens = bool(shown) and order and self.cfg.answer == "first_token"
        cut = [answer.get("cut") for answer in given]
        scores = _mean_scores(shown, given) if first_tokens else [answer["score"] for answer in given]
        return {
            **row,
            **tokens,
            "task": self.cfg.task,
            "model": self.cfg.model,
            "shown": shown,
            "responses": [answer["text"] for answer in given] if order else [],
            "cut": [bool(each) for each in cut] if order and any(cut) and not first_tokens else [],
            "judge_scores": [] if order and not first_tokens else scores,
            "reasons": [],
            "best_chunks": [answer["chunk"] for answer in given] if self.cfg.chunks.tokens else [],
        }


def _mean_scores(shown: Sequence[Sequence[int]], given: Sequence[Answer]) -> list[float]:
    """Return each candidate's mean score over calls, which have scored the documents in the order shown."""
    scores = [0.0] * len(shown[0])
    for order, answer in zip(shown, given, strict=True):
        for index, score in zip(order, answer["scores"], strict=True):
            scores[index] += score / len(given)
    return scores


def _watched(rows: Iterator[dict[str, Any]], stall_s: float, tick_s: float) -> Iterator[dict[str, Any] | None]:
    """Yield the rows, and None whenever none came for `tick_s` seconds; raise `RradError` when none comes for
    `stall_s`: a hung engine ends the run with the reason."""
    arrived: queue.Queue[Any] = queue.Queue(maxsize=1000)

    def feed() -> None:
        try:
            for row in rows:
                arrived.put(row)
            arrived.put(None)
        except BaseException as error:  # handed to the thread that waits
            arrived.put(error)

    threading.Thread(target=feed, daemon=True).start()
    last = time.monotonic()
    while True:
        try:
            item = arrived.get(timeout=min(tick_s, stall_s))
        except queue.Empty:
            if time.monotonic() - last < stall_s:
                yield None
                continue
            problem = f"no answer for {stall_s:.0f} s"
            remedy = (
                "look at the engine's log (ray logs), lower gpu_memory_utilization; run again: done parts are kept"
            )
            raise RradError("engine", problem, remedy) from None
        last = time.monotonic()
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


def recount(out: tables.Output, names: Sequence[str]) -> dict[str, int]:
    """Return figures of the whole output, also of what earlier, killed runs have written."""
    counts = dict.fromkeys(("rows", "labels", "single_documents", *TOTALS), 0)
    for name in names:
        table = tables.read_columns(out.uri, name, ["doc_ids", *TOTALS])
        documents = pc.list_value_length(table["doc_ids"]).to_pylist()
        counts["rows"] += len(documents)
        counts["labels"] += sum(documents)
        counts["single_documents"] += documents.count(1)
        for key in TOTALS:
            counts[key] += sum(table[key].to_pylist())
    return counts


def _spent(out: tables.Output, done: Sequence[str], waiting: Mapping[str, Mapping[PromptKey, Answer]]) -> int:
    """Return the tokens that earlier runs have used: of finished parts, and of answers in the journal."""
    counts = recount(out, done)
    every = (answer for part in waiting.values() for answer in part.values())
    return counts["prompt_tokens"] + counts["generated_tokens"] + sum(map(_tokens, every))


def _tokens(answer: Mapping[str, Any]) -> int:
    return answer["prompt_tokens"] + answer["generated_tokens"]
