"""The steps of `retrieve` over a collection of any size: each is done part by part by Ray Data actors, whose files
are what the next step reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.data import beir, qrels
from rrad_ray.data.bm25 import tokenized
from rrad_ray.data.collection import Query
from rrad_ray.data.reader import PYDOC, read_collection
from rrad_ray.data.run_table import read_run
from rrad_ray.errors import at_place
from rrad_ray.languages import Language
from rrad_ray.progress import say
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.retrieval import run_join
from rrad_ray.retrieval.approximate import faiss_module
from rrad_ray.retrieval.costs import source_costs
from rrad_ray.retrieval.document_queries import document_queries
from rrad_ray.retrieval.hit_files import RUNS, hits_uri, write_hits
from rrad_ray.retrieval.joining import JoinBlock, parts_of_block
from rrad_ray.retrieval.reading import ReadFile, Wanted, drop_repeats, write_documents
from rrad_ray.retrieval.workspace import read_table, write_table
from rrad_ray.rows import BM25, DENSE, CollectedQuery, Row
from rrad_ray.runtime import cluster
from rrad_ray.runtime.part_steps import SearchSteps
from rrad_ray.tables import checkpoints
from rrad_ray.tables.text import read_json

FIRST_TEXTS = 1000  # whose scripts say how texts are cut


@dataclass(frozen=True)
class ReadCollection:
    """A collection that has been read: its queries, the number of its documents, and of all rows seen."""

    queries: list[Query]
    documents: int
    seen: int


class FirstStage:
    """One run of `retrieve`: `read`, `write_queries`, `search` or `join_runs`, `join`, `clear`."""

    def __init__(self, cfg: RetrieveConfig, out: tables.Output) -> None:
        self.cfg, self.out, self.work = cfg, out, tables.join(out.uri, tables.WORK)
        self.runs = {source: read_run(uri) for source, uri in cfg.all_runs.items()}
        self.joined = run_join.Runs.of(cfg.all_runs, self.runs) if self.runs else None
        # The encoder is refused before anything is read for it.
        self.encoder = None if self.runs else self._encoder()
        if cfg.index.probes:
            with at_place("index.probes", "leave it at 0"):
                faiss_module()
        self.index: tables.IndexFacts | None = None
        self.own: frozenset[str] = frozenset()  # of the vectors, those of the user's own
        self.parts: dict[str, int] = {}
        self.blocks: dict[str, int] = {}

    def _encoder(self) -> BiEncoder:
        with at_place(self.cfg.model, "name another model"):
            length, tokens = self.cfg.max_length, self.cfg.batch_tokens
            return BiEncoder(checkpoints.resolve(self.cfg.model), max_length=length, batch_tokens=tokens)

    # ---- read ---------------------------------------------------------------------------------------------------

    def read(self) -> ReadCollection:
        """Read the collection into parts, and its queries; raises `RradError` as `read_beir` does."""
        texts: dict[str, str] = {}
        if self.cfg.data == PYDOC:
            collection = read_collection(PYDOC)
            if not tables.exists(tables.join(self.work, "read", "0.json")):
                rows = ((number, *document) for number, document in enumerate(collection.corpus.items(), 1))
                facts = write_documents(self.work, "0", rows, self.cfg.part_documents, self._wanted([]))
                tables.write_json(tables.join(self.work, "read", "0.json"), {**facts, "rejected": []})
            files, queries = [tables.DataFile(PYDOC, "")], collection.queries
            for rejected in collection.rejected:
                self.out.quarantine(*rejected)
        else:
            files, judged_ids = beir.text_files_of(self.cfg.data, "corpus"), list[str]()
            if not self.cfg.collected:
                texts = beir.read_beir_texts(self.cfg.data, "queries", self.out.quarantine, self.cfg.column_names)
                judged_ids = beir.judged_ids(self.cfg.data)
            options = {
                "cfg": self.cfg,
                "files": files,
                "work": self.work,
                "wanted": self._wanted(judged_ids),
            }
            names = [str(number) for number in range(len(files))]
            done = tables.names_in(tables.join(self.work, "read"), ".json")
            cluster.each_part(self.cfg, self.out, ReadFile, options, names, done, "files", self.cfg.data)
        facts = self._collect(files)
        if self.cfg.collected:
            queries = [_collected(row) for row in tables.read(self.cfg.collected, CollectedQuery)]
        elif self.cfg.data != PYDOC:
            known = qrels.Ids(texts, {*facts["judged"], *facts["first_ids"]})
            queries, judged = beir.read_judged(self.cfg.data, known, self.out.quarantine, texts)
            for each in judged:
                each.check_matched(self.cfg.max_quarantined)
        self.known_queries = [query.query_id for query in queries]
        seen = facts["documents"] + len(queries) + len(self.out.quarantined)
        return ReadCollection(queries, facts["documents"], seen)

    def first_texts(self) -> list[str]:
        """Return the first texts of the collection, some hundreds of them."""
        first = list(self.parts)[:1]  # none where runs list no document of the collection
        uris = [tables.join(self.work, "documents", part) for part in first]
        return [text for uri in uris for text in read_table(uri, ["text"], 0, FIRST_TEXTS)["text"].to_pylist()]

    def document_queries(self) -> list[Query]:
        """Return the queries that the config makes of the documents."""
        if not self.cfg.document_queries:
            return []
        parts = (read_table(tables.join(self.work, "documents", part), ["id", "text"]) for part in self.parts)
        texts = (row for part in parts for row in zip(*(column.to_pylist() for column in part.columns), strict=True))
        return document_queries(texts, self.cfg.document_queries, self.cfg.seed)

    def _wanted(self, judged: Sequence[str]) -> Wanted:
        return Wanted(self.joined.ids if self.joined else None, pa.array(judged, pa.string()))

    def _collect(self, files: Sequence[tables.DataFile]) -> dict[str, Any]:
        """Return what is known of the files that have been read; the parts are set, without documents that stand
        twice."""
        facts: dict[str, Any] = {"documents": 0, "judged": [], "first_ids": []}
        parts: dict[str, int] = {}
        for number in range(len(files)):
            read = read_json(tables.join(self.work, "read", f"{number}.json"))
            parts |= read["parts"]
            facts = {key: value + read[key] for key, value in facts.items()}
            for rejected in read["rejected"]:
                self.out.quarantine(*rejected)
        if not facts["documents"]:
            first = next((rejected[1] for rejected in read["rejected"]), "")
            raise beir.no_texts(files[-1].uri, first, len(read["rejected"]))
        self.parts, repeats = drop_repeats(self.work, parts)
        for rejected in repeats:
            self.out.quarantine(*rejected)
        return {**facts, "documents": facts["documents"] - len(repeats)}

    # ---- queries ------------------------------------------------------------------------------------------------

    def write_queries(self, queries: Sequence[Query]) -> None:
        """Write the chosen queries in blocks, with the numbers of their terms, and the vocabulary of these."""
        size, vocabulary = self.cfg.block_rows, dict[str, int]()
        self.blocks = {f"block-{start // size:05d}.parquet": start for start in range(0, len(queries), size)}
        self.block_sizes = {block: len(queries[start : start + size]) for block, start in self.blocks.items()}
        uri = tables.join(self.work, "vocabulary.parquet")
        if tables.exists(uri):
            return
        for block, start in self.blocks.items():
            rows = queries[start : start + size]
            columns = {
                "query_id": [query.query_id for query in rows],
                "query": [query.text for query in rows],
                "split": [query.split for query in rows],
                "qrel_ids": pa.array([list(query.judged) for query in rows], pa.list_(pa.string())),
                "qrel_grades": pa.array([list(query.judged.values()) for query in rows], pa.list_(pa.int64())),
                "terms": pa.array(
                    query_terms([query.text for query in rows], vocabulary, self.cfg.language), pa.list_(pa.int32())
                ),
            }
            write_table(tables.join(self.work, "queries", block), pa.table(columns))
        write_table(uri, pa.table({"term": pa.array(list(vocabulary), pa.string())}))

    # ---- candidates ---------------------------------------------------------------------------------------------

    def join_runs(self, collection: ReadCollection) -> dict[str, tables.SourceCost]:
        """Write the hits of the user's own runs; return no costs, for nothing is searched."""
        assert self.joined is not None
        numbers = self.joined.numbers(self.work, list(self.parts))
        chosen = [row for block in self.blocks for row in self._query_ids(block)]
        share = self.cfg.max_quarantined
        hits, _ = run_join.joined(self.joined, numbers, self.known_queries, chosen, share, self.out.quarantine)
        for block, start in self.blocks.items():
            span = slice(*np.searchsorted(hits.queries, [start, start + self.cfg.block_rows]))
            some = hits.take(np.arange(span.start, span.stop))
            write_hits(hits_uri(self.work, RUNS, block), some.moved(queries=-start))
        return {}

    def _query_ids(self, block: str) -> list[str]:
        return read_table(tables.join(self.work, "queries", block), ["query_id"])["query_id"].to_pylist()

    def search(self) -> dict[str, tables.SourceCost]:
        """Prepare and search every part; return what one search costs, by source."""
        assert self.encoder is not None
        steps = SearchSteps(self.cfg, self.out, self.work, self.parts, self.block_sizes)
        search = steps.run()
        self.index, self.own = steps.index_facts(search), search.own
        if self.index:
            say(f"{DENSE}: {tables.index_sentence(self.index)}")
        return source_costs(search, self.encoder, self.cfg)

    # ---- rows ---------------------------------------------------------------------------------------------------

    def join(self) -> int:
        """Write the rows of every block; return how many there are. A query without candidates is quarantined."""
        sources = list(self.cfg.all_runs) or [BM25, DENSE]
        depths = None if self.runs else {BM25: self.cfg.bm25_depth, DENSE: self.cfg.dense_depth}
        options = {"out": self.out, "work": self.work, "blocks": self.blocks, "parts": list(self.parts)}
        options |= {"sources": sources, "depths": depths, "rows_per_part": self.cfg.rows_per_part}
        joined, standing = tables.names_in(tables.join(self.work, "joined"), ".json"), set(self.out.parts())
        rows_per_part = self.cfg.rows_per_part
        done = {
            block
            for block in joined
            if standing.issuperset(parts_of_block(self.blocks[block], self.block_sizes[block], rows_per_part))
        }
        cluster.each_part(
            self.cfg, self.out, JoinBlock, options, list(self.blocks), done, "blocks of queries", self.cfg.data
        )
        rows = sum(self.block_sizes.values())
        for block in self.blocks:
            for query_id, text in read_json(tables.join(self.work, "joined", f"{block}.json")):
                self.out.quarantine(query_id, "no candidates: the first stage found no document", text)
                rows -= 1
        return rows

    def clear(self) -> None:
        """Delete the working folder of a finished run."""
        tables.remove(self.work)


def _collected(row: Row) -> Query:
    judged = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    return Query(row["query_id"], row["query"], row["split"], judged)


def query_terms(texts: Sequence[str], vocabulary: dict[str, int], language: Language) -> list[list[int]]:
    """Return the numbers of each query's terms, in their order; new ones are added to the vocabulary."""
    words = tokenized(texts, language)
    term_of: Mapping[int, str] = {number: term for term, number in words.vocab.items()}
    used = dict.fromkeys(word for ids in words.ids for word in ids)
    number_of = {word: vocabulary.setdefault(term_of[word], len(vocabulary)) for word in used}
    return [[number_of[word] for word in ids] for ids in words.ids]
