"""Lines of other people's text files, and rows that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from rrad_ray import tables

LAYOUT = "name a BEIR folder (corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv), or 'pydoc:'"


class BadRow(Exception):
    """A row that cannot be used: a stable category, the problem, and the row's id where it is known."""

    def __init__(self, category: str, problem: str, row_id: str = "") -> None:
        self.category, self.problem, self.row_id = category, problem, row_id
        super().__init__(f"{category}: {problem}")


def lines(uri: str, remedy: str = LAYOUT) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 1, streamed, without blank ones; `.gz` is unpacked."""
    fs, path = tables.filesystem(uri)
    with tables.io_errors(uri, remedy), fs.open(path, "rb", compression="infer") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip(b"\r\n")


def json_row(line: bytes) -> dict[str, Any]:
    """Return the object of a JSON line; `BadRow` if it is none that can be written again."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
        json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate passes as JSON, and fails when it is written
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", f"cannot be read ({error})") from error
    if not isinstance(row, dict):
        raise BadRow("malformed JSON", f"is no JSON object but {type(row).__name__}")
    return row


def readable(line: bytes) -> str:
    """Return a line as text, whatever its bytes are."""
    return line.decode("utf-8", errors="replace")


Reject = Callable[[str, str, str], None]  # id, reason, content
