"""One frozen dataclass per stage. `settings.load` merges YAML and `key=value` overrides into them.

A URI is a local path or `s3://bucket/prefix`. A model is a local folder, a hub id, or one of the two offline
defaults in `models.py` (`bundled:all-minilm-l6-v2`, `bundled:smollm2-135m-instruct`). Environment variables carry
credentials only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

MISSING_METHODS = ("negative", "append")  # what `aggregate` makes of documents that an answer leaves out

AGGREGATION_METHODS = ("borda", "copeland")

SPLITS = ("train", "dev", "test", "unlabelled")

MINILM = "bundled:all-minilm-l6-v2"

SMOLLM2 = "bundled:smollm2-135m-instruct"


def _require(ok: bool, key: str, value: Any, want: str) -> None:
    if not ok:
        raise ValueError(f"{key}={value!r}: {want}")


def _choose(key: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, key, value, f"choose one of {', '.join(choices)}")


def _is_pool(workers: Any) -> bool:
    if not isinstance(workers, dict):
        return isinstance(workers, int) and workers >= 1
    high = workers.get("max", 0)
    return set(workers) <= {"min", "max"} and workers.get("min", 0) == 0 and isinstance(high, int) and high >= 1


def _team(workers: Any, key: str = "workers") -> tuple[int, int]:
    """The fewest and the most of training workers, or of replicas: `4`, or `{min: 1, max: 4}`."""
    low: Any = workers.get("min", 1) if isinstance(workers, dict) else workers
    high: Any = workers.get("max") if isinstance(workers, dict) else workers
    known = not isinstance(workers, dict) or set(workers) <= {"min", "max"}
    ok = known and isinstance(low, int) and isinstance(high, int) and 1 <= low <= high
    _require(ok, key, workers, "write a number from 1, or {min: 1, max: 4}")
    return low, high


@dataclass(frozen=True)
class RetrieveConfig:
    """First stage: the nearest documents by BM25 and by a bi-encoder, or the user's own.

    `data`: `pydoc:` (the documentation of this Python environment), a BEIR folder, or a file of candidates with
    their texts, which are taken as they are: RankLLM requests or RankGPT hits (`.json`, `.jsonl`), MS MARCO's
    top1000 (`.tsv`).
    """

    data: str
    output: str
    qrels: dict[str, str] = field(default_factory=dict)  # for a file of candidates: split -> TREC qrels
    run: str = ""  # a TREC run of your own first stage; then BM25 and the bi-encoder only score its documents
    model: str = MINILM
    bm25_depth: int = 10
    dense_depth: int = 10
    queries: dict[str, int] = field(default_factory=dict)  # at most how many of a split; a split not named: all
    batch_tokens: int = 8192  # tokens per forward pass of the bi-encoder
    max_length: int = 128  # tokens of a document that the bi-encoder reads
    workers: int = 1
    rows_per_part: int = 128
    max_quarantined: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.bm25_depth >= 0, "bm25_depth", self.bm25_depth, "must not be negative")
        _require(self.dense_depth >= 0, "dense_depth", self.dense_depth, "must not be negative")
        _require(bool(self.run) or self.bm25_depth + self.dense_depth > 0, "bm25_depth", 0, "no source is left")
        for split, limit in self.queries.items():
            _choose("queries", split, SPLITS)
            _require(limit >= 0, f"queries.{split}", limit, "must not be negative")
        for split in self.qrels:
            _choose("qrels", split, SPLITS)
        _require(self.workers >= 1, "workers", self.workers, "must be at least 1")
        _require(self.rows_per_part >= 1, "rows_per_part", self.rows_per_part, "must be at least 1")


@dataclass(frozen=True)
class PrerankConfig:
    """Pre-ranker: orders the candidates and keeps the top-k, the bottom-k and, between them, a random few."""

    input: str
    output: str
    source: str = ""  # order by this source's scores (`dense`), which retrieve kept; empty: run `model` on the texts
    model: str = MINILM
    top_k: int = 10
    bottom_k: int = 5
    random_k: int = 0
    keep_whole: tuple[str, ...] = ("dev", "test")  # splits that are judged whole, so that they can be measured
    batch_tokens: int = 8192
    max_length: int = 128
    workers: int = 1
    max_quarantined: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("top_k", "bottom_k", "random_k"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        _require(self.top_k + self.bottom_k + self.random_k >= 2, "top_k", self.top_k, "keep at least two documents")
        for split in self.keep_whole:
            _choose("keep_whole", split, SPLITS)


@dataclass(frozen=True)
class GateConfig:
    """Before labels are paid for: does the labeller beat its own shuffled input and the first stage on dev?"""

    enabled: bool = True
    against: str = "bm25"  # the source whose order is the first stage
    max_p: float = 0.05  # one-sided paired t-test against shuffled input
    min_queries: int = 30  # fewer judged dev queries than this: no check is possible, and it says so

    def __post_init__(self) -> None:
        _require(0 < self.max_p <= 1, "gate.max_p", self.max_p, "must be in (0, 1]")


@dataclass(frozen=True)
class OpenAIConfig:
    """Any endpoint that speaks OpenAI's chat completions (`engine: openai`)."""

    url: str = "http://127.0.0.1:8000/v1"
    key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key, where the actors run
    concurrency: int = 32  # requests that an actor has under way
    retries: int = 6  # of one request after 429, 5xx or a broken connection, with exponential backoff
    timeout_s: float = 120.0  # of one request
    token_budget: int = 0  # prompt and generated tokens together, over all runs of this output; 0: no limit

    def __post_init__(self) -> None:
        _require(self.url.startswith(("http://", "https://")), "openai.url", self.url, "must begin with http(s)://")
        _require(self.concurrency >= 1, "openai.concurrency", self.concurrency, "must be at least 1")
        _require(self.retries >= 0, "openai.retries", self.retries, "must not be negative")
        _require(self.timeout_s > 0, "openai.timeout_s", self.timeout_s, "must be positive")
        _require(self.token_budget >= 0, "openai.token_budget", self.token_budget, "must not be negative")


@dataclass(frozen=True)
class SimulatedConfig:
    """A teacher made from the collection's own judgments (`engine: simulated`): research on label recipes only."""

    noise: float = 0.5  # standard deviation of what is added to a document's grade
    missing: float = 0.1  # share of documents that an answer leaves out, the lowest first
    malformed: float = 0.02  # share of answers that say nothing

    def __post_init__(self) -> None:
        _require(self.noise >= 0, "simulated.noise", self.noise, "must not be negative")
        for key in ("missing", "malformed"):
            _require(0 <= getattr(self, key) <= 1, f"simulated.{key}", getattr(self, key), "must be in [0, 1]")


TASKS = ("likelihood", "order", "score", "explain")

ENGINES = ("vllm", "openai", "echo", "simulated")


@dataclass(frozen=True)
class JudgeConfig:
    """The LLM's labels: Ray Data x vLLM.

    `order`: a listwise answer, `repeats` of them. `likelihood`: log p(query | document). `score`: a fine-tuned
    sequence-classification teacher's scores. `explain`: reads judgments, adds the reason for each document's place,
    not for dev and test queries, on which nothing is trained.
    """

    # A killed run may go on with other ones: they say how labels are made, not which.
    FREE: ClassVar[tuple[str, ...]] = ("workers", "worker", "batch_size", "concurrent_batches", "durable_s", "openai")
    FREE += ("engine_deaths", "gpu_hour_price", "stall_s")

    input: str  # candidates (for `explain`: judgments), or any folder of Parquet files with their columns
    output: str
    task: str = "likelihood"
    engine: str = "vllm"  # `echo` and `simulated` answer without a model: dry runs and research only
    likelihood_by: str = "pooler"  # vllm_likelihood.py: projects the query's tokens only; or vLLM's `prompt_logprobs`
    model: str = SMOLLM2
    template: str = "question"  # prompts.LIKELIHOOD: how the passage and the query stand in the prompt
    doc_tokens: int = 96  # a document is cut to so many tokens, and below that where a prompt would not fit the model
    query_tokens: int = 64
    max_tokens: int = 128  # of the answer, for `order` and `explain`
    repeats: int = 1  # `order`: calls per query, each with the documents in an order of its own
    shuffle: bool = True  # `order`: an LLM that echoes its input must not inherit the first stage's quality
    window: int = 0  # `order`: RankGPT's sliding window of so many documents, a baseline; 0: one call
    window_step: int = 10
    structured: bool = False  # `order`: vLLM may write identifiers only (prompts.permutation)
    openai: OpenAIConfig = field(default_factory=OpenAIConfig)
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    batch_size: int = 32
    concurrent_batches: int = 8
    shard_queries: int = 256  # queries of one unit of work, and of one part of the output
    durable_s: float = 30.0  # answers of unfinished shards are written so often
    workers: Any = 1  # engines, while there is work and the cluster gives them; {min: 0, max: 8} is the same as 8
    worker: dict[str, float] = field(default_factory=lambda: {"GPU": 1})  # what an engine asks of Ray
    engine_kwargs: dict[str, Any] = field(default_factory=dict)  # vllm.AsyncEngineArgs
    engine_env: dict[str, str] = field(default_factory=dict)  # vLLM's own environment knobs (VLLM_CPU_...)
    engine_deaths: int = 4  # a prompt that was there so often when its engine died is set aside
    gpu_hour_price: float = 0.0  # what an hour of a GPU costs, to show what labels cost; 0: not shown
    stall_s: float = 600.0  # no answer for so long: stop with the reason
    max_quarantined: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _choose("task", self.task, TASKS)
        _choose("engine", self.engine, ENGINES)
        _choose("likelihood_by", self.likelihood_by, ("pooler", "prompt_logprobs"))
        for key in ("doc_tokens", "query_tokens", "max_tokens", "batch_size", "concurrent_batches"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        _require(_is_pool(self.workers), "workers", self.workers, "write a number from 1, or {min: 0, max: 8}")
        _require(1 <= self.shard_queries <= 1000, "shard_queries", self.shard_queries, "must be in 1..1000")
        _require(0 < self.durable_s <= 60, "durable_s", self.durable_s, "must be in (0, 60]")
        _require(self.repeats >= 1, "repeats", self.repeats, "must be at least 1")
        _require(self.repeats == 1 or self.task == "order", "repeats", self.repeats, "only task=order is repeated")
        want = "greedy answers to one and the same prompt are all alike: set shuffle=true"
        _require(self.repeats == 1 or self.shuffle, "repeats", self.repeats, want)
        if self.window:
            _require(self.window >= 2, "window", self.window, "must be at least 2, or 0 for one call")
            _require(1 <= self.window_step <= self.window, "window_step", self.window_step, "must be in 1..window")
            _require(self.task == "order" and self.repeats == 1, "window", self.window, "needs task=order, repeats=1")
            _require(
                self.engine in ("vllm", "openai"), "engine", self.engine, "a window asks a model: vllm or openai"
            )
        _require(self.engine_deaths >= 1, "engine_deaths", self.engine_deaths, "must be at least 1")
        _require(self.gpu_hour_price >= 0, "gpu_hour_price", self.gpu_hour_price, "must not be negative")
        _require(self.stall_s > 0, "stall_s", self.stall_s, "must be positive")
        if self.engine == "openai":
            _require(self.task in ("order", "explain"), "task", self.task, "engine=openai takes order or explain")
            _require(not self.structured, "structured", self.structured, "engine=openai has no grammar for it")

    @property
    def engines(self) -> int:
        """How many engines are asked for while there is work. All at once, so that an autoscaler sees the need: a
        pool of Ray Data that grows by itself stays within the nodes that are there (ray#59144). Those that the
        cluster cannot give are not waited for; the last answer ends them all."""
        return int(self.workers if isinstance(self.workers, int) else self.workers["max"])


@dataclass(frozen=True)
class LabelConfig:
    """Answers to targets. For `likelihood` and `score`: the fused teacher, z-scores of a weighted sum of z-scores.

    Or, with `targets: grades`, the collection's own judgments: what DisRanker fine-tunes its teacher on.
    """

    input: str
    output: str
    targets: str = "teacher"
    # `grades`: candidates that nobody judged are dropped, or take grade 0 (`negative`); dev and test stay whole.
    unjudged: str = "drop"
    weights: dict[str, float] = field(default_factory=dict)  # `judge` and source names; empty: fitted on dev
    # What scores are made to z-scores over: each query's documents or, of a single source, the whole `table`, which
    # keeps how relevant a query's documents are at all: what DisRanker's Point-MSE is to learn.
    scale: str = "query"
    aggregate: str = "borda"  # how several orders of a query become one: `borda`, or `copeland`, the more robust
    missing: str = "negative"  # documents that an answer leaves out: hard negatives, or `append` as RankGPT does
    max_quarantined: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _choose("targets", self.targets, ("teacher", "grades"))
        _choose("unjudged", self.unjudged, ("drop", "negative"))
        _choose("scale", self.scale, ("query", "table"))
        want = "sources differ in scale; name one, as in weights={judge: 1}"
        _require(self.scale == "query" or len(self.weights) == 1, "scale", self.scale, want)
        _choose("aggregate", self.aggregate, AGGREGATION_METHODS)
        _choose("missing", self.missing, MISSING_METHODS)


EXPORTS = ("trec", "rankllm", "rankllm-train", "first", "rankgpt", "sentence-transformers", "clicks")


@dataclass(frozen=True)
class ExportConfig:
    """Labels for other trainers.

    `trec`: a run file. `rankllm`: requests, best first. `rankllm-train`, `first`: RankLLM's training conversations
    with numbers, or letters for its rank loss. `rankgpt`: passages and permutations. `sentence-transformers`:
    listwise columns. `clicks`: what `tune` reads; documents with a target above 0 stand in for clicked ones.
    """

    input: str  # labels
    output: str
    format: str = "rankllm"
    splits: tuple[str, ...] = ("train", "unlabelled")

    def __post_init__(self) -> None:
        _choose("format", self.format, EXPORTS)
        for split in self.splits:
            _choose("splits", split, SPLITS)


@dataclass(frozen=True)
class TermsConfig:
    """RRA-BERT's Token Selection and Term Control Layer (terms.py): at training only, so a student costs the same."""

    weight: float = 0.0  # of its rank loss beside the plain score's; 0: none of it
    match: str = "word"  # selected document tokens: of words that the query has too, or of equal token ids (`token`)
    pooling: str = "mean"  # of the selected tokens' states: mean, max or attention
    gate: bool = True  # from `[CLS]`, on each dimension of what is pooled

    def __post_init__(self) -> None:
        _require(self.weight >= 0, "terms.weight", self.weight, "must not be negative")
        _choose("terms.match", self.match, ("word", "token"))
        _choose("terms.pooling", self.pooling, ("mean", "max", "attention"))


@dataclass(frozen=True)
class GenerationConfig:
    """RRA-GPT's label and reason, written after the pair (generation.py): at training only."""

    weight: float = 0.0  # of the token loss beside the rank loss; 0: none of it
    max_tokens: int = 64  # of label, reason and end together

    def __post_init__(self) -> None:
        _require(self.weight >= 0, "generation.weight", self.weight, "must not be negative")
        _require(self.max_tokens >= 1, "generation.max_tokens", self.max_tokens, "must be at least 1")


@dataclass(frozen=True)
class FitConfig:
    """What the training loop (fit.py) and Ray Train read, whatever is trained. A step is one update."""

    FREE: ClassVar[tuple[str, ...]] = ("max_failures", "track")  # how a run is made, not what it makes

    input: str
    output: str
    splits: tuple[str, ...] = ("train", "unlabelled")
    layers: int = 0  # keep the first n layers; 0: all
    # Of a causal LM or a decoder: 0 trains all weights; n, adapters of rank n by peft, and a ranking layer in full.
    # Saved merged; `tune` keeps the adapters alone in `adapter/` too.
    lora_rank: int = 0
    epochs: float = 1.0
    max_steps: int = 0  # 0: what the epochs give
    max_seconds: float = 0.0  # 0: no limit; otherwise the schedule ends there, whatever the machine's speed
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 30
    clip: float = 1.0
    # A step's batch goes through the model in so many parts, whose gradients sum up to that of the whole batch: less
    # memory, the same update. (Only nearly the same for the loss `lambda` with `k`, whose pairs the scores choose.)
    accumulate: int = 1
    dropout: float = 0.0
    freeze_embeddings: bool = False
    dtype: str = "auto"  # bfloat16 where the hardware multiplies it; the optimizer keeps float32 either way
    eval_steps: int = 100  # figures on dev and a checkpoint every so many steps
    patience: int = 0  # evaluations on dev in a row that are not better than the best before: then it ends; 0: never
    workers: Any = 1  # or {min: 1, max: 4}: as many as the cluster has room for, and others when that changes
    parallel: str = "ddp"  # every worker holds all weights; `fsdp`: weights and optimizer are cut over the workers
    average_every: int = 1  # 1: workers exchange gradients at every step; n: they average their weights every n steps
    # The student is the mean of its weights from this share of the training on, at a rate that does not fall
    # (stochastic weight averaging): less noise of single steps. 1: the last weights, at a rate that falls to 0.
    average_from: float = 1.0
    worker: dict[str, float] = field(default_factory=lambda: {"CPU": 1})
    max_failures: int = 2
    track: tuple[str, ...] = ("tensorboard",)  # where curves go beside history.json: tensorboard, mlflow, wandb
    max_quarantined: float = 0.05  # share of the rows that may be bad: a target that is no number, no click at all
    seed: int = 0

    def __post_init__(self) -> None:
        _choose("dtype", self.dtype, ("auto", "bfloat16", "float32"))
        _choose("parallel", self.parallel, ("ddp", "fsdp"))
        want = "adapters are merged into a whole model when it is saved: set parallel=ddp"
        _require(self.parallel == "ddp" or not self.lora_rank, "lora_rank", self.lora_rank, want)
        want = "workers that share one set of weights have nothing to average: set parallel=ddp or average_every=1"
        _require(self.parallel == "ddp" or self.average_every == 1, "average_every", self.average_every, want)
        for split in self.splits:
            _choose("splits", split, SPLITS)
        for tracker in self.track:
            _choose("track", tracker, ("tensorboard", "mlflow", "wandb"))
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "must be in [0, 1)")
        _require(0 <= self.average_from <= 1, "average_from", self.average_from, "must be in [0, 1]")
        _require(self.lr > 0, "lr", self.lr, "must be positive")
        _require(self.clip > 0, "clip", self.clip, "must be positive")
        _require(self.epochs > 0, "epochs", self.epochs, "must be positive")
        for key in ("layers", "lora_rank", "max_steps", "max_seconds", "weight_decay", "warmup_steps", "patience"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        _team(self.workers)
        for key in ("accumulate", "eval_steps", "average_every"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")

    @property
    def team(self) -> tuple[int, int]:
        """The fewest workers that train, and the most."""
        return _team(self.workers)


@dataclass(frozen=True)
class TrainConfig(FitConfig):
    """A student, distilled under Ray Train from labels."""

    kind: str = "encoder"  # RRA-BERT, a cross-encoder; `decoder`: RRA-GPT, a ranking layer on the last token
    model: str = MINILM
    max_length: int = 96  # tokens of query and document together
    docs_per_query: int = 6  # documents of one query in a step
    top_docs: int = 3  # of them, from the top by target; the rest at random
    queries_per_step: int = 8  # of each worker
    pass_tokens: int = 0  # of a forward pass within a step, with padding; 0: 2048 on a CPU, 16384 on a GPU
    shuffle_rows: int = 10_000  # that a worker holds: a set that is not larger is shuffled whole
    epochs: float = 3.0
    # Names of losses.LOSSES, each with its weight or with options: {margin: {weight: 1.0, tau: 0.5}, point_mse: 0.5}.
    losses: dict[str, Any] = field(default_factory=lambda: {"soft_ranknet": 1.0})
    target_scale: float = 2.0  # soft_ranknet, unless its options name one: sigmoid(target_scale * target difference)
    # Targets before the losses see them: `none`, as they are; `query`, z-scores within each list; `global`, minus the
    # mean and over the deviation of all targets. Losses of the order alone (ranknet without gap_power, margin,
    # contrastive, listmle, p_listmle) learn the same from each; lambda and approx_ndcg want grades as they are; bce
    # wants [0, 1]. point_mse, margin_mse, soft_ranknet and listnet read distances: `none` is right for what `label`
    # fused (z-scores of the list already) and for grades, `query` for orders (they count up to the list's length) and
    # for several teachers, `global` for one teacher's scores whose level means something. Mixed scales are an error.
    normalize: str = "none"
    terms: TermsConfig = field(default_factory=TermsConfig)  # of an encoder
    generation: GenerationConfig = field(default_factory=GenerationConfig)  # of a decoder
    head_lr: float = 1e-3
    dropout: float = 0.0  # soft targets regularise enough; drawing masks costs a CPU more than half of its speed
    # Share of the words of query and documents that a training step does not see. It keeps a student of few labels
    # from learning them by heart, at no cost. Words stand between white space: Chinese or Japanese text stays whole.
    word_dropout: float = 0.0
    freeze_embeddings: bool = True
    eval_queries: int = 60  # judged dev queries that are measured, by nDCG@10

    def __post_init__(self) -> None:
        super().__post_init__()
        _choose("kind", self.kind, ("encoder", "decoder"))
        _require(self.docs_per_query >= 2, "docs_per_query", self.docs_per_query, "a rank loss needs two documents")
        _require(0 <= self.top_docs <= self.docs_per_query, "top_docs", self.top_docs, "at most docs_per_query")
        _require(0 <= self.word_dropout < 1, "word_dropout", self.word_dropout, "must be in [0, 1)")
        for key in ("max_length", "queries_per_step", "shuffle_rows"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        want = "a step has only queries_per_step queries"
        _require(self.accumulate <= self.queries_per_step, "accumulate", self.accumulate, want)
        _require(self.pass_tokens >= 0, "pass_tokens", self.pass_tokens, "must not be negative")
        _require(bool(self.losses), "losses", self.losses, "weigh at least one loss, as in {ranknet: 1.0}")
        for name, given in self.losses.items():
            want = "write its weight, or options as in {weight: 1.0, tau: 0.5}"
            _require(isinstance(given, (int, float, dict)), f"losses.{name}", given, want)
        _choose("normalize", self.normalize, ("none", "query", "global"))
        want = "the loss bce takes targets in [0, 1], which normalised ones leave"
        _require(self.normalize == "none" or "bce" not in self.losses, "normalize", self.normalize, want)
        _require(self.target_scale > 0, "target_scale", self.target_scale, "must be positive")
        for key, kind in (("terms", "encoder"), ("generation", "decoder")):
            weight = getattr(self, key).weight
            _require(not weight or self.kind == kind, f"{key}.weight", weight, f"only for kind={kind}")
        _require(not self.lora_rank or self.kind == "decoder", "lora_rank", self.lora_rank, "only for kind=decoder")


@dataclass(frozen=True)
class FinetuneConfig(FitConfig):
    """A causal LM, fine-tuned under Ray Train on tokens that follow a prompt.

    `clicks`: DisRanker's continued pre-training; a query is the prompt, the title and summary of a document that was
    clicked for it the target. `order`: a listwise labeller; `judge`'s own prompt, and the order of the labels.
    `input`: for `clicks`, a click log (clicks.py); for `order`, the output of label, of which `splits` are learnt.
    """

    task: str = "clicks"
    model: str = SMOLLM2
    max_length: int = 1024  # tokens of a sequence, which holds as many examples as fit, and so of an example
    sequences_per_step: int = 4  # of each worker
    min_clicks: int = 1  # `clicks`: learn from documents that were clicked so often
    held_out: float = 0.02  # `clicks`: share of the queries that perplexity is measured on and nothing is learnt from
    orders: int = 1  # `order`: how often a query is shown, each time with its documents shuffled anew
    doc_tokens: int = 96  # `order`: a document is cut as `judge` does it
    max_tokens: int = 128  # `order`: of the answer
    docs_per_query: int = 0  # `order`: at most so many of a query's documents, the best among them; 0: all
    missing: str = "omit"  # `order`: what the answer does with documents that the teacher left out: or `append`
    rank_weight: float = 0.0  # `order`: weight of FIRST's rank loss beside the token loss, which has 1
    eval_rows: int = 100  # held-out clicks, or judged dev queries, that are measured
    gradient_checkpointing: bool = False  # less memory for a third more time
    lr: float = 2e-5
    eval_steps: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        _choose("task", self.task, ("clicks", "order"))
        _choose("missing", self.missing, ("omit", "append"))
        _require(0 <= self.held_out < 1, "held_out", self.held_out, "must be in [0, 1)")
        for key in ("max_length", "sequences_per_step", "min_clicks", "orders", "doc_tokens", "max_tokens"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        want = "a step has only sequences_per_step sequences"
        _require(self.accumulate <= self.sequences_per_step, "accumulate", self.accumulate, want)
        room = self.task == "clicks" or self.max_tokens < self.max_length
        _require(room, "max_tokens", self.max_tokens, "the answer is part of max_length, with the prompt")
        _require(self.docs_per_query != 1, "docs_per_query", 1, "an order needs two documents, or 0 for all")
        for key in ("docs_per_query", "eval_rows", "rank_weight"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        want = "the rank loss reads one token of each document: say how many there are at most, 9 for most tokenizers"
        _require(not self.rank_weight or self.docs_per_query > 0, "docs_per_query", self.docs_per_query, want)

    @property
    def head_lr(self) -> float:
        """A causal LM has no head of its own."""
        return self.lr


@dataclass(frozen=True)
class EvaluateConfig:
    """Every ranker on the same queries, side by side."""

    input: str  # candidates
    output: str
    students: dict[str, str] = field(default_factory=dict)  # name -> output of train, or a checkpoint folder
    labels: str = ""  # output of label: the teacher's row
    teacher: str = ""  # the teacher's model, to measure its latency; empty: no figure
    template: str = "question"
    doc_tokens: int = 96
    runs: dict[str, str] = field(default_factory=dict)  # name -> TREC run file of these queries, measured beside
    metrics: tuple[str, ...] = ()  # more of ir-measures, by name, as in [AP, R@100, "nDCG(gains={1:1,2:3})@5"]
    title: str = ""
    split: str = "test"
    dev: str = "dev"  # where fusion weights come from
    latency_docs: int = 20
    latency_repeats: int = 30
    seed: int = 0
    backend: str = "torch"  # of students, as in `ServeConfig`: what is served should be what was measured
    precision: str = "auto"

    def __post_init__(self) -> None:
        _backend(self.backend, self.precision)
        _choose("split", self.split, SPLITS)
        _choose("dev", self.dev, SPLITS)
        _require(self.split != self.dev, "dev", self.dev, "weights must not be fitted on the split that is reported")


@dataclass(frozen=True)
class SelectConfig:
    """Best quality inside the latency budget."""

    input: str  # output of evaluate
    output: str
    metric: str = "nDCG@10"
    max_p99_ms: float = 1000.0  # for latency_docs documents; students above it cannot win
    publish: str = ""  # a folder that gets report.json and report.html too: where a person looks first

    def __post_init__(self) -> None:
        _choose("metric", self.metric, ("nDCG@10", "MRR@10", "PNR"))


BACKENDS = ("torch", "compile", "openvino", "onnx")

PRECISIONS = ("auto", "bfloat16", "float32", "int8")


def _backend(backend: str, precision: str) -> None:
    _choose("backend", backend, BACKENDS)
    _choose("precision", precision, PRECISIONS)
    whole = precision != "int8" or backend == "onnx"
    _require(whole, "precision", precision, "int8 is made by backend=onnx")
    _require(
        precision != "bfloat16" or backend != "onnx", "precision", precision, "backend=onnx knows float32 and int8"
    )


WINNER = "winner"  # the model of `input`

IDENTITY = "identity"  # the model that leaves the documents in the order of the request


@dataclass(frozen=True)
class OnlineConfig:
    """An online test at the endpoint. What was shown and clicked lands below `events`; `experiment` reads it."""

    events: str = ""  # local or s3://; empty: no test, and nothing is written
    name: str = ""  # these three as in `ExperimentConfig`
    variants: dict[str, float] = field(default_factory=dict)  # each a name in `models`, `winner` or `identity`
    design: str = "ab"
    journal: str = ""  # folder on the replica's own disk; empty: one for `events` below the temporary folder
    flush_s: float = 30.0  # how long an event may wait there
    max_events: int = 100_000  # that wait there while the store cannot be reached; then events get 503

    def __post_init__(self) -> None:
        if not self.events:
            return
        ExperimentConfig(self.events, "", self.name, self.variants, design=self.design)
        _require(self.flush_s > 0, "online.flush_s", self.flush_s, "must be positive")
        _require(self.max_events >= 1, "online.max_events", self.max_events, "must be at least 1")


@dataclass(frozen=True)
class SearchConfig:
    """The search page at `/`, and `POST /v1/search` behind it."""

    corpus: str = ""  # a collection as `retrieve` reads it: `pydoc:` or a BEIR folder; empty: none, the page says so
    title: str = ""  # what the page calls it; empty: by its folder's name
    depth: int = 20  # documents that BM25 finds and the model re-ranks

    def __post_init__(self) -> None:
        _require(self.depth >= 1, "search.depth", self.depth, "must be at least 1")


@dataclass(frozen=True)
class ServeConfig:
    """The winner behind Ray Serve."""

    input: str  # output of select or train, a checkpoint folder, or a hub id
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: Any = 1  # or {min: 1, max: 8}: as many as keep `busy_at` requests in each
    busy_at: int = 16
    max_documents: int = 1000  # of a request
    max_query_chars: int = 8000
    max_document_chars: int = 200_000
    max_body_bytes: int = 16_000_000
    batch_tokens: int = 16_384  # that one scoring call takes from the requests that wait
    max_queued: int = 128  # requests that wait in a replica; more get 503
    cache_entries: int = 0  # pairs whose scores a replica remembers, the last asked for; 0: none
    timeout_s: float = 120.0  # a request whose scores are not there by then gets 504; its header may say less
    models: dict[str, str] = field(default_factory=dict)  # others by name, each as `input`; a request names them
    watch_s: float = 10.0  # how often to look for another winner in `input` and other keys in `api_keys`; 0: never
    api_keys: str = ""  # a file of bearer keys, one a line; empty: everyone may ask
    online: OnlineConfig = field(default_factory=OnlineConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    max_explained: int = 10  # documents that a request with `explain` may get back, each with its reason
    reason_tokens: int = 64  # of a reason, at most
    worker: dict[str, float] = field(default_factory=lambda: {"CPU": 1})
    backend: str = "torch"  # compile: through torch.compile; openvino, onnx: encoders on CPUs
    precision: str = "auto"  # bfloat16 where the hardware multiplies it (onnx: float32), else float32; int8: onnx
    blocking: bool = True  # stay until Ctrl-C; false: send a query of `probe`, print the answer, stop
    probe: str = ""  # output of retrieve or prerank, from which a real query is taken

    def __post_init__(self) -> None:
        _require(1 <= self.port <= 65535, "port", self.port, "must be in 1..65535")
        limits = ("max_documents", "max_query_chars", "max_document_chars", "max_body_bytes", "max_queued")
        for key in ("busy_at", "batch_tokens", "max_explained", "reason_tokens", *limits):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        _require(self.cache_entries >= 0, "cache_entries", self.cache_entries, "must not be negative")
        _backend(self.backend, self.precision)
        cpu = self.backend in ("torch", "compile") or not self.worker.get("GPU")
        _require(cpu, "backend", self.backend, "scores on CPUs; set backend=torch or compile for worker={GPU: 1}")
        _team(self.replicas, "replicas")
        _require(self.watch_s >= 0, "watch_s", self.watch_s, "must not be negative")
        taken = [name for name in (WINNER, IDENTITY) if name in self.models]
        _require(not taken, "models", self.models, f"{' and '.join(taken)} have a meaning of their own")
        known = (WINNER, IDENTITY, *self.models)
        for variant in self.online.variants:
            _choose("online.variants", variant, known)
        _require(self.timeout_s > 0, "timeout_s", self.timeout_s, "must be positive")
        _require(self.blocking or bool(self.probe), "probe", self.probe, "blocking=false takes a query from it")

    @property
    def team(self) -> tuple[int, int]:
        """The fewest and the most replicas."""
        return _team(self.replicas, "replicas")


ONLINE_METRICS = ("page_ctr", "user_ctr", "ctr_at_k", "dwell", "reformulation")


@dataclass(frozen=True)
class ExpectConfig:
    """What is known or hoped beforehand: how much traffic the test needs (`rrad plan`)."""

    ctr: float = 0.3  # page CTR of the control
    lift: float = 0.05  # the smallest relative lift worth finding; always-valid readings are sharpest about there
    power: float = 0.8  # chance to find it
    design_effect: float = 1.0  # a page's variance, with units that come back, over a coin's; the report measures it
    preference: float = 0.55  # interleaved: share of the units with a preference that prefer the better variant

    def __post_init__(self) -> None:
        _require(0 < self.ctr < 1, "expect.ctr", self.ctr, "must be in (0, 1)")
        _require(self.lift != 0, "expect.lift", self.lift, "no sample is large enough to find no lift")
        _require(0 < self.ctr * (1 + self.lift) < 1, "expect.lift", self.lift, "the lifted CTR must be in (0, 1)")
        _require(0 < self.power < 1, "expect.power", self.power, "must be in (0, 1)")
        _require(0 < self.preference < 1 and self.preference != 0.5, "expect.preference", self.preference, "not 0.5")
        _require(self.design_effect > 0, "expect.design_effect", self.design_effect, "must be positive")


@dataclass(frozen=True)
class ExperimentConfig:
    """The online test: who sees what (`experiment.assign`), and how what they did is read."""

    input: str  # a folder with exposures/ and clicks/, each of Parquet files with the columns of rows.py
    output: str
    name: str  # who gets which variant hangs on it: another name, another and independent draw
    variants: dict[str, float]  # name -> weight; a share is its weight's share
    control: str = ""  # what the others are compared with; empty: the first variant
    design: str = "ab"  # every unit sees one variant; `interleave`: every page mixes the two (team draft)
    metric: str = "page_ctr"  # the one that decides, and that segments and looks are about
    k: int = 5  # of CTR@k
    reformulation_s: float = 300.0  # a query that a like one of the same unit follows within so many seconds
    alpha: float = 0.05
    mismatch_p: float = 0.001  # below it, shares of units that the weights do not explain are called so
    looks: int = 20  # always-valid readings, evenly in time
    min_units: int = 100  # of each variant, before a reading: the normal approximation wants them
    expect: ExpectConfig = field(default_factory=ExpectConfig)
    max_quarantined: float = 0.05

    def __post_init__(self) -> None:
        _require(bool(self.name), "name", self.name, "must not be empty")
        _require(len(self.variants) >= 2, "variants", self.variants, "name at least two, as in {old: 1, new: 1}")
        for variant, weight in self.variants.items():
            _require(bool(variant), "variants", self.variants, "a variant needs a name")
            _require(0 <= weight < float("inf"), f"variants.{variant}", weight, "must not be negative")
        _require(sum(self.variants.values()) > 0, "variants", self.variants, "at least one weight must be positive")
        _require(not self.control or self.control in self.variants, "control", self.control, "is no variant")
        _choose("design", self.design, ("ab", "interleave"))
        pair = self.design == "ab" or len(self.variants) == 2
        _require(pair, "variants", self.variants, "design=interleave mixes exactly two")
        _choose("metric", self.metric, ONLINE_METRICS)
        for key in ("k", "looks"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        _require(self.min_units >= 2, "min_units", self.min_units, "must be at least 2")
        _require(self.reformulation_s > 0, "reformulation_s", self.reformulation_s, "must be positive")
        for key in ("alpha", "mismatch_p"):
            _require(0 < getattr(self, key) < 1, key, getattr(self, key), "must be in (0, 1)")

    @property
    def against(self) -> str:
        """The control's name."""
        return self.control or next(iter(self.variants))

    @property
    def treatments(self) -> list[str]:
        """All variants but the control."""
        return [variant for variant in self.variants if variant != self.against]
