"""A toy set that small students learn in seconds, a small causal LM, a task that costs no time, and a listener that
keeps the reports of `fit`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rrad_ray.config import TrainConfig
from rrad_ray.training.loop import fit
from rrad_ray.training.rank_task import RankBatches
from rrad_ray.training.task import Rows, TrainTask, TrainWorker

CFG = TrainConfig(
    "in",
    "out",
    max_length=24,
    docs_per_query=3,
    top_docs=1,
    queries_per_step=4,
    epochs=100.0,
    max_steps=12,
    warmup_steps=2,
    lr=5e-4,
    head_lr=5e-3,
    dtype="float32",
    eval_steps=6,
)
TOPICS = [
    "sort a list",
    "open a file",
    "add numbers",
    "parse json",
    "send mail",
    "read a socket",
    "join paths",
    "hash",
]


def label(number: int, documents: int = 4) -> dict[str, Any]:
    """Return a label row of documents on topics; the teacher prefers the topics in the order above."""
    topics = [(number * 3 + step * step) % len(TOPICS) for step in range(documents)]
    ids = [f"d{number}-{step}" for step in range(documents)]
    return {
        "query_id": f"q{number}",
        "query": f"question {number}",
        "doc_ids": ids,
        "texts": [f"this can {TOPICS[topic]}" + "!" * step for step, topic in enumerate(topics)],
        "targets": [-float(topic) for topic in topics],
        "qrel_ids": [ids[topics.index(min(topics))]],
        "qrel_grades": [1],
    }


ROWS = [label(number) for number in range(16)]


def causal_lm(folder: Path, words: Sequence[str], tied: bool) -> str:
    """Save a small random Llama with a byte-level tokenizer trained on these words; return its folder.

    `tied`: its output layer shares the weights of its embeddings.
    """
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=320, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(words, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


class Line(TrainTask):
    """A random linear layer whose square over rows of three numbers is minimised; its dev figures are given.

    A row's first number is its weight, in the mean and in `sizes`.
    """

    dev_metric = "dev_given"

    def __init__(self, figures: Sequence[float] = ()) -> None:
        super().__init__()
        self.model: Any = nn.Linear(3, 1)
        self.model.set_attn_implementation = lambda name: None
        self.figures = list(figures)

    def forward(self, rows: Rows) -> dict[str, Tensor]:
        inputs = torch.tensor(rows, dtype=self.model.weight.dtype)
        return {"square": (inputs[:, :1] * self.model(inputs).pow(2)).sum() / inputs[:, 0].sum()}

    def sizes(self, rows: Rows) -> dict[str, float]:
        return {"square": float(sum(row[0] for row in rows))}

    def measure(self, rows: Sequence[Any]) -> dict[str, float]:
        return {"dev_given": self.figures.pop(0)}

    def pairs(self, rows: Rows) -> int:
        return len(rows)

    def save(self, folder: Path, float32_state: Mapping[str, Tensor]) -> None:
        torch.save(dict(float32_state), folder / "line.pt")


class Listener:
    """A report function that keeps all metrics and, given a folder, each checkpoint in `step-N`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.heard = folder, list[dict[str, float]]()

    def __call__(self, metrics: dict[str, float], save: Callable[[Path], None] | None) -> None:
        self.heard.append(metrics)
        if save and self.folder:
            checkpoint = self.folder / f"step-{metrics['step']}"
            checkpoint.mkdir()
            save(checkpoint)

    def each(self, name: str) -> list[float]:
        """Return a figure of each step of a run with a report after every step (`fit` reports means of 20 steps)."""
        assert len(self.heard) <= 20
        sums = [0.0, *(metrics[name] * metrics["step"] for metrics in self.heard)]
        return [after - before for before, after in itertools.pairwise(sums)]


def fitted(
    task: TrainTask,
    cfg: TrainConfig,
    folder: Path | None = None,
    *,
    rows: Sequence[Any] = ROWS,
    dev: Sequence[Any] = (),
    resume: Path | None = None,
) -> Listener:
    """Train the task; return the listener of its reports."""
    listener, data = Listener(folder), RankBatches(rows, cfg)
    fit(task, data, data.steps, cfg, TrainWorker(report=listener, resume=resume), dev)
    return listener
