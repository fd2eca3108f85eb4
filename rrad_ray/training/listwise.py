"""Training examples of a listwise labeller, the LLM that `judge` asks for an order, from lists a teacher has ordered.

The token loss on the permutation is RankZephyr's (Pradeep et al., 2023). RankNet over the identifiers' logits at the
position of the answer's first identifier is FIRST's (Reddy et al., 2024).
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rrad_ray import prompts
from rrad_ray.config import FinetuneConfig, PromptConfig
from rrad_ray.evaluation import metrics
from rrad_ray.labelling import answers, planner
from rrad_ray.labelling.label_tokens import identifiers
from rrad_ray.rankers.checkpoint import end_of
from rrad_ray.rows import Row
from rrad_ray.training import losses
from rrad_ray.training.packing import Example, ExampleSkipped, SkipFunction, fitted
from rrad_ray.training.targets import SkipReason

PARALLEL = ("doc_ids", "texts", "targets", "missing")  # the lists of a row, one entry for each document


def ranked_documents(targets: Sequence[float], gone: Sequence[bool], missing: str) -> list[int]:
    """Return the documents' indices, best first; ties keep the candidates' order.

    `gone`: documents that the teacher left out. They are left out here too (`missing="omit"`), or follow the others
    in the candidates' order (`missing="append"`). Raises `ExampleSkipped` for a target that is not a number, a
    single document, none that is relevant, or targets that are all equal.
    """
    if not all(map(math.isfinite, targets)):
        raise ExampleSkipped(SkipReason.NOT_A_NUMBER.value, f"among {targets}")
    if len(targets) < 2:
        raise ExampleSkipped("one document", f"{len(targets)} of them make no order")
    if all(gone):
        raise ExampleSkipped("no relevant document", "the teacher left out all of them")
    if len(set(targets)) == 1:
        raise ExampleSkipped("all equal", f"every target is {targets[0]:g}")
    ranked = sorted((index for index in range(len(targets)) if not gone[index]), key=lambda index: -targets[index])
    return ranked + ([index for index in range(len(targets)) if gone[index]] if missing == "append" else [])


def sample_documents(row: Row, count: int, seed: int) -> Row:
    """Return the row with at most `count` documents, the best one and others drawn at random, in the row's order.

    `count` = 0: all documents. Raises `ExampleSkipped` for a row without one target for each document.
    """
    if len({len(row[key]) for key in PARALLEL}) > 1:
        raise ExampleSkipped(SkipReason.RAGGED.value, f"{len(row['targets'])} of {len(row['doc_ids'])}")
    if not count or len(row["doc_ids"]) <= count:
        return row
    best = max(range(len(row["doc_ids"])), key=lambda index: row["targets"][index])
    rest = [index for index in range(len(row["doc_ids"])) if index != best]
    source = random.Random(f"{seed}:{row['query_id']}")
    kept = sorted([best, *source.sample(rest, count - 1)])
    return {**row, **{key: [row[key][index] for index in kept] for key in PARALLEL}}


class ListwiseExamples:
    """A builder of examples from label rows: prompts of `judge`'s own planner, and the labels' order as answer."""

    def __init__(self, source: str, cfg: FinetuneConfig) -> None:
        """Prepare the planner and the tokenizer of the model in the folder `source`.

        Raises `ValueError` as `end_of` does and, for a rank loss, `identifiers`.
        """
        self.prompt_cfg = PromptConfig(
            task="order",
            repeats=cfg.orders,
            doc_tokens=cfg.doc_tokens,
            max_tokens=cfg.max_tokens,
            engine_kwargs={"max_model_len": cfg.max_length},
            seed=cfg.seed,
        )
        self.planner = planner.Planner(self.prompt_cfg, source)
        self.cfg, self.tokenizer = cfg, self.planner.tokenizer
        self.end = end_of(self.tokenizer)
        if cfg.rank_weight:
            self.name_offset, self.names = identifiers(self.tokenizer, cfg.docs_per_query)

    def __call__(self, row: Row, skip: SkipFunction = lambda reason: None) -> list[Example]:
        """Return one example for each order in which the documents are shown.

        For a row that says nothing about an order or whose prompt is too long, call `skip` and return none.
        """
        try:
            row = sample_documents(row, self.cfg.docs_per_query, self.cfg.seed)
            best = ranked_documents(row["targets"], row["missing"], self.cfg.missing)
            shown = zip(self.planner(row), planner.shown(row, self.prompt_cfg), strict=True)
            return [self._example(row, prompt, order, best) for prompt, order in shown]
        except ExampleSkipped as reason:
            skip(reason)
            return []

    def _example(self, row: Row, prompt: planner.Prompt, order: Sequence[int], best: Sequence[int]) -> Example:
        """Return the example of one prompt: `order`, the row's documents as shown; `best`, in the answer's order."""
        if prompt["too_long"]:
            raise ExampleSkipped(prompts.TOO_LONG, prompt["too_long"])
        shown_at = {index: position for position, index in enumerate(order)}
        answer = self.tokenizer(prompts.written([shown_at[index] for index in best]), add_special_tokens=False)
        target = [*answer["input_ids"], self.end]
        if len(target) > self.cfg.max_tokens:
            detail = f"{len(target)} tokens, max_tokens is {self.cfg.max_tokens}"
            raise ExampleSkipped("answer too long", detail)
        example = fitted(prompt["token_ids"], target, self.cfg.max_length)
        if not self.cfg.rank_weight:
            return example
        targets = tuple(float(row["targets"][index]) for index in order)
        names, name_index = self.names[: len(order)], example.start + self.name_offset
        return dataclasses.replace(example, names=names, targets=targets, name_index=name_index)


def rank_loss(logits_EV: Tensor, examples: Sequence[Example]) -> Tensor:
    """Return RankNet over identifiers' logits, the mean over E lists.

    `logits_EV`: each list's logits over V tokens at the position of its answer's first identifier; those of its
    identifiers are its documents' scores. FIRST weighs a pair by its ranks, 1 / (i + j); here all pairs weigh alike.
    """
    terms = []
    for row_V, example in zip(logits_EV, examples, strict=True):
        scores_1N = row_V[list(example.names)][None]
        targets_1N = torch.tensor([example.targets], device=row_V.device)
        terms.append(losses.ranknet(scores_1N, targets_1N, torch.ones_like(targets_1N, dtype=torch.bool)))
    return torch.stack(terms).mean()


@torch.inference_mode()
def greedy_ndcg(model: Any, lists: ListwiseExamples, rows: Sequence[Row]) -> float:
    """Return the mean nDCG@10, on rows with qrels, of the orders that the model writes by greedy decoding.

    Prompts are those of `judge`, and answers are parsed as in `label`. Documents that an answer leaves out follow in
    the (shuffled) order shown, so an empty answer gets nothing from the first stage's order.
    """
    values = []
    for row in rows:
        if len(row["doc_ids"]) < 2:  # nothing to order
            values.append(metrics.row_ndcg(row, [0.0] * len(row["doc_ids"])))
            continue
        prompt, order = lists.planner(row)[0], planner.shown(row, lists.prompt_cfg)[0]
        text = "" if prompt["too_long"] else _answer(model, lists, prompt["token_ids"])
        parsed = answers.parse_answer(text, len(order))
        scores = [0.0] * len(order)
        for rank, position in enumerate([*parsed.ranked, *parsed.missing]):
            scores[order[position]] = -float(rank)
        values.append(metrics.row_ndcg(row, scores))
    return sum(values) / len(values)


def _answer(model: Any, lists: ListwiseExamples, prompt: Sequence[int]) -> str:
    """Return the model's greedy answer to a tokenized prompt."""
    ids = torch.tensor([prompt], device=model.device)
    limits = {"max_new_tokens": lists.cfg.max_tokens, "eos_token_id": lists.end, "pad_token_id": lists.end}
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **limits)
    return str(lists.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True))
