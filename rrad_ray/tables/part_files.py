"""Parquet files of parts: their bytes with a digest, and how they are opened and compared.

The last bytes of a part, its footer, hold the SHA-256 of all bytes before them, and the manifest holds that of the
footer, which thus stands for the whole part. So whoever writes a part looks at nothing twice, the manifest takes one
look at its footer, and a part of an earlier attempt is told by what it is. Readers compare:

- all bytes, where a part is read whole;
- the footer, where some columns or rows are read, and so every part that another program or run has written anew;
- the pages that are read with their checksums, in either case.

Parts and manifests of earlier versions have no digests: nothing but sizes and checksums is compared.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray.errors import RradError
from rrad_ray.tables.files import absolute, filesystem, io_errors, join
from rrad_ray.tables.manifest import MANIFEST, PART_REMEDY, find_manifest

BODY_SHA256 = "rrad_body_sha256"  # in the footer: the digest of what stands before it

FOOTER_END = 8  # bytes: the footer's length, and Parquet's mark

FOOTER_BYTES = 2**16  # what Parquet's own readers ask for at first, and a file system may then keep


def part_bytes(table: pa.Table) -> bytes:
    """Return a table as the bytes of a part, whose footer has the digest of what stands before it."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({BODY_SHA256: hashlib.sha256(sink.getbuffer()).hexdigest()})
    return sink.getvalue()


def open_parquet(file: BinaryIO | pa.NativeFile) -> pq.ParquetFile:
    """Open a Parquet file whose pages are compared with their checksums, where they have some, as ours do: reading it
    raises `OSError` for a page that is not what was written."""
    return pq.ParquetFile(file, page_checksum_verification=True)


@contextmanager
def opened_part(uri: str, digest: str = "", *, whole: bool = False) -> Iterator[pq.ParquetFile]:
    """Open the Parquet file at `uri`, which is closed when the block ends; errors in the block name it.

    `digest`: of the part in its table's manifest, empty where none is known. `whole`: all of it is going to be read.
    Raises `RradError` for a part that is not what was written.
    """
    fs, path = filesystem(uri)
    with io_errors(uri), fs.open(path, "rb") as file:
        content = file.read() if whole else b""
        if digest and footer_digest(io.BytesIO(content) if whole else file) != digest:
            problem = "is not the part that its stage wrote: the manifest has another digest of it"
            raise RradError(uri, problem, PART_REMEDY)
        parquet = open_parquet(pa.BufferReader(content) if whole else file)
        if whole:
            _check_body(uri, parquet.metadata, content)
        yield parquet


def footer_digest(file: BinaryIO) -> str:
    """Return the SHA-256 of the bytes behind the last page of a Parquet file."""
    size = file.seek(0, io.SEEK_END)
    start = max(size - FOOTER_BYTES, 0)
    file.seek(start)
    last = file.read()
    begin = max(size - _footer_length(last), 0)
    if begin < start:
        file.seek(begin)
        last = file.read(start - begin) + last
    return hashlib.sha256(last[begin - min(begin, start) :]).hexdigest()


def digest_in_footer(metadata: pq.FileMetaData, file: BinaryIO) -> str:
    """Return the digest of a part for its manifest; empty where its footer does not stand for its pages."""
    return footer_digest(file) if _body_digest(metadata) else ""


def digest_in_manifest(uri: str, name: str) -> str:
    """Return the digest that the manifest of the table at `uri` has of a part; empty where it has none, as that of a
    table that is not finished.

    The manifest is read once for as long as its file stays.
    """
    manifest_uri = join(absolute(uri), MANIFEST)
    fs, path = filesystem(manifest_uri)
    with io_errors(manifest_uri):
        try:
            facts = fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return ""
    marks = tuple(str(facts.get(key)) for key in ("size", "ETag", "mtime", "ino"))
    return _digests(uri, *marks).get(name, "")


@functools.lru_cache(8)
def _digests(uri: str, *marks: str) -> dict[str, str]:
    manifest = find_manifest(uri)
    parts = (manifest.parts if manifest else None) or {}
    return {name: facts["digest"] for name, facts in parts.items() if "digest" in facts}


def _footer_length(last: bytes) -> int:
    """Return how many bytes the footer and its end have, by the last bytes of a file."""
    return int.from_bytes(last[-FOOTER_END:-4], "little") + FOOTER_END


def _body_digest(metadata: pq.FileMetaData) -> str:
    return (metadata.metadata or {}).get(BODY_SHA256.encode(), b"").decode("latin-1")


def _check_body(uri: str, metadata: pq.FileMetaData, content: bytes) -> None:
    """Raise `RradError` where the pages are not those of the footer, which says so of parts that stages write."""
    digest = _body_digest(metadata)
    if not digest:
        return
    body = memoryview(content)[: len(content) - _footer_length(content)]
    if hashlib.sha256(body).hexdigest() != digest:
        problem = "cannot be read: its content is damaged, for its footer has another digest of it"
        raise RradError(uri, problem, PART_REMEDY)
