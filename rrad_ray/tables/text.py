"""Text files: one way to open them. They are UTF-8, with or without a byte order mark; anything else is an error that
names file, line and byte."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from fsspec.utils import infer_compression

from rrad_ray.errors import RradError
from rrad_ray.tables.files import exists, filesystem, io_errors

BYTE_ORDER_MARK = "\ufeff"  # the byte order mark of UTF-8

OTHER_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}

UNPACKED = (None, "gzip", "bz2", "xz")  # by fsspec's names; each of them notices a file that is cut short

PACKED_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}

PACK_REMEDY = "unpack it, or pack it by gzip as NAME.gz"

ENCODING_REMEDY = "write the file as UTF-8, for example by `iconv -f LATIN1 -t UTF-8 OLD > NEW` (or -f UTF-16)"


def text_lines(uri: str, remedy: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1, streamed, without blank ones and line ends; `.gz`,
    `.bz2` and `.xz` are unpacked.

    A byte order mark is taken off every line: files that were joined have some in their middle. Lone surrogates, as
    Java writes them, pass: a row with one is bad, the file is not. Raises `RradError` for a file that is not there
    (with `remedy`), that cannot be read, that is packed otherwise, or that is no UTF-8.
    """
    fs, path = filesystem(uri)
    packing = infer_compression(path)
    if packing not in UNPACKED:  # of several files in a `.zip`, fsspec reads the first
        raise RradError(uri, f"is packed by {packing}, which is not read", PACK_REMEDY)
    with io_errors(uri, remedy), fs.open(path, "rb", compression="infer") as file:
        for number, raw in enumerate(file, 1):
            line = decoded(raw, uri, number, "surrogatepass").rstrip("\r\n").lstrip(BYTE_ORDER_MARK)
            if line.strip():
                yield number, line


def decoded(content: bytes, uri: str, first: int = 1, errors: str = "strict") -> str:
    """Return UTF-8 bytes as text. `first`: the number of their first line in the file at `uri`; `errors` as Python's.

    Raises `RradError` that names line and byte of what is no UTF-8.
    """
    try:
        text = content.decode("utf-8", errors=errors)
        wrong = content.find(b"\0")  # text in UTF-16 without a mark has one in every other byte
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
    if wrong < 0:
        return text
    line, column = first + content.count(b"\n", 0, wrong), wrong - content.rfind(b"\n", 0, wrong)
    problem = f"no UTF-8 text: byte {column} of the line is 0x{content[wrong]:02X}"
    mark = next((name for mark, name in OTHER_MARKS.items() if content.startswith(mark) and first == 1), "")
    if mark:
        problem = f"no UTF-8 text: byte 1 of the line is 0x{content[0]:02X}, of the byte order mark of {mark}"
    packed = next((name for mark, name in PACKED_MARKS.items() if content.startswith(mark) and first == 1), "")
    if packed:
        raise RradError(
            uri, f"is packed by {packed}, and its name does not say so in a way that is read", PACK_REMEDY
        )
    raise RradError(f"{uri}:{line}", problem, ENCODING_REMEDY)


def read_text(uri: str, most_bytes: int | None = None) -> str:
    """Return the text of a file without a byte order mark.

    Raises `RradError` if it cannot be read, is no UTF-8, or has more than `most_bytes`, of which no more are read.
    """
    fs, path = filesystem(uri)
    limit = {} if most_bytes is None else {"start": 0, "end": most_bytes + 1}
    with io_errors(uri, "check the path"):
        content = fs.cat_file(path, **limit)  # one request: an object may be written anew between two
    if most_bytes is not None and len(content) > most_bytes:
        raise RradError(uri, f"has more than {most_bytes:,} bytes", "check that it is the file you mean")
    return decoded(content, uri).lstrip(BYTE_ORDER_MARK)


def read_json(uri: str, most_bytes: int | None = None) -> Any:
    """Return the content of a JSON file; None where there is no such file. Raises `RradError` for a torn one, for one
    that says `null`, which nobody writes, and for one of more than `most_bytes`."""
    if not exists(uri):
        return None
    remedy = "mend the file, or delete it and run again"
    try:
        content = json.loads(read_text(uri, most_bytes))
    except (ValueError, RecursionError) as error:
        raise RradError(uri, f"is no JSON ({error})", remedy) from error
    if content is None:
        raise RradError(uri, "is no record of anything: it says null", remedy)
    return content
