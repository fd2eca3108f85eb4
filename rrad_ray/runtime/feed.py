"""Rows of a label table for training: indexed by small columns, and read through Ray Data when they are due.

Ray Data serves here as a remote reader of chosen rows, not as a data set with shards. `ray.train.get_dataset_shard`
was not enough, because it hands each worker a stream of blocks that belongs to one set of workers:

- *Elastic training*: if the number of workers changes, shards are cut anew, and rows are seen twice or not at all.
- *Exact resume*: a shard has no position in an epoch from which a killed run could go on.
- *Determinism*: blocks come in the order in which read tasks end, so a shuffle buffer differs from run to run.

Here an epoch is one order of all rows, drawn from the config and the epoch alone (`training.stream.ShuffledRows`);
the number of workers that run only decides who takes which positions. That needs random access: the index knows how
many rows each part holds, and each window of references becomes a few Ray Data tasks, which read and decode Parquet
in other processes while the worker trains on the window before. A set that fits in memory is read once, without
tasks.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from rrad_ray import tables
from rrad_ray.labelling.source import measured_queries
from rrad_ray.languages.scripts import folded
from rrad_ray.patches import ray_data_context
from rrad_ray.rows import MEASURED, Labels, TrainingRow, with_qrels
from rrad_ray.runtime import cluster
from rrad_ray.tables import shards
from rrad_ray.tables.part_files import digest_in_manifest, opened_part
from rrad_ray.training.stream import RowRefs
from rrad_ray.training.targets import Prepare, SkipReason

LISTS = ("doc_ids", "targets", "missing")  # one entry for each document; texts are not read to count rows

LABEL_READERS = 2  # tasks that read a worker's next window side by side

Visit = Callable[[str, list[float], SkipReason | None], None]  # query id, targets, why the row is skipped


@dataclass(frozen=True)
class LabelFeed:
    """References to the rows of some splits in finished label tables, and how to read them.

    `parts`: the table and the name of each. `counts`: rows to learn from in each part; skipped rows
    (`Prepare.skip_reason`) are not counted. `dev`: the dev queries with qrels that are measured, by (index of the
    part, index among the part's dev rows). `prepare`: applied to each row that is read; None where no row is skipped.
    `held`: by table, the texts of dev and test queries of the other ones, folded: `label` has looked through its own
    only, and a student that learns from them has seen what it is tested on.
    """

    splits: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    counts: tuple[int, ...]
    dev: RowRefs
    prepare: Prepare | None = None
    held: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def dev_rows(self) -> list[Any]:
        """Return the `Labels` rows of the dev queries that are measured."""
        rows: dict[tuple[int, int], Any] = {}
        for part, indices in by_part(self.dev).items():
            dev_rows = read_rows(*self.parts[part], ("dev",), indices, Labels).to_pylist()
            rows |= {(part, index): row for index, row in zip(indices, dev_rows, strict=True)}
        return [rows[ref] for ref in self.dev]

    def read(self, refs: RowRefs) -> list[Any]:
        """Return prepared `TrainingRow`s, by (index of the part, index among the part's rows to learn from).

        Raises `RradError` for a part that cannot be read.
        """
        rows = self._fetched(refs)
        return [self.prepare(row) for row in rows] if self.prepare else rows

    def _fetched(self, refs: RowRefs) -> list[Any]:
        indices = by_part(refs).items()
        pieces = [
            {"part": part, "uri": self.parts[part][0], "name": self.parts[part][1], "indices": chosen}
            for part, chosen in indices
        ]
        fetch = partial(_fetch, self.splits, self.prepare, self.held)
        if len(refs) == sum(self.counts):  # the whole of a set that fits in memory: faster than starting a task
            return _in_order([fetch(pa.Table.from_pylist(pieces))], refs)
        ray_data_context.raise_causes(cluster.quiet_data())
        # One block, and so one task, for each reader: windows of many small tasks take several times as long.
        readers = min(LABEL_READERS, len(pieces))
        fetched = ray.data.from_items(pieces, override_num_blocks=readers).map_batches(
            fetch,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,  # training holds the CPUs: a task that asked for one might never start
            concurrency=readers,
        )
        try:
            return _in_order(fetched.iter_batches(batch_size=None, batch_format="pyarrow"), refs)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def _in_order(fetched: Iterable[pa.Table], refs: RowRefs) -> list[Any]:
    """Return the rows of the fetched tables in the order of their references."""
    rows = {}
    for table in fetched:
        for row in table.to_pylist():
            rows[row.pop("part"), row.pop("index")] = row
    return [rows[ref] for ref in refs]


def _fetch(
    splits: Sequence[str], rules: Prepare | None, held: Mapping[str, frozenset[str]], pieces: pa.Table
) -> pa.Table:
    """Return the `TrainingRow`s of some pieces (part, uri, name, indices), with columns `part` and `index`."""
    tables_of_pieces = []
    for piece in pieces.to_pylist():
        indices, uri = piece["indices"], piece["uri"]
        others = held.get(uri, frozenset())
        table = read_rows(uri, piece["name"], splits, indices, TrainingRow, rules, others)
        part = pa.array([piece["part"]] * len(indices))
        tables_of_pieces.append(table.append_column("part", part).append_column("index", pa.array(indices)))
    return pa.concat_tables(tables_of_pieces)


def by_part(refs: RowRefs) -> dict[int, list[int]]:
    """Return the indices of each part, ascending."""
    indices = defaultdict(list)
    for part, index in sorted(refs):
        indices[part].append(index)
    return dict(indices)


def read_rows(
    uri: str,
    name: str,
    splits: Sequence[str],
    indices: Sequence[int],
    row: type,
    rules: Prepare | None = None,
    held: frozenset[str] = frozenset(),
) -> pa.Table:
    """Return the columns of `row` of some rows of a part, by their indices among its rows to learn from."""
    # The texts, which are read, are nearly all of a part.
    table = tables.read_columns(uri, name, tables.schema_of(row).names, whole=True)
    table, reasons = _of_splits(table, splits, rules, held)
    if any(reasons):
        table = table.filter(pa.array([reason is None for reason in reasons]))
    return tables.check_schema(table.take(pa.array(indices)), row, tables.join(uri, name))


def _of_splits(
    table: pa.Table, splits: Sequence[str], rules: Prepare | None, held: frozenset[str]
) -> tuple[pa.Table, list[SkipReason | None]]:
    """Return the rows of these splits, and for each the reason why it is skipped, None for a row to learn from.

    Index and reading both use it, so they agree on which rows a reference counts.
    """
    table = table.filter(pc.is_in(table["split"], pa.array(splits)))
    if rules is None:
        return table, [None] * len(table)
    lengths = zip(*(pc.list_value_length(table[name]).to_pylist() for name in LISTS), strict=True)
    reasons = [
        rules.skip_reason(targets) if len({*each}) == 1 else SkipReason.RAGGED
        for targets, each in zip(table["targets"].to_pylist(), lengths, strict=True)
    ]
    if held:
        for index, row in enumerate(table.select(["query", "split"]).to_pylist()):
            if row["split"] not in MEASURED and folded(row["query"]) in held:
                reasons[index] = reasons[index] or SkipReason.MEASURED_QUERY
    return table, reasons


def index_labels(
    uris: Sequence[str],
    splits: Sequence[str],
    measured: int,
    seed: int,
    rules: Prepare | None = None,
    visit: Visit = lambda query_id, targets, reason: None,
) -> LabelFeed:
    """Count the rows to learn from in each part of finished label tables, and draw the dev queries to measure.

    `uris`: the tables; the dev queries are those of the first. `rules`: which rows are skipped; None: no row is.
    `visit` is called with every row of the splits, skipped or not. At most `measured` dev queries with qrels are
    drawn, by the seed. No text is read but, of several tables, the queries'. Raises `RradError` for a table that is
    not finished, or lacks a column.
    """
    parts = [(uri, name) for uri in uris for name in tables.finished_parts(uri)]
    held = _held_elsewhere(uris)
    texts = ["query"] if held else []
    counts: list[int] = []
    measurable: RowRefs = []
    with ThreadPoolExecutor(shards.SHARD_READERS) as pool:
        for part, table in enumerate(pool.map(lambda part: _small_columns(*part, *texts), parts)):
            uri = parts[part][0]
            rows, reasons = _of_splits(table, splits, rules, held.get(uri, frozenset()))
            counts.append(reasons.count(None))
            for query_id, targets, reason in zip(
                rows["query_id"].to_pylist(), rows["targets"].to_pylist(), reasons, strict=True
            ):
                visit(query_id, targets, reason)
            if uri != uris[0]:
                continue
            dev = table.filter(pc.equal(table["split"], "dev")).to_pylist()
            measurable += [(part, index) for index, row in enumerate(dev) if with_qrels([row])]
    chosen = random.Random(seed).sample(measurable, min(len(measurable), measured))
    return LabelFeed(tuple(splits), tuple(parts), tuple(counts), chosen, held=held)


def _held_elsewhere(uris: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return, of several tables, the texts of dev and test queries of the other ones; nothing of one alone."""
    if len({*uris}) == 1:
        return {}
    texts = {uri: measured_queries(uri) for uri in {*uris}}
    return {uri: frozenset().union(*(each for other, each in texts.items() if other != uri)) for uri in texts}


def _small_columns(uri: str, name: str, *more: str) -> pa.Table:
    """Return the columns of a part that hold no text, and `more` of them."""
    part = tables.join(uri, name)
    with opened_part(part, digest_in_manifest(uri, name)) as file:
        schema = file.schema_arrow
        table = file.read(columns=["query_id", "split", "qrel_grades", *LISTS, *more])
    tables.check_schema(schema.empty_table(), Labels, part)
    return table
