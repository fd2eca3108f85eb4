"""Folders of the table formats that are not read: Apache Iceberg and Apache Hudi.

They also hold files that are no longer part of the table, and which these are stands in files that are not read here:
to read all Parquet below such a folder would bring deleted rows back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from rrad_ray.errors import RradError
from rrad_ray.tables.delta_log import DELTA_LOG
from rrad_ray.tables.files import above_partitions, absolute, join, visible_names

# The names of the files by which a format is known, behind the table's folder (Hudi's: or a partition's).
FORMAT_MARKS = {
    "Apache Iceberg": re.compile(
        r"(?P<folder>(?:.*/)?)metadata/(?:v\d+|\d{5}-[^/]+)\.(?:gz\.)?metadata\.json(?:\.gz)?"
    ),
    "Apache Hudi": re.compile(r"(?P<folder>(?:.*/)?)(?:\.hoodie/.+|\.hoodie_partition_metadata[^/]*)"),
}

ICEBERG_DATA = "data"  # the folder of a table that has its files, beside `metadata`


def check_formats(uri: str, every: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise `RradError` where one of the data files `names` lies in the folder of such a table.

    `every`: the listing of `uri`. A Delta table may have the files of other formats beside its log, which counts.
    """
    for mark in every:
        if "metadata" not in mark and ".hoodie" not in mark:
            continue
        for kind, pattern in FORMAT_MARKS.items():
            match = pattern.fullmatch(mark)
            if not match or any(name.startswith(f"{match['folder']}{DELTA_LOG}/") for name in every):
                continue
            if any(name.startswith(match["folder"]) for name in names):
                raise _not_read(join(uri, match["folder"].rstrip("/")) if match["folder"] else uri, kind)
    folder = [uri, *(table for table, _ in above_partitions(uri))][-1]
    above, _, last = absolute(folder).rstrip("/").rpartition("/")
    if names and "" not in every and last == ICEBERG_DATA and not above.endswith(":/"):  # no bucket called `data`
        beside = (f"metadata/{name}" for name in visible_names(join(above, "metadata")))
        if any(map(FORMAT_MARKS["Apache Iceberg"].fullmatch, beside)):
            raise _not_read(above, "Apache Iceberg")


def _not_read(uri: str, kind: str) -> RradError:
    problem = f"is a table of {kind}, whose folder also holds files that are no longer part of it"
    return RradError(uri, problem, "export its rows as plain Parquet to another folder, and name that")
