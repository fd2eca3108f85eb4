"""A causal LM as a task of `fit`: packed sequences as batches, token loss, what is measured, what is kept."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rrad_ray.config import FinetuneConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.rankers import checkpoint, lora
from rrad_ray.rankers.checkpoint import write_checkpoint
from rrad_ray.training import listwise, packing
from rrad_ray.training.loop import max_over_workers
from rrad_ray.training.packing import Example
from rrad_ray.training.task import Rows, TrainTask, TrainWorker

Pack = list[Example]  # the examples of one sequence


def lm_steps_in_epoch(packs: Sequence[Pack], cfg: FinetuneConfig, worker: TrainWorker) -> int:
    """Steps that every worker takes in an epoch: those of the one that has the fewest sequences.

    Raises `ValueError` if these do not fill a step.
    """
    steps = -int(max_over_workers(-float(len(packs) // cfg.sequences_per_step), worker.device))
    if not steps:
        found = f"{len(packs)} sequences of {cfg.max_length} tokens do not fill a step of {cfg.sequences_per_step}"
        raise InvalidInput(f"{found} of each worker", "lower max_length, sequences_per_step or workers")
    return steps


class Packs:
    """Packed sequences as training batches, each worker its own: deterministic in seed and epoch."""

    def __init__(self, packs: Sequence[Pack], cfg: FinetuneConfig, steps: int) -> None:
        self.packs, self.cfg, self.steps = packs, cfg, steps

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Pack]]:
        """The epoch's batches from step `first` on, `sequences_per_step` sequences each."""
        order = list(range(len(self.packs)))
        random.Random(f"{self.cfg.seed}:{epoch}").shuffle(order)
        size = self.cfg.sequences_per_step
        for step in range(first, self.steps):
            yield [self.packs[index] for index in order[step * size : (step + 1) * size]]


def check_finetune(source: str, cfg: FinetuneConfig) -> None:
    """What can be said before a cluster starts. Raises `ValueError` for a tokenizer without an eos token or with too
    few identifiers, and for `lora_rank` without peft."""
    if cfg.objective == "order":
        listwise.ListwiseExamples(source, cfg)
    else:
        checkpoint.end_of(AutoTokenizer.from_pretrained(source))
    lora.check_lora(cfg.lora_rank)


def load_causal_lm(source: str, cfg: FinetuneConfig) -> Any:
    """The causal LM in a folder, float32, as the config trains it.

    Raises `ValueError` where packed examples would see each other, or for `lora_rank` without peft.
    """
    options = {"num_hidden_layers": cfg.layers} if cfg.layers else {}
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    packing.check_apart(model)
    if cfg.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if cfg.lora_rank:
        lora.attach(model, cfg.lora_rank)
    return model


class ClickTask(TrainTask):
    """DisRanker's continued pre-training: the mean loss of a step's target tokens; perplexity on held-out clicks."""

    dev_metric = "dev_perplexity"
    higher_is_better = False

    def __init__(self, source: str, tokenizer: Any, cfg: FinetuneConfig) -> None:
        super().__init__()
        self.model, self.tokenizer, self.cfg = load_causal_lm(source, cfg), tokenizer, cfg
        self.dtype = AutoConfig.from_pretrained(source).dtype or torch.float32  # the checkpoint's own, kept

    def pairs(self, rows: Rows) -> int:
        """Examples: each is a query with a document, or with a list of them."""
        return sum(map(len, rows))

    def sizes(self, rows: Rows) -> dict[str, float]:
        """Target tokens, and lists."""
        examples = [one for pack in rows for one in pack]
        return {"token": float(sum(len(one.ids) - one.start for one in examples)), "rank": float(len(examples))}

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """The token loss of a batch of packs: the mean over all their target tokens, whatever the example.

        Of this worker's: packs hold about as many tokens each, so workers' means weigh the same.
        """
        terms = [packing.nll(found, joined.wanted_T) for found, joined in map(self._read, rows)]
        return {"token": torch.cat(terms).mean()}

    def _read(self, pack: Pack) -> tuple[Tensor, packing.Joined]:
        joined = packing.join_examples(pack, self.model.device)
        return packing.logits(self.model, joined), joined

    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        """Perplexity over examples: exp of the mean negative log-likelihood of their target tokens."""
        return {"dev_perplexity": math.exp(packing.mean_nll(self.model, rows, self.cfg.max_length))}

    def save(self, folder: Path, exact: Mapping[str, Tensor]) -> None:
        """A plain causal LM's checkpoint, in the dtype of the one that it began from; adapters are merged, and
        kept beside it."""
        fine = {name.removeprefix("model."): weight for name, weight in exact.items()}
        write_checkpoint(folder, self.model, self.tokenizer, fine, self.dtype)
        if self.cfg.lora_rank:
            lora.keep(self.model, fine, folder)


class OrderTask(ClickTask):
    """A listwise labeller: RankZephyr's token loss, with FIRST's rank loss beside it where it has a weight."""

    dev_metric = "dev_ndcg"
    higher_is_better = True

    def __init__(self, source: str, lists: listwise.ListwiseExamples, cfg: FinetuneConfig) -> None:
        super().__init__(source, lists.tokenizer, cfg)
        self.lists = lists

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """The token loss of a batch of packs and, times `rank_weight`, the mean rank loss of their lists."""
        if not self.cfg.rank_weight:
            return super().forward(rows)
        terms, chosen, lists = [], [], []
        for pack in rows:
            found, joined = self._read(pack)
            terms.append(packing.nll(found, joined.wanted_T))
            places = [first + one.place - one.start for first, one in zip(joined.first_E, pack, strict=True)]
            chosen.append(found[places])
            lists += pack
        ranks = listwise.rank_loss(torch.cat(chosen), lists)
        return {"token": torch.cat(terms).mean(), "rank": self.cfg.rank_weight * ranks}

    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        """On judged label rows: the token loss of those that make an example, and nDCG@10 of the orders written."""
        examples = [one for row in rows for one in self.lists(row)]
        token = packing.mean_nll(self.model, examples, self.cfg.max_length)
        return {"dev_ndcg": listwise.greedy_ndcg(self.model, self.lists, rows), "dev_token_loss": token}
