"""Candidates that are given: the files of other tools (RankLLM, RankGPT, MS MARCO); local or `s3://`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrad_ray import tables
from rrad_ray.data import qrels, text_files
from rrad_ray.data.headers import DOC_ID_WORDS, ID_WORDS, QUERY_ID_WORDS, count_known, named_columns, unclear_header
from rrad_ray.data.text_files import BadRow, Reject, plain_number
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates, Row

SOURCE = "run"  # what the given scores are called among a row's sources

TEXT_KEYS = ("text", "segment", "contents", "content", "body", "passage")  # RankLLM's order

TOP1000_COLUMNS = {
    "qid": (QUERY_ID_WORDS, ID_WORDS, {"topic"}),
    "pid": (DOC_ID_WORDS, ID_WORDS),
    "query": ({"query", "querytext", "question", "q"},),
    "passage": ({"passagetext", "doctext", "doc", "document", "p", "d", *TEXT_KEYS},),
}

CANDIDATE_ENDINGS = (".json", ".jsonl", ".ndjson", ".tsv")

CANDIDATE_LAYOUT = (
    "write RankLLM requests or RankGPT hits as .json or .jsonl, or MS MARCO's qid<TAB>pid<TAB>query<TAB>passage"
)


def is_candidates(data: str) -> bool:
    """Return true where `data` names a file of candidates rather than a collection."""
    return _unpacked(data.rstrip("/")).endswith(CANDIDATE_ENDINGS)


def _unpacked(uri: str) -> str:
    """Return a file's name as its ending is compared: in small letters, without `.gz`."""
    return uri.lower().removesuffix(".gz")


def read_candidates(uri: str, qrels_files: Mapping[str, str], reject: Reject) -> Iterator[dict[str, Any]]:
    """Yield the Candidates rows of a file: RankLLM requests, RankGPT hits (`.jsonl`, one object a line, streamed;
    `.json`, a list), or MS MARCO's top1000 (`.tsv`, read into memory, since its queries are scattered). A folder of
    such a name, as Spark writes it, is all its data files.

    `qrels_files` (split -> a qrels file) gives queries their split and judgments. Documents come best first by score;
    MS MARCO's file has no scores, its order counts. What cannot be read is handed to `reject`.
    Raises `RradError` if the file is missing, no query in it can be used, or a qrels file has no judgment
    of a query in it.
    """
    given = {split: qrels.read_qrels(file, reject) for split, file in qrels_files.items()}
    judged = qrels.by_query(given.items())
    files = _files(uri)
    seen: set[str] = set()
    used, reasons = 0, list[str]()

    def reject_row(row_id: str, reason: str, content: str) -> None:
        if not reasons:
            reasons.append(reason)
        reject(row_id, reason, content)

    for row in _rows(files, judged, seen, reject_row):
        used += 1
        yield row
    if not used:
        problem = "holds no query that can be read" + (f"; its first bad row: {reasons[0]}" if reasons else "")
        raise RradError(uri, problem, CANDIDATE_LAYOUT)
    for each in given.values():
        if seen.isdisjoint(each.named):
            raise qrels.no_match(each.uri, "query", each.named, seen)


def _rows(
    files: Sequence[tables.DataFile],
    judged: Mapping[str, tuple[str, dict[str, int]]],
    seen: set[str],
    reject: Reject,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of files of candidates; the ids of all their queries are put into `seen`."""
    requests = (_top1000 if _unpacked(files[0].uri).endswith(".tsv") else _requests)(files, reject)
    for line, query_id, query, documents in requests:
        if query_id in seen:
            reject(query_id, f"duplicate id: {line} stands above already, and that row stays", query)
            continue
        seen.add(query_id)
        documents = _usable(query_id, documents, reject)
        if not query.strip() or not documents:
            reject(
                query_id, "empty text: the query is empty" if documents else "no candidates: none is usable", query
            )
            continue
        split, grades = judged.get(query_id, ("unlabelled", {}))
        yield _row(query_id, query, split, documents, grades)


Documents = list[tuple[str, str, float]]  # id, text, score

GivenRequest = tuple[str, str, str, Documents]  # place in the file, query id, query, documents


def _files(uri: str) -> list[tables.DataFile]:
    """Return the files of candidates; `RradError` if there are none, or a path says what their rows must say."""
    endings = (*CANDIDATE_ENDINGS, *(f"{ending}.gz" for ending in CANDIDATE_ENDINGS))
    files = tables.row_files(uri.rstrip("/"), endings)
    if not files:
        raise RradError(uri, "no such file", CANDIDATE_LAYOUT)
    remedy = "give splits by qrels={dev: FILE}, or write Parquet for `judge`"
    tables.check_no_partition(files, Candidates.__annotations__.keys(), "such a file has no columns", remedy)
    return files


def _row(query_id: str, query: str, split: str, documents: Documents, grades: Mapping[str, int]) -> dict[str, Any]:
    ranked = sorted(documents, key=lambda document: -document[2])
    scores = [score for _, _, score in ranked]
    return {
        "query_id": query_id,
        "query": query,
        "split": split,
        "doc_ids": [doc_id for doc_id, _, _ in ranked],
        "texts": [text for _, text, _ in ranked],
        "scores": scores,
        "sources": [SOURCE],
        "source_scores": [scores],
        "qrel_ids": list(grades),
        "qrel_grades": list(grades.values()),
    }


def _usable(query_id: str, documents: Documents, reject: Reject) -> Documents:
    """Return the documents without empty texts and duplicates."""
    kept: dict[str, tuple[str, str, float]] = {}
    for doc_id, text, score in documents:
        if doc_id in kept:
            reject(query_id, f"duplicate id: document {doc_id!r} is listed twice, the first one stays", text)
        elif not text.strip():
            reject(query_id, f"empty text: document {doc_id!r}", text)
        else:
            kept[doc_id] = (doc_id, text, score)
    return list(kept.values())


# ---- RankLLM, RankGPT ---------------------------------------------------------------------------------------


def _requests(files: Sequence[tables.DataFile], reject: Reject) -> Iterator[GivenRequest]:
    for file in files:
        name = file.uri.rpartition("/")[2]
        for number, item in _objects(file.uri, reject):
            try:
                yield f"{name}:{number}", *_request(item)
            except BadRow as bad:
                reason = f"{bad.category}: {name}:{number} {bad.problem}"
                reject(bad.row_id or f"{name}:{number}", reason, json.dumps(item))


def _objects(uri: str, reject: Reject) -> Iterator[tuple[int, Any]]:
    """Yield the objects of a JSON Lines file, or of a JSON list, with their numbers from 1."""
    if _unpacked(uri).endswith((".jsonl", ".ndjson")):
        name = uri.rpartition("/")[2]
        for number, line in text_files.lines(uri, CANDIDATE_LAYOUT):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                reject(f"{name}:{number}", f"malformed JSON: {name}:{number} cannot be read ({error})", line)
        return
    try:
        items = json.loads("\n".join(line for _, line in text_files.lines(uri, CANDIDATE_LAYOUT)))
    except (ValueError, RecursionError) as error:
        raise RradError(uri, f"is no JSON ({error})", CANDIDATE_LAYOUT) from error
    if not isinstance(items, list):
        raise RradError(uri, f"is no JSON list but {type(items).__name__}", CANDIDATE_LAYOUT)
    yield from enumerate(items, 1)


def _request(item: Any) -> tuple[str, str, Documents]:
    """Return query id, query and documents of a RankLLM request (`{"query": {"qid", "text"}, "candidates": [{"docid",
    "score", "doc"}]}`) or of RankGPT hits (`{"query": "...", "hits": [{"qid", "docid", "content", "score"}]}`)."""
    if not isinstance(item, dict) or not ({"candidates", "hits"} & item.keys()):
        raise BadRow("missing field", "has neither 'candidates' (RankLLM) nor 'hits' (RankGPT)")
    listed, query = item.get("candidates", item.get("hits")), item.get("query")
    if not isinstance(listed, list) or not all(isinstance(one, dict) and "docid" in one for one in listed):
        raise BadRow("missing field", "has candidates without 'docid'")
    if isinstance(query, dict):
        query_id, text = query.get("qid"), query.get("text")
    else:
        query_id, text = item.get("qid", listed[0].get("qid") if listed else None), query
    if not _is_id(query_id) or not isinstance(text, str):
        raise BadRow("missing field", "has no query id, or no text of the query")
    if not all(_is_id(one["docid"]) for one in listed):
        raise BadRow("missing field", "has a 'docid' that is neither text nor a whole number", str(query_id))
    scores = _scores(listed, str(query_id))
    documents = [
        (str(one["docid"]), _text(one.get("doc", one)), score) for one, score in zip(listed, scores, strict=True)
    ]
    try:
        text_files.check_writable([query_id, text, documents])
    except BadRow as bad:
        raise BadRow(bad.category, bad.problem, str(query_id)) from bad
    return str(query_id), text, documents


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _text(doc: Any) -> str:
    """Return a document's text below its title; RankLLM's own files hold objects, its sample a string."""
    if isinstance(doc, str):
        return doc
    if not isinstance(doc, dict):
        return ""
    body = next((doc[key] for key in TEXT_KEYS if isinstance(doc.get(key), str)), "")
    title = doc.get("title")
    return f"{title}\n{body}" if isinstance(title, str) and title.strip() else body


def _scores(listed: Sequence[Row], query_id: str) -> list[float]:
    """Return the documents' scores; if one has none, all of them are scored by their ranks."""
    try:
        scores = [float(plain_number(str(one["score"]))) for one in listed]
    except (KeyError, ValueError):
        scores = [math.nan]
    if any(map(math.isinf, scores)):
        raise BadRow("malformed JSON", "has a score that is too large for a number", query_id)
    return scores if all(map(math.isfinite, scores)) else [-float(rank) for rank in range(len(listed))]


# ---- MS MARCO -----------------------------------------------------------------------------------------------


def _top1000(files: Sequence[tables.DataFile], reject: Reject) -> Iterator[GivenRequest]:
    texts: dict[str, str] = {}  # a passage stands in the file once for each query
    queries: dict[str, tuple[str, str]] = {}  # file and text
    doc_ids_of: dict[str, list[str]] = {}
    columns: list[int] | None
    for file in files:
        name, columns = file.uri.rpartition("/")[2], None
        for number, line in text_files.lines(file.uri, CANDIDATE_LAYOUT):
            if columns is None:
                header = _top1000_header(line, f"{file.uri}:{number}")
                columns = header or list(range(len(TOP1000_COLUMNS)))
                if header:
                    continue
            try:
                query_id, doc_id, query, passage = _top1000_cells(line, columns)
                _check_repeated("query", query_id, query, queries.get(query_id, (name, query))[1])
                _check_repeated("passage", doc_id, passage, texts.get(doc_id, passage))
            except BadRow as bad:
                reject(f"{name}:{number}", f"{bad.category}: {name}:{number} {bad.problem}", line)
                continue
            queries.setdefault(query_id, (name, query))
            texts.setdefault(doc_id, passage)
            doc_ids_of.setdefault(query_id, []).append(doc_id)
    for query_id, doc_ids in doc_ids_of.items():
        documents = [(doc_id, texts[doc_id], -float(rank)) for rank, doc_id in enumerate(doc_ids)]
        name, query = queries[query_id]
        yield name, query_id, query, documents


def _check_repeated(kind: str, id: str, text: str, first: str) -> None:
    """Raise `BadRow` where an id comes again with another text, as where passages are numbered within each query."""
    if text != first:
        raise BadRow("other text", f"gives {kind} '{id}' another text than a line above, which stays")


def _top1000_header(line: str, line_place: str) -> list[int] | None:
    """Return the columns of qid, pid, query and passage that a file's first line names; None where it is no header.

    Raises `RradError` for a header that leaves open which column is which.
    """
    cells = line.split("\t")
    columns = named_columns(cells, TOP1000_COLUMNS)
    if not {"qid", "pid"} <= columns.keys() and count_known(cells, TOP1000_COLUMNS) < len(cells):
        return None
    lacking = [role for role in TOP1000_COLUMNS if role not in columns]
    if len(lacking) == 1 and len(cells) == len(TOP1000_COLUMNS):
        [rest] = set(range(len(cells))) - set(columns.values())
        columns[lacking.pop()] = rest
    if lacking:
        remedy = "name the columns qid, pid, query and passage, or leave the header out"
        raise unclear_header(line_place, cells, f"the {' and '.join(lacking)}", remedy)
    return [columns[role] for role in TOP1000_COLUMNS] + [n for n in range(len(cells)) if n not in columns.values()]


def _top1000_cells(line: str, columns: Sequence[int]) -> list[str]:
    """Return qid, pid, query and passage of a line. `columns`: where they stand, and behind them the others."""
    text_files.check_line(line)
    cells = line.split("\t")
    cells = [cells[n] for n in columns[: len(TOP1000_COLUMNS)]] if len(cells) == len(columns) else []
    if not cells or not cells[0].strip() or not cells[1].strip():
        raise BadRow("malformed line", "is not qid, pid, query, passage")
    return cells
