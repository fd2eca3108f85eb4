"""judge: an LLM labels every query's documents. Ray Data shards the prompts over vLLM engines (`ray.data.llm`).

Rows of the dataset are prompts, all planned beforehand and independent. A part of the output is written when every
prompt of the same part of the input is answered: finished parts survive a kill, and a query comes out exactly once.
"""

from __future__ import annotations

import os
import queue
import random
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq
import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from rrad_ray import models, prompts, tables, teacher, vllm_likelihood
from rrad_ray.config import JudgeConfig
from rrad_ray.engine import CARRIED, echo, reduce
from rrad_ray.errors import RradError
from rrad_ray.progress import Progress
from rrad_ray.rankers import LikelihoodPlan
from rrad_ray.rows import Candidates, Judgment
from rrad_ray.stages import cluster

# The light stages around the engine wait more than they work. One process each: at a tenth of a CPU, Ray Data would
# otherwise start dozens, and on a small machine their imports alone take minutes.
LIGHT: dict[str, Any] = {"num_cpus": 0.1, "concurrency": 1}
MARK = "RRAD_JUDGE"  # in the environment of engine processes: whose they are


def run(cfg: JudgeConfig) -> str:
    """Judgments of every query. Raises `RradError` if the labeller fails its gate, no answer comes for `stall_s`,
    or the cluster can never fit an engine."""
    out = tables.Output("judge", cfg, Judgment, {"input": cfg.input})
    if out.finished:
        return out.uri
    tables.read_manifest(cfg.input, "judge")
    names, dev = _plan(cfg.input)
    done = [name for name in out.parts() if name in names]
    todo = [name for name in (*dev, *(n for n in names if n not in dev)) if name not in done]
    if done:
        print(f"[judge] goes on: {len(done)} of {len(names)} parts stand from an earlier run", flush=True)
    check = Gate(cfg, out, dev)
    check.look(done)
    shares = Collected(cfg, out, todo)
    if todo:
        cluster.start()
        model = models.resolve(cfg.model, "judge") if cfg.engine == "vllm" else cfg.model
        if cfg.engine == "vllm":
            cluster.require("judge", cfg.worker, 1)
            cluster.end_orphans(MARK, cfg.output)
        for name in shares.parts(_answers(cfg, model, todo)):
            check.look([name])
    return _commit(cfg, out, check, names)


def _plan(uri: str) -> tuple[list[str], list[str]]:
    """All parts of the input, and those with dev queries: they go first."""
    names, dev = tables.part_names(uri, "judge"), []
    for name in names:
        fs, path = tables.filesystem(tables.join(uri, name))
        with fs.open(path, "rb") as file:
            if "dev" in pq.read_table(file, columns=["split"])["split"].unique().to_pylist():
                dev.append(name)
    return names, dev


def _commit(cfg: JudgeConfig, out: tables.Output, check: Gate, names: list[str]) -> str:
    """Counts over the whole output, also what earlier, killed runs have written; then the manifest."""
    counts = {"rows": 0, "prompt_tokens": 0, "generated_tokens": 0, "labels": 0}
    for name in names:
        rows = tables.read_part(out.uri, name, Judgment, "judge")
        counts["rows"] += len(rows)
        counts["labels"] += sum(len(row["doc_ids"]) for row in rows)
        counts["prompt_tokens"] += sum(row["prompt_tokens"] for row in rows)
        counts["generated_tokens"] += sum(row["generated_tokens"] for row in rows)
        kept = {row["query_id"] for row in rows}
        for row in tables.read_part(cfg.input, name, Candidates, "judge"):
            if row["query_id"] not in kept and row["query_id"] not in {item["id"] for item in out.quarantined}:
                out.quarantine(row["query_id"], "engine error: set aside by an earlier run", row["query"])
    seen = counts["rows"] + len(out.quarantined)
    quality = {key: value for key, value in check.found.items() if key != "per_query"}
    simulated = {"simulated": "engine: echo, these are no labels"} if cfg.engine == "echo" else {}
    return out.commit(seen=seen, max_quarantined=cfg.max_quarantined, **counts, gate=quality, **simulated)


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


# ---- answers back into parts --------------------------------------------------------------------------------


class Collected:
    """Gathers answers by part and writes each part as its last answer comes."""

    def __init__(self, cfg: JudgeConfig, out: tables.Output, todo: list[str]) -> None:
        self.cfg, self.out, self.todo = cfg, out, todo
        self.waiting: dict[str, dict[tuple[int, int], dict[str, Any]]] = {name: {} for name in todo}

    def parts(self, answers: Iterator[dict[str, Any]]) -> Iterator[str]:
        """Writes parts; yields the name of each as it is durable."""
        tokens, progress = 0, Progress("judge", self._prompts(), "prompts")
        for answer in _watched(answers, self.cfg.stall_s):
            tokens += answer["prompt_tokens"] + answer["generated_tokens"]
            progress.add(1, f"{tokens:,} tokens")
            part = self.waiting[answer["part"]]
            part[answer["row"], answer["slot"]] = answer
            if len(part) == answer["prompts"]:
                self._write(answer["part"])
                yield answer["part"]
        for name in list(self.waiting):  # parts without any prompt, or that lost one: their queries are set aside
            self._write(name)
            yield name

    def _prompts(self) -> int:
        if self.cfg.task == "order":
            return sum(len(tables.read_part(self.cfg.input, name, Candidates, "judge")) for name in self.todo)
        return sum(
            len(row["doc_ids"])
            for name in self.todo
            for row in tables.read_part(self.cfg.input, name, Candidates, "judge")
        )

    def _write(self, name: str) -> None:
        found, rows = self.waiting.pop(name), []
        for number, row in enumerate(tables.read_part(self.cfg.input, name, Candidates, "judge")):
            slots = 1 if self.cfg.task == "order" else len(row["doc_ids"])
            answers = [found.get((number, slot)) for slot in range(slots)]
            errors = [answer["error"] if answer else "no answer came" for answer in answers]
            if not slots or any(errors):
                reason = next(filter(None, errors), "the query has no candidates")
                self.out.quarantine(row["query_id"], f"engine error: {reason}", row["query"])
                continue
            rows.append(self._row(row, [answer for answer in answers if answer]))
        self.out.write_part(name, rows)

    def _row(self, row: dict[str, Any], answers: list[dict[str, Any]]) -> dict[str, Any]:
        order = self.cfg.task == "order"
        return {
            **row,
            "task": self.cfg.task,
            "model": self.cfg.model,
            "shown": shown(row, self.cfg),
            "response": answers[0]["text"] if order else "",
            "judge_scores": [] if order else [answer["score"] for answer in answers],
            "prompt_tokens": sum(answer["prompt_tokens"] for answer in answers),
            "generated_tokens": sum(answer["generated_tokens"] for answer in answers),
        }


def _watched(rows: Iterator[dict[str, Any]], stall_s: float) -> Iterator[dict[str, Any]]:
    """The rows; `RradError` when none comes for `stall_s` seconds: a hung engine ends the run with the reason."""
    arrived: queue.Queue[Any] = queue.Queue(maxsize=1000)

    def feed() -> None:
        try:
            for row in rows:
                arrived.put(row)
            arrived.put(None)
        except BaseException as error:  # handed to the thread that waits
            arrived.put(error)

    threading.Thread(target=feed, daemon=True).start()
    while True:
        try:
            item = arrived.get(timeout=stall_s)
        except queue.Empty as error:
            found = f"no answer for {stall_s:.0f} s"
            remedy = (
                "look at the engine's log (ray logs), lower gpu_memory_utilization; run again: done parts are kept"
            )
            raise RradError("judge", "engine", found, remedy) from error
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


# ---- prompts out --------------------------------------------------------------------------------------------


def shown(row: Mapping[str, Any], cfg: JudgeConfig) -> list[int]:
    """The order in which `order` shows a query's documents; planned by seed and query, not kept while waiting."""
    count = len(row["doc_ids"])
    if cfg.task != "order" or not cfg.shuffle:
        return list(range(count))
    return prompts.orders(count, 1, random.Random(f"{cfg.seed}:{row['query_id']}").getrandbits(32))[0]


class Plan:
    """An actor: the name of a part to its tokenized prompts."""

    def __init__(self, cfg: JudgeConfig, model: str) -> None:
        self.cfg = cfg
        if cfg.engine == "echo":
            return
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.likelihood = LikelihoodPlan(self.tokenizer, cfg.template, cfg.doc_tokens, cfg.query_tokens)

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        rows = tables.read_part(self.cfg.input, row["name"], Candidates, "judge")
        found = [
            {"part": row["name"], "row": number, "slot": slot, **prompt}
            for number, item in enumerate(rows)
            if item["doc_ids"]
            for slot, prompt in enumerate(self._prompts(item))
        ]
        return [{**prompt, "prompts": len(found)} for prompt in found]

    def _prompts(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        if self.cfg.engine == "echo":
            count = 1 if self.cfg.task == "order" else len(row["doc_ids"])
            return [{"start": 0, "tokenized_prompt": [len(row["doc_ids"])]}] * count
        if self.cfg.task == "likelihood":
            return [
                {"tokenized_prompt": span.ids, "start": span.start, **_parameters(span.start, self.cfg)}
                for span in self.likelihood(row["query"], row["texts"])
            ]
        docs = self.tokenizer(row["texts"], add_special_tokens=False)["input_ids"]
        texts = [str(self.tokenizer.decode(docs[index][: self.cfg.doc_tokens])) for index in shown(row, self.cfg)]
        chat = self.tokenizer.apply_chat_template(
            prompts.listwise(row["query"], texts), tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(chat, add_special_tokens=False)["input_ids"]
        sampling = {"max_tokens": self.cfg.max_tokens, "temperature": 0.0}
        return [{"tokenized_prompt": ids, "start": len(ids), "sampling_params": sampling}]


def _parameters(start: int, cfg: JudgeConfig) -> dict[str, Any]:
    """What the engine is told about one likelihood prompt."""
    if cfg.likelihood_by == "pooler":
        # The pooler needs the states of the whole prompt: a cached prefix would leave its own out.
        return {"pooling_params": {"extra_kwargs": {"start": start}, "skip_reading_prefix_cache": True}}
    return {"sampling_params": {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}}


def _answers(cfg: JudgeConfig, model: str, todo: list[str]) -> Iterator[dict[str, Any]]:
    """The prompts of the parts, in their order, through the engine; answers as they come."""
    parts = ray.data.from_items([{"name": name} for name in todo], override_num_blocks=len(todo))
    planned = parts.flat_map(
        Plan,
        fn_constructor_args=(cfg, model),
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=LIGHT["num_cpus"],
    )
    answered = planned.map(echo, **LIGHT) if cfg.engine == "echo" else _engine(cfg, model)(planned)
    for row in answered.iter_rows():
        # An error row skips `reduce`: it brings the engine's columns, not ours.
        error = row.get("__inference_error__") or ""
        empty = {"score": 0.0, "text": "", "prompt_tokens": 0, "generated_tokens": 0}
        yield {**({key: row[key] for key in CARRIED} | empty if error else row), "error": error}


def _twin(model: str) -> str:
    """The architecture that pools likelihoods for a model; `RradError` if it is no causal LM."""
    from transformers import AutoConfig

    name = (AutoConfig.from_pretrained(model).architectures or ["nothing"])[0]
    if not name.endswith("ForCausalLM"):
        found = f"its architecture is {name}, not a causal LM's"
        raise RradError("judge", model, found, "name a causal LM, or set likelihood_by=prompt_logprobs")
    return vllm_likelihood.architecture(name)


def _engine(cfg: JudgeConfig, model: str) -> Any:
    """`ray.data.llm`'s processor with only the engine stage: prompts come tokenized, texts leave detokenized."""
    pooled = cfg.task == "likelihood" and cfg.likelihood_by == "pooler"
    twin: dict[str, Any] = {}
    if pooled:
        # A pooling model's head is float32 by default; vLLM would cast the whole vocabulary's at every step.
        overrides = {"architectures": [_twin(model)], "head_dtype": "model"}
        twin = {"hf_overrides": overrides, "enable_prefix_caching": False}
    config = vLLMEngineProcessorConfig(
        model_source=model,
        task_type="embed" if pooled else "generate",
        engine_kwargs={**twin, **cfg.engine_kwargs},
        batch_size=cfg.batch_size,
        max_concurrent_batches=cfg.concurrent_batches,
        # A task is a part and runs its batches at once. Many tasks at once would share the engine and all finish
        # late together; two keep it busy, and parts become durable one after another.
        max_tasks_in_flight_per_actor=2,
        concurrency=(cfg.workers, cfg.workers),  # labelling begins with the first engine that is ready
        placement_group_config={"bundles": [dict(cfg.worker)]},
        runtime_env={"env_vars": {**cfg.engine_env, MARK: os.path.abspath(cfg.output)}},
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
    options = {"preprocess_map_kwargs": LIGHT, "postprocess_map_kwargs": LIGHT}
    return build_processor(config, preprocess=lambda row: {}, postprocess=reduce, **options)
