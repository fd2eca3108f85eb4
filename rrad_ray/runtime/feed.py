"""What training reads of a label table: found by its small columns, its rows brought by Ray Data when due."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from rrad_ray import tables
from rrad_ray.rows import Labels, TrainingRow, with_qrels
from rrad_ray.runtime import cluster
from rrad_ray.tables import shards
from rrad_ray.training import targets
from rrad_ray.training.stream import RowRefs

LABEL_READERS = 2  # tasks that read a worker's next window side by side


@dataclass(frozen=True)
class LabelFeed:
    """Where the rows of some splits stand in a finished label table.

    `counts`: how many of them each part holds. `dev`: the judged dev queries that are measured, each by the number of
    its part and its place among the part's dev rows. `prepare`: what is done with a row that is read; rows that it
    finds useless are not counted.
    """

    uri: str
    splits: tuple[str, ...]
    parts: tuple[str, ...]
    counts: tuple[int, ...]
    dev: RowRefs
    prepare: targets.Prepare | None = None

    def dev_rows(self) -> list[Any]:
        """`Labels` rows of the dev queries that are measured."""
        found: dict[tuple[int, int], Any] = {}
        for part, places in by_part(self.dev).items():
            rows = read_rows(self.uri, self.parts[part], ("dev",), places, Labels).to_pylist()
            found |= {(part, place): row for place, row in zip(places, rows, strict=True)}
        return [found[pick] for pick in self.dev]

    def read(self, picks: RowRefs) -> list[Any]:
        """`Lesson` rows, each by the number of its part and its place among the part's rows of the splits, prepared.

        Raises `RradError` for a part that cannot be read.
        """
        rows = self._brought(picks)
        return [self.prepare(row) for row in rows] if self.prepare else rows

    def _brought(self, picks: RowRefs) -> list[Any]:
        wanted = by_part(picks).items()
        pieces = [{"part": part, "name": self.parts[part], "places": places} for part, places in wanted]
        bring = partial(_fetch, self.uri, self.splits, self.prepare)
        if len(picks) == sum(self.counts):  # all of a set that is held: read before a task would have started
            return _in_order([bring(pa.Table.from_pylist(pieces))], picks)
        cluster.quiet_data().raise_original_map_exception = True
        # One block, and so one task, for each reader: windows of many small tasks take several times as long.
        readers = min(LABEL_READERS, len(pieces))
        brought = ray.data.from_items(pieces, override_num_blocks=readers).map_batches(
            bring,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # training holds the CPUs: a task that asked for one might never start
            concurrency=readers,
        )
        try:
            return _in_order(brought.iter_batches(batch_size=None, batch_format="pyarrow"), picks)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def _in_order(brought: Iterable[pa.Table], picks: RowRefs) -> list[Any]:
    found = {}
    for table in brought:
        for row in table.to_pylist():
            found[row.pop("part"), row.pop("place")] = row
    return [found[pick] for pick in picks]


def _fetch(uri: str, splits: Sequence[str], prepare: targets.Prepare | None, pieces: pa.Table) -> pa.Table:
    """The rows of some pieces, each with its part and place."""
    brought = []
    for piece in pieces.to_pylist():
        places = piece["places"]
        table = read_rows(uri, piece["name"], splits, places, TrainingRow, prepare)
        part = pa.array([piece["part"]] * len(places))
        brought.append(table.append_column("part", part).append_column("place", pa.array(places)))
    return pa.concat_tables(brought)


def by_part(picks: RowRefs) -> dict[int, list[int]]:
    """The places of each part, ascending."""
    found = defaultdict(list)
    for part, place in sorted(picks):
        found[part].append(place)
    return dict(found)


def read_rows(
    uri: str,
    name: str,
    splits: Sequence[str],
    places: Sequence[int],
    row: type,
    prepare: targets.Prepare | None = None,
) -> pa.Table:
    """The columns of `row` of some rows of a part: those at these places among its useful rows of the splits."""
    columns = tables.schema_of(row).names
    table = tables.read_columns(uri, name, columns)
    table = table.filter(pc.is_in(table["split"], pa.array(splits)))
    if prepare:
        table = table.filter(pa.array([not prepare.skip_reason(found) for found in table["targets"].to_pylist()]))
    chosen = table.take(pa.array(places))
    return tables.check_schema(chosen, row, tables.join(uri, name))


def index_labels(
    uri: str,
    splits: Sequence[str],
    measured: int,
    seed: int,
    useful: Callable[[str, list[float]], bool] = lambda query_id, targets: True,
) -> LabelFeed:
    """Finds the rows of a finished label table that are useful, by query and targets, and at most `measured` judged
    dev queries, drawn by the seed.

    No text is read. Raises `RradError` for a table that is not finished, or lacks a column.
    """
    tables.read_manifest(uri)
    parts = tables.part_names(uri)
    counts: list[int] = []
    judged: RowRefs = []
    with ThreadPoolExecutor(shards.SHARD_READERS) as pool:
        for part, table in enumerate(pool.map(lambda name: _look(uri, name), parts)):
            rows = table.to_pylist()
            learnt = [row for row in rows if row["split"] in splits]
            counts.append(sum(useful(row["query_id"], row["targets"]) for row in learnt))
            dev = [row for row in rows if row["split"] == "dev"]
            judged += [(part, place) for place, row in enumerate(dev) if with_qrels([row])]
    chosen = random.Random(seed).sample(judged, min(len(judged), measured))
    return LabelFeed(uri, tuple(splits), tuple(parts), tuple(counts), chosen)


def _look(uri: str, name: str) -> pa.Table:
    """The small columns of a part."""
    place = tables.join(uri, name)
    fs, path = tables.filesystem(place)
    with tables.io_errors(place), fs.open(path, "rb") as opened:
        file = pq.ParquetFile(opened)
        schema = file.schema_arrow
        table = file.read(columns=["query_id", "split", "qrel_grades", "targets"])
    tables.check_schema(schema.empty_table(), Labels, place)
    return table
