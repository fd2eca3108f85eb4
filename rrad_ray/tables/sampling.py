"""Rows drawn at random from tables of any size: some row groups are read, never the whole."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray.tables.files import join
from rrad_ray.tables.part_files import digest_in_manifest, opened_part
from rrad_ray.tables.reading import parts_with
from rrad_ray.tables.schema import check_schema

Draw = tuple[str, dict[str, Any]]  # the name of a part, and a row of it


def draw_hash(seed: int, name: str) -> str:
    """Return a hash by which things are drawn by their names: the same ones whatever else there is."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def drawn_rows(
    uri: str, names: Sequence[str], row: type, count: int, source: random.Random, split: str = ""
) -> Iterator[Draw]:
    """Yield about `count` rows of random parts, of one row group of each, in no order; of `split`, if it is given.

    Parts of one row group, which stages write, are drawn from evenly; what one of them lacks, later ones give.
    """
    names = parts_with(uri, names, split) if split else names
    for left, name in zip(range(len(names), 0, -1), source.sample(names, len(names)), strict=True):
        if count <= 0:
            return
        rows = _rows_of(uri, name, row, math.ceil(count / left), source, split)
        count -= len(rows)
        yield from ((name, each) for each in rows)


def _rows_of(uri: str, name: str, row: type, count: int, source: random.Random, split: str) -> list[dict[str, Any]]:
    part_uri = join(uri, name)
    with opened_part(part_uri, digest_in_manifest(uri, name)) as file:
        groups = list(range(file.num_row_groups))
        if split:
            groups = [each for each in groups if split in file.read_row_group(each, ["split"])["split"].to_pylist()]
        if not groups:
            return []
        table = file.read_row_group(source.choice(groups))
    if split:
        table = table.filter(pc.equal(table["split"], split))
    chosen = sorted(source.sample(range(table.num_rows), min(count, table.num_rows)))
    return check_schema(table.take(pa.array(chosen, pa.int64())), row, part_uri).to_pylist()


def named_rows(uri: str, names: Sequence[str], row: type, query_ids: Collection[str]) -> Iterator[Draw]:
    """Yield the rows of these queries; of parts that have none, the ids alone are read."""
    for name in names:
        part_uri = join(uri, name)
        with opened_part(part_uri, digest_in_manifest(uri, name)) as file:
            wanted = pc.is_in(file.read(["query_id"])["query_id"], pa.array(query_ids, pa.string()))
            if pc.any(wanted).as_py():
                table = file.read().filter(wanted)
                yield from ((name, each) for each in check_schema(table, row, part_uri).to_pylist())
