"""Slices of documents and of queries to vectors, and of documents to term counts: each once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.data.bm25 import tokenized
from rrad_ray.errors import RradError
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.retrieval import part_terms
from rrad_ray.retrieval.workspace import Slice, read_table, vector_table, vectors_of, write_counts, write_table


class PrepareSlice:
    """An actor that embeds a slice of documents or queries, given its name, and counts the terms of documents.

    `todo`: slices by name, each with what it lacks of `vectors`, `terms` and `query_vectors`. `folders`: the folders
    of these. `model`: the bi-encoder's folder, loaded where it is needed.
    """

    def __init__(
        self,
        cfg: RetrieveConfig,
        model: str,
        work: str,
        folders: dict[str, str],
        todo: dict[str, tuple[Slice, set[str]]],
    ) -> None:
        self.cfg, self.model, self.work, self.folders, self.todo = cfg, model, work, folders, todo
        terms = read_table(tables.join(work, "vocabulary.parquet"))["term"].to_pylist()
        self.vocabulary = {term: number for number, term in enumerate(terms)}
        self.encoder: BiEncoder | None = None

    def part(self, name: str) -> None:
        """Prepare one slice."""
        piece, lacking = self.todo[name]
        is_query = "query_vectors" in lacking
        folder, columns = ("queries", ["query_id", "query"]) if is_query else ("documents", ["id", "text"])
        table = read_table(tables.join(self.work, folder, piece.file), columns, piece.start, piece.stop)
        ids, texts = table[0].combine_chunks(), table[1].to_pylist()
        if "terms" in lacking:
            words = tokenized(texts, self.cfg.language)
            counts = part_terms.count_terms(words.ids, words.vocab, self.vocabulary)
            write_counts(tables.join(self.folders["terms"], f"{piece.name}.npz"), counts)
        for kind in lacking - {"terms"}:
            self._embed(ids, texts, tables.join(self.folders[kind], f"{piece.name}.parquet"), is_query)

    def _embed(self, ids: pa.Array, texts: list[str], uri: str, is_query: bool) -> None:
        if self.encoder is None:
            length, tokens = self.cfg.max_length, self.cfg.batch_tokens
            self.encoder = BiEncoder(self.model, max_length=length, batch_tokens=tokens)
        began = time.monotonic()
        vectors = each_embedded(self.encoder.queries if is_query else self.encoder.documents, texts)
        write_table(uri, vector_table(ids, vectors, time.monotonic() - began))


def each_embedded(encode: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> np.ndarray:
    """Return the vectors of texts, (N, E); of a text that cannot be embedded, zeros.

    Raises the error of the first text where none can: then it is the model's or the machine's.
    """
    try:
        return np.asarray(encode(texts), np.float32)
    except Exception as error:  # a tokenizer may raise anything, some of them of Rust
        vectors = [_embedded(encode, text) for text in texts]
        size = next((len(vector) for vector in vectors if vector is not None), 0)
        if not size:
            raise error
        return np.stack([np.zeros(size, np.float32) if vector is None else vector for vector in vectors])


def _embedded(encode: Callable[[Sequence[str]], Any], text: str) -> np.ndarray | None:
    try:
        return np.asarray(encode([text]), np.float32)[0]
    except Exception:
        return None


class OwnVectors:
    """Vectors of the user's own: Parquet files with `id` and `vector`, each looked through for a part's ids."""

    def __init__(self, uri: str) -> None:
        import pyarrow.dataset as ds

        files = tables.row_files(uri, (".parquet",))
        if not files:
            raise RradError(uri, "holds no Parquet file", "write `id` and `vector`, or name an empty folder")
        fs, _ = tables.filesystem(uri)
        with tables.io_errors(uri):
            self.uri, self.data = uri, ds.dataset([tables.filesystem(f.uri)[1] for f in files], filesystem=fs)
        tables.check_columns(("id", "vector"), self.data.schema.names, uri, "write `id` and `vector`")
        kind = self.data.schema.field("vector").type
        if not (hasattr(kind, "value_type") and pa.types.is_floating(kind.value_type)):
            raise RradError(uri, f"its vectors are {kind}", "write lists of floats")

    def of(self, ids: pa.Array) -> np.ndarray:
        """Return the vectors of some ids, (N, E); zeros for one that has none. Raises `RradError` where the files do
        not agree on their length."""
        import pyarrow.compute as pc

        with tables.io_errors(self.uri):
            wanted = pc.field("id").cast(pa.string()).isin(ids)
            table = self.data.to_table(
                columns={"id": pc.field("id").cast(pa.string()), "vector": pc.field("vector")}, filter=wanted
            )
        if not len(table):
            return np.zeros((len(ids), self.size()), np.float32)
        values = table["vector"].combine_chunks()
        if len(pc.unique(table["id"])) < len(table):
            counts = pc.value_counts(table["id"])
            again = counts.field("values")[int(np.argmax(counts.field("counts")))]
            raise RradError(self.uri, f"holds several vectors of {again.as_py()!r}", "write one for each id")
        if values.null_count or values.flatten().null_count:
            raise RradError(self.uri, "holds vectors with nulls", "leave out what has no vector")
        if len(values.flatten()) != len(table) * len(values[0].as_py()):
            raise RradError(self.uri, "holds vectors of different lengths", "write vectors of one model")
        rows = pc.index_in(ids, value_set=table["id"].combine_chunks()).to_numpy(zero_copy_only=False)
        known = ~np.isnan(rows.astype(float))
        found_vectors = vectors_of(table)
        result = np.zeros((len(ids), found_vectors.shape[1]), np.float32)
        result[known] = found_vectors[rows[known].astype(np.int64)]
        return result

    def size(self) -> int:
        """Return the number of components of the first vector."""
        with tables.io_errors(self.uri):
            first = self.data.head(1, columns=["vector"])["vector"].to_pylist()
        if not first or not first[0]:
            raise RradError(self.uri, "its first vector is missing or empty", "write `id` and `vector`")
        return len(first[0])
