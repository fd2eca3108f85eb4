"""BEIR collections, local or `s3://`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrad_ray import tables
from rrad_ray.data import qrels
from rrad_ray.data.collection import Collection, Query
from rrad_ray.data.text_files import BadRow, json_row, lines
from rrad_ray.errors import RradError

CORPUS_ROW = 'write one JSON object a line: {"_id": ..., "title": ..., "text": ...} (title may be left out)'


ABOUT_QRELS = ("readme", "license", "licence", "notice", "changelog")  # how names of files about the data begin

ABOUT_ENDINGS = (".md", ".rst", ".html", ".pdf")

QRELS_REMEDY = (
    "name it train.tsv, dev.tsv or test.tsv (or .tsv.gz: no other packing is read); a name that begins with '_' is "
    "left out, and queries that no file names are unlabelled"
)


def read_beir(uri: str) -> Collection:
    """Return a BEIR folder's collection; bad rows are in `rejected`, and without a qrels folder every query is
    `unlabelled`.

    A query in several qrels files takes its split and its grades from the first of test, dev, train.
    Raises `RradError` if corpus.jsonl or queries.jsonl is missing or holds no row that can be used, or for a qrels
    file of no split that there is, or without one judgment of the collection.
    """
    rejected: list[tuple[str, str, str]] = []
    qrels_files = _qrels_files(uri)
    corpus = _read_texts(tables.join(uri, "corpus.jsonl"), rejected)
    texts = _read_texts(tables.join(uri, "queries.jsonl"), rejected)

    def reject(row_id: str, reason: str, content: str) -> None:
        rejected.append((row_id, reason, content))

    ids = qrels.Ids(texts, corpus)
    judged = {
        split: qrels.read_qrels(file.uri, reject, f"qrels/{file.name}", ids) for split, file in qrels_files.items()
    }
    splits = qrels.by_query(judged.items())
    queries = [Query(key, text, *splits.get(key, ("unlabelled", {}))) for key, text in texts.items()]
    return Collection(uri.rstrip("/").rpartition("/")[2], corpus, queries, rejected, list(judged.values()))


def _qrels_files(uri: str) -> dict[str, tables.DataFile]:
    """Return the file of each split that has qrels; `RradError` for one whose queries would have no split."""
    files: dict[str, tables.DataFile] = {}
    for file in tables.data_files(tables.join(uri, "qrels")):
        split = file.name.removesuffix(".gz").removesuffix(".tsv")
        if file.name in (f"{split}.tsv", f"{split}.tsv.gz") and split in qrels.LABELLED:
            if split in files:
                raise RradError(file.uri, f"is a second file of {split}, beside {files[split].name}", "keep one")
            files[split] = file
        elif not file.name:
            raise RradError(file.uri, "is a file, not the folder of the qrels", f"make a folder; {QRELS_REMEDY}")
        elif not file.name.lower().startswith(ABOUT_QRELS) and not file.name.lower().endswith(ABOUT_ENDINGS):
            raise RradError(file.uri, f"'{split}' is no split", QRELS_REMEDY)
    return files


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
            rejected.append((bad.row_id or f"{name}:{number}", reason, line))
    if not texts:
        bad_place, problem = first_bad if seen else (uri, "holds no rows")
        counted = f"{problem}; none of the {seen} rows can be used" if seen else problem
        raise RradError(bad_place, counted, CORPUS_ROW)
    return texts


def _text_row(line: str, name: str) -> tuple[str, str]:
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
