"""BEIR collections, local or `s3://`: documents and queries as JSON Lines, packed or not, or as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import tables
from rrad_ray.config.data import BEIR_COLUMNS
from rrad_ray.data import qrels
from rrad_ray.data.collection import Collection, Query
from rrad_ray.data.text_files import SPARK_LINES, BadRow, Reject, json_row, lines
from rrad_ray.errors import RradError

CORPUS_ROW = 'write one JSON object a line: {"_id": ..., "title": ..., "text": ...} (title may be left out)'

TEXT_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")

FOLDER_ENDINGS = (*TEXT_ENDINGS, *SPARK_LINES)

ABOUT_QRELS = ("readme", "license", "licence", "notice", "changelog")  # how names of files about the data begin

ABOUT_ENDINGS = (".md", ".rst", ".html", ".pdf")

QRELS_REMEDY = (
    "name it train.tsv, dev.tsv or test.tsv (or .tsv.gz: no other packing is read); a name that begins with '_' is "
    "left out, and queries that no file names are unlabelled"
)


def read_beir(uri: str) -> Collection:
    """Return a BEIR folder's collection; bad rows are in `rejected`, and without a qrels folder every query is
    `unlabelled`.

    Raises `RradError` as `text_files_of`, `read_beir_texts` and `read_judged` do.
    """
    rejected: list[tuple[str, str, str]] = []

    def reject(row_id: str, reason: str, content: str) -> None:
        rejected.append((row_id, reason, content))

    check_qrels(uri)
    corpus = read_beir_texts(uri, "corpus", reject)
    texts = read_beir_texts(uri, "queries", reject)
    queries, judged = read_judged(uri, qrels.Ids(texts, corpus), reject, texts)
    return Collection(uri.rstrip("/").rpartition("/")[2], corpus, queries, rejected, judged)


def read_judged(
    uri: str, ids: qrels.Ids | None, reject: Reject, texts: Mapping[str, str]
) -> tuple[list[Query], list[qrels.Judged]]:
    """Return the queries of a BEIR folder with their splits and grades, and its qrels files.

    A query in several qrels files takes its split and its grades from the first of test, dev, train. `ids`: the
    ids that judgments must name, where all are known. Raises `RradError` for a qrels file whose name is no split's,
    or without any judgment of the collection.
    """
    judged = {
        split: qrels.read_qrels(file.uri, reject, f"qrels/{file.name}", ids)
        for split, file in _qrels_files(uri).items()
    }
    splits = qrels.by_query(judged.items())
    queries = [Query(key, text, *splits.get(key, ("unlabelled", {}))) for key, text in texts.items()]
    return queries, list(judged.values())


def judged_ids(uri: str) -> list[str]:
    """Return the ids of all documents that the qrels of a BEIR folder judge. Raises `RradError` as `read_qrels` does
    for a file without one judgment, and as `check_qrels` does."""
    files = [qrels.read_qrels(file.uri, lambda *_: None) for file in _qrels_files(uri).values()]
    return list({doc_id: None for file in files for grades in file.grades.values() for doc_id in grades})


def check_qrels(uri: str) -> None:
    """Raise `RradError` for a qrels file of no split that there is, before anything long is read."""
    _qrels_files(uri)


def text_files_of(uri: str, kind: str) -> list[tables.DataFile]:
    """Return the files of a BEIR folder's `corpus` or `queries`: `corpus.jsonl`, `.jsonl.gz` or `.parquet`, or a
    folder of that name with such files.

    Raises `RradError` where there are none, or two kinds of them, and for queries below `split=NAME`.
    """
    files = [file for ending in TEXT_ENDINGS for file in tables.data_files(tables.join(uri, f"{kind}{ending}"))]
    folder = tables.row_files(tables.join(uri, kind), FOLDER_ENDINGS)
    if (files and folder) or len({file.folder for file in files}) > 1:
        other = folder[0].uri if folder else files[-1].uri
        raise RradError(files[0].uri, f"stands beside {other}", "keep one of them")
    if kind == "queries":
        remedy = "name its qrels qrels/{train,dev,test}.tsv, and the folder otherwise"
        tables.check_no_partition(folder, {"split"}, "qrels say the splits of queries", remedy)
    return files or folder or [tables.DataFile(tables.join(uri, f"{kind}.jsonl"), "")]  # the one that is missing


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


def read_beir_texts(uri: str, kind: str, reject: Reject, columns: Mapping[str, str] = BEIR_COLUMNS) -> dict[str, str]:
    """Return id -> text of a BEIR folder's `corpus` or `queries`.

    Raises `RradError` for one that is missing or holds no row that can be used.
    """
    texts: dict[str, str] = {}
    seen, first_bad = 0, ("", "")
    for file in text_files_of(uri, kind):
        name = file.uri.rpartition("/")[2]
        for number, row in raw_texts(file, columns, titled=kind == "corpus"):
            seen += 1
            try:
                row_id, text = text_row(row, columns, titled=kind == "corpus")
                if row_id in texts:
                    raise BadRow("duplicate id", STANDS_ABOVE.format(row_id), row_id)
                texts[row_id] = text
            except BadRow as bad:
                first_bad = first_bad if first_bad[0] else (f"{file.uri}:{number}", str(bad.problem))
                reject(*rejected_text(bad, name, number, row))
    if not texts:
        bad_place, problem = first_bad if seen else (text_files_of(uri, kind)[0].uri, "")
        raise no_texts(bad_place, problem, seen)
    return texts


STANDS_ABOVE = "{!r} stands above already, and that row stays"


def rejected_text(bad: BadRow, name: str, number: int, row: object) -> tuple[str, str, str]:
    """Return id, reason and content of row `number` of file `name`, which cannot be used."""
    reason = f"{bad.category}: {name}:{number} {bad.problem}"
    return bad.row_id or f"{name}:{number}", reason, row if isinstance(row, str) else str(row)


def no_texts(bad_place: str, problem: str, seen: int) -> RradError:
    """Return the error for files of which no row can be used; `problem`: that of the first of the `seen` ones."""
    counted = f"{problem}; none of the {seen} rows can be used" if seen else "holds no rows"
    return RradError(bad_place, counted, CORPUS_ROW)


def raw_texts(
    file: tables.DataFile, columns: Mapping[str, str], titled: bool
) -> Iterator[tuple[int, str | dict[str, Any]]]:
    """Yield the rows of a file of texts with their numbers from 1, streamed: lines of JSON, or of Parquet the columns
    that are read. Raises `RradError` for a file that cannot be read, or lacks a column; of a `titled` one, the title
    too where `columns` names it."""
    if not file.uri.lower().endswith(".parquet"):
        yield from lines(file.uri)
        return
    fs, path = tables.filesystem(file.uri)
    with tables.io_errors(file.uri), fs.open(path, "rb") as opened:
        parquet = pq.ParquetFile(opened)
        have = parquet.schema_arrow.names
        remedy = "name it, as in columns={id: docid, title: headline, text: body}"
        named = [columns["title"]] if titled and columns["title"] != BEIR_COLUMNS["title"] else []
        tables.check_columns((columns["id"], columns["text"], *named), have, file.uri, remedy)
        names = [name for name in columns.values() if name in have]
        number = 0
        for batch in parquet.iter_batches(1024, columns=names):
            table = pa.Table.from_batches([batch])
            texts = {name: tables.column_as(table, pa.field(name, pa.string()), file.uri) for name in names}
            for row in pa.table(texts).to_pylist():
                number += 1
                yield number, row


def text_row(raw: str | Mapping[str, Any], columns: Mapping[str, str], titled: bool) -> tuple[str, str]:
    """Return the id and text of a row of texts, below its title where it is `titled`; `BadRow` if it has none."""
    row = json_row(raw) if isinstance(raw, str) else raw
    for key in (columns["id"], columns["text"]):
        if key not in row:
            raise BadRow("missing field", f"has no field '{key}' (fields: {', '.join(row)})", _id(row, columns))
    row_id, text = _id(row, columns), _text(row, columns["text"], columns)
    title = _text(row, columns["title"], columns) if titled else ""  # a query's may be anything
    if not row_id:
        key = columns["id"]
        raise BadRow("missing field", f"has no id in field '{key}' (found: {row[key]!r})")
    if not title.strip() and not text.strip():
        raise BadRow("empty text", "has no text", row_id)
    return row_id, "\n".join(part for part in (title, text) if part.strip())


def _id(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    value = row.get(columns["id"])
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _text(row: Mapping[str, Any], key: str, columns: Mapping[str, str]) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        problem = f"has no text in field '{key}' but {type(value).__name__}"
        raise BadRow("missing field", problem, _id(row, columns))
    return value or ""
