"""Other people's files in and out: BEIR collections and TREC run files, local or `s3://`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrad_ray import tables
from rrad_ray.errors import RradError

STAGE = "retrieve"
PYDOC = "pydoc:"
LABELLED = ("test", "dev", "train")  # a query that stands in several qrels files belongs to the first of these
LAYOUT = "name a BEIR folder (corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv), or 'pydoc:'"
CORPUS_ROW = 'write one JSON object a line: {"_id": ..., "title": ..., "text": ...} (title may be left out)'
RUN_LINE = "write each line as 'query_id Q0 doc_id rank score tag', each document once a query"


@dataclass(frozen=True)
class Query:
    """A query with the grades of its judged documents. `split`: train | dev | test | unlabelled."""

    query_id: str
    text: str
    split: str
    judged: dict[str, int]


@dataclass
class Collection:
    """Documents, queries and what could not be read: `rejected` holds (id or `file:line`, reason, content)."""

    name: str
    corpus: dict[str, str]  # doc_id -> text, below its title where it has one
    queries: list[Query]
    rejected: list[tuple[str, str, str]] = field(default_factory=list)


class BadRow(Exception):
    """Why a row cannot be used: a stable category, then what was found; the row's id where it is known."""

    def __init__(self, category: str, found: str, row_id: str = "") -> None:
        self.category, self.found, self.row_id = category, found, row_id
        super().__init__(f"{category}: {found}")


# ---- collections --------------------------------------------------------------------------------------------


def read_collection(data: str) -> Collection:
    """`pydoc:`, the documentation of the installed packages, or a BEIR folder, local or `s3://`.

    Raises `RradError` as `read_beir` does.
    """
    if data == PYDOC:
        from rrad_ray import pydocs  # it needs this module's types

        return pydocs.read_pydoc()
    return read_beir(data)


def read_beir(uri: str) -> Collection:
    """A BEIR folder. Bad rows are set aside in `rejected`; without a qrels folder every query is `unlabelled`.

    A query in several qrels files takes its split and its grades from the first of test, dev, train.
    Raises `RradError` if corpus.jsonl or queries.jsonl is missing or holds no row that can be used.
    """
    rejected: list[tuple[str, str, str]] = []
    corpus = _read_texts(tables.join(uri, "corpus.jsonl"), rejected)
    texts = _read_texts(tables.join(uri, "queries.jsonl"), rejected)
    splits: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {query_id: {} for query_id in texts}
    for split in LABELLED:
        place = tables.join(uri, "qrels", f"{split}.tsv")
        if tables.exists(place, STAGE):
            _read_qrels(place, split, corpus, splits, judged, rejected)
    queries = [Query(key, text, splits.get(key, "unlabelled"), judged[key]) for key, text in texts.items()]
    return Collection(uri.rstrip("/").rpartition("/")[2], corpus, queries, rejected)


def lines(uri: str, remedy: str = LAYOUT, stage: str = STAGE) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, streamed, without blank ones; `.gz` is unpacked."""
    fs, path = tables.filesystem(uri)
    try:
        with fs.open(path, "rb", compression="infer") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except FileNotFoundError as error:
        raise RradError(stage, uri, "no such file", remedy) from error
    except Exception as error:
        raise tables.guard(stage, uri, error) from error


def _read_texts(uri: str, rejected: list[tuple[str, str, str]]) -> dict[str, str]:
    """id -> text of a corpus or queries file."""
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
            first_bad = first_bad if first_bad[0] else (f"{uri}:{number}", str(bad.found))
            reason = f"{bad.category}: {name}:{number} {bad.found}"
            rejected.append((bad.row_id or f"{name}:{number}", reason, readable(line)))
    if not texts:
        place, found = first_bad if seen else (uri, "holds no rows")
        counted = f"{found}; none of the {seen} rows can be used" if seen else found
        raise RradError(STAGE, place, counted, CORPUS_ROW)
    return texts


def json_row(line: bytes) -> dict[str, Any]:
    """The object of a JSON line; `BadRow` if it is none that can be written again."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
        json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate passes as JSON, and fails when it is written
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", f"cannot be read ({error})") from error
    if not isinstance(row, dict):
        raise BadRow("malformed JSON", f"is no JSON object but {type(row).__name__}")
    return row


def _text_row(line: bytes, name: str) -> tuple[str, str]:
    """The id and text of a JSON line; `BadRow` if it has none."""
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
    found = row.get("_id")
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _text(row: Mapping[str, Any], key: str) -> str:
    found = row.get(key)
    if found is not None and not isinstance(found, str):
        raise BadRow("missing field", f"has no text in field '{key}' but {type(found).__name__}", _id(row))
    return found or ""


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
            reason = f"{bad.category}: {name}:{number} {bad.found}"
            rejected.append((bad.row_id or f"{name}:{number}", reason, readable(line)))


def _qrels_row(line: bytes) -> tuple[str, str, int]:
    try:
        columns = line.decode("utf-8-sig").split("\t")
        query_id, doc_id, grade = columns
        return query_id, doc_id, int(grade)
    except ValueError as error:
        found = "is not 'query-id<TAB>corpus-id<TAB>score' with a whole number as score"
        raise BadRow("malformed line", found) from error


def readable(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


# ---- runs ---------------------------------------------------------------------------------------------------


def read_trec_run(uri: str) -> dict[str, list[tuple[str, float]]]:
    """A run file: query_id -> [(doc_id, score)], best first; equal scores in the order of their ranks.

    Raises `RradError` naming the first line that is malformed or repeats a document.
    """
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for number, line in lines(uri):
        try:
            query_id, _, doc_id, rank, score, _ = line.decode("utf-8-sig").split()
            place = (-float(score), int(rank))
            if not math.isfinite(place[0]):
                raise ValueError(score)
        except ValueError as error:
            wrong = f"is no line of a run: {readable(line)!r}"
            raise RradError(STAGE, f"{uri}:{number}", wrong, RUN_LINE) from error
        ranking = found.setdefault(query_id, {})
        if doc_id in ranking:
            repeated = f"ranks document {doc_id!r} again for query {query_id!r}"
            raise RradError(STAGE, f"{uri}:{number}", repeated, RUN_LINE)
        ranking[doc_id] = place
    return {
        query_id: [(doc_id, -place[0]) for doc_id, place in sorted(ranking.items(), key=lambda item: item[1])]
        for query_id, ranking in found.items()
    }


def write_trec_run(uri: str, ranking: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """Write a run file, whole or not at all; documents best first.

    Raises `RradError` for an id or tag with white space in it and for a score that is no number: such a file
    could not be read again.
    """
    lines = [line for query_id, found in ranking.items() for line in run_lines(query_id, found, tag, STAGE, uri)]
    tables.write_text(uri, "".join(lines), STAGE)


def run_lines(
    query_id: str, documents: Sequence[tuple[str, float]], tag: str, stage: str, place: str
) -> Iterator[str]:
    """A query's lines of a run file; `RradError` as of `write_trec_run`."""
    for rank, (doc_id, score) in enumerate(documents, 1):
        line = f"{query_id} Q0 {doc_id} {rank} {float(score)!r} {tag}"
        if len(line.split()) != 6 or not math.isfinite(score):
            found = f"cannot be written as a line of a run: {(query_id, doc_id, score, tag)!r}"
            raise RradError(stage, place, found, "rename ids and tags that hold white space, and drop NaN scores")
        yield line + "\n"
