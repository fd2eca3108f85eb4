"""The rank student as a training task: label rows as batches, rank losses over them, nDCG on dev."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from rrad_ray.config import TrainConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation import metrics
from rrad_ray.languages.scripts import pieces
from rrad_ray.patches import transformers_cls_only
from rrad_ray.rankers import generation, lora
from rrad_ray.rankers.ranker import Ranker, in_order, one_by_one, spread, train_tokens
from rrad_ray.rankers.term_control import TermControl, select, states_of
from rrad_ray.training import losses
from rrad_ray.training.stream import ShuffledRows
from rrad_ray.training.task import Diverged, Rows, TrainTask, in_hf_head
from rrad_ray.training.weighted_loss import weighted

FLAT_BATCHES = 50  # a student has collapsed after so many batches in a row in which every list has one score
ONE_PASS = 10**9  # padded tokens of a forward pass that is never split


def rank_steps_in_epoch(queries: int, cfg: TrainConfig, world_size: int) -> int:
    """Return the steps that every worker takes in an epoch.

    Raises `ValueError` if there are fewer queries than one step of all workers needs.
    """
    steps = queries // (cfg.queries_per_step * world_size)
    if not steps:
        problem = f"{queries} training queries do not fill a step of {cfg.queries_per_step} on {world_size} worker(s)"
        raise InvalidInput(problem, "label more queries, lower queries_per_step, or train with fewer workers")
    return steps


class RankBatches:
    """Batches of label rows for one worker, deterministic in seed, epoch and query."""

    def __init__(
        self, rows: ShuffledRows | Sequence[Mapping[str, Any]], cfg: TrainConfig, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows = rows if isinstance(rows, ShuffledRows) else ShuffledRows.of(rows, cfg.seed)
        self.cfg, self.rank, self.world_size = cfg, rank, world_size
        self.steps = rank_steps_in_epoch(len(rows), cfg, world_size)

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Rows]:
        """Yield this worker's batches of an epoch from step `first` on, `queries_per_step` rows each.

        Every worker gets the same number of batches.
        """
        size, world_size = self.cfg.queries_per_step, self.world_size
        end = self.steps * size * world_size

        def is_local(position: int) -> bool:
            return position < end and position // size % world_size == self.rank

        rows = self.rows(epoch, first * size * world_size, is_local)
        for _ in range(first, self.steps):
            yield [self._sample(row, epoch) for row in itertools.islice(rows, size)]

    def _sample(self, row: Mapping[str, Any], epoch: int) -> Mapping[str, Any]:
        """Return a row with `docs_per_query` of its documents: the `top_docs` best by target, the rest at random.

        Query and documents lose words by `word_dropout`. With `generation`, column `answers` holds the text to be
        written for each document.
        """
        cfg, count = self.cfg, len(row["doc_ids"])
        source = random.Random(f"{cfg.seed}:{epoch}:{row['query_id']}")
        chosen = list(range(count))
        if count > cfg.docs_per_query:
            best = sorted(chosen, key=lambda index: -row["targets"][index])
            rest = source.sample(best[cfg.top_docs :], cfg.docs_per_query - cfg.top_docs)
            chosen = [*best[: cfg.top_docs], *rest]
        answers = generation.target_texts(row) if cfg.generation.weight else []  # ranks are among all documents
        return {
            **row,
            **({"answers": [answers[index] for index in chosen]} if answers else {}),
            "query": drop_words(row["query"], cfg.word_dropout, source),
            "texts": [drop_words(row["texts"][index], cfg.word_dropout, source) for index in chosen],
            "targets": [row["targets"][index] for index in chosen],
        }


def drop_words(text: str, share: float, source: random.Random) -> str:
    """Return the text with each word dropped with probability `share`; unchanged if none would be left.

    Word dropout, Iyyer et al., 2015. Of a script without spaces, two characters count as a word.
    """
    if not share:
        return text
    kept = ("".join(piece for piece in word if source.random() >= share) for word in pieces(text))
    return " ".join(filter(None, kept)) or text


def collate(rows: Rows) -> tuple[list[str], list[str], Tensor, Tensor]:
    """Return queries and texts of all pairs, mask_BN and targets_BN of a batch of label rows."""
    widest = max(len(row["texts"]) for row in rows)
    mask = torch.zeros(len(rows), widest, dtype=torch.bool)
    targets = torch.zeros(len(rows), widest)
    for index, row in enumerate(rows):
        mask[index, : len(row["texts"])] = True
        targets[index, : len(row["texts"])] = torch.tensor(row["targets"])
    queries = [row["query"] for row in rows for _ in row["texts"]]
    return queries, [text for row in rows for text in row["texts"]], mask, targets


def dev_scores(ranker: Ranker, rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the ranker's scores of each row's documents."""
    queries = [row["query"] for row in rows for _ in row["texts"]]
    scores = iter(ranker.score_pairs(queries, [text for row in rows for text in row["texts"]]))
    return [[next(scores) for _ in row["texts"]] for row in rows]


def mean_ndcg(rows: Sequence[Mapping[str, Any]], scores: Sequence[Sequence[float]]) -> float:
    """Return the mean nDCG@10 over rows with qrels."""
    return float(np.mean([metrics.row_ndcg(row, row_scores) for row, row_scores in zip(rows, scores, strict=True)]))


def flat(scores: Sequence[Sequence[float]], dtype: torch.dtype) -> bool:
    """Return whether the scores within every list are equal up to the rounding of `dtype`.

    Lists of one document do not count; without any other list the answer is False.
    """
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    spreads = [(max(row) - min(row), max(map(abs, row))) for row in scores if len(row) > 1]
    return bool(spreads) and all(gap <= rounding * largest for gap, largest in spreads)


def collapse(score: float, where: str) -> Diverged:
    """Return the error for a student that scores all documents alike.

    Left alone it would keep the first stage's order, and so look good on dev.
    """
    problem = f"the student has collapsed: it gives all documents of a query one score ({score:.4g}) {where}"
    return Diverged(problem, "lower lr and head_lr, raise warmup_steps, or check the targets' scale")


class RankTask(TrainTask):
    """A student under the config's rank losses.

    An encoder also trains its Term Control Layer, and a decoder the generation of label and reason, where these have
    a weight.
    """

    dev_metric = "dev_ndcg"

    def __init__(self, ranker: Ranker, cfg: TrainConfig, head: nn.Module | None = None) -> None:
        """Take `head`, a decoder's output layer, where that is not tied to its embeddings (`generation.lm_head`)."""
        super().__init__()
        self.ranker, self.cfg, self.head = ranker, cfg, head
        self.losses = {
            name: weighted({name: spec}, target_scale=cfg.target_scale) for name, spec in cfg.losses.items()
        }
        self.terms = self._term_control() if cfg.terms.weight else None
        self.flat_batches = 0  # batches in a row in which the scores of every list were equal
        if head is not None:
            head.requires_grad_(not cfg.freeze_embeddings)

    @classmethod
    def fresh(cls, source: str, cfg: TrainConfig) -> RankTask:
        """Return the task of a new student on the pretrained model in `source`.

        New weights depend on the config's seed alone. Raises `ValueError` for `lora_rank` without peft.
        """
        create = Ranker.encoder if cfg.kind == "encoder" else Ranker.decoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
            ranker = create(source, max_length=cfg.max_length, layers=cfg.layers)
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
        """Padded tokens of one forward pass within a step.

        Under FSDP a step is one pass, because workers that share a sharded model must take equally many.
        """
        if self.cfg.parallel == "fsdp":
            return ONE_PASS
        return self.cfg.pass_tokens or train_tokens(self.model.device.type)

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        """Return losses: `rank` of the scores, `terms` of the Term Control Layer's scores, `tokens` of the answers.

        With several rank losses each has its own name, such as `rank_margin_mse`.
        """
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
        """Raise `FloatingPointError` after `FLAT_BATCHES` batches in a row whose lists all have one score."""
        self.flat_batches = self.flat_batches + 1 if flat(scores, self.model.dtype) else 0
        if self.flat_batches >= FLAT_BATCHES:
            raise collapse(scores[0][0], f"in the last {FLAT_BATCHES} batches")

    def _ranked(self, kind: str, scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> dict[str, Tensor]:
        """Return the config's rank losses of these scores, by name."""
        tensors = (scores_BN, targets_BN.to(scores_BN.device), mask_BN.to(scores_BN.device))
        return {self._loss_name(kind, name): loss(*tensors) for name, loss in self.losses.items()}

    def _loss_name(self, kind: str, name: str) -> str:
        return kind if len(self.losses) == 1 else f"{kind}_{name}"

    def is_head(self, name: str) -> bool:
        """Return whether a parameter belongs to the ranking head or to the Term Control Layer."""
        return in_hf_head(name) or name.startswith("terms.")

    def sizes(self, rows: Rows) -> dict[str, float]:
        """Return the documents, pairs or lists of each rank loss, and the tokens of the answers."""
        _, _, mask_BN, targets_BN = collate(rows)
        kinds = ["rank"] if self.terms is None else ["rank", "terms"]
        sizes = {
            self._loss_name(kind, name): losses.size(name, spec, targets_BN, mask_BN)
            for name, spec in self.cfg.losses.items()
            for kind in kinds
        }
        if self.cfg.generation.weight:
            answers = [text for row in rows for text in row["answers"]]
            sizes["tokens"] = float(sum(map(len, self._answer_tokens(answers))))
        return sizes

    def _answer_tokens(self, answers: Sequence[str]) -> list[list[int]]:
        return generation.encode(self.ranker.tokenizer, answers, self.cfg.generation.max_tokens)

    def _with_terms(self, layer: TermControl, queries: Sequence[str], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return each pair's plain score and its Term Control score, from one forward pass."""
        encoded = self.ranker.tokenize(queries, texts)
        selections = [
            torch.tensor(select(query, text, encoding, self.cfg.terms.match, self.cfg.terms.language))
            for query, text, encoding in zip(queries, texts, encoded.encodings or (), strict=True)
        ]
        plain, controlled = [], []
        for_all_tokens = transformers_cls_only.for_all_tokens(self.model)
        with states_of(self.model) as states:
            for indices, chunk in self.ranker.passes(one_by_one(encoded), self.pass_tokens):
                plain.append((indices, self.model(**chunk, **for_all_tokens).logits[:, 0].float()))
                length = chunk["input_ids"].shape[1]
                chosen = [selections[index] for index in indices]
                selected_PL = torch.stack([pad(selection, (0, length - len(selection))) for selection in chosen])
                controlled.append((indices, layer(states.pop(), selected_PL.to(self.model.device))))
        return in_order(plain), in_order(controlled)

    def _with_answers(
        self, queries: Sequence[str], texts: Sequence[str], answers: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return each pair's score and the mean loss over all answer tokens, from one forward pass."""
        targets = self._answer_tokens(answers)
        pairs, project = self.ranker.encode(queries, texts), generation.projection(self.ranker, self.head)
        return generation.joint(self.ranker, project, pairs, targets, self.pass_tokens)

    def measure(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the mean nDCG@10 over rows with qrels.

        Raises `FloatingPointError` if the scores within every list are equal.
        """
        scores = dev_scores(self.ranker, rows)
        if flat(scores, self.model.dtype):
            raise collapse(scores[0][0], "on dev")
        return {"dev_ndcg": mean_ndcg(rows, scores)}

    def save(self, folder: Path, float32_state: Mapping[str, Tensor]) -> None:
        """Write the ranker's plain checkpoint, without the Term Control Layer.

        An output layer of its own is written beside it (`generation.LM_HEAD`).
        """
        self.ranker.save(folder, {name.removeprefix("ranker."): weight for name, weight in float32_state.items()})
        if self.head is not None:
            state = {name: float32_state[f"head.{name}"] for name, _ in self.head.named_parameters()}
            (folder / generation.LM_HEAD).parent.mkdir()
            save_file({name: each.cpu().contiguous() for name, each in state.items()}, folder / generation.LM_HEAD)
