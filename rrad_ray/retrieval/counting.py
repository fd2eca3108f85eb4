"""The terms of a part of the collection, counted together: what BM25 weighs with is their sum over all parts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rrad_ray import tables
from rrad_ray.retrieval.part_terms import CollectionTerms
from rrad_ray.retrieval.workspace import Slice, read_counts, read_table, write_table
from rrad_ray.tables.text import read_json

COUNTED = "counted"  # the folder of parts' sums


class CountPart:
    """An actor that counts how many documents of a part, given its name, hold each term of the queries.

    `terms`: the folder of the counts of `slices`, those of each part.
    """

    def __init__(self, work: str, terms: str, slices: dict[str, list[Slice]]) -> None:
        self.work, self.terms, self.slices = work, terms, slices
        words = read_table(tables.join(work, "vocabulary.parquet"), ["term"])
        self.size = len(words)

    def part(self, name: str) -> None:
        """Count one part; only the terms that it holds are written."""
        sums = CollectionTerms(np.zeros(self.size, np.int64))
        for piece in self.slices[name]:
            sums.add(read_counts(tables.join(self.terms, f"{piece.name}.npz")))
        held = np.flatnonzero(sums.frequencies)
        table = pa.table({"term": held, "frequency": sums.frequencies[held]})
        write_table(tables.join(self.work, COUNTED, name), table)
        facts = {"documents": sums.documents, "length": sums.length}
        tables.write_json(tables.join(self.work, COUNTED, f"{name}.json"), facts)


def counted_terms(work: str, size: int, parts: list[str]) -> CollectionTerms:
    """Return the sum of counted parts over so many terms; one part is held at a time."""
    whole = CollectionTerms(np.zeros(size, np.int64))
    for part in parts:
        table, facts = (
            read_table(tables.join(work, COUNTED, part)),
            read_json(tables.join(work, COUNTED, f"{part}.json")),
        )
        whole.frequencies[table["term"].to_numpy()] += table["frequency"].to_numpy()
        whole.documents, whole.length = whole.documents + facts["documents"], whole.length + facts["length"]
    return whole
