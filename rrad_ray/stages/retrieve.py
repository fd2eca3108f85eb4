"""retrieve: a collection and its queries to candidates, by BM25 united with a bi-encoder, or the user's own run."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.data import candidate_files
from rrad_ray.data.bm25 import BM25Index, top_k
from rrad_ray.data.collection import Query
from rrad_ray.data.reader import read_collection
from rrad_ray.data.trec import RUN_LINE, read_trec_run
from rrad_ray.errors import RradError, at_place
from rrad_ray.evaluation import fusion
from rrad_ray.languages.analyser import analyser, chosen
from rrad_ray.progress import Progress, say
from rrad_ray.rows import BM25, DENSE, Candidates
from rrad_ray.runtime import embed

SOURCES = (BM25, DENSE)


def _inputs(cfg: RetrieveConfig) -> dict[str, str]:
    named = {"run": cfg.run, **{f"qrels.{split}": file for split, file in cfg.qrels.items()}}
    return named if cfg.data.startswith("pydoc:") else named | {"data": cfg.data}


@tables.stage("retrieve", Candidates, _inputs)
def run(cfg: RetrieveConfig, out: tables.Output) -> None:
    """Write candidates of every chosen query, with each source's score for each of them.

    Raises `RradError` for a collection that cannot be read, or one with more bad rows or unmatched
    judgments than `max_quarantined`.
    """
    if candidate_files.is_candidates(cfg.data):
        _given(cfg, out)
        return
    collection = read_collection(cfg.data)
    for identity, reason, content in collection.rejected:
        out.quarantine(identity, reason, content)
    for judged in collection.judged:
        judged.check_matched(cfg.max_quarantined)
    queries = choose_queries(collection.queries, cfg)
    if not queries:
        raise RradError(cfg.data, f"none of its {len(collection.queries):,} queries is chosen", "raise `queries`")
    with at_place("language", "write language=auto"):
        analyser(cfg.language)
    language = chosen(cfg.language, collection.corpus.values())
    say(f"{len(collection.corpus):,} documents, {len(queries):,} queries from {cfg.data}; language={language}")
    listed = _listed(cfg.run)
    first_stage = FirstStage(collection.corpus, queries, cfg)
    rows = candidates(first_stage, queries, listed, out, cfg)
    count = out.write_all(rows, cfg.rows_per_part)
    encoders: dict[str, tables.EncoderFacts] = {DENSE: {"model": cfg.model, "max_length": cfg.max_length}}
    splits = {split: sum(query.split == split for query in queries) for split in sorted({q.split for q in queries})}
    out.commit(
        seen=len(collection.corpus) + len(collection.queries) + len(collection.rejected),
        max_quarantined=cfg.max_quarantined,
        rows=count,
        documents=len(collection.corpus),
        queries=splits,
        language=language,
        lineage=tables.Lineage(tables.FirstStageFacts(cfg.data, first_stage.figures(queries), encoders)),
    )


def _listed(uri: str) -> dict[str, list[tuple[str, float]]] | None:
    """Return the user's own run, None without one; `RradError` for one that lists nothing, before anything embeds."""
    if not uri:
        return None
    listed = read_trec_run(uri)
    if not listed:
        raise RradError(uri, "is an empty run", RUN_LINE)
    return listed


def _given(cfg: RetrieveConfig, out: tables.Output) -> None:
    """Write the candidates of a file as they are: there is no collection to search or score."""
    if cfg.run:
        raise RradError("run", f"{cfg.data} lists candidates already", "leave run out, or name a collection")
    rows = candidate_files.read_candidates(cfg.data, cfg.qrels, out.quarantine)
    splits, documents = Counter[str](), 0

    def chosen() -> Iterator[dict[str, Any]]:
        nonlocal documents
        for row in rows:
            if splits[row["split"]] < cfg.queries.get(row["split"], sys.maxsize):
                splits[row["split"]] += 1
                documents += len(row["doc_ids"])
                yield row

    count = out.write_all(chosen(), cfg.rows_per_part)
    seen = count + documents + len(out.quarantined)  # a bad row is a query or a document
    facts = {"rows": count, "documents": documents, "queries": dict(splits)}
    lineage = tables.Lineage(tables.FirstStageFacts(cfg.data))
    out.commit(seen=seen, max_quarantined=cfg.max_quarantined, lineage=lineage, **facts)


def choose_queries(queries: Sequence[Query], cfg: RetrieveConfig) -> list[Query]:
    """Return at most `cfg.queries[split]` queries of each split, by hash of the query: the same ones whatever the
    limits elsewhere.

    Judged splits come first, so that `judge` can check its labeller before it spends anything on the rest.
    """

    def key(query: Query) -> tuple[int, str]:
        rank = ("dev", "test", "train", "unlabelled").index(query.split)
        return rank, hashlib.sha256(f"{cfg.seed}:{query.query_id}".encode()).hexdigest()

    taken: dict[str, int] = {}
    chosen = []
    for query in sorted(queries, key=key):
        taken[query.split] = taken.get(query.split, 0) + 1
        if taken[query.split] <= cfg.queries.get(query.split, len(queries)):
            chosen.append(query)
    return chosen


class FirstStage:
    """The BM25 and dense scores of the whole collection, one query at a time."""

    def __init__(self, corpus: dict[str, str], queries: Sequence[Query], cfg: RetrieveConfig) -> None:
        self.corpus, self.ids = corpus, list(corpus)
        self.index_of = {identity: index for index, identity in enumerate(self.ids)}
        texts = list(corpus.values())
        self.bm25 = BM25Index(texts, cfg.language)
        self.encoder = embed.local(cfg)  # first: it is refused before it embeds
        embedded = embed.embed(texts, [query.text for query in queries], cfg)
        self.doc_vectors, self.query_vectors, self.docs_per_s = embedded

    def semantic(self, number: int) -> np.ndarray:
        """Return the cosines of all documents with the `number`-th query, (D,)."""
        return self.doc_vectors @ self.query_vectors[number]

    def figures(self, queries: Sequence[Query]) -> dict[str, tables.SourceCost]:
        """Return latency of one search over the whole collection, and documents/s, per source; measured here and
        now."""
        sample = [query.text for query in queries[:100]]
        lexical = latency(lambda text: top_k(self.bm25.scores(text), 20), sample)
        semantic = latency(lambda text: top_k(self.doc_vectors @ self.encoder.queries([text])[0], 20), sample)
        per_s = len(self.ids) / (lexical["p50"] / 1000) if sample else 0.0
        weights = sum(weight.numel() for weight in self.encoder.model.parameters())
        return {
            BM25: {"latency_ms": lexical, "documents_per_s": per_s, "parameters": 0},
            DENSE: {"latency_ms": semantic, "documents_per_s": self.docs_per_s, "parameters": weights},
        }


def latency(call: Callable[[str], Any], texts: Sequence[str]) -> dict[str, float]:
    """Return p50 and p99 of a call in milliseconds, after a few to warm up."""
    for text in texts[:3]:
        call(text)
    took = []
    for text in texts:
        began = time.perf_counter()
        call(text)
        took.append(1000 * (time.perf_counter() - began))
    return {"p50": float(np.percentile(took, 50)), "p99": float(np.percentile(took, 99))} if took else {}


def candidates(
    first: FirstStage,
    queries: Sequence[Query],
    listed: dict[str, list[tuple[str, float]]] | None,
    out: tables.Output,
    cfg: RetrieveConfig,
) -> Iterator[Candidates]:
    """Yield one row per query; a query without candidates is quarantined."""
    progress = Progress(len(queries), "queries")
    for number, query in enumerate(queries):
        progress.add()
        scores = {BM25: first.bm25.scores(query.text), DENSE: first.semantic(number)}
        if listed is None:
            depths = {BM25: cfg.bm25_depth, DENSE: cfg.dense_depth}
            indices = list(
                dict.fromkeys(index for source in SOURCES for index in top_k(scores[source], depths[source]))
            )
            own = None
        else:
            indices, own = from_run(first, query, listed.get(query.query_id, []), cfg.run)
        if not indices:
            out.quarantine(query.query_id, "no candidates: the first stage found no document", query.text)
            continue
        yield row(first, query, indices, scores, own)


def from_run(
    first: FirstStage, query: Query, entries: Sequence[tuple[str, float]], uri: str
) -> tuple[list[int], list[float] | None]:
    """Return indices and scores of a run's documents; `RradError` for a document that the collection does not
    have."""
    for identity, _ in entries:
        if identity not in first.index_of:
            problem = f"query {query.query_id} lists document '{identity}', which the collection does not have"
            raise RradError(uri, problem, "use the run that belongs to this collection")
    return [first.index_of[identity] for identity, _ in entries], [score for _, score in entries]


def row(
    first: FirstStage, query: Query, indices: list[int], scores: dict[str, np.ndarray], own: list[float] | None
) -> Candidates:
    """Return a Candidates row, ordered by the run's own scores or by the sum of the sources' z-scores."""
    by_source = {source: [float(scores[source][index]) for index in indices] for source in SOURCES}
    if own is not None:
        by_source["run"] = own
    values = own if own is not None else fusion.fuse(by_source, dict.fromkeys(SOURCES, 1.0))
    order = sorted(range(len(indices)), key=lambda index: (-values[index], index))
    ids = [first.ids[indices[index]] for index in order]
    return {
        "query_id": query.query_id,
        "query": query.text,
        "split": query.split,
        "doc_ids": ids,
        "texts": [first.corpus[identity] for identity in ids],
        "scores": [float(values[index]) for index in order],
        "sources": list(by_source),
        "source_scores": [[column[index] for index in order] for column in by_source.values()],
        "qrel_ids": list(query.judged),
        "qrel_grades": list(query.judged.values()),
    }
