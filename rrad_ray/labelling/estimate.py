"""The tokens, hours and price of a run before it is paid for: `rrad judge CONFIG --estimate`.

The prompts of a random sample of queries are planned as a run plans them, and their tokens counted. No engine and no
Ray is started, and nothing is written.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rrad_ray import prompts, tables
from rrad_ray.config import JudgeConfig
from rrad_ray.errors import RradError, at_place, in_stage
from rrad_ray.labelling import planner
from rrad_ray.labelling.answer_patterns import check_template
from rrad_ray.labelling.chat_template import ChatTemplate
from rrad_ray.labelling.prompt_calls import Prompt, calls_of
from rrad_ray.labelling.source import source_reader, source_row
from rrad_ray.rows import Row
from rrad_ray.tables import checkpoints, shards
from rrad_ray.tables.shards import Shard
from rrad_ray.tables.status import read_progress

SAMPLE_QUERIES = 256  # queries whose prompts are planned
SAMPLE_SHARDS = 32  # that they are read from


@dataclass(frozen=True)
class Estimate:
    """The cost of a run over `queries` with `documents`, from the prompts of `sampled` queries.

    `margin`: half the width of the 95 % confidence interval of `prompt_tokens`; 0 where all queries were planned.
    `answer_tokens`: where an `order` answer names every document once, and others are as long as they may be;
    `most_tokens`: where all are. `cut_documents`: those cut below `doc_tokens`. `too_long`: prompts that cannot be
    asked. `engine_tokens_per_s`: the speed of one engine, 0 if not known; `speed_from` says how it is known.
    """

    queries: int
    documents: int
    sampled: int
    calls: float
    prompt_tokens: float
    margin: float
    answer_tokens: float
    most_tokens: float
    cut_documents: float
    too_long: float
    engine_tokens_per_s: float
    speed_from: str


@dataclass
class _Cost:
    """The prompts of one query, or of several, counted."""

    queries: int = 0
    units: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    most_tokens: int = 0
    cut_documents: int = 0
    too_long: int = 0

    def __iadd__(self, other: _Cost) -> _Cost:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


def estimated(cfg: JudgeConfig) -> Estimate:
    """Return what a run of this config would cost.

    Raises `RradError` for an engine that asks no model, and for what a run would refuse before it pays.
    """
    with in_stage("judge"):
        if cfg.engine not in ("vllm", "openai"):
            raise RradError("engine", f"{cfg.engine} asks no model: it costs nothing", "name vllm or openai")
        check_template(cfg)
        every = cfg.own(shards.plan_shards(cfg.input, cfg.shard_queries, source_row(cfg)))
        groups = list(_sampled(cfg, every))
        whole = _Cost()
        for group in groups:
            whole += group
        if not whole.calls and whole.too_long:
            problem = f"all {whole.too_long:,} prompts of the sample are too long for the model"
            raise RradError("doc_tokens", problem, "lower it, or raise engine_kwargs.max_model_len")
        if not whole.calls:
            raise RradError(cfg.input, f"no query that task={cfg.task} asks about", "check the input and the task")
        units = sum(_units(cfg, shard.rows, shard.documents) for shard in every)
        factor = units / whole.units
        queries = sum(shard.rows for shard in every)
        speed, source = _speed(cfg)
        return Estimate(
            queries=queries,
            documents=sum(shard.documents for shard in every),
            sampled=whole.queries,
            calls=whole.calls * factor,
            prompt_tokens=whole.prompt_tokens * factor,
            margin=_margin(groups, whole, factor),
            answer_tokens=whole.answer_tokens * factor,
            most_tokens=whole.most_tokens * factor,
            cut_documents=whole.cut_documents * factor,
            too_long=whole.too_long * factor,
            engine_tokens_per_s=speed,
            speed_from=source,
        )


def estimate_lines(cfg: JudgeConfig, cost: Estimate) -> list[str]:
    """Return an estimate in words."""
    per_call = cost.prompt_tokens / cost.calls
    exact = "exact" if not cost.margin else f"± {100 * cost.margin / cost.prompt_tokens:.1g} %"
    lines = [
        f"task {cfg.task}, engine {cfg.engine}, model {cfg.model}; prompts of {cost.sampled:,} queries were planned",
        f"queries         {cost.queries:,} with {cost.documents:,} documents",
        f"calls           {cost.calls:,.0f}",
        f"prompt tokens   {cost.prompt_tokens:,.0f} ({exact}), {per_call:,.0f} a call",
        f"answer tokens   {cost.answer_tokens:,.0f} expected, at most {cost.most_tokens:,.0f}",
    ]
    lines += [f"cut             {cost.cut_documents:,.0f} documents, to fit the model"] if cost.cut_documents else []
    lines += [f"not asked       {cost.too_long:,.0f} prompts, too long for the model"] if cost.too_long else []
    if cfg.engine == "openai":
        lines[3] += f", by the tokenizer of {cfg.openai.tokenizer} (openai.tokenizer)"
        prices = (_price(cfg, cost, tokens) for tokens in (cost.answer_tokens, cost.most_tokens))
        priced = "price           {:,.2f} expected, at most {:,.2f}".format(*prices)
        known = cfg.openai.prompt_price or cfg.openai.answer_price
        return [*lines, priced if known else "price           set openai.prompt_price and openai.answer_price"]
    if not cost.engine_tokens_per_s:
        return [*lines, "engine hours    set engine_tokens_per_s, which a small run shows as tokens/s, in and out"]
    hours = (cost.prompt_tokens + cost.answer_tokens) / cost.engine_tokens_per_s / 3600
    lines.append(
        f"engine hours    {hours:,.3g} at {cost.engine_tokens_per_s:,.0f} tokens/s ({cost.speed_from}); "
        f"{hours / cfg.engines:,.3g} hours on {cfg.engines} engines"
    )
    priced = f"price           {_price(cfg, cost, cost.answer_tokens):,.2f}"
    return [*lines, priced if cfg.gpu_hour_price else "price           set gpu_hour_price"]


def _price(cfg: JudgeConfig, cost: Estimate, answer_tokens: float) -> float:
    tokens = cost.prompt_tokens + answer_tokens
    seconds = tokens / cost.engine_tokens_per_s / cfg.engines if cost.engine_tokens_per_s else 0.0
    return cfg.price(cost.prompt_tokens, answer_tokens, seconds)


def _speed(cfg: JudgeConfig) -> tuple[float, str]:
    """Return the tokens, prompt and answer together, that one engine does in a second, and how that is known."""
    if cfg.engine_tokens_per_s:
        return cfg.engine_tokens_per_s, "engine_tokens_per_s"
    progress = read_progress(tables.join(cfg.output, tables.name_of_slice(tables.PROGRESS, cfg))) or {}
    rates = [progress.get(f"{kind}_tokens_per_s", 0.0) for kind in ("prompt", "generated")]
    return sum(rates) / cfg.engines, "as this output's last run"


def _units(cfg: JudgeConfig, rows: int, documents: int) -> int:
    """Return what calls and tokens are in proportion to: queries or documents."""
    return rows if cfg.task == "order" else documents


def _sampled(cfg: JudgeConfig, every: Sequence[Shard]) -> Iterator[_Cost]:
    """Yield the cost of each sampled query or, where only some shards are read, of the queries of each of them: a
    shard's queries may be alike, and the margin must know."""
    count, source = _Counter(cfg), random.Random(cfg.seed)
    chosen = source.sample(every, min(SAMPLE_SHARDS, len(every)))
    for shard in chosen:
        rows = shards.read_shard(cfg.input, shard, source_row(cfg))
        if sum(each.rows for each in every) > SAMPLE_QUERIES:
            rows = source.sample(rows, min(math.ceil(SAMPLE_QUERIES / len(chosen)), len(rows)))
        costs = [count(row) for row in rows]
        if len(chosen) == len(every):
            yield from costs
        else:
            together = _Cost()
            for cost in costs:
                together += cost
            yield together


def _margin(groups: Sequence[_Cost], whole: _Cost, factor: float) -> float:
    """Return half the 95 % confidence interval of a ratio estimate of all prompt tokens, from groups drawn at random
    (Cochran, Sampling Techniques, chapter 6)."""
    n, ratio = len(groups), whole.prompt_tokens / whole.units
    if factor <= 1.0 or n < 2:
        return 0.0
    squares = sum((group.prompt_tokens - ratio * group.units) ** 2 for group in groups)
    return 1.96 * factor * math.sqrt(n / (n - 1) * squares * (1 - 1 / factor))


class _Counter:
    """A function of a row that returns the cost of its prompts."""

    def __init__(self, cfg: JudgeConfig) -> None:
        from rrad_ray.rankers import loading

        self.cfg = cfg
        model = cfg.model if cfg.engine == "vllm" else cfg.openai.tokenizer
        folder = checkpoints.resolve(model, weights=False)
        with at_place(model, "name a model with a tokenizer and a chat template"):
            self.planner = planner.Planner(cfg, folder, source_reader(cfg.input))
            self.tokenizer = loading.load_tokenizer(folder, loading.without_weights(folder))
            if cfg.engine == "openai":
                self.chat_template = ChatTemplate(self.tokenizer, cfg.chat_template_kwargs)

    def __call__(self, row: Row) -> _Cost:
        cost = _Cost(1, _units(self.cfg, 1, len(row["doc_ids"])))
        for prompt in (call for planned in self.planner(row) for call in calls_of(planned)):
            cost.cut_documents += prompt["truncated"]
            if prompt["too_long"]:
                cost.too_long += 1
                continue
            for tokens, shown in self._calls(prompt):
                most = self._most(prompt)
                cost.calls += 1
                cost.prompt_tokens += tokens
                cost.most_tokens += most
                cost.answer_tokens += min(most, self._answer(shown))
        return cost

    def _calls(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        """Yield the prompt's tokens and the documents shown of each call; of a sliding window, as if no answer moved
        a document."""
        cfg = self.cfg
        if "sliding" in prompt:
            row = json.loads(prompt["sliding"])
            for start, stop in prompts.windows(len(row["texts"]), cfg.window, cfg.window_step):
                shown = row["texts"][start:stop]
                if cfg.engine == "vllm":
                    yield len(self.planner.window(row["query"], shown)["token_ids"]), len(shown)
                else:
                    yield len(self.chat_template.ids(cfg.prompt.chat(row["query"], shown))), len(shown)
        elif "messages" in prompt:
            yield len(self.chat_template.ids(json.loads(prompt["messages"]))), prompt.get("documents", 1)  # a chunk's
        else:
            yield len(prompt["token_ids"]), prompt.get("documents", 1)

    def _most(self, prompt: Prompt) -> int:
        """Return the most tokens that an answer may have; one that is read off the prompt's pass has none."""
        if self.cfg.task == "grade":
            return 1
        if self.cfg.engine == "openai":
            return self.cfg.max_tokens
        if "sliding" in prompt:
            return planner.answer_tokens(self.cfg, self.tokenizer, self.cfg.window)
        return int(prompt.get("sampling_params", {}).get("max_tokens", 0))

    def _answer(self, shown: int) -> int:
        """Return the tokens of an answer that names every document, with its end."""
        if self.cfg.task != "order":
            return self.cfg.max_tokens
        return planner.order_tokens(self.tokenizer, self.cfg.prompt, shown) + 1
