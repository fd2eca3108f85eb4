"""Lines of other people's text files, and rows that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from rrad_ray import tables

LAYOUT = (
    "name a BEIR folder (corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv), a file of candidates (.json, "
    ".jsonl, .ndjson, .tsv), or 'pydoc:'"
)


SPARK_LINES = (".json", ".json.gz")  # how Spark calls the lines of JSON that it writes


class BadRow(Exception):
    """A row that cannot be used: a stable category, the problem, and the row's id where it is known."""

    def __init__(self, category: str, problem: str, row_id: str = "") -> None:
        self.category, self.problem, self.row_id = category, problem, row_id
        super().__init__(f"{category}: {problem}")


def lines(uri: str, remedy: str = LAYOUT) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file as `tables.text_lines` does; `remedy` is for a file that is not there."""
    return tables.text_lines(uri, remedy)


def json_row(line: str) -> dict[str, Any]:
    """Return the object of a JSON line; `BadRow` if it is none that can be written again."""
    row = json_value(line)
    if not isinstance(row, dict):
        raise BadRow("malformed JSON", f"is no JSON object but {type(row).__name__}")
    return row


def json_value(text: str) -> Any:
    """Return the value of a JSON text; `BadRow` if it is none that can be written again."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", f"cannot be read ({error})") from error
    check_writable(value)
    return value


def check_writable(value: Any) -> None:
    """Raise `BadRow` for a JSON value that cannot be written: a lone surrogate passes as JSON, and fails then."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", f"cannot be written again ({error})") from error


def check_line(line: str) -> None:
    """Raise `BadRow` for a line with a lone surrogate, which could not be written again."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise BadRow("malformed line", f"holds a lone surrogate ({error})") from error


def plain_number(text: str) -> str:
    """Return the text of a number; `ValueError` for what Python alone reads: `2_5`, other scripts' digits."""
    if "_" in text or not text.isascii():
        raise ValueError(f"{text[:40]!r} is no number")
    return text


Reject = Callable[[str, str, str], None]  # id, reason, content
