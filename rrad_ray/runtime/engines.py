"""The engines behind `judge`: vLLM through `ray.data.llm`, and any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from rrad_ray import prompts
from rrad_ray.config import JudgeConfig, PromptConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.labelling import planner
from rrad_ray.labelling.answer_patterns import answer_reader
from rrad_ray.labelling.chat_replies import read_reply
from rrad_ray.labelling.chat_template import with_system_as
from rrad_ray.labelling.crash_ledger import groups
from rrad_ray.labelling.label_tokens import endpoint_logprobs
from rrad_ray.labelling.prompt_calls import Prompt, best_answer
from rrad_ray.patches import ray_actor_arguments, vllm_likelihood
from rrad_ray.patches.ray_engine_stage import AnswerBatch, AnswerRow, guarded
from rrad_ray.runtime.engine_rows import (
    ANSWER_COLUMNS,
    EMPTY,
    carried,
    chunk_of,
    cut_of,
    from_vllm,
    to_engine,
    vllm_score,
)
from rrad_ray.runtime.token_budget import UNASKED
from rrad_ray.tables import spans

LIGHT_CPUS = 0.1  # of an actor that waits for an endpoint's answers

ENGINES_FED = 8  # by one process of each of them
UNITS_ASKED = 8  # by an actor at a time

MARK = "RRAD_JUDGE"  # in the environment of engine processes: whose they are

Ask = Callable[[str, list[str]], Awaitable[dict[str, Any]]]


async def slide(sliding: str, cfg: PromptConfig, ask: Ask) -> dict[str, Any]:
    """Return the answer of RankGPT's sliding window: each call needs the order that the one before it left, so one
    actor makes them all.

    `ask(query, texts)` answers with text, tokens and error. What a window's answer leaves out, or all of it if it
    says nothing, stays behind in the order it was in. The text that comes out is the whole order; tokens are sums.
    """
    row, read = json.loads(sliding), answer_reader(cfg.prompt.regex)
    order, used = list(range(len(row["texts"]))), Counter[str]()
    for start, stop in prompts.windows(len(order), cfg.window, cfg.window_step):
        answer = await ask(row["query"], [row["texts"][index] for index in order[start:stop]])
        used.update({key: answer.get(key, 0) for key in ("prompt_tokens", "generated_tokens")})
        if answer.get("error"):
            return {**used, "error": answer["error"]}
        parsed = read(answer["text"], stop - start)
        order[start:stop] = [order[start + index] for index in (*parsed.ranked, *parsed.missing)]
    return {**used, "text": prompts.written(order)}


class CrashGuard:
    """The guard of a vLLM engine (`patches.ray_engine_stage.Guard`).

    It gives up a prompt over which `engine_deaths` engines have died, tries suspects in small groups, and slides a
    window where the config has one.
    """

    def __init__(self, ledger: Any, cfg: JudgeConfig, model: str) -> None:
        self.ledger, self.cfg = ledger, cfg
        self.one_group = asyncio.Lock()  # of suspects at a time in an engine
        self.planner = planner.Planner(cfg, model) if cfg.window or cfg.reads_logits else None

    async def batch(
        self,
        rows: list[dict[str, Any]],
        answer: AnswerBatch,
        give_up: Callable[[dict[str, Any], str], dict[str, Any]],
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the answers of a batch: first those of prompts without deaths, then suspects group by group."""
        keys = [f"{row['part']}/{row['row']}/{row['slot']}" for row in rows]
        most = self.cfg.engine_deaths
        fresh, suspects, hopeless = groups(await self.ledger.deaths_of.remote(keys), most)
        for index in hopeless:
            yield give_up(rows[index], f"{most} engines died while this prompt was being answered")
        async for row in self._answered(rows, keys, fresh, answer):
            yield row
        for group in suspects:
            async with self.one_group:
                async for row in self._answered(rows, keys, group, answer):
                    yield row

    async def _answered(
        self, rows: list[dict[str, Any]], keys: list[str], chosen: list[int], answer: AnswerBatch
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the answers of some rows, which the ledger knows to be under way meanwhile."""
        if not chosen:
            return
        await self.ledger.begin.remote([keys[index] for index in chosen])
        async for row in answer([rows[index] for index in chosen]):
            yield row
        await self.ledger.end.remote([keys[index] for index in chosen])

    async def row(self, row: dict[str, Any], generate: AnswerRow) -> dict[str, Any]:
        """Return a row's answer: of one call, of all windows that slide over its documents, or of the best chunk."""
        if not row.get("chunks"):
            return await self._single(row, generate)

        async def ask(call: Prompt) -> dict[str, Any]:
            return await self._single({**row, **to_engine(call)}, generate)

        tokens = [ANSWER_COLUMNS[name] for name in ("prompt_tokens", "generated_tokens")]
        return await best_answer(row, ask, vllm_score, ANSWER_COLUMNS["error"], tokens)

    async def _single(self, row: dict[str, Any], generate: AnswerRow) -> dict[str, Any]:
        planner, last = self.planner, dict[str, Any]()
        if planner is None:
            most = (row.get("sampling_params") or {}).get("max_tokens")  # the call takes them out of the row
            return {**(answer := await generate(row)), "cut": cut_of(most, answer)}
        if self.cfg.reads_logits:
            answer = await generate(row)
            if logprobs := answer.pop("logprobs", None):  # none of a row that failed
                of_tokens = {token: each["logprob"] for token, each in logprobs[0].items()}
                read = planner.read_logprobs(of_tokens, row["documents"])
                answer |= {ANSWER_COLUMNS.get(name, name): value for name, value in read.items()}
            return answer

        async def ask(query: str, texts: list[str]) -> dict[str, Any]:
            last.update(await generate({**row, **to_engine(planner.window(query, texts))}))
            return {name: last[column] for name, column in ANSWER_COLUMNS.items()}

        whole = await slide(row["sliding"], self.cfg, ask)
        return last | {column: whole[name] for name, column in ANSWER_COLUMNS.items() if name in whole}


def light(cfg: JudgeConfig) -> dict[str, Any]:
    """Return options of the tasks around the engines: as few as keep these fed. Ray Data would otherwise start
    dozens, and on a small machine their imports alone take minutes.

    They wait more than they work, and ask for no CPU: where engines hold all CPUs of a cluster, a task that asked for
    some would never start, and the engines would wait for it.
    """
    return {"num_cpus": 0, "concurrency": math.ceil(cfg.engines / ENGINES_FED)}


def kind(cfg: JudgeConfig) -> str:
    """Return vLLM's word for a task: generate, embed or classify."""
    kinds = {"order": "generate", "explain": "generate", "grade": "generate", "score": "classify"}
    kinds["likelihood"] = "embed" if cfg.likelihood_by == "pooler" else "generate"
    return kinds[cfg.task]


def engine_kwargs(cfg: JudgeConfig, model: str) -> dict[str, Any]:
    """Return the engine's arguments: the config's, over those that the task needs."""
    if kind(cfg) != "embed":
        thinks = cfg.thinking_tokens and "reasoning_parser" not in cfg.engine_kwargs
        tags = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
        raw = cfg.task == "grade" and cfg.prompt.score == "logit"
        needs = ({"reasoning_config": tags} if thinks else {}) | ({"logprobs_mode": "raw_logits"} if raw else {})
        return needs | cfg.engine_kwargs
    # A pooling model's head is float32 by default; vLLM would cast the whole vocabulary's at every step.
    overrides = {"architectures": [_twin(model)], "head_dtype": "model"}
    return {"hf_overrides": overrides, "enable_prefix_caching": False, **cfg.engine_kwargs}


def vllm(cfg: JudgeConfig, model: str, units: int, ledger: ray_actor_arguments.ByName) -> Any:
    """Return `ray.data.llm`'s processor with only the engine stage: prompts come tokenized, texts leave detokenized.

    No more engines are asked for than there are `units` of work. Raises `RradError` for a model whose tokenizer is
    missing or another's or has no chat template, and for a teacher of `score` without a head of one output or without
    words between query and document: before an engine starts, which would draw a head at random.
    """
    most = min(cfg.engines, units)
    if cfg.task == "score" and "hf_overrides" not in cfg.engine_kwargs:  # these make a ranker of another model
        from rrad_ray.rankers import loading  # torch, for which workers of an endpoint would wait

        with at_place(model, "name a cross-encoder with one output"):
            loading.check_ranker(model, worded=bool(cfg.prompt))
    with at_place(model, "name a whole checkpoint"):
        planner.Planner(cfg, model)  # its tokenizer and chat template are checked
    config = vLLMEngineProcessorConfig(
        model_source=model,
        task_type=kind(cfg),
        engine_kwargs=engine_kwargs(cfg, model),
        batch_size=cfg.batch_size,
        max_concurrent_batches=cfg.concurrent_batches,
        # A task is a unit of two batches. More tasks at once than keep the engine busy would share it and all finish
        # late together; so shards become durable one after another.
        max_tasks_in_flight_per_actor=cfg.concurrent_batches,
        concurrency=(most, most),  # labelling begins with the first engine that is ready
        placement_group_config={"bundles": [dict(cfg.resources)]},
        runtime_env={"env_vars": {**cfg.engine_env, MARK: os.path.abspath(cfg.output + cfg.slice_name)}},
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
    around = {"preprocess_map_kwargs": light(cfg), "postprocess_map_kwargs": light(cfg)}
    processor = build_processor(config, preprocess=lambda row: {}, postprocess=from_vllm, **around)
    name = "vLLMEngineStage"
    processor.stages[name] = guarded(processor.get_stage_by_name(name), partial(CrashGuard, ledger, cfg, model))
    return processor


def _twin(model: str) -> str:
    """Return the architecture that pools likelihoods for a model; `RradError` if it is no causal LM."""
    from rrad_ray.rankers import loading

    name = (loading.config_of(model).architectures or ["nothing"])[0]
    if not name.endswith("ForCausalLM"):
        raise RradError(
            model,
            f"its architecture is {name}, not a causal LM's",
            "name a causal LM, or set likelihood_by=prompt_logprobs",
        )
    return vllm_likelihood.architecture(name)


def openai(cfg: JudgeConfig, planned: Any, trace: Mapping[str, str], budget: Any) -> Any:
    """Return the answers of an OpenAI-compatible endpoint, which as many actors as the config's `engines` ask.

    `trace`: the headers of the driver's span. `budget`: the actor of a `TokenBudget`, or None.
    """
    return planned.map(
        Requests,
        fn_constructor_args=(cfg, trace, budget),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cfg.engines),
        num_cpus=LIGHT_CPUS,
        # Twice as many prompts as may be asked at a time: none waits for the last answers of a unit.
        max_concurrency=2 * math.ceil(cfg.openai.concurrency / requests_of_unit(cfg)),
    )


def requests_of_unit(cfg: JudgeConfig) -> int:
    """Return the prompts of a unit for an endpoint: few, for a killed run loses what is under way."""
    return max(1, cfg.openai.concurrency // UNITS_ASKED)


def request_fields(cfg: JudgeConfig) -> dict[str, Any]:
    """Return the fields of a request beside model and messages: the config's, over those that the task needs."""
    fields: dict[str, Any] = {"max_tokens": cfg.max_tokens, "temperature": 0.0}
    if cfg.chat_template_kwargs:
        fields["chat_template_kwargs"] = cfg.chat_template_kwargs
    if cfg.task == "grade":
        fields |= {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    fields |= cfg.openai.request
    fields |= fields.pop("extra_body", None) or {}
    return {name: value for name, value in fields.items() if value is not None}


class Requests:
    """An actor that sends prompts to an OpenAI-compatible endpoint, `concurrency` at a time.

    The client waits and tries again after 429, 5xx and broken connections, as long as the endpoint asks for it or
    twice as long each time; what then still fails is the query's error. Each request has a span below that of
    `trace`, the headers of the driver's, and goes out with its `traceparent`, where the `budget` admits it.
    """

    def __init__(self, cfg: JudgeConfig, trace: Mapping[str, str], budget: Any = None) -> None:
        from openai import AsyncOpenAI

        self.cfg, self.trace, self.budget = cfg, trace, budget
        self.read_order = answer_reader(cfg.prompt.regex if cfg.task == "order" else "")
        # Secrets of Kubernetes often end in a line's end, which no header takes. Many endpoints ask for no key.
        key = os.environ.get(cfg.openai.key_env, "").strip() or "none"
        limits, url = cfg.openai, urlsplit(cfg.openai.url)
        self.client = AsyncOpenAI(
            base_url=url._replace(query="").geturl(),
            default_query=dict(parse_qsl(url.query)),  # as Azure's `api-version`
            api_key=key,
            timeout=limits.timeout_s,
            max_retries=limits.retries,
        )
        self.slots = asyncio.Semaphore(cfg.openai.concurrency)

    def __del__(self) -> None:
        spans.flush()  # Ray ends the actor's process without another chance

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        answer = await self._row(row)
        if self.budget and answer.get("error") != UNASKED:
            self.budget.answered.remote()
        return carried(row) | EMPTY | {"chunk": chunk_of(row)} | answer

    async def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.get("chunks"):
            tokens = ("prompt_tokens", "generated_tokens")
            return await best_answer(row, self._call, itemgetter("score"), "error", tokens)
        if not self.cfg.window:
            return await self._answer(json.loads(row["messages"]), row["documents"])
        chat = self.cfg.prompt.chat
        return await slide(
            row["sliding"], self.cfg, lambda query, texts: self._answer(chat(query, texts), len(texts))
        )

    async def _call(self, prompt: Prompt) -> dict[str, Any]:
        return await self._answer(json.loads(prompt["messages"]), 1)

    async def _answer(self, messages: list[dict[str, str]], documents: int) -> dict[str, Any]:
        async with self.slots:
            if self.budget and not await self.budget.admit.remote():
                return {"error": UNASKED}
            answer = await self._ask(messages, documents)
            if self.budget:
                tokens = answer.get("prompt_tokens", 0) + answer.get("generated_tokens", 0)
                self.budget.spend.remote(tokens, "error" in answer)
            return answer

    async def _ask(self, messages: list[dict[str, str]], documents: int) -> dict[str, Any]:
        try:
            with spans.begin("ask", {"rrad.model": self.cfg.model}, carrier=self.trace):
                reply = await self.client.chat.completions.create(
                    model=self.cfg.model,
                    messages=with_system_as(self.cfg.openai.system_role, messages),  # type: ignore[arg-type]
                    extra_body=request_fields(self.cfg),
                    extra_headers=spans.outgoing(),
                )
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
        return self._read(reply, documents)

    def _read(self, reply: Any, documents: int) -> dict[str, Any]:
        """Return the answer in a reply to a prompt that showed `documents`, with its tokens."""
        tokens: dict[str, int] = {}
        try:
            read = read_reply(reply)
            tokens = read.tokens
            if self.cfg.task != "grade":
                read.check_text()
                if self.cfg.task == "order":
                    read.check_order(self.read_order(read.text, documents))
                return {"text": read.text, **tokens}
            return {
                "score": float(self.cfg.prompt.value(endpoint_logprobs(read.likely, self.cfg.prompt.labels))),
                **tokens,
            }
        except ValueError as error:
            return {"error": str(error), **tokens}
