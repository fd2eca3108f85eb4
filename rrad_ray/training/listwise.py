"""Lists a teacher has ordered as training examples of a listwise labeller: the LLM that `judge` asks for an order.

Token loss on the permutation is RankZephyr's (Pradeep et al., 2023); RankNet over the logits of the identifiers where
the answer's first one is expected is FIRST's (Reddy et al., 2024).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rrad_ray import prompts
from rrad_ray.config import FinetuneConfig, PromptConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation import metrics
from rrad_ray.labelling import answers, planner
from rrad_ray.rankers.checkpoint import end_of
from rrad_ray.rows import Row
from rrad_ray.training import losses
from rrad_ray.training.packing import Example, SkipFunction, fitted


class SetAside(ValueError):
    """Why a row makes no example: a stable category, then what was found."""


def shuffled_documents(targets: Sequence[float], gone: Sequence[bool], missing: str) -> list[int]:
    """Indices, best first; ties in the order given, which is the candidates' own. Documents that are `gone` are left
    out (`omit`), or stand behind the others in the order given (`append`).

    Raises `SetAside` for a single document, none that is relevant, or targets that are all equal.
    """
    if len(targets) < 2:
        raise SetAside(f"one document: {len(targets)} of them make no order")
    if all(gone):
        raise SetAside("no relevant document: the teacher left out all of them")
    if len(set(targets)) == 1:
        raise SetAside(f"all equal: every target is {targets[0]:g}")
    ranked = sorted((index for index in range(len(targets)) if not gone[index]), key=lambda index: -targets[index])
    return ranked + ([index for index in range(len(targets)) if gone[index]] if missing == "append" else [])


def identifiers(tokenizer: Any, count: int) -> tuple[int, tuple[int, ...]]:
    """Where among the tokens of `[1]` the number stands, and the token of each number from 1 to `count`.

    FIRST reads one token of each document. Its authors write letters; here documents keep the numbers that `judge`
    shows, so there can be as many as the tokenizer writes in one token: 9 where digits stand alone (SmolLM2, Qwen),
    999 where three go together (Llama 3). Raises `ValueError` for more.
    """
    first, *others = [
        tokenizer(f"[{number}]", add_special_tokens=False)["input_ids"] for number in range(1, count + 1)
    ]
    place = next((place for place, pair in enumerate(zip(first, others[0])) if pair[0] != pair[1]), 0)
    for number, ids in enumerate(others, 2):
        if [*ids[:place], *ids[place + 1 :]] != [*first[:place], *first[place + 1 :]]:
            found = f"the tokenizer writes [{number}] and [1] with more than one token's difference"
            raise InvalidInput(f"{found}, so the rank loss takes at most {number - 1}", "set docs_per_query")
    return place, tuple(ids[place] for ids in (first, *others))


def sampled(row: Row, count: int, seed: int) -> Row:
    """A row with at most `count` documents: the best and others drawn at random, in the row's order."""
    if not count or len(row["doc_ids"]) <= count:
        return row
    best = max(range(len(row["doc_ids"])), key=lambda index: row["targets"][index])
    rest = [index for index in range(len(row["doc_ids"])) if index != best]
    source = random.Random(f"{seed}:{row['query_id']}")
    kept = sorted([best, *source.sample(rest, count - 1)])
    return {**row, **{key: [row[key][index] for index in kept] for key in ("doc_ids", "texts", "targets", "missing")}}


class ListwiseExamples:
    """Label rows as examples: the prompt is the one that `judge` sends, by its own planner; the answer orders it."""

    def __init__(self, source: str, cfg: FinetuneConfig) -> None:
        """`source`: the model's folder. Raises `ValueError` as `end_of` and, for a rank loss, `identifiers`."""
        self.asked = PromptConfig(
            task="order",
            repeats=cfg.orders,
            doc_tokens=cfg.doc_tokens,
            max_tokens=cfg.max_tokens,
            engine_kwargs={"max_model_len": cfg.max_length},
            seed=cfg.seed,
        )
        self.planner = planner.Planner(self.asked, source)
        self.cfg, self.tokenizer = cfg, self.planner.tokenizer
        self.end = end_of(self.tokenizer)
        if cfg.rank_weight:
            self.place, self.names = identifiers(self.tokenizer, cfg.docs_per_query)

    def __call__(self, row: Row, reject: SkipFunction = lambda reason: None) -> list[Example]:
        """One example for each order shown; none, and `reject` hears why, of a row that says nothing about an order
        or is too long to be asked."""
        row = sampled(row, self.cfg.docs_per_query, self.cfg.seed)
        try:
            best = shuffled_documents(row["targets"], row["missing"], self.cfg.missing)
            shown = zip(self.planner(row), planner.shown(row, self.asked), strict=True)
            return [self._example(row, prompt, order, best) for prompt, order in shown]
        except (SetAside, prompts.TooLong) as error:
            reject(str(error))
            return []

    def _example(self, row: Row, prompt: planner.Prompt, order: Sequence[int], best: Sequence[int]) -> Example:
        """`best`: the row's documents in the order of the answer; `order`: as they are shown."""
        if prompt["__inference_error__"]:
            raise prompts.TooLong(prompt["__inference_error__"].removeprefix(f"{prompts.TOO_LONG}: "))
        number = {index: place for place, index in enumerate(order)}
        answer = self.tokenizer(prompts.written([number[index] for index in best]), add_special_tokens=False)
        target = [*answer["input_ids"], self.end]
        if len(target) > self.cfg.max_tokens:
            raise SetAside(f"answer too long: {len(target)} tokens, max_tokens is {self.cfg.max_tokens}")
        found = fitted(prompt["tokenized_prompt"], target, self.cfg.max_length)
        if not self.cfg.rank_weight:
            return found
        targets = tuple(float(row["targets"][index]) for index in order)
        names, place = self.names[: len(order)], found.start + self.place
        return dataclasses.replace(found, names=names, targets=targets, place=place)


def rank_loss(logits_EV: Tensor, examples: Sequence[Example]) -> Tensor:
    """RankNet, the mean over E lists: the logits of a list's identifiers where its answer's first one is expected are
    its documents' scores. FIRST weighs a pair by its places, 1 / (i + j); here all pairs weigh the same.
    """
    terms = []
    for row_V, example in zip(logits_EV, examples, strict=True):
        scores_1N = row_V[list(example.names)][None]
        targets_1N = torch.tensor([example.targets], device=row_V.device)
        terms.append(losses.ranknet(scores_1N, targets_1N, torch.ones_like(targets_1N, dtype=torch.bool)))
    return torch.stack(terms).mean()


@torch.inference_mode()
def greedy_ndcg(model: Any, lists: ListwiseExamples, rows: Sequence[Row]) -> float:
    """Mean nDCG@10 on judged rows of the orders that the model writes, asked and read as `judge` and `label` do. What
    an answer leaves out comes last as it was shown, so that an answer that says nothing inherits nothing."""
    values = []
    for row in rows:
        prompt, order = lists.planner(row)[0], planner.shown(row, lists.asked)[0]
        text = "" if prompt["__inference_error__"] else _answer(model, lists, prompt["tokenized_prompt"])
        found = answers.parse_answer(text, len(order))
        scores = [0.0] * len(order)
        for place, number in enumerate([*found.ranked, *found.missing]):
            scores[order[number]] = -float(place)
        values.append(metrics.row_ndcg(row, scores))
    return sum(values) / len(values)


def _answer(model: Any, lists: ListwiseExamples, prompt: Sequence[int]) -> str:
    ids = torch.tensor([prompt], device=model.device)
    limits = {"max_new_tokens": lists.cfg.max_tokens, "eos_token_id": lists.end, "pad_token_id": lists.end}
    found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **limits)
    return str(lists.tokenizer.decode(found[0, len(prompt) :], skip_special_tokens=True))
