"""The rank student as a task of `fit`: label rows as batches, rank losses over them, nDCG on dev."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rrad_ray import generation, losses, metrics
from rrad_ray.config import TrainConfig
from rrad_ray.fit import Rows, Task, steps_in_epoch
from rrad_ray.rankers import Ranker, in_order, one_by_one, spread
from rrad_ray.terms import TermControl, select, states_of

PASS_TOKENS = 2048  # of one forward pass within a step; passes hold pairs of like length


class Data:
    """Label rows as training batches: deterministic in seed, epoch and query."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], cfg: TrainConfig, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows, self.cfg, self.rank, self.world_size = rows, cfg, rank, world_size
        self.steps = steps_in_epoch(len(rows), cfg, world_size)

    def __call__(self, epoch: int) -> Iterator[Rows]:
        """The epoch's batches of this worker, `queries_per_step` rows each, every worker the same number."""
        order = list(range(len(self.rows)))
        random.Random(f"{self.cfg.seed}:{epoch}").shuffle(order)
        size = self.cfg.queries_per_step
        for step in range(self.steps):
            first = (step * self.world_size + self.rank) * size
            yield [self._sample(self.rows[index], epoch) for index in order[first : first + size]]

    def _sample(self, row: Mapping[str, Any], epoch: int) -> Mapping[str, Any]:
        """`docs_per_query` documents of a row: `top_docs` of the best by target, the rest at random; all of them, and
        the query, with `word_dropout`. With `generation`, `answers`: what is to be written for each."""
        cfg, count = self.cfg, len(row["doc_ids"])
        source = random.Random(f"{cfg.seed}:{epoch}:{row['query_id']}")
        chosen = list(range(count))
        if count > cfg.docs_per_query:
            best = sorted(chosen, key=lambda index: -row["targets"][index])
            rest = source.sample(best[cfg.top_docs :], cfg.docs_per_query - cfg.top_docs)
            chosen = [*best[: cfg.top_docs], *rest]
        answers = generation.answers(row) if cfg.generation.weight else []  # a place is one among all documents
        return {
            **row,
            **({"answers": [answers[index] for index in chosen]} if answers else {}),
            "query": thinned(row["query"], cfg.word_dropout, source),
            "texts": [thinned(row["texts"][index], cfg.word_dropout, source) for index in chosen],
            "targets": [row["targets"][index] for index in chosen],
        }


def thinned(text: str, share: float, source: random.Random) -> str:
    """A text without about a share of its words, never without all of them (word dropout, Iyyer et al., 2015)."""
    if not share:
        return text
    return " ".join(word for word in text.split() if source.random() >= share) or text


def collate(rows: Rows) -> tuple[list[str], list[str], Tensor, Tensor]:
    """Queries and texts of all pairs, mask_BN, targets_BN of a batch of label rows."""
    widest = max(len(row["texts"]) for row in rows)
    mask = torch.zeros(len(rows), widest, dtype=torch.bool)
    targets = torch.zeros(len(rows), widest)
    for number, row in enumerate(rows):
        mask[number, : len(row["texts"])] = True
        targets[number, : len(row["texts"])] = torch.tensor(row["targets"])
    queries = [row["query"] for row in rows for _ in row["texts"]]
    return queries, [text for row in rows for text in row["texts"]], mask, targets


def dev_ndcg(ranker: Ranker, rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean nDCG@10 of a ranker over judged rows."""
    queries = [row["query"] for row in rows for _ in row["texts"]]
    scores = iter(ranker.score_pairs(queries, [text for row in rows for text in row["texts"]]))
    return float(np.mean([metrics.row_ndcg(row, [next(scores) for _ in row["texts"]]) for row in rows]))


class RankTask(Task):
    """A student under the config's rank losses; an encoder with its Term Control Layer, a decoder with the generation
    of label and reason, where those have a weight."""

    best = "dev_ndcg"

    def __init__(self, ranker: Ranker, cfg: TrainConfig, head: nn.Module | None = None) -> None:
        """`head`: a decoder's output layer where that is not its embeddings (`generation.lm_head`)."""
        super().__init__()
        self.ranker, self.cfg, self.head = ranker, cfg, head
        self.loss = losses.weighted(cfg.losses, target_scale=cfg.target_scale)
        self.terms = self._term_control() if cfg.terms.weight else None
        if head is not None:
            head.requires_grad_(not cfg.freeze_embeddings)

    @classmethod
    def fresh(cls, source: str, cfg: TrainConfig) -> RankTask:
        """A student on a pretrained model."""
        make = Ranker.encoder if cfg.kind == "encoder" else Ranker.decoder
        ranker = make(source, max_length=cfg.max_length, layers=cfg.layers)
        return cls(ranker, cfg, generation.lm_head(source) if cfg.generation.weight else None)

    def _term_control(self) -> TermControl:
        if not self.ranker.tokenizer.is_fast:
            raise ValueError(
                "terms.weight: Token Selection needs a fast tokenizer; set it to 0 or take another model"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.cfg.seed)  # the same layer on every worker
            return TermControl(
                self.model.config.hidden_size, pooling=self.cfg.terms.pooling, gate=self.cfg.terms.gate
            )

    @property
    def model(self) -> Any:
        return self.ranker.model

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """`rank`: of the scores; `terms`: of the Term Control Layer's; `tokens`: of label and reason."""
        queries, texts, mask_BN, targets_BN = collate(rows)
        if self.terms is not None:
            plain_P, controlled_P = self._with_terms(self.terms, queries, texts)
            controlled = self._loss(spread(controlled_P, mask_BN), targets_BN, mask_BN)
            parts = {"terms": self.cfg.terms.weight * controlled}
            scores_BN = spread(plain_P, mask_BN)
        elif self.cfg.generation.weight:
            scores_P, tokens = self._with_answers(queries, texts, [text for row in rows for text in row["answers"]])
            parts = {"tokens": self.cfg.generation.weight * tokens}
            scores_BN = spread(scores_P, mask_BN)
        else:
            parts = {}
            scores_BN = self.ranker(self.ranker.encode(queries, texts), mask_BN, PASS_TOKENS)
        return {"rank": self._loss(scores_BN, targets_BN, mask_BN), **parts}

    def _loss(self, scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
        return self.loss(scores_BN, targets_BN.to(scores_BN.device), mask_BN.to(scores_BN.device))

    def _with_terms(self, layer: TermControl, queries: Sequence[str], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The plain score and the layer's of each pair, from one forward pass."""
        found = self.ranker.tokenize(queries, texts)
        chosen = [
            torch.tensor(select(query, text, encoding, self.cfg.terms.match))
            for query, text, encoding in zip(queries, texts, found.encodings or (), strict=True)
        ]
        plain, controlled = [], []
        with states_of(self.model) as states:
            for places, chunk in self.ranker.passes(one_by_one(found), PASS_TOKENS):
                plain.append((places, self.model(**chunk).logits[:, 0].float()))
                selected_PL = pad_sequence([chosen[place] for place in places], batch_first=True)
                controlled.append((places, layer(states.pop(), selected_PL.to(self.model.device))))
        return in_order(plain), in_order(controlled)

    def _with_answers(
        self, queries: Sequence[str], texts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """The score of each pair and the mean loss of its answer's tokens, from one forward pass."""
        targets = generation.encode(self.ranker.tokenizer, answers, self.cfg.generation.max_tokens)
        pairs, project = self.ranker.encode(queries, texts), generation.projection(self.ranker, self.head)
        return generation.joint(self.ranker, project, pairs, targets, PASS_TOKENS)

    def measure(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Mean nDCG@10 over judged rows."""
        return {"dev_ndcg": dev_ndcg(self.ranker, rows)}

    def save(self, folder: Path, exact: Mapping[str, Tensor]) -> None:
        """The ranker's plain checkpoint, without the Term Control Layer; an output layer of its own in a file beside
        it (`generation.HEAD`)."""
        self.ranker.save(folder, {name.removeprefix("ranker."): weight for name, weight in exact.items()})
        if self.head is not None:
            weights = {name: exact[f"head.{name}"].cpu() for name, _ in self.head.named_parameters()}
            torch.save(weights, folder / generation.HEAD)
