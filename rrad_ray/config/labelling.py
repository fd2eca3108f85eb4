"""Configs of the labels: `judge` and `label`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from rrad_ray.config.answering import OpenAIConfig, SimulatedConfig
from rrad_ray.config.base import (
    CHECKED,
    NO_BOOL,
    SMOLLM2,
    Actors,
    Count,
    CountOrNone,
    GivenUri,
    NotNegative,
    Number,
    Pool,
    Positive,
    ResourceSpec,
    Seed,
    Share,
    StagePaths,
    most_of,
    require,
)
from rrad_ray.config.chunks import ChunksConfig
from rrad_ray.config.template_files import TEMPLATES, load_template
from rrad_ray.languages import Language

JudgeTask = Literal["likelihood", "order", "grade", "score", "explain"]
Part = TypeVar("Part")

Engine = Literal["vllm", "openai", "echo", "simulated"]
Aggregation = Literal["borda", "copeland", "bradley_terry"]
MissingDocuments = Literal["negative", "append"]


@dataclass(frozen=True, config=CHECKED)
class GateConfig:
    """The check before labels are paid for: does the labeller beat its shuffled input and the first stage on dev?"""

    enabled: bool = True
    """Stop the run where the check fails; false: say so and go on."""
    against: str = "bm25"
    """The source whose order is the first stage; `given`: the order in which the input lists the documents, which is
    also compared with where the input has no sources."""
    max_p: Annotated[float, Field(gt=0, le=1), NO_BOOL] = 0.05
    """The p-value of a one-sided paired t-test against shuffled input, below which the labeller passes."""
    min_queries: CountOrNone = 30
    """With fewer judged dev queries than this there is no check, and the run says so."""


@dataclass(frozen=True, config=CHECKED)
class PromptConfig:
    """The keys that a prompt is made from, whoever asks it: `judge`, or a listwise labeller in training."""

    task: JudgeTask = "likelihood"
    """`likelihood`: log p(query | document). `order`: a listwise answer, `repeats` of them. `grade`: a document's
    relevance by the logits of labels such as yes and no, or 0 to 3, after one forward pass. `score`: the scores of a
    fine-tuned sequence-classification teacher. `explain`: reads the judge's output and adds the reason for each
    document's rank, except for dev and test queries, on which nothing is trained."""
    engine: Engine = "vllm"
    """What answers. `echo` and `simulated` answer without a model: for dry runs and research only."""
    likelihood_by: Literal["pooler", "prompt_logprobs"] = "pooler"
    """How vLLM gives likelihoods: by a pooler that projects the query's tokens only, or by its `prompt_logprobs`."""
    template: str = ""
    """The words of the prompt: a shipped template by name (`order`, `order-ko`, `rankgpt`, `grade`, `qwen3-reranker`,
    `explain`, `question`, ...), or a YAML file of your own, local or `s3://`; empty: `order`, `grade`, `explain` or
    `question`, by the task, in `language`, and for `score` the pair as the model's tokenizer joins it.
    `--show-prompts 3` prints what would be sent."""
    language: Language = "auto"
    """The language of the shipped template where none is named: `ko`, `zh`, `ja`; others have English words."""
    doc_tokens: Count = 96
    """Tokens that a document is cut to, and below that where a prompt would not fit the model."""
    chunks: ChunksConfig = Field(default_factory=ChunksConfig)
    """`grade`, `likelihood`, `score`: long documents in chunks, each a call; the best one's score is the document's.
    An endpoint's `tokens` are words."""
    query_tokens: Count = 64
    """Tokens that a query is cut to in a likelihood prompt."""
    max_tokens: Count = 128
    """Tokens of an answer, for `order` and `explain`. vLLM: at least those of an order of all documents."""
    thinking_tokens: CountOrNone = 0
    """vLLM: tokens that a model may think for before `max_tokens` of answer, where `<think>` and `</think>` (or
    `engine_kwargs.reasoning_config`) stand around it; 0: thinking counts as answer."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of the model's chat template, as in {enable_thinking: false}; `openai` sends them along."""
    answer: Literal["text", "first_token"] = "text"
    """`order`, vLLM: `first_token` reads the order, and scores, off the logits of the first identifier (FIRST): one
    forward pass, for labellers that `finetune` has trained with `rank_weight`."""
    repeats: Count = 1
    """`order`: calls for each query, each with the documents in an order of its own; with `block`, the calls that a
    document is shown in."""
    block: CountOrNone = 0
    """`order`: the most documents in a call. A list is shown in overlapping blocks, and each document in `repeats` of
    them: for long lists, with `aggregate: bradley_terry`. 2: pairs; 0: all documents in each call."""
    shuffle: bool = True
    """`order`: shuffle the documents, since an LLM that echoes its input must not inherit the first stage's
    quality."""
    window: CountOrNone = 0
    """`order`: RankGPT's sliding window of so many documents, a baseline; 0: one call."""
    window_step: Count = 10
    """`order` with `window`: documents that a window moves by."""
    structured: bool = False
    """`order`: vLLM may write an answer of the template's form only."""
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `vllm.AsyncEngineArgs`, as in {max_model_len: 4096}. Without a `dtype`, engines on CPUs compute in
    the format that is measured to be the fastest for the model's products."""
    simulated: SimulatedConfig = Field(default_factory=SimulatedConfig)
    """The teacher of `engine: simulated`."""
    seed: Seed = 0
    """Draws the orders in which documents are shown."""

    def __post_init__(self) -> None:
        self._check_chunks()
        require(self.repeats == 1 or self.task == "order", "repeats", self.repeats, "only task=order is repeated")
        want = "greedy answers to one and the same prompt are all alike: set shuffle=true"
        require(self.repeats == 1 or self.shuffle, "repeats", self.repeats, want)
        if self.block:
            require(self.block >= 2, "block", self.block, "must be at least 2, or 0 for all documents")
            overlap = self.task == "order" and self.repeats >= 2 and not self.window and self.answer == "text"
            require(overlap, "block", self.block, "needs task=order, answer=text, repeats of 2 or more, window=0")
        if self.window:
            require(self.window >= 2, "window", self.window, "must be at least 2, or 0 for one call")
            require(self.window_step <= self.window, "window_step", self.window_step, "must be in 1..window")
            one_order = self.task == "order" and self.repeats == 1
            require(one_order, "window", self.window, "needs task=order, repeats=1")
            asks = self.engine in ("vllm", "openai")
            require(asks, "engine", self.engine, "a window asks a model: vllm or openai")
        if self.engine == "openai":
            want = "engine=openai takes order, grade or explain"
            require(self.task in ("order", "grade", "explain"), "task", self.task, want)
            require(not self.structured, "structured", self.structured, "engine=openai has no grammar for it")
            want = "an endpoint takes its own field for it, as in openai.request={reasoning_effort: low}"
            require(not self.thinking_tokens, "thinking_tokens", self.thinking_tokens, want)
        if self.answer == "first_token":
            ok = self.task == "order" and self.engine == "vllm" and not self.window and not self.structured
            require(ok, "answer", self.answer, "needs task=order, engine=vllm, window=0 and structured=false")
        if self.engine == "openai" and self.task == "grade":
            ok = self.prompt.messages and self.prompt.score != "logit"
            require(
                ok, "template", self.template, "an endpoint takes `messages`, and gives probabilities, no `logit`"
            )
        _ = self.prompt  # read and checked here, on the user's machine; other processes get it with the config

    def _check_chunks(self) -> None:
        if self.chunks.tokens:
            want = "needs task=grade, likelihood or score, and engine=vllm or openai"
            ok = self.task in ("grade", "likelihood", "score") and self.engine in ("vllm", "openai")
            require(ok, "chunks.tokens", self.chunks.tokens, want)
            self.chunks.check_within("doc_tokens", self.doc_tokens)

    @cached_property
    def prompt(self) -> Any:
        """The template: one of `template_files.TEMPLATES`, by the task; None for `score` without words of its own.
        Raises `RradError`."""
        if self.task == "score" and not self.template:
            return None
        return load_template(TEMPLATES[self.task], self.template, self.language)

    def calls(self, documents: float) -> float:
        """Return the number of prompts about a query with so many documents."""
        if self.task != "order":
            return documents
        return self.repeats * (math.ceil(documents / self.block) if self.block else 1)

    @property
    def reads_logits(self) -> bool:
        """True where tokens' logits are the answer, and none is written."""
        return self.task == "grade" or self.answer == "first_token"

    @property
    def digests(self) -> dict[str, Any]:
        """The digests that a manifest keeps beside the config: another text of the template is another output."""
        return {"template_digest": self.prompt.digest} if self.prompt else {}

    @property
    def grades(self) -> list[float]:
        """The grades that its labels stand for, ascending, where the scores are on their scale; else empty."""
        expected = self.task == "grade" and self.prompt.score == "expected"
        return sorted(self.prompt.labels.values()) if expected else []

    @property
    def answer_regex(self) -> str:
        """The regular expression by which the answers in the output are read; empty: the built-in parser, which also
        reads the orders that a sliding window ends with."""
        return self.prompt.regex if self.task == "order" and not self.window else ""


def _slice(text: str) -> str:
    number, _, count = text.partition("/")
    known = not text or (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 1000)
    if not known:
        raise ValueError("write the number of the slice and how many there are, as in 3/12")
    return f"{int(number)}/{int(count)}" if text else ""


@dataclass(frozen=True, config=CHECKED)
class JudgeConfig(PromptConfig, StagePaths):
    """The LLM's labels: Ray Data shards the prompts over vLLM engines, or another engine answers them.

    `input`: candidates (for `explain`: the judge's output), or any folder of Parquet files with their columns.
    """

    # A killed run may go on with other values: they say how labels are made, not which.
    RESUMABLE: ClassVar[tuple[str, ...]] = (
        *("num_workers", "resources", "batch_size", "concurrent_batches", "durable_s", "openai"),
        *("engine_deaths", "gpu_hour_price", "engine_tokens_per_s", "stall_s", "slice"),
        *("gate", "engine_kwargs.gpu_memory_utilization"),
    )
    # Of these, what a finished table is made by, though one that failed may go on with a mended value.
    MADE_BY: ClassVar[tuple[str, ...]] = ("openai.request", "openai.system_role", "gate")

    model: str = SMOLLM2
    """The LLM: a local folder, an `s3://` folder, a hub id, a `bundled:` model, or what an endpoint calls it."""
    openai: OpenAIConfig = Field(default_factory=OpenAIConfig)
    """The endpoint of `engine: openai`."""
    gate: GateConfig = Field(default_factory=GateConfig)
    """The check of the labeller before the rest is paid for."""
    batch_size: Count = 32
    """Prompts that an engine gets at once; for an endpoint, `openai.concurrency` says it."""
    concurrent_batches: Count = 8
    """Batches that an engine has under way."""
    slice: Annotated[str, AfterValidator(_slice)] = ""
    """`3/12`: the third of twelve slices of the queries, for runs on one output from several clusters; the run that
    ends last finishes the table. Empty: all queries."""
    shard_queries: Annotated[int, Field(ge=1, le=1000), NO_BOOL] = 256
    """Queries of one unit of work, and of one part of the output."""
    durable_s: Annotated[float, Field(gt=0, le=60), NO_BOOL] = 30.0
    """Seconds after which answers of unfinished shards are on disk."""
    num_workers: Pool = 1
    """Engines, while there is work and the cluster has room for them; {min: 0, max: 8} is the same as 8."""
    resources: ResourceSpec = Field(default_factory=lambda: {"GPU": 1.0})
    """What one engine asks of Ray."""
    engine_env: dict[str, str] = Field(default_factory=dict)
    """vLLM's own environment variables, as in {VLLM_CPU_KVCACHE_SPACE: "1"}."""
    engine_deaths: Count = 4
    """Engine deaths after which a prompt that was being answered at each of them is quarantined."""
    gpu_hour_price: NotNegative = 0.0
    """Price of one GPU hour, to show what labels cost; 0: no cost is shown."""
    engine_tokens_per_s: NotNegative = 0.0
    """Tokens, in and out, that one engine does in a second, for `--estimate`; 0: as the last run of this output."""
    stall_s: Positive = 600.0
    """Seconds without an answer after which the run stops and says why."""
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops."""

    @property
    def engines(self) -> int:
        """The number of engines that are asked for while there is work.

        All at once, so that an autoscaler sees the need: a pool of Ray Data that grows by itself stays within the
        nodes that are there (ray#59144). The run does not wait for engines that the cluster cannot give; the last
        answer ends them all.
        """
        return most_of(self.num_workers)

    @property
    def share(self) -> tuple[int, int]:
        """The slice's number, from 1, and the number of slices."""
        number, _, count = (self.slice or "1/1").partition("/")
        return int(number), int(count)

    def own(self, shards: Sequence[Part]) -> list[Part]:
        """Return those of a table's shards that are the slice's."""
        number, count = self.share
        return list(shards[number - 1 :: count])

    @property
    def slice_name(self) -> str:
        """The slice in names of files; empty where there is none."""
        return self.slice.replace("/", "-of-")

    @property
    def digests(self) -> dict[str, Any]:
        """The prompt's, and the number of slices by which the runs of an output divide the queries."""
        return super().digests | ({"slices": self.share[1]} if self.slice else {})

    def price(self, prompt_tokens: float, answer_tokens: float, seconds: float) -> float:
        """Return the price of an endpoint's tokens, or of as many seconds of all engines; 0 without prices."""
        if self.engine == "openai":
            return (prompt_tokens * self.openai.prompt_price + answer_tokens * self.openai.answer_price) / 1e6
        return self.engines * self.resources.get("GPU", 0.0) * seconds / 3600 * self.gpu_hour_price


@dataclass(frozen=True, config=CHECKED)
class LabelConfig(StagePaths):
    """Training targets from the judge's output.

    For `likelihood`, `score` and `grade`, they are the fused teacher's: z-scores of a weighted sum of z-scores. With
    `targets: grades`, they are the collection's own qrels, on which DisRanker fine-tunes its teacher.
    """

    RESUMABLE: ClassVar[tuple[str, ...]] = ("num_workers", "resources")

    targets: Literal["teacher", "grades"] = "teacher"
    """What documents are learnt by: the teacher's scores, or the grades of the qrels."""
    unjudged: Literal["drop", "negative"] = "drop"
    """`grades`: candidates without a grade are dropped, or take grade 0 (`negative`); dev and test stay whole."""
    teachers: dict[str, GivenUri] = Field(default_factory=dict)
    """Other teachers by a name of yours: outputs of `judge` about the same queries, as in {gpt: s3://b/by-gpt}. They
    are fused as sources are. A query that one lacks is decided by the others, a document gets its lowest score."""
    weights: dict[str, Number] = Field(default_factory=dict)
    """Weights of `judge`, of other teachers and of sources by name, as in {judge: 1, bm25: 0.5}; empty: fitted on
    dev."""
    scale: Literal["query", "table", "absolute"] = "query"
    """What scores are z-scored over: each query's documents or, of a single source, the whole table, which keeps how
    relevant a query's documents are at all: DisRanker's Point-MSE learns it. `absolute`: a single source's scores as
    they are, such as the grades of `task: grade`, so that a threshold means the same for every query."""
    aggregate: Aggregation = "borda"
    """How several orders of a query become one: `borda`; `copeland`, the more robust; or `bradley_terry`, which fits
    a strength to each document, for blocks, and whose confidence is a win probability."""
    missing: MissingDocuments = "negative"
    """Documents that an answer leaves out: hard negatives, or `append`ed behind the ranked ones as RankGPT does."""
    num_workers: Actors = 1
    """The most processes that make labels, a part of the table each, or {min: 2, max: 8}: they come and go with the
    work and the cluster. 1: the command's own process, without Ray."""
    resources: ResourceSpec = Field(default_factory=lambda: {"CPU": 1.0})
    """What one of them asks of Ray."""
    keep_overlap: bool = False
    """Label queries of `train` and `unlabelled` whose text is that of a dev or test query too, but for case and white
    space. A student that learns from them has seen what it is tested on; left out, they are counted."""
    max_quarantined: Share = 0.05
    """The share of unusable answers above which the stage stops."""

    def __post_init__(self) -> None:
        for name in self.teachers:
            require(name != "judge", "teachers", name, "`judge` is the input; choose another name")
        require(len(self.teachers) <= 3, "teachers", len(self.teachers), "weights of at most 3 can be fitted")
        ok = not self.teachers or (self.targets == "teacher" and self.scale == "query")
        require(ok, "teachers", list(self.teachers), "they are fused by targets=teacher and scale=query")
        want = "sources differ in scale; name one, as in weights={judge: 1}"
        require(self.scale == "query" or len(self.weights) == 1, "scale", self.scale, want)
