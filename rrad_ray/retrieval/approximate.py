"""Approximate search by vectors: faiss's inverted lists (IVF) say which documents a query meets, and those are scored
exactly, so that hits of several parts can be compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from rrad_ray.config import IndexConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.retrieval import nearest


def faiss_module() -> Any:
    """Return the module `faiss`. Raises `InvalidInput` where its extra is not installed."""
    try:
        import faiss
    except ImportError as error:
        problem = "an index is built by faiss, which this environment lacks"
        raise InvalidInput(problem, "pip install 'rrad-ray[faiss]', or leave index.probes at 0") from error
    return faiss


def trained_lists(vectors: np.ndarray, cfg: IndexConfig) -> bytes:
    """Return empty lists, with centroids learnt from a part's vectors (D, E), as faiss stores an index."""
    faiss = faiss_module()
    lists = min(cfg.lists or round(4 * math.sqrt(len(vectors))), len(vectors))
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # else it warns of small parts, in which no search is slow
    index.train(vectors)
    stored: bytes = faiss.serialize_index(index).tobytes()
    return stored


class InvertedLists:
    """A part's vectors on the grid (D, E) in lists as of `trained_lists`, of which each query meets `probes`."""

    def __init__(self, trained: bytes, vectors: np.ndarray, probes: int) -> None:
        self.index = faiss_module().deserialize_index(np.frombuffer(trained, np.uint8))
        self.index.nprobe = probes
        self.index.add(vectors)

    def nearest(
        self, queries: torch.Tensor, documents: torch.Tensor, depth: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `nearest.nearest` does, of the documents in the lists that a query meets; where there are
        fewer, scores of 0 stand for the rest."""
        return self._nearest(queries, documents, depth, depth + nearest.MARGIN)

    def _nearest(
        self, queries: torch.Tensor, documents: torch.Tensor, depth: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Look at so many documents exactly, and at more where float32 may have cut off one of the nearest."""
        count = min(count, self.index.ntotal)
        roughly, rows = map(torch.from_numpy, self.index.search(queries.cpu().numpy(), count))
        roughly, rows = roughly.to(documents.device), rows.to(documents.device)
        exact = nearest.pair_scores(queries.unsqueeze(1), documents[rows.clamp(min=0)])
        scores, columns = nearest.first_by_score(exact.masked_fill(rows < 0, 0), rows.clamp(min=0), depth)
        if count < self.index.ntotal:
            unsure = (roughly[:, -1] + nearest.product_error(queries) >= scores[:, -1]) & queries.any(1)
            if unsure.any():  # such as copies of a document, all as near
                scores[unsure], columns[unsure] = self._nearest(queries[unsure], documents, depth, 2 * count)
        return scores, columns
