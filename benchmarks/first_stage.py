"""The search of a collection's parts against a walk over the whole collection for every query, as it was before.

Vectors are random (a stand-in for the model's, which is not what is measured), and texts are random words by Zipf's
law. The loop is timed on a sample of the queries, and its time multiplied up.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import harness
from rrad_ray.data.bm25 import BM25Index, tokenized, top_k
from rrad_ray.retrieval.hits import union
from rrad_ray.retrieval.nearest import on_grid
from rrad_ray.retrieval.part_terms import CollectionTerms, PartIndex, count_terms
from rrad_ray.retrieval.searching import PartSearch
from rrad_ray.rows import BM25, DENSE

SIZE, WORDS, DEPTH, PART = 384, 50_000, 10, 65_536
SAMPLE = 20


def bench(quick: bool, scratch: str) -> harness.Result:
    documents, queries = (20_000, 2_000) if quick else (200_000, 100_000)
    sizes = [(documents // 2, queries), (documents, queries // 2), (documents, queries)]
    rows = [_measured(*size) for size in sizes]
    whole = rows[-1]
    figures = {
        "speedup_over_loop": whole["loop s"] / whole["parts s"],
        "parts_over_product": whole["parts s"] / whole["product s"],
        "time_ratio_2x_documents": whole["parts s"] / rows[0]["parts s"],
        "time_ratio_2x_queries": whole["parts s"] / rows[1]["parts s"],
        "peak_gib": max(row["peak GiB"] for row in rows),
    }
    return harness.Result(figures, rows, {"documents": documents, "queries": queries, "vectors": "random"})


def _measured(documents: int, queries: int) -> dict[str, Any]:
    """Return the seconds of the search by parts, of the loop and of the plain product of all vectors."""
    random = np.random.default_rng(0)
    words = np.minimum(random.zipf(1.3, (documents, 30)), WORDS)
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    asked = [" ".join(f"w{word}" for word in row) for row in np.minimum(random.zipf(1.3, (queries, 4)), WORDS)]
    first, second = (on_grid(random.standard_normal((count, SIZE), np.float32)) for count in (documents, queries))
    held = psutil.Process().memory_info().rss
    began = time.perf_counter()
    vocabulary: dict[str, int] = {}
    terms = [[vocabulary.setdefault(term, len(vocabulary)) for term in text.split()] for text in asked]
    starts = range(0, documents, PART)
    cut = [tokenized(texts[start : start + PART]) for start in starts]
    counts = [count_terms(part.ids, part.vocab, vocabulary) for part in cut]
    collection = CollectionTerms(np.zeros(len(vocabulary), np.int64))
    for part in counts:
        collection.add(part)
    indexed = time.perf_counter()
    depths, peak = {BM25: DEPTH, DENSE: DEPTH}, 0
    by_part = []
    for start, part in zip(starts, counts, strict=True):
        search = PartSearch(first[start : start + PART], PartIndex(part, collection), depths)
        by_part.append(search.hits(second, terms).moved(documents=start))
        peak = max(peak, psutil.Process().memory_info().rss - held)
    hits = union(by_part, depths)
    ended = time.perf_counter()
    product = _product(first, second)
    loop = _loop(texts, asked, first, second, hits) * queries / SAMPLE
    return {
        "documents": documents, "queries": queries, "index s": indexed - began, "parts s": ended - indexed,
        "product s": product, "loop s": loop, "peak GiB": peak / 2**30,
    }  # fmt: skip


def _product(first: np.ndarray, second: np.ndarray) -> float:
    """Return the seconds of the plain product of all vectors, block by block."""
    documents, queries = torch.from_numpy(first), torch.from_numpy(second)
    began = time.perf_counter()
    for block in queries.split(256):
        for part in documents.split(PART):
            block @ part.T
    return time.perf_counter() - began


def _loop(texts: list[str], asked: list[str], first: np.ndarray, second: np.ndarray, hits: Any) -> float:
    """Return the seconds of the loop over a sample of the queries; it must find what the parts have."""
    index = BM25Index(texts)
    began = time.perf_counter()
    best = []
    for number in range(SAMPLE):
        lexical, semantic = index.scores(asked[number]), first @ second[number]
        best.append({*top_k(lexical, DEPTH), *top_k(semantic, DEPTH)})
    seconds = time.perf_counter() - began
    for number, wanted in enumerate(best):
        got = set(hits.documents[hits.queries == number].tolist())
        if len(got ^ wanted) > 1:  # at a cut, float32 may take either of two documents
            raise SystemExit(f"query {number}: the parts find {sorted(got)}, the loop {sorted(wanted)}")
    return seconds


if __name__ == "__main__":
    harness.main("first_stage", bench)
