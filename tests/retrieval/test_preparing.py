"""Vectors of the user's own that cannot be used, or that leave open which one counts, are errors that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray.errors import RradError
from rrad_ray.retrieval.preparing import OwnVectors

FLOATS = pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("ids", "vectors", "problem"),
    [
        (["a", "b", "a"], pa.array([[1, 2], [3, 4], [5, 6]], FLOATS), "holds several vectors of 'a'"),
        (["a", "b"], pa.array([[1, 2], None], FLOATS), "holds vectors with nulls"),
        (["a", "b"], pa.array([[1, None], [1, 2]], FLOATS), "holds vectors with nulls"),
        (["a", "b"], pa.array([[1], [1, 2]], FLOATS), "holds vectors of different lengths"),
        (["x"], pa.array([None], FLOATS), "its first vector is missing or empty"),
        (["x"], pa.array([[]], FLOATS), "its first vector is missing or empty"),
        ([], pa.array([], FLOATS), "its first vector is missing or empty"),
        (["a"], pa.array(["[1, 2]"]), "its vectors are string"),
        (["a"], pa.array([["1", "2"]]), "its vectors are list"),
    ],
)
def test_vectors_that_cannot_be_used_are_named(tmp_path: Path, ids: list[str], vectors: Any, problem: str) -> None:
    pq.write_table(pa.table({"id": pa.array(ids, pa.string()), "vector": vectors}), tmp_path / "v.parquet")
    with pytest.raises(RradError, match=problem):
        OwnVectors(str(tmp_path)).of(pa.array(["a", "b"]))
