"""The search of a collection's parts by Ray Data actors: slices are prepared, counted together, and searched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.data.reader import PYDOC
from rrad_ray.errors import RradError
from rrad_ray.retrieval.counting import COUNTED, CountPart, counted_terms
from rrad_ray.retrieval.hit_files import COMPARED, hits_uri, read_hits
from rrad_ray.retrieval.hits import EXACT, INDEX, recall, union
from rrad_ray.retrieval.preparing import PrepareSlice
from rrad_ray.retrieval.searching import Search, SearchPart, TrainLists, unit_name
from rrad_ray.retrieval.workspace import VECTORS, Slice, holds_own_vectors, read_table, slices, write_table
from rrad_ray.rows import BM25, DENSE
from rrad_ray.runtime import cluster
from rrad_ray.tables import checkpoints
from rrad_ray.tables.text import read_json


@dataclass(frozen=True)
class SearchSteps:
    """The search of parts, with their rows by name, for blocks of queries, with theirs."""

    cfg: RetrieveConfig
    out: tables.Output
    work: str
    parts: dict[str, int]
    block_sizes: dict[str, int]

    def run(self) -> Search:
        """Prepare and search every part; return what the search has read."""
        search = self._plan()
        if "query_vectors" in search.own:
            self._check_queries(search)
        self._prepare(search)
        self._count(search)
        if self.cfg.index.probes:
            done = tables.names_in(tables.join(self.work, "lists"), ".faiss")
            self._each(TrainLists, {"search": search}, list(self.parts), done, "parts indexed")
        names = [unit_name(part, block) for part in self.parts for block in self.block_sizes]
        files = tables.names_in(tables.join(self.work, "hits"), ".parquet")
        done = {
            name
            for name in names
            if hits_uri("", *name.split("/")).rpartition("/")[2].removesuffix(".parquet") in files
        }
        self._each(SearchPart, {"search": search}, names, done, "searches")
        for part in self.parts:
            for row_id in read_json(tables.join(self.work, "unembedded", f"{part}.json")):
                self.out.quarantine(row_id, "no vector: BM25 alone finds this document")
        return search

    def _each(self, work: type, options: dict[str, Any], names: list[str], done: Collection[str], unit: str) -> None:
        cluster.each_part(self.cfg, self.out, work, options, names, done, unit, self.cfg.data)

    def index_facts(self, search: Search) -> tables.IndexFacts | None:
        """Return what the index of the search has found of the exact product's; None without one."""
        if not self.cfg.index.probes:
            return None
        depth = self.cfg.dense_depth
        uris = ([hits_uri(self.work, part, block, COMPARED) for part in self.parts] for block in search.sampled)
        blocks = (
            union((read_hits(uri, (EXACT, INDEX)) for uri in each), {EXACT: depth, INDEX: depth}) for each in uris
        )
        return {
            "probes": self.cfg.index.probes,
            "lists": self.cfg.index.lists,
            "queries": sum(map(len, search.sampled.values())),
            "depth": depth,
            "recall": recall(blocks, depth),
        }

    def _sampled(self) -> dict[str, list[int]]:
        """Return rows of blocks: queries at equal distances."""
        total, first, rows = sum(self.block_sizes.values()), 0, dict[str, list[int]]()
        chosen = np.unique(np.linspace(0, total - 1, min(self.cfg.index.sample, total)).astype(int))
        for block, size in self.block_sizes.items():
            some = chosen[(chosen >= first) & (chosen < first + size)] - first
            first += size
            if len(some):
                rows[block] = some.tolist()
        return rows

    def _plan(self) -> Search:
        """Return what the search reads; kept vectors are checked to be those of this collection and model."""
        folders = {kind: tables.join(self.work, kind) for kind in ("vectors", "terms", "query_vectors")}
        own = set[str]()
        if self.cfg.vectors:
            folders["vectors"] = self.cfg.vectors
            if holds_own_vectors(self.cfg.vectors):
                own.add("vectors")
            else:
                self._check_kept(self.cfg.vectors)
        if self.cfg.query_vectors:
            folders["query_vectors"] = self.cfg.query_vectors
            own.add("query_vectors")
        documents, queries = _by_file(slices(self.parts)), _by_file(slices(self.block_sizes))
        depths = {BM25: self.cfg.bm25_depth, DENSE: self.cfg.dense_depth}
        sampled = self._sampled() if self.cfg.index.probes else {}
        return Search(self.work, folders, frozenset(own), documents, queries, depths, self.cfg.index, sampled)

    def _check_kept(self, uri: str) -> None:
        """Record in a folder of kept vectors which data and model they are of, of a folder's model also by its
        content. Raises `RradError` where an earlier run has kept there the vectors of other data or another model."""
        mark, keys = tables.join(uri, VECTORS), ("model", "max_length", "part_documents", "columns")
        now = {key: tables.plain(self.cfg)[key] for key in keys} | {"data": self.out.inputs.get("data", PYDOC)}
        now["weights"] = self.out.inputs.get("model", "")
        kept = read_json(mark) or {}
        if {**now, **kept} != now:  # earlier versions wrote no `weights`
            changed = ", ".join(
                f"{key}={value!r} -> {now.get(key)!r}" for key, value in kept.items() if value != now.get(key)
            )
            raise RradError(uri, f"holds vectors of other data or settings ({changed})", "name another folder")
        if kept != now:
            tables.write_json(mark, now)

    def _check_queries(self, search: Search) -> None:
        """Set aside the queries that the user's own vectors lack: the search by vectors finds nothing for them.

        Raises `RradError` where these are all.
        """
        lacking: list[tuple[str, str]] = []
        for block in self.block_sizes:
            bare = pa.array(np.flatnonzero(~search.vectors("query_vectors", block).any(1)))
            queries = read_table(tables.join(self.work, "queries", block), ["query_id", "query"]).take(bare)
            lacking += zip(*(column.to_pylist() for column in queries.columns), strict=True)
        if len(lacking) == sum(self.block_sizes.values()):
            problem = f"holds no vector of any query, such as {lacking[0][0]!r}"
            raise RradError(self.cfg.query_vectors, problem, "write `id` as the queries of the collection have it")
        for query_id, text in lacking:
            self.out.quarantine(query_id, "no vector: BM25 alone finds documents for this query", text)

    def _prepare(self, search: Search) -> None:
        """Embed and count what is missing of the slices."""
        files = {
            kind: tables.names_in(uri, ".npz" if kind == "terms" else ".parquet")
            for kind, uri in search.folders.items()
        }
        todo: dict[str, tuple[Slice, set[str]]] = {}
        for kinds, pieces in ((("query_vectors",), search.queries), (("vectors", "terms"), search.documents)):
            for piece in (each for file in pieces.values() for each in file):
                lacking = {kind for kind in kinds if kind not in search.own and piece.name not in files[kind]}
                todo[piece.name] = piece, lacking
        done = {name for name, (_, lacking) in todo.items() if not lacking}
        options = {"cfg": self.cfg, "model": checkpoints.resolve(self.cfg.model), "work": self.work}
        options |= {
            "folders": search.folders,
            "todo": {name: each for name, each in todo.items() if name not in done},
        }
        self._each(PrepareSlice, options, list(todo), done, "slices")

    def _count(self, search: Search) -> None:
        """Sum up the parts' terms: BM25 weighs with the frequencies of the whole collection."""
        facts = tables.join(self.work, "collection.json")
        if tables.exists(facts):
            return
        options = {"work": self.work, "terms": search.folders["terms"], "slices": search.documents}
        done = tables.names_in(tables.join(self.work, COUNTED), ".json")
        self._each(CountPart, options, list(self.parts), done, "parts counted")
        size = len(read_table(tables.join(self.work, "vocabulary.parquet"), ["term"]))
        collection = counted_terms(self.work, size, list(self.parts))
        table = pa.table({"frequency": collection.frequencies})
        write_table(tables.join(self.work, "collection.parquet"), table)
        tables.write_json(facts, {"documents": collection.documents, "length": collection.length})


def _by_file(pieces: Sequence[Slice]) -> dict[str, list[Slice]]:
    by_file: dict[str, list[Slice]] = {}
    for piece in pieces:
        by_file.setdefault(piece.file, []).append(piece)
    return by_file
