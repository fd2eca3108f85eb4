"""BEIR collections, local or `s3://`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrad_ray import tables
from rrad_ray.data.collection import Collection, Query
from rrad_ray.data.text_files import BadRow, json_row, lines, readable
from rrad_ray.errors import RradError

LABELLED = ("test", "dev", "train")  # a query that stands in several qrels files belongs to the first of these

CORPUS_ROW = 'write one JSON object a line: {"_id": ..., "title": ..., "text": ...} (title may be left out)'


def read_beir(uri: str) -> Collection:
    """Return a BEIR folder's collection; bad rows are in `rejected`, and without a qrels folder every query is
    `unlabelled`.

    A query in several qrels files takes its split and its grades from the first of test, dev, train.
    Raises `RradError` if corpus.jsonl or queries.jsonl is missing or holds no row that can be used.
    """
    rejected: list[tuple[str, str, str]] = []
    corpus = _read_texts(tables.join(uri, "corpus.jsonl"), rejected)
    texts = _read_texts(tables.join(uri, "queries.jsonl"), rejected)
    splits: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {query_id: {} for query_id in texts}
    for split in LABELLED:
        qrels_uri = tables.join(uri, "qrels", f"{split}.tsv")
        if tables.exists(qrels_uri):
            _read_qrels(qrels_uri, split, corpus, splits, judged, rejected)
    queries = [Query(key, text, splits.get(key, "unlabelled"), judged[key]) for key, text in texts.items()]
    return Collection(uri.rstrip("/").rpartition("/")[2], corpus, queries, rejected)


def _read_texts(uri: str, rejected: list[tuple[str, str, str]]) -> dict[str, str]:
    """Return id -> text of a corpus or queries file."""
    texts: dict[str, str] = {}
    name, seen, first_bad = uri.rpartition("/")[2], 0, ("", "")
    for number, line in lines(uri):
        seen += 1
        try:
            row_id, text = _text_row(line, name)
            if row_id in texts:
                raise BadRow("duplicate id", f"{row_id!r} stands above already, and that row stays", row_id)
            texts[row_id] = text
        except BadRow as bad:
            first_bad = first_bad if first_bad[0] else (f"{uri}:{number}", str(bad.problem))
            reason = f"{bad.category}: {name}:{number} {bad.problem}"
            rejected.append((bad.row_id or f"{name}:{number}", reason, readable(line)))
    if not texts:
        bad_place, problem = first_bad if seen else (uri, "holds no rows")
        counted = f"{problem}; none of the {seen} rows can be used" if seen else problem
        raise RradError(bad_place, counted, CORPUS_ROW)
    return texts


def _text_row(line: bytes, name: str) -> tuple[str, str]:
    """Return the id and text of a JSON line; `BadRow` if it has none."""
    row = json_row(line)
    for key in ("_id", "text"):
        if key not in row:
            raise BadRow("missing field", f"has no field '{key}' (fields: {', '.join(row)})", _id(row))
    row_id, title, text = _id(row), _text(row, "title"), _text(row, "text")
    if not row_id:
        raise BadRow("missing field", f"has no id in field '_id' (found: {row['_id']!r})")
    if name == "queries.jsonl":
        title = ""
    if not title.strip() and not text.strip():
        raise BadRow("empty text", "has no text", row_id)
    return row_id, "\n".join(part for part in (title, text) if part.strip())


def _id(row: Mapping[str, Any]) -> str:
    value = row.get("_id")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRow("missing field", f"has no text in field '{key}' but {type(value).__name__}", _id(row))
    return value or ""


def _read_qrels(
    uri: str,
    split: str,
    corpus: Mapping[str, str],
    splits: dict[str, str],
    judged: dict[str, dict[str, int]],
    rejected: list[tuple[str, str, str]],
) -> None:
    """Fill in `splits` and `judged` from one qrels file."""
    name, first = f"qrels/{split}.tsv", True
    for number, line in lines(uri):
        header, first = first and line.removeprefix(b"\xef\xbb\xbf").startswith(b"query-id\t"), False
        if header:
            continue
        try:
            query_id, doc_id, grade = _qrels_row(line)
            if query_id not in judged:
                raise BadRow("unknown id", f"query {query_id!r} is not in queries.jsonl", query_id)
            if splits.setdefault(query_id, split) != split:
                continue
            if doc_id not in corpus:
                raise BadRow("unknown id", f"document {doc_id!r} is not in corpus.jsonl", query_id)
            if doc_id in judged[query_id]:
                raise BadRow("duplicate id", f"{doc_id!r} is judged above already, and that grade stays", query_id)
            judged[query_id][doc_id] = grade
        except BadRow as bad:
            reason = f"{bad.category}: {name}:{number} {bad.problem}"
            rejected.append((bad.row_id or f"{name}:{number}", reason, readable(line)))


def _qrels_row(line: bytes) -> tuple[str, str, int]:
    try:
        columns = line.decode("utf-8-sig").split("\t")
        query_id, doc_id, grade = columns
        return query_id, doc_id, int(grade)
    except ValueError as error:
        problem = "is not 'query-id<TAB>corpus-id<TAB>score' with a whole number as score"
        raise BadRow("malformed line", problem) from error
