"""retrieve: a collection and its queries to candidates, by BM25 united with a bi-encoder, or by the user's own runs.

Documents stream past the queries. The collection is read once, in parts; each part is embedded and indexed once, and
meets all queries block by block. Every step writes its files into `OUTPUT/work`, so a killed run goes on with the
missing ones; see `rrad_ray/retrieval/workspace.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.data import candidate_files
from rrad_ray.data.collection import Query
from rrad_ray.errors import RradError, at_place
from rrad_ray.languages.analyser import analyser, chosen
from rrad_ray.progress import say
from rrad_ray.retrieval.workspace import holds_own_vectors
from rrad_ray.rows import DENSE, Candidates
from rrad_ray.runtime.first_stage import FirstStage
from rrad_ray.tables import checkpoints
from rrad_ray.tables.sampling import draw_hash


def _inputs(cfg: RetrieveConfig) -> dict[str, str]:
    named = {"run": cfg.run, **{f"runs.{name}": uri for name, uri in cfg.runs.items()}}
    named |= {"collected": cfg.collected, "query_vectors": cfg.query_vectors}
    if not cfg.all_runs and not candidate_files.is_candidates(cfg.data):
        named["model"] = checkpoints.input_of(cfg.model)
    if cfg.vectors and holds_own_vectors(cfg.vectors):  # others are made of the data by the model
        named["vectors"] = cfg.vectors
    named |= {f"qrels.{split}": file for split, file in cfg.qrels.items()}
    return named if cfg.data.startswith("pydoc:") else named | {"data": cfg.data}


@tables.stage("retrieve", Candidates, _inputs)
def run(cfg: RetrieveConfig, out: tables.Output) -> None:
    """Write candidates of every chosen query, with each source's score for each of them.

    Raises `RradError` for a collection that cannot be read, or one with more bad rows, unmatched judgments or unknown
    ids of a run than `max_quarantined`.
    """
    if candidate_files.is_candidates(cfg.data):
        _given(cfg, out)
        return
    with at_place("language", "write language=auto"):
        analyser(cfg.language)
    first = FirstStage(cfg, out)
    collection = first.read()
    queries = choose_queries(collection.queries, cfg) + first.document_queries()
    if not queries:
        raise RradError(cfg.data, f"none of its {len(collection.queries):,} queries is chosen", "raise `queries`")
    language = chosen(cfg.language, first.first_texts())
    say(f"{collection.documents:,} documents, {len(queries):,} queries from {cfg.data}; language={language}")
    first.write_queries(queries)
    costs = first.join_runs(collection) if cfg.all_runs else first.search()
    rows = first.join()
    # Only of the model's own vectors can an endpoint give a text the score that it has here.
    encoders: dict[str, tables.EncoderFacts] = {DENSE: {"model": cfg.model, "max_length": cfg.max_length}}
    facts = tables.FirstStageFacts(cfg.data, costs, {} if cfg.all_runs or first.own else encoders, first.index)
    splits = {split: sum(query.split == split for query in queries) for split in sorted({q.split for q in queries})}
    out.commit(
        seen=collection.seen,
        max_quarantined=cfg.max_quarantined,
        rows=rows,
        documents=collection.documents,
        queries=splits,
        language=language,
        lineage=tables.Lineage(facts),
    )
    first.clear()


def _given(cfg: RetrieveConfig, out: tables.Output) -> None:
    """Write the candidates of a file as they are: there is no collection to search or score."""
    if cfg.all_runs:
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
    facts: dict[str, Any] = {"rows": count, "documents": documents, "queries": dict(splits)}
    lineage = tables.Lineage(tables.FirstStageFacts(cfg.data))
    out.commit(seen=seen, max_quarantined=cfg.max_quarantined, lineage=lineage, **facts)


def choose_queries(queries: Sequence[Query], cfg: RetrieveConfig) -> list[Query]:
    """Return at most `cfg.queries[split]` queries of each split, by hash of the query: the same ones whatever the
    limits elsewhere.

    Judged splits come first, so that `judge` can check its labeller before it spends anything on the rest.
    """

    def key(query: Query) -> tuple[int, str]:
        rank = ("dev", "test", "train", "unlabelled").index(query.split)
        return rank, draw_hash(cfg.seed, query.query_id)

    taken: dict[str, int] = {}
    chosen = []
    for query in sorted(queries, key=key):
        taken[query.split] = taken.get(query.split, 0) + 1
        if taken[query.split] <= cfg.queries.get(query.split, len(queries)):
            chosen.append(query)
    return chosen
