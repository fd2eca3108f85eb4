"""Our encoder student against sentence-transformers' CrossEncoderTrainer (and lightning-ir, where it is installed):
pairs trained per second, and nDCG@10 on test queries with qrels.

All of them get the same labels, base model, documents of a query, queries of a step, steps and lengths.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import ray
import torch
from torch.utils.data import SequentialSampler

from benchmarks import harness
from rrad_ray import tables
from rrad_ray.config import LabelConfig, RetrieveConfig, TrainConfig
from rrad_ray.evaluation import metrics, statistics
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Labels, with_qrels
from rrad_ray.stages import label, retrieve
from rrad_ray.tables import checkpoints
from rrad_ray.training.loop import fit
from rrad_ray.training.rank_task import RankBatches, RankTask, dev_scores
from rrad_ray.training.task import TrainWorker
from tests.commands import ROOT

OURS, PEER, LIGHTNING = "rrad_ray", "sentence-transformers", "lightning-ir, our rates, KL divergence"
# The loss that sentence-transformers recommends for lists of documents with scores, with its default settings; the
# same loss with our settings; and with our settings a loss whose target is a distribution over the list, which reads
# the distances between z-scored targets, also below 0.
PEERS = {
    PEER: ("LambdaLoss", False),
    f"{PEER}, our settings": ("LambdaLoss", True),
    f"{PEER}, our settings, ListNet": ("ListNetLoss", True),
}
WARM_UP = 0.1  # of the steps, for all
LOSS = {"listnet": 1.0}  # the best of our losses too: in so few steps it learns more than `soft_ranknet`
# Systems take turns, with another seed in each round, so that a drift of the machine's speed affects all of them.
ROUNDS = click.Option(["--rounds"], type=click.IntRange(1), default=2, show_default=True)

# lightning-ir needs an older transformers than ours: both from a folder of their own (benchmarks/README.md).
PEERS_FOLDER = ROOT / ".peers"

Rows = Sequence[Mapping[str, Any]]
Scores = list[list[float]]  # of the documents of each row with qrels


def bench(quick: bool, scratch: str, rounds: int) -> harness.Result:
    rows = labels(quick, scratch)
    learnt = [row for row in rows if row["split"] in ("train", "unlabelled")]
    judged = with_qrels(rows, "test")
    steps = 6 if quick else 60
    warm = round(WARM_UP * steps)
    base = TrainConfig(
        input="-", output="-", losses=LOSS, max_length=256, epochs=1000, max_steps=steps, warmup_steps=warm
    )
    ways = {OURS: _ours}
    for name, (loss, alike) in PEERS.items():
        ways[name] = functools.partial(_peer, scratch=scratch, loss=loss, alike=alike)
    if PEERS_FOLDER.exists():
        ways[LIGHTNING] = functools.partial(_lightning, scratch=scratch)
    else:
        print(f"{LIGHTNING}: not installed in {PEERS_FOLDER.name}, and left out", flush=True)
    seconds, ndcg = dict.fromkeys(ways, 0.0), {way: np.zeros(len(judged)) for way in ways}
    for seed in range(rounds):
        for way, train in ways.items():
            took, scores = train(dataclasses.replace(base, seed=seed), learnt, judged)
            values = [metrics.row_ndcg(row, row_scores) for row, row_scores in zip(judged, scores, strict=True)]
            print(f"{way}, round {seed + 1}: {took:.1f} s, nDCG@10 {np.mean(values):.3f}", flush=True)
            seconds[way] += took
            ndcg[way] += np.array(values)
    pairs = rounds * sum(len(row["texts"]) for batch in _batches(base, learnt) for row in batch)
    table = [
        {
            "system": way,
            "pairs": pairs,
            "seconds": seconds[way],
            "pairs/s": pairs / seconds[way],
            "nDCG@10": float(ndcg[way].mean()) / rounds,
        }
        for way in ways
    ]
    best = max((way for way in ways if way != OURS), key=lambda way: ndcg[way].mean())
    figures = {
        "examples_per_s_over_sentence_transformers": seconds[PEER] / seconds[OURS],
        "examples_per_s_over_fastest": min(seconds[way] for way in PEERS) / seconds[OURS],
        "ndcg_delta": float((ndcg[OURS] - ndcg[best]).mean()) / rounds,
        "ndcg_p": statistics.paired_p(ndcg[OURS].tolist(), ndcg[best].tolist()),
    }
    shown = {
        "steps": base.max_steps,
        "train_queries": len(learnt),
        "test_queries": len(judged),
        "threads": torch.get_num_threads(),
        "ndcg_against": best,
    }
    return harness.Result(figures, table, shown)


def labels(quick: bool, scratch: str) -> list[dict[str, Any]]:
    """Return queries with candidates and targets, which are the first stage's fusion and cost no LLM.

    All systems learn the same targets, and speed does not depend on where they come from.
    """
    queries = {"train": 400, "unlabelled": 400, "dev": 160, "test": 100 if quick else 300}
    candidates = retrieve.run(
        RetrieveConfig(data=harness.collection(), output=f"{scratch}/candidates", queries=queries)
    )
    labelled = label.run(LabelConfig(input=candidates, output=f"{scratch}/labels"))
    ray.shutdown()  # nothing else runs while the systems are timed
    return list(tables.read(labelled, Labels))


def _batches(cfg: TrainConfig, rows: Rows) -> Iterator[Rows]:
    """Yield the batches of a whole training as `rrad train` draws them; every system learns from these."""
    data = RankBatches(rows, cfg)
    return itertools.islice((batch for epoch in itertools.count() for batch in data(epoch)), cfg.max_steps)


def ours(cfg: TrainConfig, rows: Rows) -> tuple[float, Ranker]:
    """Train our student; return the seconds of the training, and the student."""
    data, task = RankBatches(rows, cfg), RankTask.fresh(checkpoints.resolve(cfg.model), cfg)
    began = time.perf_counter()
    fit(task, data, data.steps, cfg, TrainWorker(report=lambda figures, save: None))
    return time.perf_counter() - began, task.ranker.eval()


def _ours(cfg: TrainConfig, rows: Rows, judged: Rows) -> tuple[float, Scores]:
    """Train our student; return the seconds of the training, and the student's scores."""
    seconds, ranker = ours(cfg, rows)
    return seconds, dev_scores(ranker, judged)


def _lightning(cfg: TrainConfig, rows: Rows, judged: Rows, scratch: str) -> tuple[float, Scores]:
    """Return the same for lightning-ir, which trains in a process of its own."""
    columns = ("query", "texts", "targets")
    work = {
        **{key: getattr(cfg, key) for key in ("seed", "lr", "head_lr", "weight_decay", "max_length")},
        "model": checkpoints.resolve(cfg.model),
        "threads": torch.get_num_threads(),
        "steps": cfg.max_steps,
        "warm": cfg.warmup_steps,
        "batches": [{key: [row[key] for row in batch] for key in columns} for batch in _batches(cfg, rows)],
        "judged": [(row["query"], row["texts"]) for row in judged],
    }
    path = Path(scratch, "lightning.json")
    path.write_text(json.dumps(work))
    command = [sys.executable, "-m", "benchmarks.train_lightning_ir", str(path)]
    seconds, scores = harness.figures_of(command, "TOOK ", {"PYTHONPATH": str(PEERS_FOLDER)})
    return seconds, scores


def _peer(cfg: TrainConfig, rows: Rows, judged: Rows, scratch: str, loss: str, alike: bool) -> tuple[float, Scores]:
    """Return the same for CrossEncoderTrainer.

    `alike`: with our settings, as far as its user could choose them: learning rates, no dropout, frozen embeddings,
    eager attention, and our batches in our order, which alone moves nDCG@10 by some hundredths after so few steps.
    """
    from datasets import Dataset
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )

    torch.manual_seed(cfg.seed)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = CrossEncoder(
        checkpoints.resolve(cfg.model),
        num_labels=1,
        max_length=cfg.max_length,
        device="cpu",
        config_kwargs=still if alike else {},
        model_kwargs={"attn_implementation": "eager"} if alike else {},
    )
    for name, weight in model.named_parameters():
        weight.requires_grad_(not alike or "word_embeddings" not in name)
    columns = {"query": "query", "docs": "texts", "labels": "targets"}
    shown = [row for batch in _batches(cfg, rows) for row in batch]
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=f"{scratch}/peer",
            per_device_train_batch_size=cfg.queries_per_step,
            num_train_epochs=1,
            learning_rate=cfg.lr if alike else 2e-5,
            learning_rate_mapping={"classifier": cfg.head_lr} if alike else {},
            warmup_steps=WARM_UP,
            bf16=True,
            use_cpu=True,
            batch_sampler=_in_order if alike else BatchSamplers.BATCH_SAMPLER,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=cfg.seed,
        ),
        train_dataset=Dataset.from_dict({name: [row[key] for row in shown] for name, key in columns.items()}),
        loss=getattr(losses, loss)(model),
    )
    seconds = trainer.train().metrics["train_runtime"]
    model.save_pretrained(f"{scratch}/peer")
    ranker = Ranker.load(f"{scratch}/peer")
    ranker.max_length = cfg.max_length
    return seconds, dev_scores(ranker, judged)


def _in_order(dataset: Any, **options: Any) -> Any:
    """Return a batch sampler for CrossEncoderTrainer that keeps the order of the rows."""
    from sentence_transformers.base.sampler import DefaultBatchSampler

    return DefaultBatchSampler(SequentialSampler(dataset), **options)


if __name__ == "__main__":
    harness.main("train_vs_peers", bench, ROUNDS)
