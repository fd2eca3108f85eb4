"""export: labels in the files that other trainers read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rrad_ray import tables
from rrad_ray.config import ExportConfig
from rrad_ray.data import exports
from rrad_ray.rows import Labels


def run(cfg: ExportConfig) -> str:
    """A folder with the file or files of `cfg.format`. Raises `RradError` for labels that the format cannot hold."""
    out = tables.Output("export", cfg, None, {"input": cfg.input})
    if out.finished:
        return out.uri
    count = 0

    def chosen() -> Iterator[dict[str, Any]]:
        nonlocal count
        for row in tables.read(cfg.input, Labels, "export"):
            if row["split"] in cfg.splits:
                count += 1
                yield row

    names = exports.write(chosen(), cfg.output, cfg.format, "export")
    print(f"[export] {count:,} queries -> {', '.join(tables.join(cfg.output, name) for name in names)}", flush=True)
    return out.commit(queries=count, files=names, **tables.simulated_mark(cfg.input, "export"))
