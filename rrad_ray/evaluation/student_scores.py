"""The students' scores of the judged queries, slice by slice: what `evaluate` does in its own process or by actors.

Below the output, until it is finished:

    work/queries/part-00000.parquet   a slice of the queries with their candidates
    work/scored/part-00000.parquet    the scores that a student gave a slice: what a killed run goes on behind
    work/formats.json                 the number format of each student
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rrad_ray import tables
from rrad_ray.config import EvaluateConfig
from rrad_ray.config.base import actors_of
from rrad_ray.errors import RradError, at_place
from rrad_ray.rankers.chunker import ChunkRanker
from rrad_ray.rankers.ranker import Ranker, number_format
from rrad_ray.rows import Candidates, Row, StudentScores
from rrad_ray.tables import checkpoint_cache, checkpoints
from rrad_ray.tables.text import read_json

QUERIES, SCORES, FORMATS = (tables.join(tables.WORK, name) for name in ("queries", "scored", "formats.json"))
PASS_QUERIES = 16  # queries whose pairs share passes
SLICE = 8 * PASS_QUERIES


class StudentLoader:
    """Loads students as they are measured and served, and keeps the last one."""

    def __init__(self, cfg: EvaluateConfig, formats: Mapping[str, str]) -> None:
        self.cfg, self.formats = cfg, formats
        self.last: tuple[str, ChunkRanker] | None = None

    def load(self, name: str, device: str) -> ChunkRanker:
        """Return a student; raises `RradError` where the config's backend cannot load it."""
        if self.last is None or self.last[0] != name:
            self.last, uri = None, self.cfg.students[name]  # two need not fit into memory
            if self.cfg.backend == "compile":
                checkpoint_cache.keep_compiled_apart()
            with at_place(uri, "set backend=torch"):
                options = {"device": device, "dtype": self.formats[name], "backend": self.cfg.backend}
                ranker = Ranker.load(checkpoints.resolve(uri), **options)
                self.last = name, ChunkRanker(ranker, self.cfg.chunks)
        return self.last[1]


class ScoreSlice:
    """Scores slices of the queries. `units`: student and slice of each part of the scores."""

    def __init__(self, loader: StudentLoader, out: tables.Output, units: Mapping[str, tuple[str, str]]) -> None:
        self.loader, self.out, self.units = loader, out, units

    def part(self, name: str) -> None:
        """Write a student's scores of a slice; raises `RradError` for a score that is not finite."""
        student, piece = self.units[name]
        ranker = self.loader.load(student, "cuda" if self.loader.cfg.resources.get("GPU") else "cpu")
        rows = tables.read_part(tables.join(self.out.uri, QUERIES), piece, Candidates)
        self.out.write_part(name, _score_rows(ranker, rows, student), StudentScores, SCORES)


def _score_rows(ranker: ChunkRanker, rows: Sequence[Row], name: str) -> list[dict[str, Any]]:
    scored: list[dict[str, Any]] = []
    for start in range(0, len(rows), PASS_QUERIES):
        batch = rows[start : start + PASS_QUERIES]
        queries = [row["query"] for row in batch for _ in row["texts"]]
        best, spans = ranker.best_chunks(queries, [text for row in batch for text in row["texts"]])
        next_score, next_chunk = iter(best), iter(spans)
        for row in batch:
            scores = [next(next_score) for _ in row["texts"]]
            if not all(map(math.isfinite, scores)):
                problem = f"gave a score that is not a number, for query {row['query_id']!r}"
                raise RradError(f"students.{name}", problem, "train it again: its weights may be damaged")
            scored.append({"scores": scores, "best_chunks": [next(next_chunk) for _ in row["texts"]]})
    return scored


class StudentScoring:
    """The scores of all students on the judged queries, as work for one process or many.

    A slice has queries of one split, and its pairs share the same passes whoever scores it: so the scores do not
    depend on the number of processes. Their last bits may depend on the kind of device, and on a process's threads.
    """

    def __init__(
        self, cfg: EvaluateConfig, out: tables.Output, splits: Sequence[Sequence[Row]], each_part: Callable[..., None]
    ) -> None:
        """`each_part`: does what is missing of the parts, as of `rrad_ray.runtime.cluster`."""
        self.cfg, self.out, self.each_part = cfg, out, each_part
        pieces = [rows[start : start + SLICE] for rows in splits for start in range(0, len(rows), SLICE)]
        self.slices = {tables.part_name(number): piece for number, piece in enumerate(pieces)}
        owners = [(student, piece) for student in cfg.students for piece in self.slices]
        self.units = {tables.part_name(number): owner for number, owner in enumerate(owners)}
        # A GPU where students get some and this process has one.
        self.device = "cuda" if cfg.resources.get("GPU") and torch.cuda.is_available() else "cpu"

    def prepare(self) -> None:
        """Write the slices, and the number format of each student. `auto` takes a measurement, which one process does
        for all of them, and for a run that goes on."""
        standing = tables.part_names(tables.join(self.out.uri, QUERIES))
        for name, rows in self.slices.items():
            if name not in standing:
                self.out.write_part(name, rows, Candidates, QUERIES)
        uri = tables.join(self.out.uri, FORMATS)
        formats = read_json(uri)
        if formats is None:
            asked = self.cfg.precision, self.cfg.backend, self.device
            students = self.cfg.students.items()
            formats = {name: number_format(checkpoints.resolve(each), *asked) for name, each in students}
            tables.write_json(uri, formats)
        self.loader = StudentLoader(self.cfg, formats)

    def scores(self, student: str) -> list[dict[str, Any]]:
        """Return the `StudentScores` of a student, one for each query of all splits. A pool of actors starts once: it
        scores for all students at the first one."""
        here = actors_of(self.cfg.num_workers) == (1, 1) and not self.cfg.resources.get("GPU")
        own = [part for part, (owner, _) in self.units.items() if owner == student]
        uri, names = tables.join(self.out.uri, SCORES), own if here else list(self.units)
        options = {"loader": self.loader, "out": self.out, "units": self.units}
        unit = f"slices of {SLICE} queries{f' by {student}' if here else ''}"
        done, source = tables.part_names(uri), self.cfg.input
        self.each_part(self.cfg, self.out, ScoreSlice, options, names, done, unit, source, here=here)
        return [row for part in own for row in tables.read_part(uri, part, StudentScores)]

    def ranker(self, student: str) -> ChunkRanker:
        """Return a student in this process."""
        return self.loader.load(student, self.device)
