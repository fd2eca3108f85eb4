"""A part of the collection met by all queries: the best documents of each, with the scores of both sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch

from rrad_ray import tables
from rrad_ray.config import IndexConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.retrieval import nearest, part_terms
from rrad_ray.retrieval.approximate import InvertedLists, trained_lists
from rrad_ray.retrieval.hit_files import COMPARED, PART_BITS, hits_uri, write_hits
from rrad_ray.retrieval.hits import EXACT, INDEX, Hits, joined_hits
from rrad_ray.retrieval.nearest import on_grid, padded
from rrad_ray.retrieval.part_terms import CollectionTerms, PartIndex
from rrad_ray.retrieval.preparing import OwnVectors
from rrad_ray.retrieval.workspace import Slice, read_counts, read_table, read_whole, vectors_of
from rrad_ray.rows import BM25, DENSE
from rrad_ray.tables.text import read_json

SCORES = 2**24  # of a block of queries and the documents of a part, held at once: 64 MiB


@dataclass(frozen=True)
class Search:
    """All that the search of a part reads. `documents` and `queries`: the slices of each part and block. `folders`:
    the folders of `vectors`, `terms` and `query_vectors`; `own`: those of them that are the user's own files.
    `sampled`: rows of each block, of queries on which an index is compared with the exact product."""

    work: str
    folders: dict[str, str]
    own: frozenset[str]
    documents: dict[str, list[Slice]]
    queries: dict[str, list[Slice]]
    depths: dict[str, int]
    index: IndexConfig
    sampled: dict[str, list[int]]

    @cached_property
    def collection(self) -> CollectionTerms:
        """The facts that BM25 weighs with."""
        table = read_table(tables.join(self.work, "collection.parquet"))
        facts = read_json(tables.join(self.work, "collection.json"))
        return CollectionTerms(table["frequency"].to_numpy().copy(), **facts)

    def terms_index(self, part: str) -> PartIndex:
        """Return the BM25 index of a part."""
        counts = [
            read_counts(tables.join(self.folders["terms"], f"{piece.name}.npz")) for piece in self.documents[part]
        ]
        return PartIndex(part_terms.joined_counts(counts), self.collection)

    def vectors(self, kind: str, file: str) -> np.ndarray:
        """Return the vectors on the grid of a part's documents (`vectors`) or a block's queries (`query_vectors`)."""
        folder, column, pieces = "documents", "id", self.documents
        if kind == "query_vectors":
            folder, column, pieces = "queries", "query_id", self.queries
        if kind in self.own:
            ids = read_table(tables.join(self.work, folder, file), [column])[column].combine_chunks()
            return on_grid(OwnVectors(self.folders[kind]).of(ids))
        uris = [tables.join(self.folders[kind], f"{piece.name}.parquet") for piece in pieces[file]]
        return on_grid(np.concatenate([vectors_of(read_table(uri, ["vector"])) for uri in uris]))

    def lists_uri(self, part: str) -> str:
        """Return the file of a part's trained lists."""
        return tables.join(self.work, "lists", f"{part}.faiss")

    def lists(self, part: str, vectors: np.ndarray) -> InvertedLists | None:
        """Return the lists of a part, whose vectors are given; None without an index."""
        if not self.index.probes:
            return None
        return InvertedLists(read_whole(self.lists_uri(part)), vectors, self.index.probes)


def unit_name(part: str, block: str) -> str:
    """Return the name of the search of a part for a block of queries."""
    return f"{part}/{block}"


class TrainLists:
    """An actor that trains the lists of a part, given its name."""

    def __init__(self, search: Search) -> None:
        self.search = search

    def part(self, name: str) -> None:
        """Train the lists of one part."""
        trained = trained_lists(self.search.vectors("vectors", name), self.search.index)
        tables.write_bytes(self.search.lists_uri(name), trained)


class SearchPart:
    """An actor that searches a part for a block of queries, given the names of both. It keeps the part for the next
    block."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.number_of = {part: number for number, part in enumerate(search.documents)}
        self.loaded: tuple[str, PartSearch] | None = None

    def part(self, name: str) -> None:
        """Search one part for one block."""
        part, block = name.split("/")
        if self.loaded is None or self.loaded[0] != part:
            self.loaded = None  # before the next one takes its memory
            self.loaded = part, self._load(part)
        terms = read_table(tables.join(self.search.work, "queries", block), ["terms"])["terms"].to_pylist()
        vectors = self.search.vectors("query_vectors", block)
        if rows := self.search.sampled.get(block):  # before the hits, which say that the search is done
            self._write(COMPARED, part, block, self.loaded[1].compared(vectors[rows]))
        self._write("hits", part, block, self.loaded[1].hits(vectors, terms))

    def _write(self, folder: str, part: str, block: str, hits: Hits) -> None:
        numbered = hits.moved(documents=self.number_of[part] << PART_BITS)
        write_hits(hits_uri(self.search.work, part, block, folder), numbered)

    def _load(self, part: str) -> PartSearch:
        """Load a part; write down which of its documents have no vector."""
        vectors = self.search.vectors("vectors", part)
        lacking = pa.array(np.flatnonzero(~vectors.any(1)))
        ids = read_table(tables.join(self.search.work, "documents", part), ["id"])["id"].take(lacking)
        tables.write_json(tables.join(self.search.work, "unembedded", f"{part}.json"), ids.to_pylist())
        index, lists = self.search.terms_index(part), self.search.lists(part, vectors)
        return PartSearch(vectors, index, self.search.depths, lists)


class PartSearch:
    """A part's documents by vectors (D, E) on the grid, or by their `lists`, and by their BM25 index."""

    def __init__(
        self, vectors: np.ndarray, index: PartIndex, depths: dict[str, int], lists: InvertedLists | None = None
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.documents = torch.from_numpy(padded(vectors)).to(self.device)
        self.index, self.depths = index, depths
        self.near = nearest.nearest if lists is None else lists.nearest

    def hits(self, queries: np.ndarray, terms: Sequence[Sequence[int]]) -> Hits:
        """Return the best documents of each query, by its vector (Q, E) and its terms: those of both sources, each
        with both scores. Raises `InvalidInput` for vectors of another length."""
        if queries.shape[1] != self.documents.shape[1]:
            problem = f"a query's vector has {queries.shape[1]} components, a document's {self.documents.shape[1]}"
            raise InvalidInput(problem, "use vectors of one model")
        rows = max(1, SCORES // len(self.documents))
        blocks = range(0, len(queries), rows)
        return joined_hits(
            self._block(queries[start : start + rows], terms[start : start + rows], start) for start in blocks
        )

    def compared(self, queries: np.ndarray) -> Hits:
        """Return the nearest documents of queries (Q, E) by the exact product (`EXACT`) and by the lists (`INDEX`);
        one that has not found a pair has 0 for it."""
        rows = max(1, SCORES // len(self.documents))
        blocks = range(0, len(queries), rows)
        return joined_hits(self._compared(queries[start : start + rows], start) for start in blocks)

    @torch.inference_mode()
    def _compared(self, queries: np.ndarray, first: int) -> Hits:
        asked = torch.from_numpy(queries).to(self.device)
        ways = {EXACT: nearest.nearest, INDEX: self.near}
        keys = {way: self._keys(*near(asked, self.documents, self.depths[DENSE])) for way, near in ways.items()}
        pairs = torch.cat(list(keys.values())).unique()
        rows, columns, cosines = self._pairs(pairs, asked)
        scores = {way: np.where(np.isin(pairs.numpy(), known.numpy()), cosines, 0) for way, known in keys.items()}
        return Hits(rows + first, columns, scores)

    def _keys(self, scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return a number for each pair of a row and a column with a score above 0."""
        rows = torch.arange(len(scores))[:, None]
        return (rows * len(self.documents) + columns.cpu())[scores.cpu() > 0]

    def _pairs(self, keys: torch.Tensor, asked: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return row, column and exact cosine of the pairs of such numbers."""
        rows, columns = keys // len(self.documents), keys % len(self.documents)
        cosines = nearest.pair_scores(asked[rows.to(self.device)], self.documents[columns.to(self.device)])
        return rows.numpy(), columns.numpy(), cosines.cpu().numpy()

    @torch.inference_mode()
    def _block(self, queries: np.ndarray, terms: Sequence[Sequence[int]], first: int) -> Hits:
        lexical = np.zeros((len(queries), len(self.documents)), np.float32)
        for row, query in zip(lexical, terms, strict=True):
            self.index.add_scores(row, query)
        asked = torch.from_numpy(queries).to(self.device)
        best = {DENSE: self.near(asked, self.documents, self.depths[DENSE])}
        if self.depths[BM25]:
            best[BM25] = nearest.best_of_rows(torch.from_numpy(lexical), self.depths[BM25])
        rows, columns, cosines = self._pairs(torch.cat([self._keys(*each) for each in best.values()]).unique(), asked)
        return Hits(rows + first, columns, {BM25: lexical[rows, columns], DENSE: cosines})
