"""The cost of a search over the whole collection, measured on some of its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.config.base import actors_of
from rrad_ray.data.bm25 import tokenized, top_k
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.retrieval.part_terms import PartIndex
from rrad_ray.retrieval.searching import Search
from rrad_ray.retrieval.workspace import read_table
from rrad_ray.rows import BM25, DENSE

SAMPLE_PARTS, SAMPLE_QUERIES, SAMPLE_SLICES = 4, 100, 64

SEARCH_DEPTH = 20  # documents of a search


def source_costs(search: Search, encoder: BiEncoder, cfg: RetrieveConfig) -> dict[str, tables.SourceCost]:
    """Return latency of one search over the whole collection in one process, and documents/s, per source.

    They are measured here and now, on the first `SAMPLE_PARTS` parts, and multiplied up to the whole collection. What
    a search by the user's own vectors of queries costs is not known: nobody says what has made them.
    """
    block = next(iter(search.queries))
    texts = read_table(tables.join(search.work, "queries", block), ["query"], 0, SAMPLE_QUERIES)["query"].to_pylist()
    words = read_table(tables.join(search.work, "vocabulary.parquet"))["term"].to_pylist()
    vocabulary = {term: number for number, term in enumerate(words)}
    queries = search.vectors("query_vectors", block)
    spent, measured = {BM25: np.zeros(len(texts)), DENSE: np.zeros(len(texts))}, 0
    for part in list(search.documents)[:SAMPLE_PARTS]:
        index, vectors = search.terms_index(part), search.vectors("vectors", part)
        measured += len(vectors)
        spent[BM25] += _times([partial(_by_terms, index, text, vocabulary, cfg) for text in texts])
        spent[DENSE] += _times(_by_vectors(search, part, vectors, queries[: len(texts)]))
    documents = sum(piece.stop - piece.start for pieces in search.documents.values() for piece in pieces)
    spent = {source: times * documents / measured for source, times in spent.items()}
    spent[DENSE] += _times([partial(encoder.queries, [text]) for text in texts])
    latencies = {source: _percentiles(times) for source, times in spent.items()}
    per_s = {source: documents / (each["p50"] / 1000) for source, each in latencies.items()}
    per_s[DENSE] = _embedded_per_s(search, actors_of(cfg.num_workers)[1]) or per_s[DENSE]
    weights = {BM25: 0, DENSE: sum(weight.numel() for weight in encoder.model.parameters())}
    return {
        source: {"latency_ms": each, "documents_per_s": per_s[source], "parameters": weights[source]}
        for source, each in latencies.items()
        if source != DENSE or "query_vectors" not in search.own
    }


def _by_terms(index: PartIndex, text: str, vocabulary: dict[str, int], cfg: RetrieveConfig) -> None:
    row, words = np.zeros(index.size, np.float32), tokenized([text], cfg.language)
    index.add_scores(row, [vocabulary[term] for term in words.vocab])
    top_k(row, SEARCH_DEPTH)


def _by_vectors(search: Search, part: str, vectors: np.ndarray, queries: np.ndarray) -> list[Callable[[], Any]]:
    """Return the search of a part by each query's vector, as the config searches."""
    if (lists := search.lists(part, vectors)) is None:
        return [partial(_by_vector, vectors, query) for query in queries]
    documents = torch.from_numpy(vectors)
    return [partial(lists.nearest, torch.from_numpy(query[None]), documents, SEARCH_DEPTH) for query in queries]


def _by_vector(vectors: np.ndarray, query: np.ndarray) -> None:
    top_k(vectors @ query, SEARCH_DEPTH)


def _times(calls: Sequence[Callable[[], Any]]) -> np.ndarray:
    """Return the milliseconds of each call, after a few to warm up."""
    for call in calls[:3]:
        call()
    times = []
    for call in calls:
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return np.array(times)


def _percentiles(times: np.ndarray) -> dict[str, float]:
    return {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))}


def _embedded_per_s(search: Search, workers: int) -> float:
    """Return documents/s of so many processes, without their start; 0 for vectors of the user's own."""
    if "vectors" in search.own:
        return 0.0
    pieces = [piece for pieces in search.documents.values() for piece in pieces][:SAMPLE_SLICES]
    seconds = 0.0
    for piece in pieces:
        uri = tables.join(search.folders["vectors"], f"{piece.name}.parquet")
        fs, path = tables.filesystem(uri)
        with tables.io_errors(uri), fs.open(path, "rb") as opened:
            seconds += float(pq.ParquetFile(opened).schema_arrow.metadata[b"seconds"])
    return workers * sum(piece.stop - piece.start for piece in pieces) / seconds if seconds else 0.0
