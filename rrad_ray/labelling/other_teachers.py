"""Other teachers' answers about the same queries: outputs of `judge` by other models, tasks or prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from rrad_ray import tables
from rrad_ray.config import LabelConfig
from rrad_ray.errors import RradError, at_place
from rrad_ray.labelling import teacher
from rrad_ray.labelling.source import source_reader
from rrad_ray.rows import JudgeOutput, Row, check_same_query
from rrad_ray.tables.sampling import named_rows


class OtherTeachers:
    """The tables of `LabelConfig.teachers`, as further sources of a row's scores.

    A document that a teacher was not shown has a NaN score; a fusion replaces it by the lowest one. A query that it
    says nothing about has NaN scores only, which weigh nothing. 12 bytes a query are held, to find its rows.
    """

    def __init__(self, cfg: LabelConfig) -> None:
        """Raises `RradError` for a table that is no finished output of `judge`."""
        self.cfg = cfg
        self.lineages = {name: tables.lineage_of(uri) for name, uri in cfg.teachers.items()}
        self.readers = {name: source_reader(uri) for name, uri in cfg.teachers.items()}
        self.parts: dict[str, _QueryParts] = {}
        for name, uri in cfg.teachers.items():
            stage = tables.read_manifest(uri).stage
            if stage != "judge":
                raise RradError(uri, f"teachers.{name} is the output of {stage}", "name outputs of judge")
            self.parts[name] = _QueryParts(uri)

    @property
    def models(self) -> dict[str, str]:
        """The model behind each teacher."""
        return {name: each.judge.model if each.judge else "" for name, each in self.lineages.items()}

    def joined(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return rows of one part of the input with these teachers among their sources.

        Raises `RradError` for a teacher that is called as a source of the rows.
        """
        wide = [dict(row) for row in rows]
        for name in self.cfg.teachers:
            if any(name in row["sources"] for row in rows):
                raise RradError(f"teachers.{name}", "a source has that name", "choose another name")
            targets = self._targets(name, {row["query_id"]: row for row in rows})
            for row in wide:
                known = targets.get(row["query_id"], {})
                scores = [known.get(doc_id, math.nan) for doc_id in row["doc_ids"]]
                row["sources"] = [*row["sources"], name]
                row["source_scores"] = [*row["source_scores"], scores]
        return wide

    def _targets(self, name: str, rows: Mapping[str, Row]) -> dict[str, dict[str, float]]:
        """Return a teacher's targets by query and document, of the rows by query id that it has usable answers about.

        Raises `RradError` for a query that was another one when the teacher was asked."""
        targets, uri, query_ids = {}, self.cfg.teachers[name], list(rows)
        for _, row in named_rows(uri, self.parts[name].of(query_ids), JudgeOutput, query_ids):
            with at_place(f"teachers.{name}: {uri}", "ask that teacher about this input"):
                check_same_query(rows[row["query_id"]], row)
            verdict = teacher.verdict(row, self.cfg.aggregate, self.cfg.missing, self.readers[name])
            if not verdict.rejected:
                targets[row["query_id"]] = dict(zip(row["doc_ids"], verdict.targets, strict=True))
        return targets


class _QueryParts:
    """The part of a table that holds a query, by a hash of its id."""

    def __init__(self, uri: str) -> None:
        self.names = tables.finished_parts(uri)
        ids = (tables.read_columns(uri, name, ["query_id"])["query_id"].to_pylist() for name in self.names)
        hashes = [_hashes(each) for each in ids]
        numbers = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(each) for each in hashes])
        every = np.concatenate([np.zeros(0, np.int64), *hashes])
        order = np.argsort(every, kind="stable")
        self.hashes_Q, self.numbers_Q = every[order], numbers[order]

    def of(self, query_ids: Sequence[str]) -> list[str]:
        """Return the names of the parts that hold these queries, and perhaps of others: a hash may be of two ids."""
        wanted = _hashes(query_ids)
        first, last = (np.searchsorted(self.hashes_Q, wanted, side) for side in ("left", "right"))
        spans = (self.numbers_Q[start:stop] for start, stop in zip(first, last, strict=True))
        return [self.names[number] for number in sorted({int(number) for span in spans for number in span})]


def _hashes(ids: Iterable[str]) -> np.ndarray:
    digests = b"".join(blake2b(each.encode(), digest_size=8).digest() for each in ids)
    return np.frombuffer(digests, np.int64)
