"""Documents/s of our scoring backends, in-process, against sentence-transformers' CrossEncoder as it comes and tuned,
and OpenVINO by hand, on the same checkpoint and pairs; with what each does to the ranking.

`--isa amx`, `avx512` or `avx2` lets all of them, and the product, use no more than this class of CPUs has.

`share_of_matmul`: operations of the model's matrix products over the pairs' real tokens (of a layer, a token's
2 (4 D^2 + 2 D F) for the linear parts and 4 L D for attention; padding is no work, and what a system leaves out since
nobody reads it, as ours in the last layer, counts as done) per second, over what a product of 2048 x 384 by
384 x 1536 reaches in the same rounds, in bfloat16 or float32, whichever is faster.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from scipy.stats import kendalltau
from sentence_transformers import CrossEncoder

from benchmarks import harness, train_vs_peers
from rrad_ray.config import TrainConfig
from rrad_ray.evaluation import metrics
from rrad_ray.patches import torch_cpu
from rrad_ray.rankers import amx, vectors
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import with_qrels
from tests.commands import ROOT

THREADS = os.cpu_count() or 1
DEFAULT, EXACT = "sentence-transformers, as it comes", "ours, torch float32"
INT8 = "ours, torch int8"
ISA: dict[str, dict[str, str]] = {  # what keeps PyTorch, oneDNN, OpenVINO and our kernels to a class of CPUs
    "amx": {},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "ATEN_CPU_CAPABILITY": "avx512"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
OURS: dict[str, dict[str, str]] = {
    "ours, torch bfloat16": {"dtype": "bfloat16"},
    INT8: {"dtype": "int8"},
    "ours, compile bfloat16": {"dtype": "bfloat16", "backend": "compile"},
    "ours, openvino bfloat16": {"dtype": "bfloat16", "backend": "openvino"},
    "ours, openvino float32": {"dtype": "float32", "backend": "openvino"},
    "ours, onnx float32": {"backend": "onnx"},
    "ours, onnx int8": {"dtype": "int8", "backend": "onnx"},
    EXACT: {"dtype": "float32"},
}
Rows = Sequence[Mapping[str, Any]]


def bench(quick: bool, scratch: str, peers: str, isa: str | None) -> harness.Result:
    torch.set_num_threads(THREADS)
    folder, rows = _student(quick, scratch)
    pairs = [(row["query"], text) for row in rows for text in row["texts"]]
    ways: dict[str, Callable[[], Sequence[float]]] = {}
    for name, options in OURS.items():
        ways[name] = _ours(Ranker.load(folder, **options), pairs)
    without = mock.Mock(return_value=None)
    with mock.patch.object(amx, "library", without), mock.patch.object(vectors, "vector_kernels", without):
        for dtype in ("bfloat16", "float32"):
            ways[f"ours, torch {dtype}, without our kernels"] = _ours(Ranker.load(folder, dtype=dtype), pairs)
    ways[DEFAULT] = _cross_encoder(folder, pairs, {})
    ways["sentence-transformers, bfloat16"] = _cross_encoder(folder, pairs, {"dtype": torch.bfloat16})
    for dtype, hint in (("bfloat16", "bf16"), ("float32", "f32")):
        ways[f"OpenVINO {dtype} by hand, sorted"] = _by_hand(folder, pairs, hint)
    rounds = 2 if quick else 5
    scores = {name: list(map(float, score())) for name, score in ways.items()}  # warm
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    product: list[float] = []
    for _ in range(rounds):
        for name, score in ways.items():
            product.append(max(_product_flops(torch.bfloat16), _product_flops(torch.float32)))
            began = time.perf_counter()
            score()
            seconds[name].append(time.perf_counter() - began)
    if peers:
        Path(scratch, "pairs.json").write_text(json.dumps(pairs))
        for backend in ("onnx", "openvino"):
            module = str(ROOT / "benchmarks" / "score_peer.py")
            command = [peers, module, folder, backend, f"{scratch}/pairs.json", str(THREADS), str(rounds)]
            found = harness.figures_of(command, "figures:", {})
            name = f"sentence-transformers, {backend}"
            seconds[name], scores[name] = found["seconds"], found["scores"]
    work = _flops(Ranker.load(folder, dtype="float32"), pairs)
    table = [
        _row(name, rows, took, scores, len(pairs), work / statistics.median(product))
        for name, took in seconds.items()
    ]
    speed = {row["system"]: row["documents/s"] for row in table}
    best = max((name for name in OURS if "int8" not in name), key=lambda name: speed[name])
    tuned = [name for name in speed if not name.startswith("ours") and name != DEFAULT]
    figures = {
        "over_default": speed[best] / speed[DEFAULT],
        "over_best_tuned_peer": speed[best] / max(speed[name] for name in tuned),
        "share_of_matmul": next(row["share of matmul"] for row in table if row["system"] == best),
        "int8_over_float32": speed[INT8] / speed[EXACT],
        "int8_tau": next(row["tau"] for row in table if row["system"] == INT8),
        "int8_ndcg_loss": _ndcg(rows, scores[EXACT]) - _ndcg(rows, scores[INT8]),
    }
    shown = {
        **{"isa": isa or "as it is", "threads": THREADS, "rounds": rounds, "pairs": len(pairs), "best": best},
        "product_tflops": statistics.median(product) / 1e12,
        "peers": "all" if peers else "without sentence-transformers' onnx and openvino (--peers)",
    }
    return harness.Result(figures, table, shown)


def _student(quick: bool, scratch: str) -> tuple[str, Rows]:
    """A student trained for some steps, and judged queries with their candidates."""
    rows = train_vs_peers.labels(quick, scratch)
    cfg = TrainConfig(input="-", output="-", max_length=256, max_steps=20 if quick else 60, warmup_steps=4)
    learnt = [row for row in rows if row["split"] in ("train", "unlabelled")]
    train_vs_peers.ours(cfg, learnt)[1].save(f"{scratch}/student")
    return f"{scratch}/student", with_qrels(rows, "test")[: 20 if quick else 100]


def _ours(ranker: Ranker, pairs: Sequence[tuple[str, str]]) -> Callable[[], Sequence[float]]:
    queries, texts = zip(*pairs, strict=True)
    return lambda: ranker.score_pairs(queries, texts)


def _cross_encoder(folder: str, pairs: Any, options: dict[str, Any]) -> Callable[[], Sequence[float]]:
    model = CrossEncoder(folder, device="cpu", model_kwargs=options)
    return lambda: model.predict(pairs, show_progress_bar=False).tolist()


def _by_hand(folder: str, pairs: Sequence[tuple[str, str]], hint: str) -> Callable[[], Sequence[float]]:
    """What its user would write: 32 pairs of like length at once."""
    import openvino
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, return_dict=False).eval()
    example = dict(tokenizer(["a", "b"], ["c", "d e"], padding=True, return_tensors="pt"))
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    compiled = openvino.compile_model(openvino.convert_model(model, example_input=example), "CPU", options)

    def score() -> Sequence[float]:
        queries, texts = zip(*pairs, strict=True)
        encoded = tokenizer(list(queries), list(texts), truncation=True)
        order = np.argsort([len(ids) for ids in encoded["input_ids"]])
        scores = np.zeros(len(pairs))
        for start in range(0, len(order), 32):
            some = order[start : start + 32]
            batch = tokenizer.pad({key: [encoded[key][i] for i in some] for key in encoded}, return_tensors="np")
            scores[some] = compiled(dict(batch))[0][:, 0]
        return scores.tolist()

    return score


def _product_flops(dtype: torch.dtype) -> float:
    """FLOP/s of a plain product, in the shape of MiniLM's widest layer."""
    a, b = torch.randn(2048, 384).to(dtype), torch.randn(384, 1536).to(dtype)
    began = 0.0
    for number in range(60):
        if number == 10:
            began = time.perf_counter()
        a @ b
    return 50 * 2 * 2048 * 384 * 1536 / (time.perf_counter() - began)


def _flops(ranker: Ranker, pairs: Sequence[tuple[str, str]]) -> float:
    config = ranker.model.config
    wide, inner = config.hidden_size, config.intermediate_size
    queries, texts = zip(*pairs, strict=True)
    lengths = [len(pair["input_ids"]) for pair in ranker.encode(queries, texts)]
    a_layer = sum(length * (2 * (4 * wide**2 + 2 * wide * inner) + 4 * length * wide) for length in lengths)
    return float(config.num_hidden_layers * a_layer)


def _ndcg(rows: Rows, scores: Sequence[float]) -> float:
    left = iter(scores)
    return statistics.mean(metrics.row_ndcg(row, [next(left) for _ in row["texts"]]) for row in rows)


def _row(
    name: str, rows: Rows, took: Sequence[float], scores: Mapping[str, Sequence[float]], pairs: int, ideal_s: float
) -> dict[str, Any]:
    """`ideal_s`: what the pairs' products would take at the rate of the plain one."""
    taus, start = [], 0
    for row in rows:
        some = slice(start, start := start + len(row["texts"]))
        taus.append(kendalltau(scores[name][some], scores[EXACT][some]).statistic)
    return {
        "system": name,
        "documents/s": pairs / statistics.median(took),
        "share of matmul": ideal_s / statistics.median(took),
        "tau": float(np.mean(taus)),
        "nDCG@10": _ndcg(rows, scores[name]),
    }


def _keep_to(_context: click.Context, _parameter: click.Parameter, isa: str | None) -> str | None:
    """Start this process again as one of a class of CPUs, since libraries ask for it once, at their start."""
    if isa == "amx" and not torch_cpu.has_amx():
        raise click.BadParameter("this CPU has no AMX")
    if isa and not ISA[isa].items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.score_speed", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ISA[isa]})
    return isa


if __name__ == "__main__":
    peers = click.Option(["--peers"], default="", help="a Python with sentence-transformers[onnx,openvino]")
    isa = click.Option(["--isa"], type=click.Choice(list(ISA)), callback=_keep_to, help="a class of CPUs to keep to")
    harness.main("score_speed", bench, peers, isa)
