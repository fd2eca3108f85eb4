"""The working folder of `retrieve`, `OUTPUT/work`: what is done of a run, so that a killed one goes on with the rest.

documents/part-00000-00002.parquet   id and text of at most `part_documents` documents: file 0's third part
read/00000.json                      the parts of file 0, and what cannot be used of it; read/repeats.json
queries/block-00000.parquet          queries with the numbers of their terms; vocabulary.parquet
counted/part-00000-00002.parquet    how many documents of a part hold each term; collection.parquet: of all
lists/part-00000-00002.parquet.faiss    a part's trained lists, with `index`; compared/...: its hits beside exact ones
vectors/..., terms/..., query_vectors/...    of a slice of a part or block
hits/part-00000-00002-block-00000.parquet   the best documents of a part for the queries of a block
joined/block-00000.parquet.json      the queries of a block that have no candidates: its parts are written
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.retrieval.part_terms import TermCounts
from rrad_ray.tables.text import read_json

VECTOR_SCHEMA = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))])


VECTORS = "vectors.json"  # in a folder of kept vectors: what they are of


def holds_own_vectors(uri: str) -> bool:
    """Return true for a folder or file of the user's own vectors; false for one that a run keeps its vectors in, or
    will."""
    return read_json(tables.join(uri, VECTORS)) is None and bool(tables.data_files(uri, (".parquet",)))


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of a file of texts: what one process embeds at a time."""

    file: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of what is made of the slice, without its ending."""
        return f"{self.file.removesuffix('.parquet')}-{self.start:08d}"


def slices(sizes: dict[str, int]) -> list[Slice]:
    """Return the slices of files with so many rows: small ones of small collections, so that every process has some
    of them, and few files of large ones."""
    step = min(max(sum(sizes.values()) // 64, 512), 8192)
    return [
        Slice(file, start, min(start + step, rows)) for file, rows in sizes.items() for start in range(0, rows, step)
    ]


def write_table(uri: str, table: pa.Table, rows: int = 512) -> None:
    """Write a Parquet file whole or not at all, in row groups of so many rows."""
    with tables.writing(uri) as file:
        pq.write_table(table, file, row_group_size=rows, compression="zstd")


def read_table(uri: str, columns: list[str] | None = None, start: int = 0, stop: int | None = None) -> pa.Table:
    """Return rows `start` to `stop` of a Parquet file, from the row groups that hold them."""
    fs, path = tables.filesystem(uri)
    with tables.io_errors(uri), fs.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        return tables.rows_between(file, start, file.metadata.num_rows if stop is None else stop, columns)


def vectors_of(table: pa.Table) -> np.ndarray:
    """Return the vectors of a table of `VECTOR_SCHEMA`, (N, E) float32."""
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1).astype(np.float32, copy=False)


def vector_table(ids: pa.Array, vectors: np.ndarray, seconds: float) -> pa.Table:
    """Return vectors (N, E) as a table of `VECTOR_SCHEMA` that says how long they took."""
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1])
    lists = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
    table = pa.Table.from_arrays([ids, lists], schema=VECTOR_SCHEMA)
    return table.replace_schema_metadata({"seconds": str(seconds)})


def write_counts(uri: str, counts: TermCounts) -> None:
    """Write a slice's term counts whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(counts))
    tables.write_bytes(uri, buffer.getvalue())


def read_counts(uri: str) -> TermCounts:
    """Read what `write_counts` has written."""
    arrays: Any = np.load(io.BytesIO(read_whole(uri)))
    return TermCounts(**{name: arrays[name] for name in arrays.files})


def read_whole(uri: str) -> bytes:
    """Return all bytes of a file."""
    fs, path = tables.filesystem(uri)
    with tables.io_errors(uri):
        content: bytes = fs.cat_file(path)
    return content
