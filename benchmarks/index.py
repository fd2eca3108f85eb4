"""An index of a part's vectors against the exact product of all: how long its lists take to train, what a search of
so many lists gains, and what it misses.

Vectors are drawn around centres, as texts lie around subjects, and queries beside documents: they stand in for a
model's, of which no collection here has enough, and are easy. Seconds are those of the CPU, on all threads.
"""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np
import torch

from benchmarks import harness
from rrad_ray.config import IndexConfig
from rrad_ray.retrieval import nearest
from rrad_ray.retrieval.approximate import InvertedLists, trained_lists
from rrad_ray.retrieval.searching import SCORES

SIZE, CENTRES, DEPTH = 384, 3_000, 10
SPREAD, ASIDE = 0.06, 0.03  # of a component, around a centre of length 1, and of a query around its document
PROBES = (4, 16, 64)


def bench(quick: bool, scratch: str, documents: int | None) -> harness.Result:
    documents, queries = documents or (65_536 if quick else 262_144), 2_000
    source = np.random.default_rng(0)
    drawn = _unit(source.standard_normal((CENTRES, SIZE), np.float32))[source.integers(0, CENTRES, documents)]
    drawn += SPREAD * source.standard_normal(drawn.shape, np.float32)
    vectors = nearest.on_grid(_unit(drawn))
    beside = vectors[source.integers(0, documents, queries)] + ASIDE * source.standard_normal((queries, SIZE))
    asked = torch.from_numpy(nearest.on_grid(_unit(beside.astype(np.float32))))
    known = torch.from_numpy(nearest.padded(vectors))
    began = time.process_time()
    trained = trained_lists(vectors, IndexConfig())
    train_s = time.process_time() - began
    exact_s, exact = _search(nearest.nearest, asked, known)
    rows: list[dict[str, Any]] = [{"way": "exact", "search s": exact_s, "exact / this": 1.0, "recall@10": 1.0}]
    figures = {"train_s": train_s}
    for probes in PROBES:
        search_s, best = _search(InvertedLists(trained, vectors, probes).nearest, asked, known)
        recall = float(np.mean([np.isin(own, other).mean() for own, other in zip(exact, best, strict=True)]))
        figures |= {f"speedup_{probes}_probes": exact_s / search_s, f"recall_{probes}_probes": recall}
        cells = {"search s": search_s, "exact / this": exact_s / search_s, "recall@10": recall}
        rows.append({"way": f"{probes} lists", **cells})
    return harness.Result(
        figures, rows, {"documents": documents, "queries": queries, "vectors": "random, in clusters"}
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@torch.inference_mode()
def _search(near: Any, queries: torch.Tensor, documents: torch.Tensor) -> tuple[float, np.ndarray]:
    """Return the CPU seconds of a search in blocks as of `PartSearch`, and each query's best documents."""
    began = time.process_time()
    blocks = queries.split(max(1, SCORES // len(documents)))
    best = torch.cat([near(block, documents, DEPTH)[1] for block in blocks]).numpy()
    return time.process_time() - began, best


if __name__ == "__main__":
    option = click.Option(["--documents"], type=int, help="of the part, in place of the form's")
    harness.main("index", bench, option)
