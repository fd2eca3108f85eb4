"""TREC run files in and out; local or `s3://`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Mapping, Sequence

from rrad_ray import tables
from rrad_ray.data.text_files import BadRow, check_line, lines, plain_number
from rrad_ray.errors import RradError

RUN_LINE = "write each line as 'query_id Q0 doc_id rank score tag', each document once a query"


def read_trec_run(uri: str, queries: Container[str] | None = None) -> dict[str, list[tuple[str, float]]]:
    """Return a run file's rankings, query_id -> [(doc_id, score)], best first; equal scores in the order of their
    ranks. `queries`: those that are wanted; None: all.

    Raises `RradError` naming the first line that is malformed, or of these queries repeats a document, and as
    `check_ranks` does.
    """
    rankings: dict[str, dict[str, tuple[float, int]]] = {}
    for number, query_id, doc_id, score, rank in read_trec_lines(uri):
        if queries is not None and query_id not in queries:
            continue
        ranking = rankings.setdefault(query_id, {})
        if doc_id in ranking:
            raise repeated_document(f"{uri}:{number}", query_id, doc_id)
        ranking[doc_id] = (-score, rank)
    ordered = {query_id: sorted(each.items(), key=lambda item: item[1]) for query_id, each in rankings.items()}
    pairs = (pair for each in ordered.values() for pair in itertools.pairwise(key for _, key in each))
    steps = [later - rank for (score, rank), (worse, later) in pairs if score != worse]
    check_ranks(uri, sum(step > 0 for step in steps), sum(step < 0 for step in steps))
    return {query_id: [(doc_id, -score) for doc_id, (score, _) in each] for query_id, each in ordered.items()}


def check_ranks(uri: str, with_scores: int, against: int) -> None:
    """Raise `RradError` for a run that ranks by ascending scores, such as distances, where a higher one is better.

    The counts are of neighbours by score whose ranks agree with it, and of those whose ranks say the opposite, which
    have to be nearly all of them, and ten. A run whose ranks are all alike says nothing, and one whose ranks
    contradict it here and there goes by its scores, as in trec_eval.
    """
    if against > 9 * max(with_scores, 1):
        problem = f"its ranks say the opposite of its scores, for {against:,} of {against + with_scores:,} neighbours"
        raise RradError(uri, problem, "higher scores are better: negate distances, or number the ranks by the scores")


def repeated_document(line_place: str, query_id: str, doc_id: str) -> RradError:
    """Return the error for a line of a run whose document another line of the query has."""
    return RradError(line_place, f"ranks document {doc_id!r} again for query {query_id!r}", RUN_LINE)


def read_trec_lines(uri: str) -> Iterator[tuple[int, str, str, float, int]]:
    """Yield line number, query id, document id, score and rank of a run file, streamed.

    Raises `RradError` naming the first line that is malformed.
    """
    for number, line in lines(uri, "name a TREC run: lines of 'query_id Q0 doc_id rank score tag'"):
        try:
            check_line(line)
            query_id, _, doc_id, rank, score, _ = line.split()
            value, place_in_order = float(plain_number(score)), int(plain_number(rank))
            if not (math.isfinite(value) and abs(place_in_order) < 2**63):
                raise ValueError(score)
        except (ValueError, BadRow) as error:
            wrong = f"is no line of a run: {line[:200]!r}"
            raise RradError(f"{uri}:{number}", wrong, RUN_LINE) from error
        yield number, query_id, doc_id, value, place_in_order


def write_trec_run(uri: str, ranking: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """Write a run file, whole or not at all; documents best first.

    Raises `RradError` for an id or tag with white space in it and for a score that is no number: such a file
    could not be read again.
    """
    lines = [line for query_id, documents in ranking.items() for line in run_lines(query_id, documents, tag, uri)]
    tables.write_text(uri, "".join(lines))


def run_lines(query_id: str, documents: Sequence[tuple[str, float]], tag: str, place: str) -> Iterator[str]:
    """Yield a query's lines of a run file; `RradError` as of `write_trec_run`."""
    for rank, (doc_id, score) in enumerate(documents, 1):
        line = f"{query_id} Q0 {doc_id} {rank} {float(score)!r} {tag}"
        if len(line.split()) != 6 or not math.isfinite(score):
            problem = f"cannot be written as a line of a run: {(query_id, doc_id, score, tag)!r}"
            raise RradError(place, problem, "rename ids and tags that hold white space, and drop NaN scores")
        yield line + "\n"
