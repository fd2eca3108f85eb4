"""Documents five times longer than what the bi-encoder reads: cut, or in chunks of which the best one counts."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.blocks import CRANFIELD
from rrad_ray.config import ChunksConfig, PrerankConfig
from rrad_ray.data.collection import Collection
from rrad_ray.data.reader import read_collection
from rrad_ray.evaluation import metrics, statistics
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.stages.prerank import PrerankPart
from rrad_ray.tables import checkpoints

MODEL = checkpoints.BUNDLED[0]
READS, TIMES, SEEDS = 128, 5, 3  # tokens that the bi-encoder reads, and how many times longer documents are
WAYS: dict[str, tuple[int, ChunksConfig]] = {  # tokens that are read at once, and chunks
    "the first 128 tokens": (READS, ChunksConfig()),
    "the first 512 tokens, all that the model takes": (512, ChunksConfig()),
    "chunks of 128, at most 2": (READS, ChunksConfig(tokens=126, most=2)),
    "chunks of 128": (READS, ChunksConfig(tokens=126)),
    "chunks of 128, overlap 32": (READS, ChunksConfig(tokens=126, overlap=32)),
    "chunks of 64, overlap 16": (READS, ChunksConfig(tokens=62, overlap=16, most=32)),
}


@dataclass(frozen=True)
class Joined:
    """Joined abstracts: the long documents, and where each abstract stands, as (document, start, end)."""

    texts: list[str]
    spans_of: dict[str, tuple[int, int, int]]


def bench(quick: bool, scratch: str) -> harness.Result:
    data = str(CRANFIELD) if CRANFIELD.exists() else harness.collection()
    collection = read_collection(data)
    seeds = 1 if quick else SEEDS
    collections = [joined(collection, seed) for seed in range(seeds)]
    results = {way: [measured(collection, each, *options) for each in collections] for way, options in WAYS.items()}
    cut = np.concatenate([result["ndcg"] for result in results["the first 128 tokens"]])
    rows, figures = [], {}
    for way, each in results.items():
        ndcg = np.concatenate([result["ndcg"] for result in each])
        row: dict[str, Any] = {"read of a document": way, "nDCG@10": f"{ndcg.mean():.3f}"}
        row["less cut"] = f"{ndcg.mean() - cut.mean():+.3f}"
        row["p"] = "" if way.startswith("the first 128") else f"{statistics.paired_p(list(ndcg), list(cut)):.1g}"
        row["texts/document"] = f"{np.mean([result['texts'] for result in each]):.1f}"
        right = np.mean([result["right"] for result in each])
        row["best chunk in the judged abstract"] = f"{right:.2f}" if np.isfinite(right) else ""
        row["seconds"] = f"{np.mean([result['seconds'] for result in each]):.0f}"
        rows.append(row)
    best = np.concatenate([result["ndcg"] for result in results["chunks of 128, overlap 32"]])
    figures["chunks_less_cut"] = float(best.mean() - cut.mean())
    settings = {"data": data, "documents": len(collections[0].texts), "queries": len(cut) // seeds, "seeds": seeds}
    return harness.Result(figures, rows, settings)


def joined(collection: Collection, seed: int) -> Joined:
    """Join the abstracts in an order drawn by the seed into documents of `TIMES * READS` tokens at least."""
    tokenizer = BiEncoder(checkpoints.resolve(MODEL), max_length=READS).model.tokenizer
    ids = sorted(collection.corpus)
    random.Random(seed).shuffle(ids)
    texts, spans_of, parts, tokens = list[str](), {}, list[str](), 0
    for doc_id in ids:
        text = collection.corpus[doc_id]
        start = sum(len(part) + 1 for part in parts)
        spans_of[doc_id] = (len(texts), start, start + len(text))
        parts.append(text)
        tokens += len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if tokens >= TIMES * READS:
            texts.append("\n".join(parts))
            parts, tokens = [], 0
    return Joined([*texts, "\n".join(parts)] if parts else texts, spans_of)


def measured(collection: Collection, documents: Joined, reads: int, chunks: ChunksConfig) -> dict[str, Any]:
    """Order all documents for every judged query, as `prerank` does; return nDCG@10 of each query, texts read for a
    document, and how often the best chunk of a relevant document lies in an abstract that is relevant."""
    cfg = PrerankConfig("", "", max_length=reads, chunks=chunks)
    part = PrerankPart(cfg, checkpoints.resolve(MODEL), None, [])  # type: ignore[arg-type]
    names = [str(number) for number in range(len(documents.texts))]
    rows: list[dict[str, Any]] = []
    relevant: list[list[tuple[int, int, int]]] = []
    for query in collection.queries:
        spans = [documents.spans_of[doc_id] for doc_id, grade in query.judged.items() if grade > 0]
        if spans:
            grades = {str(number): 1 for number, _, _ in spans}
            qrels = {"qrel_ids": list(grades), "qrel_grades": list(grades.values())}
            row: dict[str, Any] = {
                "query": query.text,
                "doc_ids": names,
                "texts": documents.texts,
                "sources": [],
                **qrels,
            }
            rows.append({**row, "source_scores": []})
            relevant.append(spans)
    began = time.monotonic()
    scores = part._by_model(rows)
    seconds = time.monotonic() - began
    ndcg = [metrics.row_ndcg(row, values) for row, values in zip(rows, scores, strict=True)]
    hits = []
    for row, spans in zip(rows, relevant, strict=True):
        for number in {number for number, _, _ in spans} if chunks.tokens else ():
            start, end = row["best_chunks"][number]
            hits.append(any(number == each and start < last and first < end for each, first, last in spans))
    texts = len(part.chunker(documents.texts).texts) / len(documents.texts)
    return {"ndcg": ndcg, "texts": texts, "right": np.mean(hits) if hits else np.nan, "seconds": seconds}


if __name__ == "__main__":
    harness.main("long_documents", bench)
