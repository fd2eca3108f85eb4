"""export: labels in the files that other trainers read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from rrad_ray import tables
from rrad_ray.config import ExportConfig
from rrad_ray.data import exports
from rrad_ray.errors import RradError
from rrad_ray.progress import say
from rrad_ray.rows import Labels
from rrad_ray.tables import shards


@tables.stage("export", None)
def run(cfg: ExportConfig, out: tables.Output) -> None:
    """Write the file or files of `cfg.format`. Raises `RradError` for labels that the format cannot hold, and
    where no query is of the splits."""
    count = 0

    def chosen() -> Iterator[dict[str, Any]]:
        nonlocal count
        for row in shards.usable_rows(tables.read(cfg.input, Labels), out.quarantine):
            if row["split"] in cfg.splits:
                count += 1
                yield row

    rows = chosen()
    first = next(rows, None)
    if first is None:
        wanted = " or ".join(cfg.splits)
        raise RradError(cfg.input, f"holds no query of split {wanted}", "name a split that it has, in `splits`")
    names = exports.write(itertools.chain([first], rows), cfg.output, cfg.format)
    say(f"{count:,} queries -> {', '.join(tables.join(cfg.output, name) for name in names)}")
    out.commit(queries=count, files=names, lineage=tables.lineage_of(cfg.input))
