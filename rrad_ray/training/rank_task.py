"""The rank student as a task of `fit`: label rows as batches, rank losses over them, nDCG on dev."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rrad_ray.config import TrainConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation import metrics
from rrad_ray.patches import transformers_cls_only
from rrad_ray.rankers import generation, lora
from rrad_ray.rankers.ranker import Ranker, in_order, one_by_one, spread, train_tokens
from rrad_ray.rankers.term_control import TermControl, select, states_of
from rrad_ray.training import losses
from rrad_ray.training.loop import Rows, TrainTask, rank_steps_in_epoch
from rrad_ray.training.stream import ShuffledRows

FLAT_BATCHES = 50  # in a row in which a student gives all documents of a list one score: then it has collapsed

ONE_PASS = 10**9


class RankBatches:
    """Label rows as training batches: deterministic in seed, epoch and query."""

    def __init__(
        self, rows: ShuffledRows | Sequence[Mapping[str, Any]], cfg: TrainConfig, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows = rows if isinstance(rows, ShuffledRows) else ShuffledRows.of(rows, cfg.seed)
        self.cfg, self.rank, self.world_size = cfg, rank, world_size
        self.steps = rank_steps_in_epoch(len(rows), cfg, world_size)

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Rows]:
        """The epoch's batches of this worker from step `first` on, `queries_per_step` rows each, every worker the
        same number."""
        size, world_size = self.cfg.queries_per_step, self.world_size
        end = self.steps * size * world_size

        def mine(place: int) -> bool:
            return place < end and place // size % world_size == self.rank

        rows = self.rows(epoch, first * size * world_size, mine)
        for _ in range(first, self.steps):
            yield [self._sample(row, epoch) for row in itertools.islice(rows, size)]

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
        answers = generation.target_texts(row) if cfg.generation.weight else []  # a place is one among all documents
        return {
            **row,
            **({"answers": [answers[index] for index in chosen]} if answers else {}),
            "query": drop_words(row["query"], cfg.word_dropout, source),
            "texts": [drop_words(row["texts"][index], cfg.word_dropout, source) for index in chosen],
            "targets": [row["targets"][index] for index in chosen],
        }


def drop_words(text: str, share: float, source: random.Random) -> str:
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


def dev_scores(ranker: Ranker, rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """A ranker's scores of each row's documents."""
    queries = [row["query"] for row in rows for _ in row["texts"]]
    scores = iter(ranker.score_pairs(queries, [text for row in rows for text in row["texts"]]))
    return [[next(scores) for _ in row["texts"]] for row in rows]


def mean_ndcg(rows: Sequence[Mapping[str, Any]], scores: Sequence[Sequence[float]]) -> float:
    """Mean nDCG@10 over judged rows."""
    return float(np.mean([metrics.row_ndcg(row, some) for row, some in zip(rows, scores, strict=True)]))


def flat(scores: Sequence[Sequence[float]], dtype: torch.dtype) -> bool:
    """Whether no list has two documents whose scores differ by more than a model's rounding; not of lists of one."""
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    apart = [(max(some) - min(some), max(map(abs, some))) for some in scores if len(some) > 1]
    return bool(apart) and all(gap <= rounding * largest for gap, largest in apart)


def collapse(score: float, where: str) -> FloatingPointError:
    """What to tell of scores that are all alike: they would keep the first stage's order, and look well on dev."""
    found = f"the student has collapsed: it gives all documents of a query one score ({score:.4g}) {where}"
    return FloatingPointError(f"{found}; lower lr and head_lr, raise warmup_steps, or check the targets' scale")


class RankTask(TrainTask):
    """A student under the config's rank losses; an encoder with its Term Control Layer, a decoder with the generation
    of label and reason, where those have a weight."""

    best = "dev_ndcg"

    def __init__(self, ranker: Ranker, cfg: TrainConfig, head: nn.Module | None = None) -> None:
        """`head`: a decoder's output layer where that is not its embeddings (`generation.lm_head`)."""
        super().__init__()
        self.ranker, self.cfg, self.head = ranker, cfg, head
        self.losses = {
            name: losses.weighted({name: given}, target_scale=cfg.target_scale) for name, given in cfg.losses.items()
        }
        self.terms = self._term_control() if cfg.terms.weight else None
        self.flat = 0  # batches in a row without a difference within any list
        if head is not None:
            head.requires_grad_(not cfg.freeze_embeddings)

    @classmethod
    def fresh(cls, source: str, cfg: TrainConfig) -> RankTask:
        """A student on a pretrained model; what is drawn at random depends on the config's seed alone. Raises
        `ValueError` for `lora_rank` without peft."""
        make = Ranker.encoder if cfg.kind == "encoder" else Ranker.decoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
            ranker = make(source, max_length=cfg.max_length, layers=cfg.layers)
            if cfg.lora_rank:
                lora.attach(ranker.model, cfg.lora_rank, head="score")
        setattr(ranker.model.config, generation.WRITES, cfg.generation.weight > 0)
        return cls(ranker, cfg, generation.lm_head(source) if cfg.generation.weight else None)

    def _term_control(self) -> TermControl:
        if not self.ranker.tokenizer.is_fast:
            raise InvalidInput(
                "terms.weight: Token Selection needs a fast tokenizer", "set it to 0 or take another model"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.cfg.seed)  # the same layer on every worker
            return TermControl(
                self.model.config.hidden_size, pooling=self.cfg.terms.pooling, gate=self.cfg.terms.gate
            )

    @property
    def model(self) -> Any:
        return self.ranker.model

    @property
    def pass_tokens(self) -> int:
        """Padded tokens of one forward pass within a step. Workers that share a sharded model must take as many
        passes as each other."""
        if self.cfg.parallel == "fsdp":
            return ONE_PASS
        return self.cfg.pass_tokens or train_tokens(self.model.device.type)

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """`rank`: of the scores; `terms`: of the Term Control Layer's; `tokens`: of label and reason. Where there are
        several rank losses, `rank_margin_mse` and the like."""
        queries, texts, mask_BN, targets_BN = collate(rows)
        if self.terms is not None:
            plain_P, controlled_P = self._with_terms(self.terms, queries, texts)
            controlled = self._ranked("terms", spread(controlled_P, mask_BN), targets_BN, mask_BN)
            parts = {name: self.cfg.terms.weight * value for name, value in controlled.items()}
            scores_BN = spread(plain_P, mask_BN)
        elif self.cfg.generation.weight:
            scores_P, tokens = self._with_answers(queries, texts, [text for row in rows for text in row["answers"]])
            parts = {"tokens": self.cfg.generation.weight * tokens}
            scores_BN = spread(scores_P, mask_BN)
        else:
            parts = {}
            scores_BN = self.ranker(self.ranker.encode(queries, texts), mask_BN, self.pass_tokens)
        self._watch([row[: len(one["texts"])] for row, one in zip(scores_BN.tolist(), rows, strict=True)])
        return {**self._ranked("rank", scores_BN, targets_BN, mask_BN), **parts}

    def _watch(self, scores: Sequence[Sequence[float]]) -> None:
        """Raises `FloatingPointError` after `FLAT_BATCHES` batches of lists of one score each."""
        self.flat = self.flat + 1 if flat(scores, self.model.dtype) else 0
        if self.flat >= FLAT_BATCHES:
            raise collapse(scores[0][0], f"in the last {FLAT_BATCHES} batches")

    def _ranked(self, kind: str, scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> dict[str, Tensor]:
        """The config's rank losses."""
        there = (scores_BN, targets_BN.to(scores_BN.device), mask_BN.to(scores_BN.device))
        return {self._called(kind, name): loss(*there) for name, loss in self.losses.items()}

    def _called(self, kind: str, name: str) -> str:
        return kind if len(self.losses) == 1 else f"{kind}_{name}"

    def sizes(self, rows: Rows) -> dict[str, float]:
        """Documents, pairs or lists of each rank loss, and the tokens of label and reason."""
        _, _, mask_BN, targets_BN = collate(rows)
        kinds = ["rank"] if self.terms is None else ["rank", "terms"]
        found = {
            self._called(kind, name): losses.size(name, given, targets_BN, mask_BN)
            for name, given in self.cfg.losses.items()
            for kind in kinds
        }
        if self.cfg.generation.weight:
            found["tokens"] = float(sum(map(len, self._written([text for row in rows for text in row["answers"]]))))
        return found

    def _written(self, answers: Sequence[str]) -> list[list[int]]:
        return generation.encode(self.ranker.tokenizer, answers, self.cfg.generation.max_tokens)

    def _with_terms(self, layer: TermControl, queries: Sequence[str], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The plain score and the layer's of each pair, from one forward pass."""
        found = self.ranker.tokenize(queries, texts)
        chosen = [
            torch.tensor(select(query, text, encoding, self.cfg.terms.match))
            for query, text, encoding in zip(queries, texts, found.encodings or (), strict=True)
        ]
        plain, controlled = [], []
        with transformers_cls_only.compute_all_tokens(self.model), states_of(self.model) as states:
            for places, chunk in self.ranker.passes(one_by_one(found), self.pass_tokens):
                plain.append((places, self.model(**chunk).logits[:, 0].float()))
                length = chunk["input_ids"].shape[1]
                selected_PL = torch.stack([pad(chosen[place], (0, length - len(chosen[place]))) for place in places])
                controlled.append((places, layer(states.pop(), selected_PL.to(self.model.device))))
        return in_order(plain), in_order(controlled)

    def _with_answers(
        self, queries: Sequence[str], texts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """The score of each pair and the mean loss of its answer's tokens, from one forward pass."""
        targets = self._written(answers)
        pairs, project = self.ranker.encode(queries, texts), generation.projection(self.ranker, self.head)
        return generation.joint(self.ranker, project, pairs, targets, self.pass_tokens)

    def measure(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Mean nDCG@10 over judged rows. Raises `FloatingPointError` if every list's scores are all alike."""
        scores = dev_scores(self.ranker, rows)
        if flat(scores, self.model.dtype):
            raise collapse(scores[0][0], "on dev")
        return {"dev_ndcg": mean_ndcg(rows, scores)}

    def save(self, folder: Path, exact: Mapping[str, Tensor]) -> None:
        """The ranker's plain checkpoint, without the Term Control Layer; an output layer of its own in a file beside
        it (`generation.HEAD`)."""
        self.ranker.save(folder, {name.removeprefix("ranker."): weight for name, weight in exact.items()})
        if self.head is not None:
            weights = {name: exact[f"head.{name}"].cpu() for name, _ in self.head.named_parameters()}
            torch.save(weights, folder / generation.HEAD)
