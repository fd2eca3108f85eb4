"""A collection's documents as parts of at most so many: each file is read once, by one process."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray import tables
from rrad_ray.config import RetrieveConfig
from rrad_ray.data import beir
from rrad_ray.data.text_files import BadRow, Reject
from rrad_ray.retrieval.workspace import read_table, write_table
from rrad_ray.tables.text import read_json

DOCUMENT_SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("line", pa.int64()), ("listed", pa.int32())]
)

CHUNK = 8192  # documents that are Python's at a time

HASHES = 2**24  # ids whose hashes are compared at a time

ReadDocument = tuple[int, str, str]  # line, id, text


@dataclass(frozen=True)
class Wanted:
    """Ids that the reader looks for: of the documents that `runs` list, which alone are kept (None: all are), and of
    those that qrels judge."""

    runs: pa.Array | None
    judged: pa.Array


class ReadFile:
    """An actor that writes a file of the collection, given its number, as parts, and what cannot be used of it."""

    def __init__(self, cfg: RetrieveConfig, files: Sequence[tables.DataFile], work: str, wanted: Wanted) -> None:
        self.cfg, self.files, self.work, self.wanted = cfg, files, work, wanted

    def part(self, name: str) -> None:
        """Read one file."""
        rejected: list[tuple[str, str, str]] = []

        def reject(*bad: str) -> None:
            rejected.append((bad[0], bad[1], bad[2][:2000]))

        rows = documents(self.files[int(name)], self.cfg.column_names, reject)
        facts = write_documents(self.work, name, rows, self.cfg.part_documents, self.wanted)
        # A lone surrogate, which may be what is wrong with a row, cannot be written.
        bad = [[text.encode(errors="backslashreplace").decode() for text in each] for each in rejected]
        tables.write_json(tables.join(self.work, "read", f"{name}.json"), {**facts, "rejected": bad})


def documents(file: tables.DataFile, columns: dict[str, str], reject: Reject) -> Iterator[ReadDocument]:
    """Yield the documents of a file, streamed; what is none is handed to `reject`."""
    name = file.uri.rpartition("/")[2]
    for number, row in beir.raw_texts(file, columns, titled=True):
        try:
            yield number, *beir.text_row(row, columns, titled=True)
        except BadRow as bad:
            reject(*beir.rejected_text(bad, name, number, row))


def write_documents(work: str, name: str, rows: Iterable[ReadDocument], size: int, wanted: Wanted) -> dict[str, Any]:
    """Write the documents of file `name` in parts of at most `size`, with their numbers in `wanted.runs`.

    Returns the parts' rows by name, the number of all documents, the judged ones among them, and the first ids.
    """
    chunks: list[pa.Table] = []
    parts: dict[str, int] = {}
    judged: list[str] = []
    first_ids: list[str] = []
    count, remaining = 0, iter(rows)

    def write() -> None:
        part = f"part-{int(name):05d}-{len(parts):05d}.parquet"
        table = pa.concat_tables(chunks)
        parts[part] = len(table)
        write_table(tables.join(work, "documents", part), table)
        chunks.clear()

    while chunk := list(itertools.islice(remaining, min(CHUNK, size))):
        count += len(chunk)
        numbers, ids, texts = (list(column) for column in zip(*chunk, strict=True))
        table = pa.table([ids, texts, numbers, pa.nulls(len(ids), pa.int32())], schema=DOCUMENT_SCHEMA)
        judged += table["id"].filter(pc.is_in(table["id"], value_set=wanted.judged)).to_pylist()
        first_ids += ids if not first_ids else []
        if wanted.runs is not None:
            table = table.set_column(3, DOCUMENT_SCHEMA.field(3), pc.index_in(table["id"], value_set=wanted.runs))
            table = table.filter(table["listed"].is_valid())
        kept = sum(map(len, chunks))
        if kept + len(table) > size:
            chunks.append(table.slice(0, size - kept))
            write()
            table = table.slice(size - kept)
        chunks.append(table)
    if any(map(len, chunks)):
        write()
    return {"parts": parts, "documents": count, "judged": judged, "first_ids": first_ids}


def drop_repeats(work: str, parts: dict[str, int]) -> tuple[dict[str, int], list[tuple[str, str, str]]]:
    """Write parts again without documents whose id an earlier one has; return the rows of the parts that still have
    some, and the dropped rows as id, reason and content.

    What is to be dropped is written down first, so that a run that is killed here loses none of it.
    """
    uri = tables.join(work, "read", "repeats.json")
    plan = read_json(uri)
    if plan is None:
        plan = _repeats(work, parts)
        tables.write_json(uri, plan)
    parts, rejected = dict(parts), []
    for part, rows in plan["rows"].items():
        uri = tables.join(work, "documents", part)
        table = read_table(uri)
        if len(table) == parts[part]:
            mask = np.ones(len(table), bool)
            mask[rows] = False
            write_table(uri, table.filter(pa.array(mask)))
        parts[part] -= len(rows)
    for row_id, reason, content in plan["rejected"]:
        rejected.append((row_id, reason, content))
    return {part: rows for part, rows in parts.items() if rows}, rejected


def _repeats(work: str, parts: dict[str, int]) -> dict[str, Any]:
    """Return the rows to drop by part, and the rejected rows."""
    names = list(parts)
    hashes = [
        np.fromiter(map(hash, read_table(tables.join(work, "documents", part), ["id"])["id"].to_pylist()), np.int64)
        for part in names
    ]
    suspects: set[int] = set()
    rounds = 1 + sum(map(len, hashes)) // HASHES
    for number in range(rounds):
        values, counts = np.unique(
            np.concatenate([np.zeros(0, np.int64), *(each[each % rounds == number] for each in hashes)]),
            return_counts=True,
        )
        suspects.update(values[counts > 1].tolist())
    rows: dict[str, list[int]] = {}
    rejected, seen = [], set[str]()
    for part, each in zip(names, hashes, strict=True):
        candidates = np.flatnonzero(np.isin(each, list(suspects)))
        if not len(candidates):
            continue
        table = read_table(tables.join(work, "documents", part))
        for row in candidates:
            row_id = table["id"][row].as_py()
            if row_id in seen:
                rows.setdefault(part, []).append(int(row))
                reason = f"duplicate id: row {table['line'][row]} {beir.STANDS_ABOVE.format(row_id)}"
                rejected.append([row_id, reason, table["text"][row].as_py()[:2000]])
            seen.add(row_id)
    return {"rows": rows, "rejected": rejected}
