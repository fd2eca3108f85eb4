"""Causal LMs as training tasks: packed sequences as batches, token and rank losses, dev figures, checkpoints."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rrad_ray.config import FinetuneConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import checkpoint, loading, lora
from rrad_ray.rankers.checkpoint import write_checkpoint
from rrad_ray.training import listwise, packing
from rrad_ray.training.loop import max_over_workers
from rrad_ray.training.packing import Example
from rrad_ray.training.task import Rows, TrainTask, TrainWorker

Pack = list[Example]  # the examples of one sequence


def lm_steps_in_epoch(packs: Sequence[Pack], cfg: FinetuneConfig, worker: TrainWorker) -> int:
    """Return the steps that every worker takes in an epoch: those of the worker with the fewest sequences.

    Raises `ValueError` if its sequences do not fill a step.
    """
    steps = -int(max_over_workers(-float(len(packs) // cfg.sequences_per_step), worker.device))
    if not steps:
        raise step_not_filled(len(packs), cfg)
    return steps


def step_not_filled(sequences: int, cfg: FinetuneConfig) -> InvalidInput:
    """Return the error that a worker has too few sequences."""
    problem = f"{sequences} sequences of {cfg.max_length} tokens do not fill a step of {cfg.sequences_per_step}"
    return InvalidInput(f"{problem} of each worker", "lower max_length, sequences_per_step or num_workers")


class Packs:
    """Batches of a worker's own packed sequences, deterministic in seed and epoch."""

    def __init__(self, packs: Sequence[Pack], cfg: FinetuneConfig, steps: int) -> None:
        self.packs, self.cfg, self.steps = packs, cfg, steps

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Pack]]:
        """Yield an epoch's batches from step `first` on, `sequences_per_step` sequences each."""
        order = list(range(len(self.packs)))
        random.Random(f"{self.cfg.seed}:{epoch}").shuffle(order)
        size = self.cfg.sequences_per_step
        for step in range(first, self.steps):
            yield [self.packs[index] for index in order[step * size : (step + 1) * size]]


def check_finetune(source: str, cfg: FinetuneConfig) -> None:
    """Check, before a cluster starts, that the model in the folder `source` can be trained with this config.

    Raises `ValueError` for a tokenizer without an eos token or with too few identifiers, for a model that is not
    whole or has fewer positions than `max_length`, and for `lora_rank` without peft.
    """
    model = loading.load_whole(AutoModelForCausalLM, source, device_map="meta")
    tokenizer = loading.load_tokenizer(source, model)
    if cfg.objective == "order":
        listwise.ListwiseExamples(source, cfg)
    else:
        checkpoint.end_of(tokenizer)
    lora.check_lora(cfg.lora_rank)
    loading.check_positions(model, cfg.max_length)
    loading.check_layers(model, cfg.layers)


def load_causal_lm(source: str, cfg: FinetuneConfig) -> Any:
    """Return the causal LM in the folder `source` in float32, with the layers and adapters that the config trains.

    Raises `ValueError` if packed examples would attend to each other, and for `lora_rank` without peft.
    """
    options: dict[str, Any] = {"num_hidden_layers": cfg.layers} if cfg.layers else {}
    model = loading.load_whole(AutoModelForCausalLM, source, dtype=torch.float32, **options)
    packing.check_isolation(model)
    if cfg.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if cfg.lora_rank:
        lora.attach(model, cfg.lora_rank)
    return model


class ClickTask(TrainTask):
    """DisRanker's continued pre-training: token loss on clicked documents, perplexity on held-out clicks."""

    dev_metric = "dev_perplexity"
    higher_is_better = False

    def __init__(self, source: str, tokenizer: Any, cfg: FinetuneConfig) -> None:
        super().__init__()
        self.model, self.tokenizer, self.cfg = load_causal_lm(source, cfg), tokenizer, cfg
        self.dtype = loading.config_of(source).dtype or torch.float32  # in which it is saved again

    def pairs(self, rows: Rows) -> int:
        """Return the number of examples: each is a query with a document, or with a list of documents."""
        return sum(map(len, rows))

    def sizes(self, rows: Rows) -> dict[str, float]:
        """Return the target tokens and the lists of a batch."""
        examples = [example for pack in rows for example in pack]
        tokens = sum(len(example.ids) - example.start for example in examples)
        return {"token": float(tokens), "rank": float(len(examples))}

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """Return the token loss of a batch of packs: the mean over all their target tokens.

        The mean is over this worker's tokens: packs hold about equally many, so workers' means weigh the same.
        """
        terms = [packing.nll(logits_TV, joined.wanted_T) for logits_TV, joined in map(self._logits, rows)]
        return {"token": torch.cat(terms).mean()}

    def _logits(self, pack: Pack) -> tuple[Tensor, packing.Joined]:
        """Return the logits (T, V) of a pack's target tokens, and the pack as one row."""
        joined = packing.join_examples(pack, self.model.device)
        return packing.logits(self.model, joined), joined

    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        """Return the perplexity of examples: exp of the mean negative log-likelihood of their target tokens."""
        return {"dev_perplexity": math.exp(packing.mean_nll(self.model, rows, self.cfg.max_length))}

    def save(self, folder: Path, float32_state: Mapping[str, Tensor]) -> None:
        """Write a plain causal LM checkpoint in the dtype of the original one.

        Adapters are merged into it, and also kept beside it.
        """
        float32_weights = {name.removeprefix("model."): weight for name, weight in float32_state.items()}
        write_checkpoint(folder, self.model, self.tokenizer, float32_weights, self.dtype)
        if self.cfg.lora_rank:
            lora.keep(self.model, float32_weights, folder)


class OrderTask(ClickTask):
    """A listwise labeller: RankZephyr's token loss and, where it has a weight, FIRST's rank loss."""

    dev_metric = "dev_ndcg"
    higher_is_better = True

    def __init__(self, source: str, lists: listwise.ListwiseExamples, cfg: FinetuneConfig) -> None:
        super().__init__(source, lists.tokenizer, cfg)
        self.lists = lists

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """Return the token loss of a batch of packs and, times `rank_weight`, the mean rank loss of their lists."""
        if not self.cfg.rank_weight:
            return super().forward(rows)
        terms, chosen, lists = [], [], []
        for pack in rows:
            logits_TV, joined = self._logits(pack)
            terms.append(packing.nll(logits_TV, joined.wanted_T))
            starts = zip(joined.first_E, pack, strict=True)
            chosen.append(logits_TV[[first + example.name_index - example.start for first, example in starts]])
            lists += pack
        ranks = listwise.rank_loss(torch.cat(chosen), lists)
        return {"token": torch.cat(terms).mean(), "rank": self.cfg.rank_weight * ranks}

    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        """Return nDCG@10 of the orders written for label rows with qrels, and the token loss of their examples."""
        examples = [example for row in rows for example in self.lists(row)]
        token = packing.mean_nll(self.model, examples, self.cfg.max_length)
        return {"dev_ndcg": listwise.greedy_ndcg(self.model, self.lists, rows), "dev_token_loss": token}
