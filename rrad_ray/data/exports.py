"""Labels in the files that other tools train on; local or `s3://`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray import prompts, tables
from rrad_ray.data import trec
from rrad_ray.errors import RradError
from rrad_ray.rows import Click, Row


def order_of(row: Row) -> list[int]:
    """Return indices of a label row's documents, the teacher's best first; ties in the candidates' own order."""
    return sorted(range(len(row["doc_ids"])), key=lambda index: -row["targets"][index])


def trec_lines(row: Row) -> Iterator[str]:
    """Yield the lines of a TREC run: targets are the scores."""
    ranked = [(row["doc_ids"][index], row["targets"][index]) for index in order_of(row)]
    return trec.run_lines(row["query_id"], ranked, "teacher", "format=trec")


def rankllm(row: Row) -> dict[str, Any]:
    """Return a RankLLM request or result: candidates in the teacher's order."""
    candidates = [
        {
            "docid": row["doc_ids"][index],
            "score": float(row["targets"][index]),
            "doc": {"contents": row["texts"][index]},
        }
        for index in order_of(row)
    ]
    return {"query": {"qid": row["query_id"], "text": row["query"]}, "candidates": candidates}


def conversation(row: Row, letters: bool = False) -> dict[str, Any]:
    """Return a RankLLM training example: RankZephyr's (Pradeep et al., 2023), or with `letters` FIRST's (Reddy et
    al., 2024), whose rank loss reads the identifier's one token. Raises `RradError` for more documents than
    letters."""
    order, count = order_of(row), len(row["doc_ids"])
    if letters and count > 26:
        raise RradError(
            "format=first",
            f"{row['query_id']} has {count} documents",
            "FIRST has 26 letters: take shorter lists (top_k of `prerank`), or format=rankllm-train",
        )
    names = [f"[{chr(ord('A') + index) if letters else index + 1}]" for index in range(count)]
    passages = [f"{name} {' '.join(text.split())}" for name, text in zip(names, row["texts"], strict=True)]
    kind = "an alphabetical" if letters else "a numerical"
    need, example = row["query"], " > ".join(names[1::-1])
    asked = (
        f"I will provide you with {count} passages, each indicated by {kind} identifier []. Rank the passages based "
        f"on their relevance to the search query: {need}.\n" + "\n".join(passages) + f"\nSearch Query: {need}.\n"
        f"Rank the {count} passages above based on their relevance to the search query. All the passages should be "
        "included and listed using identifiers, in descending order of relevance. The output format should be "
        f"[] > [], e.g., {example}, Answer concisely and directly and only respond with the ranking results, do not "
        "say any word or explain."
    )
    system = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query"
    said = (("system", system), ("human", asked), ("gpt", " > ".join(names[index] for index in order)))
    return {
        "id": row["query_id"],
        "conversations": [{"from": who, "value": value} for who, value in said],
        "docids": [row["doc_ids"][index] for index in order],
        "scores": [float(row["targets"][index]) for index in order],
    }


def rankgpt(row: Row) -> tuple[dict[str, Any], str]:
    """Return a query of RankGPT's training file, and its permutation (Sun et al., 2023, `specialization.py`)."""
    passages = [{"docid": doc_id, "text": text} for doc_id, text in zip(row["doc_ids"], row["texts"], strict=True)]
    data = {
        "query_id": row["query_id"],
        "query": row["query"],
        "positive_passages": [],
        "retrieved_passages": passages,
    }
    return data, prompts.written(order_of(row))


def listwise_columns(row: Row) -> dict[str, Any]:
    """Return the columns of sentence-transformers' listwise losses, in their order: query, documents, scores."""
    return {"query": row["query"], "documents": list(row["texts"]), "scores": [float(t) for t in row["targets"]]}


def stand_in_clicks(row: Row) -> Iterator[Click]:
    """Yield a stand-in for a click log: each document with a target above 0 (of grades: those judged relevant) as if
    it had been clicked once. Its first line is the title, as `retrieve` joins title and text."""
    for text, target in zip(row["texts"], row["targets"], strict=True):
        if target > 0:
            title, _, summary = text.strip().partition("\n")
            yield Click(query=row["query"], title=title, summary=summary, clicks=1)


def write(rows: Iterator[Row], output: str, kind: str) -> list[str]:
    """Write label rows in a peer's format into the folder `output`, streamed; return the files' names.

    Raises `RradError` for a row that the format cannot hold; nothing is then left that looks finished.
    """
    if kind == "sentence-transformers":
        _write_parquet(tables.join(output, "train.parquet"), map(listwise_columns, rows))
        return ["train.parquet"]
    if kind == "rankgpt":
        return _write_rankgpt(rows, output)
    texts: Iterator[str]
    if kind == "trec":
        name, texts = "labels.run", itertools.chain.from_iterable(map(trec_lines, rows))
    elif kind == "rankllm":
        name, texts = "requests.jsonl", (_json(rankllm(row)) + "\n" for row in rows)
    elif kind == "clicks":
        name, texts = "clicks.jsonl", (_json(click) + "\n" for row in rows for click in stand_in_clicks(row))
    else:
        letters = kind == "first"
        name, texts = "train.json", _listed(_json(conversation(row, letters)) for row in rows)
    with tables.writing(tables.join(output, name)) as file:
        for text in texts:
            file.write(text.encode())
        if not file.tell():
            problem = "there is nothing to write: no document of these labels has a target above 0"
            raise RradError(f"format={kind}", problem, "export labels with targets above 0, or in another format")
    return [name]


def _write_rankgpt(rows: Iterator[Row], output: str) -> list[str]:
    """Write RankGPT's two files side by side: line n of one belongs to entry n of the other."""
    names = ["data.jsonl", "permutations.json"]
    with (
        tables.writing(tables.join(output, names[0])) as data,
        tables.writing(tables.join(output, names[1])) as orders,
    ):
        pairs = map(rankgpt, rows)

        def permutations() -> Iterator[str]:
            for item, permutation in pairs:
                data.write((_json(item) + "\n").encode())
                yield _json(permutation)

        for text in _listed(permutations()):
            orders.write(text.encode())
    return names


def _write_parquet(uri: str, rows: Iterator[dict[str, Any]]) -> None:
    schema = pa.schema(
        [("query", pa.string()), ("documents", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))]
    )
    with tables.writing(uri) as file, pq.ParquetWriter(file, schema) as parquet:
        while batch := list(itertools.islice(rows, 1000)):
            parquet.write_table(pa.Table.from_pylist(batch, schema))


def _listed(items: Iterator[str]) -> Iterator[str]:
    """Yield JSON texts as one JSON list."""
    yield "["
    for number, item in enumerate(items):
        yield (",\n" if number else "\n") + item
    yield "\n]\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
