"""The engines behind `judge`: vLLM through `ray.data.llm`, and any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from rrad_ray import prompts
from rrad_ray.config import JudgeConfig, PromptConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling import answers, planner
from rrad_ray.labelling.crash_ledger import Ledger, groups
from rrad_ray.labelling.engine_rows import EMPTY, carried, reduce
from rrad_ray.patches import vllm_likelihood

LIGHT_CPUS = 0.1  # the stages around the engines wait more than they work

ENGINES_FED = 8  # by one process of each of them

MARK = "RRAD_JUDGE"  # in the environment of engine processes: whose they are

# What an answer is called here -> in the rows of Ray's engine stage.
ANSWER_COLUMNS = {
    "text": "generated_text",
    "prompt_tokens": "num_input_tokens",
    "generated_tokens": "num_generated_tokens",
    "error": "__inference_error__",
}


Ask = Callable[[str, list[str]], Awaitable[dict[str, Any]]]


async def slide(sliding: str, cfg: PromptConfig, ask: Ask) -> dict[str, Any]:
    """RankGPT's sliding window: each call needs the order that the one before it left, so one actor makes them all.

    `ask(query, texts)` answers with text, tokens and error. What a window's answer leaves out, or all of it if it
    says nothing, stays behind in the order it was in. The text that comes out is the whole order; tokens are sums.
    """
    row = json.loads(sliding)
    order, used = list(range(len(row["texts"]))), Counter[str]()
    for start, stop in prompts.windows(len(order), cfg.window, cfg.window_step):
        answer = await ask(row["query"], [row["texts"][index] for index in order[start:stop]])
        used.update({key: answer.get(key, 0) for key in ("prompt_tokens", "generated_tokens")})
        if answer.get("error"):
            return {**used, "error": answer["error"]}
        said = answers.parse_answer(answer["text"], stop - start)
        order[start:stop] = [order[start + place] for place in (*said.ranked, *said.missing)]
    return {**used, "text": prompts.written(order)}


def _bounded(stage: Any, ledger: Any, cfg: JudgeConfig, model: str) -> Any:
    """A processor's engine stage that gives up a prompt over which `engine_deaths` engines have died, and that slides
    a window where the config has one."""
    base, most = stage.fn, cfg.engine_deaths

    class Bounded(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.suspects = asyncio.Lock()  # one group of them at a time in an engine
            self.planner = planner.Planner(cfg, model) if cfg.window else None

        async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
            keys = [f"{row['part']}/{row['row']}/{row['slot']}" for row in batch]
            deaths = await ledger.deaths_of.remote(keys)
            fresh, suspects, given_up = groups(deaths, most)
            for index in given_up:
                error = f"{most} engines died while this prompt was being answered"
                place = {self.IDX_IN_BATCH_COLUMN: batch[index][self.IDX_IN_BATCH_COLUMN]}
                yield {**place, "__inference_error__": error}
            async for answer in self._answered(batch, keys, fresh):
                yield answer
            for group in suspects:
                async with self.suspects:
                    async for answer in self._answered(batch, keys, group):
                        yield answer

        async def _answered(
            self, batch: list[dict[str, Any]], keys: list[str], chosen: list[int]
        ) -> AsyncIterator[dict[str, Any]]:
            if not chosen:
                return
            await ledger.begin.remote([keys[index] for index in chosen])
            async for answer in super().udf([batch[index] for index in chosen]):
                yield answer
            await ledger.end.remote([keys[index] for index in chosen])

        async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: Any) -> dict[str, Any]:
            whole = super()._generate_with_error_handling
            planner, last = self.planner, dict[str, Any]()
            if planner is None:
                return dict(await whole(row, batch_uuid))

            async def ask(query: str, texts: list[str]) -> dict[str, Any]:
                last.update(await whole({**row, **planner.window(query, texts)}, batch_uuid))
                return {name: last[column] for name, column in ANSWER_COLUMNS.items()}

            found = await slide(row["sliding"], cfg, ask)
            return last | {column: found[name] for name, column in ANSWER_COLUMNS.items() if name in found}

    return stage.model_copy(update={"fn": Bounded})  # an assignment would work out its resources again, wrongly


def light(cfg: JudgeConfig) -> dict[str, Any]:
    """Options of the stages around the engines: as few processes as keep these fed. At a tenth of a CPU, Ray Data
    would otherwise start dozens, and on a small machine their imports alone take minutes."""
    return {"num_cpus": LIGHT_CPUS, "concurrency": math.ceil(cfg.engines / ENGINES_FED)}


def kind(cfg: JudgeConfig) -> str:
    """What vLLM calls a task: generate | embed | classify."""
    kinds = {"order": "generate", "explain": "generate", "score": "classify"}
    kinds["likelihood"] = "embed" if cfg.likelihood_by == "pooler" else "generate"
    return kinds[cfg.task]


def engine_kwargs(cfg: JudgeConfig, model: str) -> dict[str, Any]:
    """The engine's arguments: the config's, over those that the task needs."""
    if kind(cfg) != "embed":
        return dict(cfg.engine_kwargs)
    # A pooling model's head is float32 by default; vLLM would cast the whole vocabulary's at every step.
    overrides = {"architectures": [_twin(model)], "head_dtype": "model"}
    return {"hf_overrides": overrides, "enable_prefix_caching": False, **cfg.engine_kwargs}


def vllm(cfg: JudgeConfig, model: str, units: int) -> Any:
    """`ray.data.llm`'s processor with only the engine stage: prompts come tokenized, texts leave detokenized.

    No more engines are asked for than there are `units` of work.
    """
    most = min(cfg.engines, units)
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
        runtime_env={"env_vars": {**cfg.engine_env, MARK: os.path.abspath(cfg.output)}},
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
    around = {"preprocess_map_kwargs": light(cfg), "postprocess_map_kwargs": light(cfg)}
    processor = build_processor(config, preprocess=lambda row: {}, postprocess=reduce, **around)
    ledger = ray.remote(Ledger).options(num_cpus=0, max_concurrency=1).remote()
    name = "vLLMEngineStage"
    processor.stages[name] = _bounded(processor.get_stage_by_name(name), ledger, cfg, model)
    return processor


def _twin(model: str) -> str:
    """The architecture that pools likelihoods for a model; `RradError` if it is no causal LM."""
    from transformers import AutoConfig

    name = (AutoConfig.from_pretrained(model).architectures or ["nothing"])[0]
    if not name.endswith("ForCausalLM"):
        found = f"its architecture is {name}, not a causal LM's"
        raise RradError(model, found, "name a causal LM, or set likelihood_by=prompt_logprobs")
    return vllm_likelihood.architecture(name)


def openai(cfg: JudgeConfig, planned: Any) -> Any:
    """The prompts through `workers` actors that ask an OpenAI-compatible endpoint."""
    return planned.map(
        Requests,
        fn_constructor_args=(cfg,),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cfg.engines),
        num_cpus=LIGHT_CPUS,
        max_concurrency=cfg.concurrent_batches,
    )


class Requests:
    """An actor: prompts to an OpenAI-compatible endpoint, `concurrency` at a time.

    The client waits and tries again after 429, 5xx and broken connections, as long as the endpoint asks for it or
    twice as long each time; what then still fails is the query's error.
    """

    def __init__(self, cfg: JudgeConfig) -> None:
        from openai import AsyncOpenAI

        self.cfg = cfg
        key = os.environ.get(cfg.openai.key_env) or "none"  # many endpoints of one's own ask for none
        limits = cfg.openai
        self.client = AsyncOpenAI(
            base_url=limits.url, api_key=key, timeout=limits.timeout_s, max_retries=limits.retries
        )
        self.slots = asyncio.Semaphore(cfg.openai.concurrency)

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        async with self.slots:
            return carried(row) | EMPTY | await self._row(row)

    async def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        if not self.cfg.window:
            return await self._answer(json.loads(row["messages"]))
        return await slide(
            row["sliding"], self.cfg, lambda query, texts: self._answer(prompts.listwise_prompt(query, texts))
        )

    async def _answer(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        try:
            reply = await self.client.chat.completions.create(
                model=self.cfg.model,
                messages=messages,  # type: ignore[arg-type]
                max_tokens=self.cfg.max_tokens,
                temperature=0.0,
            )
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
        usage = reply.usage
        return {
            "text": (reply.choices[0].message.content or "") if reply.choices else "",
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "generated_tokens": usage.completion_tokens if usage else 0,
        }
