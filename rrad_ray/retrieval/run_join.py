"""Runs of the user's own as hits: their lines joined with the collection's documents, without a search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray import tables
from rrad_ray.data.run_table import codes_of
from rrad_ray.data.text_files import Reject
from rrad_ray.errors import RradError
from rrad_ray.retrieval.hit_files import PART_BITS
from rrad_ray.retrieval.hits import Hits
from rrad_ray.retrieval.workspace import read_table


@dataclass(frozen=True)
class Runs:
    """Runs by source, as `read_run` returns them, and the ids of all their documents, each once."""

    uris: Mapping[str, str]
    lines: Mapping[str, pa.Table]
    ids: pa.Array

    @classmethod
    def of(cls, uris: Mapping[str, str], lines: Mapping[str, pa.Table]) -> Runs:
        """Return runs that have been read."""
        dictionaries = [_dictionary(run["doc_id"]) for run in lines.values()]
        return cls(uris, lines, pc.unique(pa.chunked_array(dictionaries, pa.string())).cast(pa.string()))

    def numbers(self, work: str, parts: Sequence[str]) -> np.ndarray:
        """Return the collection's number of each of `ids`, -1 for one that it does not have."""
        numbers = np.full(len(self.ids), -1, np.int64)
        for number, part in enumerate(parts):
            codes = read_table(tables.join(work, "documents", part), ["listed"])["listed"].to_numpy()
            numbers[codes] = (number << PART_BITS) + np.arange(len(codes))
        return numbers


def _dictionary(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().dictionary


def joined(
    runs: Runs, numbers: np.ndarray, known: Sequence[str], chosen: Sequence[str], share: float, reject: Reject
) -> tuple[Hits, int]:
    """Return the pairs of all runs by query, each query's in the order of the first run that lists them, and the
    number of lines. `numbers`: of `runs.ids`. `known`: the ids of all queries; `chosen`: those of the queries whose
    pairs are wanted, whose numbers are their positions here.

    Lines of an unknown query or document go to `reject`; raises `RradError` where they are more than `share` of a
    run.
    """
    chosen_ids, known_ids, pieces, seen = pa.array(chosen, pa.string()), pa.array(known, pa.string()), [], 0
    for source, run in runs.lines.items():
        queries, documents = _codes(run["query_id"], chosen_ids), numbers[_codes(run["doc_id"], runs.ids)]
        lost = documents < 0
        strangers = _codes(run["query_id"], known_ids) < 0
        seen += len(run)
        _set_aside(runs.uris[source], run, lost, strangers, share, reject)
        usable = (queries >= 0) & ~lost & ~strangers
        pieces.append((source, queries[usable], documents[usable], run["score"].to_numpy()[usable]))
    return _outer(pieces), seen


def _codes(column: pa.ChunkedArray, values: pa.Array) -> np.ndarray:
    """Return for each row of a dictionary column the index of its value in `values`, -1 for one that is not there."""
    positions = pc.fill_null(pc.index_in(_dictionary(column), value_set=values), -1).to_numpy(zero_copy_only=False)
    return positions.astype(np.int64)[codes_of(column)]


def _set_aside(
    uri: str, run: pa.Table, lost: np.ndarray, strangers: np.ndarray, share: float, reject: Reject
) -> None:
    """Hand over each unknown id of a run once, with the number of its lines."""
    unknown = np.flatnonzero(lost | strangers)
    kinds = (("document", "doc_id", lost & ~strangers), ("query", "query_id", strangers))
    if len(unknown) > share * len(run):
        row = run.slice(int(unknown[0]), 1).to_pylist()[0]
        what = f"document '{row['doc_id']}'" if not strangers[unknown[0]] else f"query '{row['query_id']}'"
        problem = f"{len(unknown):,} of its {len(run):,} lines are of ids that the collection does not have: {what}"
        remedy = "use the run that belongs to this collection, or raise max_quarantined"
        raise RradError(uri, problem, remedy)
    for kind, column, mask in kinds:
        counts = Counter(run[column].filter(pa.array(mask)).to_pylist())
        for row_id, count in counts.items():
            reason = f"unknown id: {uri} lists a {kind} that the collection does not have, in {count:,} lines"
            reject(row_id, reason, row_id)


def _outer(pieces: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> Hits:
    """Return the outer join of runs' pairs: NaN where a run does not list a pair."""
    queries, documents = (np.concatenate([piece[index] for piece in pieces]) for index in (1, 2))
    order = np.lexsort((np.arange(len(queries)), documents, queries))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(queries[order]) != 0) | (np.diff(documents[order]) != 0)
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.cumsum(first) - 1
    firsts = order[first]  # the line that lists each pair first; lines stand by run, then best first
    scores, start = {}, 0
    for source, own, _, values in pieces:
        scores[source] = np.full(len(firsts), np.nan)
        scores[source][place_of[start : start + len(own)]] = values
        start += len(own)
    hits = Hits(queries[firsts], documents[firsts], scores)
    return hits.take(np.lexsort((firsts, hits.queries)))
