"""The queries that a student has learnt from, as hashes beside its checkpoint: by them it must not be measured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.languages.scripts import folded_digest
from rrad_ray.tables import checkpoints

LEARNT_FILE = "learnt.parquet"


def write_learnt(uri: str, queries: Iterable[str], model: str) -> None:
    """Write the queries of a training into its output, with those that the model it began from had learnt from."""
    hashes = np.fromiter(map(_hash, queries), np.uint64)
    with tables.writing(tables.join(uri, LEARNT_FILE)) as file:
        pq.write_table(pa.table({"query": np.union1d(hashes, _learnt(model))}), file)


def copy_learnt(model: str, uri: str) -> None:
    """Write what a model has learnt from into an output that holds a copy of it."""
    write_learnt(uri, (), model)


def learnt_by(model: str, queries: Iterable[str]) -> int:
    """Return how many of these queries a student has learnt from, however they are written; 0 for a model from
    elsewhere, of which it is not known."""
    return int(np.isin(np.fromiter(map(_hash, queries), np.uint64), _learnt(model)).sum())


def _learnt(model: str) -> np.ndarray:
    folder = checkpoints.training_of(model)
    if not folder or not tables.exists(tables.join(folder, LEARNT_FILE)):
        return np.empty(0, np.uint64)
    return tables.read_columns(folder, LEARNT_FILE, ["query"])["query"].to_numpy()


def _hash(query: str) -> int:
    return int.from_bytes(folded_digest(query), "little")
