"""The hits of a block of queries to rows of candidates: the union over parts, joined with the texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rrad_ray import tables
from rrad_ray.evaluation import fusion
from rrad_ray.retrieval.hit_files import PART_BITS, RUNS, hits_uri, read_hits
from rrad_ray.retrieval.hits import Hits, union
from rrad_ray.retrieval.workspace import read_table
from rrad_ray.rows import Candidates

TextOfNumber = Mapping[int, tuple[str, str]]  # id and text of a document by its number


class JoinBlock:
    """An actor that writes a block of queries, given its name, as parts of `rows_per_part` queries each.

    `blocks`: the first query of each block. `parts`: those of the collection. `depths`: of each source;
    None: the hits are those of runs, which all stay, in the order of their file.
    """

    def __init__(
        self,
        out: tables.Output,
        work: str,
        blocks: Mapping[str, int],
        parts: Sequence[str],
        sources: Sequence[str],
        depths: Mapping[str, int] | None,
        rows_per_part: int,
    ) -> None:
        self.out, self.work, self.blocks, self.parts = out, work, blocks, parts
        self.sources, self.depths, self.rows_per_part = sources, depths, rows_per_part

    def part(self, name: str) -> None:
        """Join one block."""
        queries = read_table(tables.join(self.work, "queries", name)).drop_columns(["terms"]).to_pylist()
        hits = self._hits(name)
        texts = self._texts(hits.documents)
        parts = parts_of_block(self.blocks[name], len(queries), self.rows_per_part)
        for start, part in zip(range(0, len(queries), self.rows_per_part), parts, strict=True):
            some = queries[start : start + self.rows_per_part]
            self.out.write_part(part, list(candidates(some, start, hits, self.sources, texts)))
        known = set(hits.queries.tolist())
        bare = [[row["query_id"], row["query"]] for number, row in enumerate(queries) if number not in known]
        tables.write_json(tables.join(self.work, "joined", f"{name}.json"), bare)

    def _hits(self, block: str) -> Hits:
        """Return the hits of a block over all parts, those of a query together, in the order in which they are
        listed."""
        if self.depths is None:
            return read_hits(hits_uri(self.work, RUNS, block), self.sources)
        parts = (read_hits(hits_uri(self.work, part, block), self.sources) for part in self.parts)
        return in_listed_order(union(parts, self.depths), self.depths)

    def _texts(self, documents: np.ndarray) -> TextOfNumber:
        """Return id and text of documents, from the parts that hold some of them."""
        texts: dict[int, tuple[str, str]] = {}
        wanted = np.unique(documents)
        owners = wanted >> PART_BITS
        for number in np.unique(owners):
            numbers = wanted[owners == number]
            table = read_table(tables.join(self.work, "documents", self.parts[number]), ["id", "text"])
            rows = table.take(pa.array(numbers & (2**PART_BITS - 1)))
            pairs = zip(rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True)
            texts |= dict(zip(numbers.tolist(), pairs, strict=True))
        return texts


def parts_of_block(first: int, count: int, rows_per_part: int) -> list[str]:
    """Return the names of the output's parts with `count` queries, of which the first has number `first`."""
    return [tables.part_name(number // rows_per_part) for number in range(first, first + count, rows_per_part)]


def in_listed_order(hits: Hits, depths: Mapping[str, int]) -> Hits:
    """Return hits by query: first the best ones of the first source, best first, then those of the next one that
    are not among them."""
    order = np.full(len(hits.queries), np.iinfo(np.int64).max)
    for number, (source, depth) in enumerate(depths.items()):
        ranks = hits.ranks(source)
        counts = (ranks < depth) & (hits.scores[source] > 0)
        order = np.where(counts, np.minimum(order, (number << PART_BITS) + ranks), order)
    return hits.take(np.lexsort((order, hits.queries)))


def candidates(
    queries: Sequence[Mapping[str, Any]], first: int, hits: Hits, sources: Sequence[str], texts: TextOfNumber
) -> Iterator[Candidates]:
    """Yield the rows of queries, of which the first has number `first`, with a document at least: ordered by a single
    source's scores or by the sum of the sources' z-scores, of equal ones as the hits are."""
    for number, query in enumerate(queries, first):
        span = slice(*np.searchsorted(hits.queries, [number, number + 1]))
        documents = hits.documents[span].tolist()
        if not documents:
            continue
        by_source = {source: hits.scores[source][span].astype(float).tolist() for source in sources}
        values = by_source[sources[0]]
        if len(sources) > 1:
            values = fusion.fuse(by_source, dict.fromkeys(sources, 1.0))
        order = sorted(range(len(documents)), key=lambda index: (-values[index], index))
        known = [texts[documents[index]] for index in order]
        yield {
            "query_id": query["query_id"],
            "query": query["query"],
            "split": query["split"],
            "doc_ids": [doc_id for doc_id, _ in known],
            "texts": [text for _, text in known],
            "scores": [float(values[index]) for index in order],
            "sources": list(sources),
            "source_scores": [[column[index] for index in order] for column in by_source.values()],
            "qrel_ids": query["qrel_ids"],
            "qrel_grades": query["qrel_grades"],
        }
