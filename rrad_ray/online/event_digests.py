"""Digests of an event log: the usable rows of many of its files in one, with what the analysis reads, and the rows
that were set aside.

    STATE/exposures/NAME.parquet    the rows, each with its log file and its number there
    STATE/exposures/NAME.json       last: the log files with size and time (ETag on S3), the rows set aside, and a
                                    hash of the code that has read them

A later reading of the log digests what no digest holds: files that are new or have changed, and after an upgrade that
reads them in another way all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.languages.scripts import query_words, word_count
from rrad_ray.online.event_log import log_files, usable_tables
from rrad_ray.online.event_rows import EXPOSURES
from rrad_ray.progress import Progress
from rrad_ray.tables.files import listed, version_mark
from rrad_ray.tables.part_files import open_parquet
from rrad_ray.tables.text import read_json

DIGEST_BYTES = 2**26  # of log files that become one digest, or a single larger file

BETWEEN_WORDS = "\n"  # of a query in a digest: white space is in no word

ROW_BITS = 40  # of an event's number in the log, below the bits of its file's


READING = ("event_digests.py", "event_log.py", "event_rows.py", "ubi.py")  # of this folder, what makes a digest


@cache
def reading_mark() -> str:
    """Return a hash of the code that makes digests: what usable rows are, and what the words of a query are."""
    online, languages = resources.files("rrad_ray.online"), resources.files("rrad_ray.languages")
    files = [online / name for name in READING] + [each for each in languages.iterdir() if each.name.endswith(".py")]
    code = {each.name: each.read_text("utf-8") for each in files if each.is_file()}
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EventDigest:
    """A digest: its URI without the ending, the files that it is of, and (id, reason, row) of what was set aside."""

    uri: str
    files: Mapping[str, str]
    bad: Sequence[tuple[str, str, str]]


class LogDigests:
    """The digests of the events of one kind in a log, of which what is missing is made in the folder `state`."""

    def __init__(self, log: str, kind: str, state: str) -> None:
        self.kind, self.folder = kind, tables.join(state, kind)
        self.files = log_files(log, kind)
        facts = listed(tables.join(log, kind))
        self.marks = {file.name: version_mark(facts[file.name]) for file in self.files}
        self.sizes = {file.name: facts[file.name]["size"] for file in self.files}
        self.numbers = {file.name: number for number, file in enumerate(self.files)}
        self.digests = list(self._standing())
        held = {name for digest in self.digests for name in digest.files}
        groups = list(self._groups([file for file in self.files if file.name not in held]))
        self.new_files = sum(map(len, groups))
        progress = Progress(self.new_files, f"new files of {kind}")
        for group in groups:
            self.digests.append(self._digested(group))
            progress.add(len(group))

    @property
    def bad(self) -> Iterator[Sequence[tuple[str, str, str]]]:
        """The rows set aside, digest by digest."""
        return (digest.bad for digest in self.digests)

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows of all digests in some order, with their number in the log as column `seq`."""
        for digest in self.digests:
            uri = f"{digest.uri}.parquet"
            fs, path = tables.filesystem(uri)
            with tables.io_errors(uri), fs.open(path, "rb") as opened:
                for batch in open_parquet(opened).iter_batches():
                    table = pa.Table.from_batches([batch])
                    names = table["file"].combine_chunks().dictionary_encode()
                    files = np.array([self.numbers[name] for name in names.dictionary.to_pylist()], np.int64)
                    seq = (files[names.indices.to_numpy()] << ROW_BITS) + table["row"].to_numpy()
                    yield table.drop_columns(["file", "row"]).append_column("seq", pa.array(seq))

    def _standing(self) -> Iterator[EventDigest]:
        """Yield the digests whose files are in the log as they were, and read as they are now; delete the others."""
        for name in sorted(tables.names_in(self.folder, ".json")):
            uri = tables.join(self.folder, name)
            content = read_json(f"{uri}.json")
            same = all(self.marks.get(file) == mark for file, mark in content["files"].items())
            if same and content.get("read_by") == reading_mark():
                yield EventDigest(uri, content["files"], content["bad"])
            else:
                tables.remove(f"{uri}.json")
                tables.remove(f"{uri}.parquet")

    def _groups(self, files: Sequence[tables.DataFile]) -> Iterator[list[tables.DataFile]]:
        """Yield files that become a digest together."""
        group, size = list[tables.DataFile](), 0
        for file in files:
            if group and size + self.sizes[file.name] > DIGEST_BYTES:
                yield group
                group, size = [], 0
            group.append(file)
            size += self.sizes[file.name]
        if group:
            yield group

    def _digested(self, files: Sequence[tables.DataFile]) -> EventDigest:
        """Write the digest of some files."""
        marks = {file.name: self.marks[file.name] for file in files}
        name = hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()[:16]
        digest, bad = EventDigest(tables.join(self.folder, name), marks, []), list[tuple[str, str, str]]()
        writer: pq.ParquetWriter | None = None
        with tables.writing(f"{digest.uri}.parquet") as opened:
            for file in files:
                row = 0
                for table in usable_tables(file, self.kind, lambda *each: bad.append(each)):
                    own = with_words(table) if self.kind == EXPOSURES else table
                    own = own.append_column("file", pa.array([file.name] * len(own), pa.string()))
                    own = own.append_column("row", pa.array(np.arange(row, row + len(own))))
                    row += len(own)
                    writer = writer or pq.ParquetWriter(
                        opened, own.schema, compression="zstd", write_page_checksum=True
                    )
                    writer.write_table(own)
            if writer:
                writer.close()
        tables.write_json(f"{digest.uri}.json", {"files": marks, "bad": bad, "read_by": reading_mark()})
        return EventDigest(digest.uri, marks, bad)


def with_words(table: pa.Table) -> pa.Table:
    """Return exposures with the words of their queries, and the number of these, in place of the queries."""
    queries = table["query"].combine_chunks().dictionary_encode()
    texts, codes = queries.dictionary.to_pylist(), queries.indices
    words = pa.array([BETWEEN_WORDS.join(query_words(text)) for text in texts], pa.string()).take(codes)
    counts = pa.array([word_count(text) for text in texts], pa.int32()).take(codes)
    return table.drop_columns(["query"]).append_column("words", words).append_column("word_count", counts)
