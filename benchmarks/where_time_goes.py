"""Tokens/s of both students as a share of what plain matrix products of the same shapes reach in the same run, and
what the rest of the time is spent on.

Speed does not hang on what the weights are: these are drawn at random, in the shapes of all-MiniLM-L6-v2, BERT-base
and SmolLM2-135M. The pairs are this repository's own functions, with their names as queries. So `--device cuda` needs
torch and transformers alone, and no download.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from benchmarks import command
from rrad_ray.config import TrainConfig
from rrad_ray.rankers.precision import best_dtype
from rrad_ray.rankers.ranker import Ranker, score_tokens
from rrad_ray.training.loop import fit
from rrad_ray.training.rank_task import RankTask, collate
from rrad_ray.training.task import TrainWorker
from tests.commands import ROOT

ROUNDS = 3  # of work and products in turn: the machine's drift is both sides'
MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
ATEN = torch.ops.aten
PLAIN = {
    ATEN.mm.default: ATEN.mm.default,
    ATEN.addmm.default: ATEN.mm.default,
    ATEN.bmm.default: ATEN.bmm.default,
    ATEN.baddbmm.default: ATEN.bmm.default,
}
# What an operator of the profile belongs to, by a part of its name; the first that fits.
KINDS = {
    "products": ("mm", "mkldnn"),
    "attention": ("softmax", "scaled_dot_product"),
    "optimizer": ("adam", "foreach", "vector_norm", "lerp", "addcmul", "addcdiv"),
    "norm, activation": ("norm", "gelu", "silu", "tanh", "rsqrt", "pow", "mean"),
    "embedding": ("embedding",),
    "other operators": ("",),
}
Rows = list[dict[str, Any]]


def bench(quick: bool, scratch: str, device: str) -> command.Result:
    small = device == "cpu"
    layers = 4 if small else 30  # of the demo's decoder; all
    students: dict[str, Any] = {
        "encoder": MINILM,
        "decoder": LlamaConfig(**SMOLLM2, num_hidden_layers=layers),
    }
    if not small:
        students["bert_base"] = BertConfig()
    cfg = TrainConfig(
        input="-",
        output="-",
        max_length=256,
        queries_per_step=8 if small else 512,
        max_steps=2 if quick else 6,
        pass_tokens=0 if small else 65536,
    )
    rows = functions(cfg.max_steps * cfg.queries_per_step, cfg.docs_per_query)
    peak = peak_flops(device)
    table, figures = [], {"peak_tflops": peak / 1e12}
    for name, config in students.items():
        task = RankTask(student(config, cfg.max_length, rows), cfg)
        for work in (training(task, cfg, rows, device), scoring(task.ranker, rows, device)):
            found = measured(work, task.ranker, device, peak)
            table.append({"student": name, "work": work.name, **found})
            figures[f"{name}_{work.name}_share_of_matmul"] = found["share of matmul"]
            figures[f"{name}_{work.name}_mfu"] = found["MFU"]
    shown = {"max_length": cfg.max_length, "steps": cfg.max_steps, "queries_per_step": cfg.queries_per_step}
    return command.Result(figures, table, shown)


def functions(queries: int, documents: int) -> list[dict[str, Any]]:
    """Label rows of uneven lengths: a function's name as words, that function and others, targets at random."""
    found = [
        (node.name.replace("_", " ").strip(), ast.unparse(node))
        for folder in ("rrad_ray", "tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    source, rows = random.Random(0), []
    for number in range(queries):
        name, text = found[number % len(found)]
        texts = [text, *(other for _, other in source.sample(found, documents - 1))]
        rows.append({"query": name, "texts": texts, "targets": [source.gauss(0, 1) for _ in texts]})
    return rows


def student(config: Any, max_length: int, rows: Rows) -> Ranker:
    """A ranker with random weights, and a tokenizer learnt from these rows."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    learner = trainers.WordPieceTrainer(vocab_size=30000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator((text for row in rows for text in row["texts"]), learner)
    ends = [(name, tokenizer.token_to_id(name)) for name in special[2:]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    decoder = isinstance(config, LlamaConfig)
    names = ["input_ids", "attention_mask", *([] if decoder else ["token_type_ids"])]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=names)
    config.pad_token_id, config.num_labels = wrapped.pad_token_id, 1
    torch.manual_seed(0)
    model = (LlamaForSequenceClassification if decoder else BertForSequenceClassification)(config)
    return Ranker(model, wrapped, max_length)


class Products(TorchDispatchMode):
    """Counts the matrix products beneath autograd, backward too, by the layout of their two operands."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PLAIN:
            self.found[PLAIN[func], *((one.shape, one.stride(), one.dtype) for one in args[-2:])] += 1
        else:
            with self:  # in inference mode `linear` and `matmul` arrive whole
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        return func(*args, **(kwargs or {}))

    @property
    def flops(self) -> int:
        return sum(2 * math.prod(a[0]) * b[0][-1] * count for (_, a, b), count in self.found.items())

    def seconds(self, device: str) -> float:
        """What these products take by themselves, one after the other."""
        total = 0.0
        for (product, one, other), count in self.found.items():
            a, b = operand(device, *one), operand(device, *other)
            product(a, b)
            began = now(device)
            for _ in range(count):
                product(a, b)
            total += now(device) - began
        return total


def operand(device: str, size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random numbers in that layout, in which elements may share a place."""
    reach = 1 + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    return torch.randn(reach, device=device).to(dtype).as_strided(size, stride)


@dataclasses.dataclass(frozen=True)
class Work:
    """`once` does it and says how many seconds that took. `batches`: queries and texts that it encodes together, for
    passes of at most `tokens` padded tokens."""

    name: str
    attention: str
    once: Callable[[], float]
    batches: list[tuple[list[str], list[str]]]
    tokens: int


def training(task: RankTask, cfg: TrainConfig, rows: Rows, device: str) -> Work:
    """`fit` over the rows, once."""
    size = cfg.queries_per_step
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]

    def once() -> float:
        told: list[dict[str, float]] = []
        worker = TrainWorker(device=device, report=lambda figures, save: told.append(figures))
        fit(task, lambda epoch, step: batches, len(batches), cfg, worker)
        return told[-1]["seconds"]

    attention = "eager" if device == "cpu" else "sdpa"  # as `fit` chooses
    return Work("train", attention, once, [collate(batch)[:2] for batch in batches], task.pass_tokens)


def scoring(ranker: Ranker, rows: Rows, device: str) -> Work:
    """`Ranker.score_pairs` over the rows, once."""
    queries, texts, _, _ = collate(rows)

    def once() -> float:
        began = now(device)
        ranker.eval().score_pairs(queries, texts)
        return now(device) - began

    return Work("score", "sdpa", once, [(queries, texts)], score_tokens(device))


def measured(work: Work, ranker: Ranker, device: str, peak: float) -> dict[str, Any]:
    """A row of the table."""
    ranker.model.set_attn_implementation("eager")  # no product hides in a fused kernel
    with Products() as products:
        work.once()
    ranker.model.set_attn_implementation(work.attention)
    work.once()
    seconds = plain = 0.0
    for _ in range(ROUNDS):
        seconds += work.once() / ROUNDS
        plain += products.seconds(device) / ROUNDS
    real = padded = 0
    began = time.perf_counter()
    encoded = [ranker.encode(*batch) for batch in work.batches]
    tokenizer = time.perf_counter() - began
    for pairs in encoded:
        for _, chunk in ranker.passes(pairs, work.tokens):
            real, padded = real + int(chunk["attention_mask"].sum()), padded + chunk["attention_mask"].numel()
    return {
        "tokens/s": real / seconds,
        "products alone, tokens/s": real / plain,
        "share of matmul": plain / seconds,
        "MFU": products.flops * real / padded / seconds / peak,
        "padding": 1 - real / padded,
        **kinds(work, device),
        "tokenizer": tokenizer / seconds,
    }


def kinds(work: Work, device: str) -> dict[str, float]:
    """Shares of the time, by the profiler: on a GPU, of what its kernels took; the rest passes between operators."""
    cuda = device != "cpu"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        seconds = work.once()
    shares = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        if event.device_type == DeviceType.CPU:
            kind = next(kind for kind, parts in KINDS.items() if any(part in event.key.lower() for part in parts))
            shares[kind] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / seconds / 1e6
    return shares | {"between operators": 1 - sum(shares.values())}


def peak_flops(device: str) -> float:
    """FLOP/s of a large square product, the best of three."""
    a, b = (torch.randn(8192, 8192, dtype=best_dtype(device), device=device) for _ in range(2))
    took = []
    for _ in range(3):
        began = now(device)
        a @ b
        took.append(now(device) - began)
    return 2 * 8192**3 / min(took)


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    option = click.Option(["--device"], default="cpu", help="cpu, or cuda")
    command.main("where_time_goes", bench, option)
