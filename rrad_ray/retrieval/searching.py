"""A part of the collection met by all queries: the best documents of each, with the scores of both sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch

from rrad_ray import tables
from rrad_ray.errors import InvalidInput
from rrad_ray.retrieval import nearest, part_terms
from rrad_ray.retrieval.hit_files import PART_BITS, hits_uri, write_hits
from rrad_ray.retrieval.hits import Hits
from rrad_ray.retrieval.nearest import on_grid, padded
from rrad_ray.retrieval.part_terms import CollectionTerms, PartIndex
from rrad_ray.retrieval.preparing import OwnVectors
from rrad_ray.retrieval.workspace import Slice, read_counts, read_table, vectors_of
from rrad_ray.rows import BM25, DENSE
from rrad_ray.tables.text import read_json

SCORES = 2**24  # of a block of queries and the documents of a part, held at once: 64 MiB


@dataclass(frozen=True)
class Search:
    """All that the search of a part reads. `documents` and `queries`: the slices of each part and block. `folders`:
    the folders of `vectors`, `terms` and `query_vectors`; `own`: those of them that are the user's own files."""

    work: str
    folders: dict[str, str]
    own: frozenset[str]
    documents: dict[str, list[Slice]]
    queries: dict[str, list[Slice]]
    depths: dict[str, int]

    @cached_property
    def collection(self) -> CollectionTerms:
        """The facts that BM25 weighs with."""
        table = read_table(tables.join(self.work, "collection.parquet"))
        facts = read_json(tables.join(self.work, "collection.json"))
        return CollectionTerms(table["frequency"].to_numpy().copy(), **facts)

    def index(self, part: str) -> PartIndex:
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


def unit_name(part: str, block: str) -> str:
    """Return the name of the search of a part for a block of queries."""
    return f"{part}/{block}"


class SearchPart:
    """An actor: the name of a part and of a block of queries to the block's hits. It keeps the part for the next
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
        hits = self.loaded[1].hits(self.search.vectors("query_vectors", block), terms)
        numbered = hits.moved(documents=self.number_of[part] << PART_BITS)
        write_hits(hits_uri(self.search.work, part, block), numbered)

    def _load(self, part: str) -> PartSearch:
        """Load a part; write down which of its documents have no vector."""
        vectors = self.search.vectors("vectors", part)
        lacking = pa.array(np.flatnonzero(~vectors.any(1)))
        ids = read_table(tables.join(self.search.work, "documents", part), ["id"])["id"].take(lacking)
        tables.write_json(tables.join(self.search.work, "unembedded", f"{part}.json"), ids.to_pylist())
        return PartSearch(vectors, self.search.index(part), self.search.depths)


class PartSearch:
    """A part's documents by vectors (D, E) on the grid and by their BM25 index."""

    def __init__(self, vectors: np.ndarray, index: PartIndex, depths: dict[str, int]) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.documents = torch.from_numpy(padded(vectors)).to(self.device)
        self.index, self.depths = index, depths

    def hits(self, queries: np.ndarray, terms: Sequence[Sequence[int]]) -> Hits:
        """Return the best documents of each query, by its vector (Q, E) and its terms: those of both sources, each
        with both scores. Raises `InvalidInput` for vectors of another length."""
        if queries.shape[1] != self.documents.shape[1]:
            problem = f"a query's vector has {queries.shape[1]} components, a document's {self.documents.shape[1]}"
            raise InvalidInput(problem, "use vectors of one model")
        rows = max(1, SCORES // len(self.documents))
        parts = [
            self._block(queries[start : start + rows], terms[start : start + rows], start)
            for start in range(0, len(queries), rows)
        ]
        scores = {source: np.concatenate([part.scores[source] for part in parts]) for source in (BM25, DENSE)}
        pairs = [np.concatenate([getattr(part, name) for part in parts]) for name in ("queries", "documents")]
        return Hits(pairs[0], pairs[1], scores)

    @torch.inference_mode()
    def _block(self, queries: np.ndarray, terms: Sequence[Sequence[int]], first: int) -> Hits:
        lexical = np.zeros((len(queries), len(self.documents)), np.float32)
        for row, query in zip(lexical, terms, strict=True):
            self.index.add_scores(row, query)
        asked = torch.from_numpy(queries).to(self.device)
        best = {DENSE: nearest.nearest(asked, self.documents, self.depths[DENSE])}
        if self.depths[BM25]:
            best[BM25] = nearest.best_of_rows(torch.from_numpy(lexical), self.depths[BM25])
        width = len(self.documents)
        keys = [
            (torch.arange(len(queries))[:, None] * width + columns.cpu())[scores.cpu() > 0]
            for scores, columns in best.values()
        ]
        pairs = torch.cat(keys).unique()
        rows, columns = pairs // width, pairs % width
        cosines = nearest.pair_scores(asked[rows.to(self.device)], self.documents[columns.to(self.device)])
        scores = {BM25: lexical[rows.numpy(), columns.numpy()], DENSE: cosines.cpu().numpy()}
        return Hits(rows.numpy() + first, columns.numpy(), scores)
