"""Other teachers' answers about the same queries: outputs of `judge` by other models, tasks or prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rrad_ray import tables
from rrad_ray.config import LabelConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling import teacher
from rrad_ray.labelling.source import source_reader
from rrad_ray.rows import JudgeOutput, Row
from rrad_ray.tables.sampling import named_rows


class OtherTeachers:
    """The tables of `LabelConfig.teachers`, as further sources of a row's scores.

    `lacking`: queries that a teacher says nothing about, by its name; of those, and of documents that it was not
    shown, its scores are NaN, which weighs nothing in a fusion.
    """

    def __init__(self, cfg: LabelConfig) -> None:
        """Raises `RradError` for a table that is no finished output of `judge`."""
        self.cfg, self.lacking = cfg, Counter[str]()
        self.readers = {name: source_reader(uri) for name, uri in cfg.teachers.items()}
        self.parts: dict[str, dict[str, str]] = {}  # of each teacher: the part that holds a query
        for name, uri in cfg.teachers.items():
            stage = tables.read_manifest(uri).stage
            if stage != "judge":
                raise RradError(uri, f"teachers.{name} is the output of {stage}", "name outputs of judge")
            self.parts[name] = {
                query_id: part
                for part in tables.finished_parts(uri)
                for query_id in tables.read_columns(uri, part, ["query_id"])["query_id"].to_pylist()
            }

    def joined(self, rows: Sequence[Row], count: bool = False) -> list[dict[str, Any]]:
        """Return rows of one part of the input with these teachers among their sources; `count` those that lack one.

        Raises `RradError` for a teacher that is called as a source of the rows.
        """
        wide = [dict(row) for row in rows]
        for name in self.cfg.teachers:
            if any(name in row["sources"] for row in rows):
                raise RradError(f"teachers.{name}", "a source has that name", "choose another name")
            targets = self._targets(name, [row["query_id"] for row in rows])
            for row in wide:
                known = targets.get(row["query_id"], {})
                scores = [known.get(doc_id, math.nan) for doc_id in row["doc_ids"]]
                row["sources"] = [*row["sources"], name]
                row["source_scores"] = [*row["source_scores"], scores]
                self.lacking[name] += count and all(map(math.isnan, scores))
        return wide

    def _targets(self, name: str, query_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return a teacher's targets by query and document, of the queries that it has usable answers about."""
        uri, part_of = self.cfg.teachers[name], self.parts[name]
        parts = sorted({part_of[query_id] for query_id in query_ids if query_id in part_of})
        targets = {}
        for _, row in named_rows(uri, parts, JudgeOutput, query_ids):
            verdict = teacher.verdict(row, self.cfg.aggregate, self.cfg.missing, self.readers[name])
            if not verdict.rejected:
                targets[row["query_id"]] = dict(zip(row["doc_ids"], verdict.targets, strict=True))
        return targets
