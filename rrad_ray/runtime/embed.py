"""The embeddings of the first stage: the bi-encoder as Ray Data actors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from rrad_ray.config import RetrieveConfig
from rrad_ray.errors import at_place
from rrad_ray.progress import Progress
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.runtime import cluster
from rrad_ray.tables import checkpoints

BATCH = 512  # texts a call: enough of them to be sorted by length


class Embed:
    """An actor: batches of texts to unit vectors."""

    def __init__(self, source: str, max_length: int, batch_tokens: int) -> None:
        self.encoder = BiEncoder(source, max_length=max_length, batch_tokens=batch_tokens)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        texts, is_query = batch["text"], batch["is_query"].astype(bool)
        vectors = np.zeros((len(texts), self.encoder.size), dtype=np.float32)
        for kind, encode in ((True, self.encoder.queries), (False, self.encoder.documents)):
            if (is_query == kind).any():
                vectors[is_query == kind] = encode(texts[is_query == kind])
        each = (time.monotonic() - began) / len(texts)
        return {"number": batch["number"], "vector": vectors, "seconds": np.full(len(texts), each)}


def local(cfg: RetrieveConfig) -> BiEncoder:
    """Return the bi-encoder of the actors, loaded in this process; raises `RradError` for one that cannot serve."""
    source = checkpoints.resolve(cfg.model)
    with at_place(cfg.model, "name another model"):
        return BiEncoder(source, max_length=cfg.max_length, batch_tokens=cfg.batch_tokens)


def embed(
    documents: Sequence[str], queries: Sequence[str], cfg: RetrieveConfig
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return unit vectors of documents (D, E) and of queries (Q, E), and documents/s without the actors' start."""
    source = checkpoints.resolve(cfg.model)
    cluster.start_ray()
    texts = [*documents, *queries]
    items = [{"number": n, "text": text, "is_query": n >= len(documents)} for n, text in enumerate(texts)]
    # Long texts first and like beside like: no padding, and no long batch is left for the end.
    items.sort(key=lambda item: -len(str(item["text"])))
    blocks = max(1, len(items) // BATCH)
    vectors = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        Embed,
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=cfg.num_workers),
        fn_constructor_kwargs={"source": source, "max_length": cfg.max_length, "batch_tokens": cfg.batch_tokens},
        num_cpus=1,
    )
    result = np.zeros((len(items), 0), np.float32)
    progress, seconds = Progress(len(items), "texts"), 0.0
    for batch in vectors.iter_batches(batch_size=None, batch_format="numpy"):
        if not result.shape[1]:
            result = np.zeros((len(items), batch["vector"].shape[1]), np.float32)
        result[batch["number"]] = batch["vector"]
        seconds += float(batch["seconds"].sum())
        progress.add(len(batch["number"]))
    per_s = cfg.num_workers * len(items) / seconds
    return result[: len(documents)], result[len(documents) :], per_s
