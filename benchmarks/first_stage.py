"""The search of a collection's parts against a walk over the whole collection for every query, as it was before.

Vectors are random (a stand-in for the model's, which is not what is measured), and texts are random words by Zipf's
law. Both are made part by part, and held no longer than `retrieve` holds a part. The loop is timed on a sample of the
queries, and its time multiplied up. Seconds are those of the CPU, on all threads: other work on the machine does not
count.
"""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np
import psutil
import torch

from benchmarks import harness
from rrad_ray.data.bm25 import BM25Index, tokenized, top_k
from rrad_ray.retrieval.hits import Hits, union
from rrad_ray.retrieval.nearest import on_grid
from rrad_ray.retrieval.part_terms import CollectionTerms, PartIndex, count_terms
from rrad_ray.retrieval.searching import PartSearch
from rrad_ray.rows import BM25, DENSE

SIZE, WORDS, DEPTH, PART = 384, 50_000, 10, 65_536
SAMPLE, LOOP_DOCUMENTS = 20, 200_000  # the loop's index holds every text
OPTIONS = [click.Option([f"--{name}"], type=int, help="in place of the form's") for name in ("documents", "queries")]


def bench(quick: bool, scratch: str, documents: int | None, queries: int | None) -> harness.Result:
    documents, queries = documents or (100_000 if quick else 1_000_000), queries or (2_000 if quick else 10_000)
    sizes = [(documents // 2, queries), (documents, queries // 2), (documents, queries)]
    rows = [_measured(*size) for size in sizes]
    whole = rows[-1]
    figures = {
        "parts_over_product": whole["parts s"] / whole["product s"],
        "time_ratio_2x_documents": whole["parts s"] / rows[0]["parts s"],
        "time_ratio_2x_queries": whole["parts s"] / rows[1]["parts s"],
        "peak_gib": max(row["peak GiB"] for row in rows),
    }
    if whole["loop s"]:
        figures["speedup_over_loop"] = whole["loop s"] / whole["parts s"]
    return harness.Result(figures, rows, {"documents": documents, "queries": queries, "vectors": "random"})


def _texts(count: int, words: int, seed: int) -> list[str]:
    drawn = np.minimum(np.random.default_rng([0, seed]).zipf(1.3, (count, words)), WORDS)
    return [" ".join(f"w{word}" for word in row) for row in drawn]


def _vectors(count: int, seed: int) -> np.ndarray:
    return on_grid(np.random.default_rng([1, seed]).standard_normal((count, SIZE), np.float32))


def _measured(documents: int, queries: int) -> dict[str, Any]:
    """Return the CPU seconds of the search by parts, of the loop and of the plain product of all vectors."""
    asked, vectors = _texts(queries, 4, documents), _vectors(queries, documents)
    parts = {start: min(PART, documents - start) for start in range(0, documents, PART)}
    held, peak, index_s, parts_s, product_s = psutil.Process().memory_info().rss, 0, 0.0, 0.0, 0.0
    vocabulary: dict[str, int] = {}
    terms = [[vocabulary.setdefault(term, len(vocabulary)) for term in text.split()] for text in asked]
    counts, collection = [], CollectionTerms(np.zeros(len(vocabulary), np.int64))
    for start, size in parts.items():
        texts = _texts(size, 30, start)
        began = time.process_time()
        words = tokenized(texts)
        counts.append(count_terms(words.ids, words.vocab, vocabulary))
        collection.add(counts[-1])
        index_s += time.process_time() - began
    by_part, depths = [], {BM25: DEPTH, DENSE: DEPTH}
    for (start, size), part in zip(parts.items(), counts, strict=True):
        of_part = _vectors(size, start)
        began = time.process_time()
        search = PartSearch(of_part, PartIndex(part, collection), depths)
        by_part.append(search.hits(vectors, terms).moved(documents=start))
        parts_s += time.process_time() - began
        product_s += _product(of_part, vectors)
        peak = max(peak, psutil.Process().memory_info().rss - held)
    began = time.process_time()
    hits = union(by_part, depths)
    parts_s += time.process_time() - began
    loop_s = _loop(parts, asked, vectors, hits) * queries / SAMPLE if documents <= LOOP_DOCUMENTS else None
    return {
        "documents": documents, "queries": queries, "index s": index_s, "parts s": parts_s, "product s": product_s,
        "loop s": loop_s, "peak GiB": peak / 2**30,
    }  # fmt: skip


def _product(documents: np.ndarray, queries: np.ndarray) -> float:
    """Return the CPU seconds of the plain product of a part's vectors with all queries', block by block."""
    began, part_DS = time.process_time(), torch.from_numpy(documents)
    for block_QS in torch.from_numpy(queries).split(256):
        block_QS @ part_DS.T
    return time.process_time() - began


def _loop(parts: dict[int, int], asked: list[str], vectors: np.ndarray, hits: Hits) -> float:
    """Return the CPU seconds of the loop over a sample of the queries; it must find what the parts have."""
    index = BM25Index([text for start, size in parts.items() for text in _texts(size, 30, start)])
    documents = np.concatenate([_vectors(size, start) for start, size in parts.items()])
    began = time.process_time()
    best = []
    for number in range(SAMPLE):
        lexical, semantic = index.scores(asked[number]), documents @ vectors[number]
        best.append({*top_k(lexical, DEPTH), *top_k(semantic, DEPTH)})
    seconds = time.process_time() - began
    for number, wanted in enumerate(best):
        got = set(hits.documents[hits.queries == number].tolist())
        if len(got ^ wanted) > 1:  # at a cut, float32 may take either of two documents
            raise SystemExit(f"query {number}: the parts find {sorted(got)}, the loop {sorted(wanted)}")
    return seconds


if __name__ == "__main__":
    harness.main("first_stage", bench, *OPTIONS)
