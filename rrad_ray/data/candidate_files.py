"""Candidates that are given: the files of other tools (RankLLM, RankGPT, MS MARCO); local or `s3://`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrad_ray.data import text_files
from rrad_ray.data.text_files import BadRow, Reject
from rrad_ray.errors import RradError
from rrad_ray.rows import Row

SOURCE = "run"  # what the given scores are called among a row's sources

TEXT_KEYS = ("text", "segment", "contents", "content", "body", "passage")  # RankLLM's order

CANDIDATE_ENDINGS = (".json", ".jsonl", ".tsv")

CANDIDATE_LAYOUT = (
    "write RankLLM requests or RankGPT hits as .json or .jsonl, or MS MARCO's qid<TAB>pid<TAB>query<TAB>passage"
)


def is_candidates(data: str) -> bool:
    """Return true where `data` names a file of candidates rather than a collection."""
    return data.removesuffix(".gz").endswith(CANDIDATE_ENDINGS)


def read_candidates(uri: str, qrels: Mapping[str, str], reject: Reject) -> Iterator[dict[str, Any]]:
    """Yield the Candidates rows of a file: RankLLM requests, RankGPT hits (`.jsonl`, one object a line, streamed;
    `.json`, a list), or MS MARCO's top1000 (`.tsv`, read into memory, since its queries are scattered).

    `qrels` (split -> a TREC qrels file) gives queries their split and judgments. Documents come best first by score;
    MS MARCO's file has no scores, its order counts. What cannot be read is handed to `reject`.
    Raises `RradError` if the file is missing or no query in it can be used.
    """
    judged = {query_id: (split, grades) for split, file in qrels.items() for query_id, grades in _qrels(file).items()}
    requests = _top1000(uri, reject) if uri.removesuffix(".gz").endswith(".tsv") else _requests(uri, reject)
    seen: set[str] = set()
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
    if not seen:
        raise RradError(uri, "holds no query that can be read", CANDIDATE_LAYOUT)


Documents = list[tuple[str, str, float]]  # id, text, score

GivenRequest = tuple[str, str, str, Documents]  # place in the file, query id, query, documents


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


def _qrels(uri: str) -> dict[str, dict[str, int]]:
    """Return query_id -> doc_id -> grade of a TREC qrels file: `query_id iteration doc_id grade`."""
    grades_by_query: dict[str, dict[str, int]] = {}
    for number, line in text_files.lines(uri, CANDIDATE_LAYOUT):
        try:
            query_id, _, doc_id, grade = line.decode("utf-8-sig").split()
            grades_by_query.setdefault(query_id, {})[doc_id] = int(grade)
        except ValueError as error:
            wrong = f"is no line of qrels: {text_files.readable(line)!r}"
            raise RradError(f"{uri}:{number}", wrong, "write 'query_id 0 doc_id grade'") from error
    return grades_by_query


# ---- RankLLM, RankGPT ---------------------------------------------------------------------------------------


def _requests(uri: str, reject: Reject) -> Iterator[GivenRequest]:
    name = uri.rpartition("/")[2]
    for number, item in _objects(uri, reject):
        try:
            yield f"{name}:{number}", *_request(item)
        except BadRow as bad:
            reject(
                bad.row_id or f"{name}:{number}", f"{bad.category}: {name}:{number} {bad.problem}", json.dumps(item)
            )


def _objects(uri: str, reject: Reject) -> Iterator[tuple[int, Any]]:
    """Yield the objects of a JSON Lines file, or of a JSON list, with their numbers from 1."""
    if uri.removesuffix(".gz").endswith(".jsonl"):
        name = uri.rpartition("/")[2]
        for number, line in text_files.lines(uri, CANDIDATE_LAYOUT):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                reject(f"{name}:{number}", f"malformed JSON: cannot be read ({error})", text_files.readable(line))
        return
    try:
        items = json.loads(b"\n".join(line for _, line in text_files.lines(uri, CANDIDATE_LAYOUT)))
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
    if query_id is None or not isinstance(text, str):
        raise BadRow("missing field", "has no query id, or no text of the query")
    scores = _scores(listed)
    documents = [
        (str(one["docid"]), _text(one.get("doc", one)), score) for one, score in zip(listed, scores, strict=True)
    ]
    try:
        json.dumps([text, documents], ensure_ascii=False).encode()
    except ValueError as error:  # a lone surrogate passes as JSON, and fails when it is written
        raise BadRow("malformed JSON", f"cannot be written again ({error})", str(query_id)) from error
    return str(query_id), text, documents


def _text(doc: Any) -> str:
    """Return a document's text below its title; RankLLM's own files hold objects, its sample a string."""
    if isinstance(doc, str):
        return doc
    if not isinstance(doc, dict):
        return ""
    body = next((doc[key] for key in TEXT_KEYS if isinstance(doc.get(key), str)), "")
    title = doc.get("title")
    return f"{title}\n{body}" if isinstance(title, str) and title.strip() else body


def _scores(listed: Sequence[Row]) -> list[float]:
    """Return the documents' scores; if one has none, all of them are scored by their ranks."""
    try:
        scores = [float(one["score"]) for one in listed]
    except (KeyError, TypeError, ValueError):
        scores = [math.nan]
    return scores if all(map(math.isfinite, scores)) else [-float(rank) for rank in range(len(listed))]


# ---- MS MARCO -----------------------------------------------------------------------------------------------


def _top1000(uri: str, reject: Reject) -> Iterator[GivenRequest]:
    texts: dict[str, str] = {}  # a passage stands in the file once for each query
    queries: dict[str, str] = {}
    listed: dict[str, list[str]] = {}
    name = uri.rpartition("/")[2]
    for number, line in text_files.lines(uri, CANDIDATE_LAYOUT):
        columns = text_files.readable(line).split("\t")
        if len(columns) != 4 or not columns[0] or not columns[1]:
            reject(
                f"{name}:{number}", f"malformed line: {name}:{number} is not qid, pid, query, passage", str(columns)
            )
            continue
        query_id, doc_id, query, passage = columns
        queries.setdefault(query_id, query)
        texts.setdefault(doc_id, passage)
        listed.setdefault(query_id, []).append(doc_id)
    for query_id, doc_ids in listed.items():
        documents = [(doc_id, texts[doc_id], -float(rank)) for rank, doc_id in enumerate(doc_ids)]
        yield name, query_id, queries[query_id], documents
