"""Configs of training: `train` distils a student, `finetune` trains a causal LM."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic.dataclasses import dataclass

from rrad_ray.config.base import (
    CHECKED,
    MINILM,
    NO_BOOL,
    SMOLLM2,
    Count,
    CountOrNone,
    GivenUri,
    NotNegative,
    Positive,
    Range,
    ResourceSpec,
    Seed,
    Share,
    ShareBelowOne,
    Splits,
    StagePaths,
    range_of,
    require,
)
from rrad_ray.languages import Language

Tracker = Literal["tensorboard", "mlflow", "wandb"]


def _losses(value: Any) -> dict[str, Any]:
    """Check that losses have weights or options; `training.losses` checks their names and options."""
    if not isinstance(value, dict):
        raise ValueError("write names of losses with their weights, as in {ranknet: 1.0}")
    require(bool(value), "losses", value, "weigh at least one loss, as in {ranknet: 1.0}")
    weights = {name: each.get("weight", 1.0) if isinstance(each, dict) else each for name, each in value.items()}
    for name, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < math.inf
        want = "write its weight, from 0, or options as in {weight: 1.0, tau: 0.5}"
        require(number, f"losses.{name}", value[name], want)
    require(any(weights.values()), "losses", value, "give one of them a weight above 0")
    return {name: float(weight) if isinstance(weight, int) else weight for name, weight in value.items()}


Losses = Annotated[dict[str, Any], PlainValidator(_losses), WithJsonSchema({"title": "dict of weights or options"})]


@dataclass(frozen=True, config=CHECKED)
class TermsConfig:
    """RRA-BERT's Token Selection and Term Control Layer: at training only, so that a student costs the same."""

    weight: NotNegative = 0.0
    """Weight of its rank loss beside that of the plain score; 0: no Term Control Layer."""
    match: Literal["word", "token"] = "word"
    """Document tokens that are selected: those of words that the query has too, or those of equal token ids."""
    language: Language = "auto"
    """`word`: how query and document are cut into words, as of `retrieve`."""
    pooling: Literal["mean", "max", "attention"] = "mean"
    """How the states of the selected tokens become one."""
    gate: bool = True
    """Weigh each dimension of the pooled state by a gate from `[CLS]`."""


@dataclass(frozen=True, config=CHECKED)
class GenerationConfig:
    """RRA-GPT's label and reason, written after the pair: at training only."""

    weight: NotNegative = 0.0
    """Weight of the token loss beside the rank loss; 0: the decoder writes nothing."""
    max_tokens: Count = 64
    """Tokens of label, reason and end together."""


@dataclass(frozen=True, config=CHECKED)
class FitConfig(StagePaths):
    """The keys that the training loop and Ray Train read, whatever is trained. A step is one update of the
    weights."""

    # A killed run may go on with other values: they say how a run is made, not what it makes.
    RESUMABLE: ClassVar[tuple[str, ...]] = ("max_failures", "max_seconds", "track")

    splits: Splits = ("train", "unlabelled")
    """The splits that are learnt from."""
    layers: CountOrNone = 0
    """Keep the first n layers of the model; 0: all."""
    lora_rank: CountOrNone = 0
    """For a causal LM or a decoder. 0: all weights are trained. n: adapters of rank n (peft), and a ranking layer in
    full. They are saved merged; `finetune` also keeps the adapters by themselves in `adapter/`."""
    epochs: Positive = 1.0
    """Passes over the training rows."""
    max_steps: CountOrNone = 0
    """The most steps; 0: as many as the epochs give."""
    max_seconds: NotNegative = 0.0
    """A safety limit: seconds after which training is cut short, wherever its schedule is. The student then depends
    on the machine's speed: the terminal, the manifest, the report and `select` say so. 0: no limit."""
    lr: Positive = 1e-4
    """Peak learning rate."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay, of matrices only."""
    warmup_steps: CountOrNone = 30
    """Steps over which the learning rate rises to its peak."""
    clip: Positive = 1.0
    """The gradient norm above which gradients are scaled down."""
    accumulate: Count = 1
    """Parts in which a step's batch goes through the model; their gradients sum up to that of the whole batch: less
    memory, the same update. (Only nearly the same for the loss `lambda` with `k`, whose pairs the scores choose.)"""
    dropout: ShareBelowOne = 0.0
    """Dropout in training."""
    freeze_embeddings: bool = False
    """Leave the embeddings as they are."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of the weights: `auto` measures both on the machine that trains and takes the faster one; the
    optimizer keeps float32 either way."""
    eval_steps: Count = 100
    """Steps between two measurements on dev, each with a checkpoint."""
    patience: CountOrNone = 0
    """Measurements in a row that do not beat the best one, after which training ends; 0: never."""
    num_workers: Range = 1
    """Training processes, or {min: 1, max: 4}: as many as the cluster has room for, and others when that changes."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """`ddp`: every worker holds all weights; `fsdp`: weights and optimizer are sharded over the workers."""
    average_every: Count = 1
    """1: workers exchange gradients at every step; n: they average their weights every n steps (local SGD)."""
    average_from: Share = 1.0
    """The share of the training from which on the student is the mean of its weights, at a learning rate that does
    not fall (stochastic weight averaging): less noise of single steps. 1: the last weights, at a rate that falls to
    0."""
    resources: ResourceSpec = Field(default_factory=lambda: {"CPU": 1.0})
    """What one training process asks of Ray."""
    max_failures: Annotated[int, Field(ge=-1), NO_BOOL] = 2
    """Times that Ray Train starts failed workers again; -1: as often as they fail."""
    track: tuple[Tracker, ...] = ("tensorboard",)
    """Where curves go beside `history.json`."""
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops: targets that are no numbers, log rows without a click."""
    seed: Seed = 0
    """Draws the order of rows, dropout and everything else."""

    def __post_init__(self) -> None:
        want = "adapters are merged into a whole model when it is saved: set parallel=ddp"
        require(self.parallel == "ddp" or not self.lora_rank, "lora_rank", self.lora_rank, want)
        want = "workers that share one set of weights have nothing to average: set parallel=ddp or average_every=1"
        require(self.parallel == "ddp" or self.average_every == 1, "average_every", self.average_every, want)

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest workers that train, and the most."""
        return range_of(self.num_workers)

    @property
    def peak_head_lr(self) -> float:
        """Peak learning rate of a head's weights; a model without a head of its own has one rate."""
        return self.lr

    def _check_measured(self, key: str, rows: int) -> None:
        """Refuse a checkpoint that is chosen by rows which are learnt from."""
        want = f"dev chooses the checkpoint: leave it out, or set {key}=0, which keeps the last one"
        require("dev" not in self.splits or not rows, "splits", list(self.splits), want)


@dataclass(frozen=True, config=CHECKED)
class TrainConfig(FitConfig):
    """A student, distilled under Ray Train from the output of `label`."""

    more: list[GivenUri] = Field(default_factory=list)
    """Further outputs of `label` to learn from in the same way, such as those of earlier rounds. Quality on dev is
    measured on `input` alone. A query with the text of another table's dev or test query is left out."""
    kind: Literal["encoder", "decoder"] = "encoder"
    """`encoder`: RRA-BERT, a cross-encoder. `decoder`: RRA-GPT, a ranking layer on the last token."""
    model: str = MINILM
    """What the student starts from: a local folder, an `s3://` folder, a hub id, or a `bundled:` model."""
    max_length: Count = 96
    """Tokens of query and document together."""
    docs_per_query: Annotated[int, Field(ge=2), NO_BOOL] = 6
    """Documents of one query in a step; a rank loss needs two."""
    top_docs: CountOrNone = 3
    """Of these, documents from the top by target; the rest is drawn at random."""
    queries_per_step: Count = 8
    """Queries of one worker in a step."""
    pass_tokens: CountOrNone = 0
    """Tokens of a forward pass within a step, padding included; 0: 2048 on a CPU, 16384 on a GPU."""
    shuffle_rows: Count = 10_000
    """Queries that a worker holds; a set that is not larger is shuffled whole."""
    epochs: Positive = 3.0
    """Passes over the training queries."""
    losses: Losses = Field(default_factory=lambda: {"soft_ranknet": 1.0})
    """Losses by name (`training.losses.LOSSES`), each with its weight or options, as in
    {margin: {weight: 1.0, tau: 0.5}, point_mse: 0.5}."""
    target_scale: Positive = 2.0
    """The slope of `soft_ranknet`, unless its options name one: sigmoid(target_scale * target difference)."""
    normalize: Literal["none", "query", "global"] = "none"
    """How targets are scaled before the losses. `none`: not at all. `query`: z-scores within each list. `global`:
    z-scores over all targets. Losses that read the order alone (ranknet without gap_power,
    margin, contrastive, listmle, p_listmle) learn the same from each; lambda and approx_ndcg want grades as they are;
    bce wants [0, 1]. point_mse, margin_mse, soft_ranknet and listnet read distances: `none` is right for what `label`
    fused (z-scores of the list already) and for grades, `query` for orders (which count up to the list's length) and
    for several teachers, `global` for one teacher's scores whose level means something. Mixed scales are an error."""
    terms: TermsConfig = Field(default_factory=TermsConfig)
    """The Term Control Layer of an encoder."""
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    """The label and reason that a decoder learns to write."""
    head_lr: Positive = 1e-3
    """Peak learning rate of the head."""
    dropout: ShareBelowOne = 0.0
    """Dropout in training: soft targets regularise enough, and drawing masks costs a CPU more than half its speed."""
    word_dropout: ShareBelowOne = 0.0
    """Share of the words of query and documents that a step does not see. It keeps a student of few labels from
    learning them by heart, at no cost. Two characters of a script without spaces count as a word."""
    freeze_embeddings: bool = True
    """Leave the embeddings as they are."""
    eval_queries: CountOrNone = 60
    """Judged dev queries that are measured, by nDCG@10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_measured("eval_queries", self.eval_queries)
        require(self.top_docs <= self.docs_per_query, "top_docs", self.top_docs, "at most docs_per_query")
        want = "a step has only queries_per_step queries"
        require(self.accumulate <= self.queries_per_step, "accumulate", self.accumulate, want)
        want = "the loss bce takes targets in [0, 1], which normalised ones leave"
        require(self.normalize == "none" or "bce" not in self.losses, "normalize", self.normalize, want)
        for key, weight, kind in (
            ("terms", self.terms.weight, "encoder"),
            ("generation", self.generation.weight, "decoder"),
        ):
            require(not weight or self.kind == kind, f"{key}.weight", weight, f"only for kind={kind}")
        require(not self.lora_rank or self.kind == "decoder", "lora_rank", self.lora_rank, "only for kind=decoder")

    @property
    def peak_head_lr(self) -> float:
        return self.head_lr


@dataclass(frozen=True, config=CHECKED)
class FinetuneConfig(FitConfig):
    """A causal LM, fine-tuned under Ray Train on tokens that follow a prompt.

    `input`: for `clicks`, a click log (`data.click_log`); for `order`, the output of `label`.
    """

    objective: Literal["clicks", "order"] = "clicks"
    """`clicks`: DisRanker's continued pre-training; a query is the prompt, title and summary of a document that was
    clicked for it are the target. `order`: a listwise labeller; the judge's own prompt, and the order of the
    labels."""
    model: str = SMOLLM2
    """The causal LM: a local folder, an `s3://` folder, a hub id, or a `bundled:` model."""
    max_length: Count = 1024
    """Tokens of a sequence, which holds as many examples as fit; no example is longer."""
    sequences_per_step: Count = 4
    """Sequences of one worker in a step."""
    min_clicks: Count = 1
    """`clicks`: learn from documents with at least this many clicks."""
    held_out: ShareBelowOne = 0.02
    """`clicks`: share of the queries on which perplexity is measured and nothing is learnt."""
    orders: Count = 1
    """`order`: how often a query is shown, each time with its documents shuffled anew."""
    doc_tokens: Count = 96
    """`order`: tokens that a document is cut to, as `judge` does it."""
    max_tokens: Count = 128
    """`order`: tokens of the answer."""
    docs_per_query: CountOrNone = 0
    """`order`: the most documents of a query, the best among them; 0: all."""
    missing: Literal["omit", "append"] = "omit"
    """`order`: what the answer does with documents that the teacher left out."""
    rank_weight: NotNegative = 0.0
    """`order`: weight of FIRST's rank loss beside the token loss, which has 1; 0: no rank loss."""
    eval_rows: CountOrNone = 100
    """Held-out clicks, or judged dev queries, that are measured."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory for a third more time."""
    lr: Positive = 2e-5
    """Peak learning rate."""
    eval_steps: Count = 200
    """Steps between two measurements, each with a checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "order":  # clicks have no splits
            self._check_measured("eval_rows", self.eval_rows)
        want = "a step has only sequences_per_step sequences"
        require(self.accumulate <= self.sequences_per_step, "accumulate", self.accumulate, want)
        room = self.objective == "clicks" or self.max_tokens < self.max_length
        require(room, "max_tokens", self.max_tokens, "the answer is part of max_length, with the prompt")
        require(self.docs_per_query != 1, "docs_per_query", 1, "an order needs two documents, or 0 for all")
        want = "the rank loss reads one token of each document: say how many there are at most, 9 for most tokenizers"
        require(not self.rank_weight or self.docs_per_query > 0, "docs_per_query", self.docs_per_query, want)
