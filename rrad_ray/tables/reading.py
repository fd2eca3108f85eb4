"""Tables: their parts, and the rows of finished ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rrad_ray.errors import RradError
from rrad_ray.tables.files import filesystem, io_errors, join
from rrad_ray.tables.manifest import PART_REMEDY, PartFacts, find_manifest, read_manifest
from rrad_ray.tables.part_files import digest_in_footer, digest_in_manifest, opened_part
from rrad_ray.tables.schema import check_columns, check_schema

STARTED, PROGRESS, QUARANTINE = "started.json", "progress.json", "quarantine"

# Folders in an output until that is finished, which a killed run goes on from: files of any stage, answers of `judge`
# (those of a slice in `journal-3-of-12`), and Ray Train's own storage with its checkpoints.
WORK, JOURNAL, RAY_FOLDER = "work", "journal", "ray"

FOOTER_READERS = 16  # parts whose footers are read side by side


def part_sizes(uri: str) -> dict[str, int]:
    """Return the bytes of the parts under `uri` by name, sorted; finished table or not. A part of no bytes is none: a
    machine that lost its power has left it."""
    fs, path = filesystem(uri)
    with io_errors(uri):
        entries = fs.ls(path, detail=True) if fs.exists(path) else []
    sizes = {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries}
    names = sorted(name for name in sizes if name.startswith("part-") and name.endswith(".parquet"))
    return {name: sizes[name] for name in names if sizes[name]}


def part_names(uri: str) -> list[str]:
    """Return the names of the parts under `uri`, sorted; finished table or not."""
    return list(part_sizes(uri))


def finished_parts(uri: str) -> list[str]:
    """Return the names of the parts of a finished table, sorted.

    Raises `RradError` for a table that is not finished, and for one whose parts are not those of its manifest.
    """
    known, sizes = read_manifest(uri).parts, part_sizes(uri)
    if known is None:  # files of another program, with a manifest
        return list(sizes)
    for name in sorted({*known, *sizes}):
        if name not in sizes:
            problem = f"is missing or empty: the manifest lists it with {known[name]['rows']:,} rows"
        elif name not in known:
            problem = "is no part of the table: the manifest does not list it"
        elif known[name]["bytes"] != sizes[name]:
            problem = f"has {sizes[name]:,} bytes, and {known[name]['bytes']:,} in the manifest"
        else:
            continue
        raise RradError(join(uri, name), problem, PART_REMEDY)
    return list(sizes)


def measured_parts(uri: str) -> dict[str, PartFacts]:
    """Return rows, bytes, splits and digest of every part under `uri` that can be read; a torn one is left out."""

    def facts_of(name: str) -> PartFacts | None:
        part_uri = join(uri, name)
        fs, path = filesystem(part_uri)
        with io_errors(part_uri), fs.open(path, "rb") as file:
            try:
                footer = pq.read_metadata(file)
            except pa.ArrowInvalid:
                return None
            digest = digest_in_footer(footer, file)
        facts: PartFacts = {"rows": footer.num_rows, "bytes": sizes[name]}
        if digest:
            facts["digest"] = digest
        if splits := _split_range(footer):
            facts["splits"] = splits
        return facts

    sizes = part_sizes(uri)
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        facts = dict(zip(sizes, pool.map(facts_of, sizes), strict=True))
    return {name: each for name, each in facts.items() if each is not None}


def _split_range(footer: pq.FileMetaData) -> list[str]:
    """Return the least and the greatest split of a file as its footer has them; nothing where it has none."""
    columns = [number for number in range(footer.num_columns) if footer.schema.column(number).path == "split"]
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    known = [group.column(number).statistics for number in columns for group in groups]
    if not known or not all(each is not None and each.has_min_max for each in known):
        return []
    return [min(each.min for each in known), max(each.max for each in known)]


def rows_between(file: pq.ParquetFile, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows `start` to `stop` of a Parquet file, from the row groups that hold them."""
    groups: list[int] = []
    offset, first = 0, start  # `first`: of the groups that are read
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if offset < stop and offset + rows > start:
            first = offset if not groups else first
            groups.append(number)
        offset += rows
    return file.read_row_groups(groups, columns=columns).slice(start - first, stop - start)


def read_columns(uri: str, name: str, columns: Sequence[str] | None, *, whole: bool = False) -> pa.Table:
    """Return some columns of one part (None: all), as they are.

    `whole`: have all bytes of the part compared with its digest, as where all columns are read: worth it where the
    columns left out are few.
    """
    whole, part_uri = whole or columns is None, join(uri, name)
    with opened_part(part_uri, digest_in_manifest(uri, name), whole=whole) as file:
        check_columns(columns or (), file.schema_arrow.names, part_uri)
        return file.read(columns)


def read_part(uri: str, name: str, row: type) -> list[dict[str, Any]]:
    """Return the rows of one part, checked against the row type."""
    return check_schema(read_columns(uri, name, None), row, join(uri, name)).to_pylist()


def read(uri: str, row: type) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished table, part by part."""
    for name in finished_parts(uri):
        yield from read_part(uri, name, row)


def read_split(uri: str, row: type, *splits: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of some splits of a finished table.

    Parts that hold none by the manifest are not opened, and of others that hold none no text is read.
    """
    for name in parts_with(uri, finished_parts(uri), *splits):
        yield from (each for each in read_part(uri, name, row) if each["split"] in splits)


def parts_with(uri: str, names: Sequence[str], *splits: str) -> list[str]:
    """Return the parts of these names that hold rows of the splits; of others, the column `split` is read at most."""
    manifest = find_manifest(uri)
    known = (manifest.parts if manifest else None) or {}

    def holds(name: str) -> bool:
        bounds = known[name].get("splits") if name in known else None
        if bounds and not any(bounds[0] <= split <= bounds[1] for split in splits):
            return False
        return not set(splits).isdisjoint(read_columns(uri, name, ["split"])["split"].to_pylist())

    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        return list(itertools.compress(names, pool.map(holds, names)))


def part_name(number: int) -> str:
    """Return `part-00003.parquet` for 3."""
    return f"part-{number:05d}.parquet"


def part_number(name: str) -> int:
    """Return 3 for `part-00003.parquet`."""
    return int(name.removeprefix("part-").removesuffix(".parquet"))


def is_own_part(name: str) -> bool:
    """Return true for a name as of `part_name`; false for that of a file manager's copy: `part-00003 (1).parquet`."""
    number = name.removeprefix("part-").removesuffix(".parquet")
    return number.isascii() and number.isdecimal() and name == part_name(int(number))


def name_of_slice(name: str, cfg: Any) -> str:
    """Return the name of a file or folder of a run's own: `progress-3-of-12.json`, where it does a slice of the
    work."""
    mark = getattr(cfg, "slice_name", "")
    stem = name.removesuffix(".json")
    return f"{stem}-{mark}{name[len(stem) :]}" if mark else name
