"""export: labels in other trainers' files, a student in those of other engines, an online test's log as UBI."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrad_ray import tables
from rrad_ray.config import LOG_FORMATS, STUDENT_FORMATS, ExportConfig
from rrad_ray.data import exports
from rrad_ray.errors import RradError, at_place
from rrad_ray.online.ubi_files import write_ubi
from rrad_ray.progress import say
from rrad_ray.rows import Labels
from rrad_ray.serving import winners
from rrad_ray.tables import checkpoints, shards


def _inputs(cfg: ExportConfig) -> dict[str, str]:
    student = checkpoints.input_of(cfg.input) if cfg.format in STUDENT_FORMATS else ""
    return {"input": student or cfg.input}


@tables.stage("export", None, _inputs)
def run(cfg: ExportConfig, out: tables.Output) -> None:
    """Write the file or files of `cfg.format`. Raises `RradError` for labels that the format cannot hold, where no
    query is of the splits, for an input without a student that the engine takes, and if more than `max_quarantined`
    of the rows are bad."""
    if cfg.format in STUDENT_FORMATS:
        facts = _export_student(cfg)
    else:
        facts = _export_log(cfg, out) if cfg.format in LOG_FORMATS else _export_labels(cfg, out)
    seen = facts.pop("read", 0) + len(out.quarantined)
    out.commit(seen=seen, max_quarantined=cfg.max_quarantined, lineage=tables.lineage_of(cfg.input), **facts)


def _export_labels(cfg: ExportConfig, out: tables.Output) -> dict[str, Any]:
    """Write labels; return how many queries have gone into which files, of how many that were read."""
    count = read = 0

    def chosen() -> Iterator[dict[str, Any]]:
        nonlocal count, read
        for row in shards.usable_rows(tables.read(cfg.input, Labels), out.quarantine):
            read += 1
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
    return {"queries": count, "files": names, "read": read}


def _export_log(cfg: ExportConfig, out: tables.Output) -> dict[str, Any]:
    """Write the log of an online test; return how many queries and events."""
    counts = write_ubi(cfg.input, cfg.output, out.quarantine)
    say(f"{counts['queries']:,} queries and {counts['events']:,} events -> {cfg.output}")
    if counts["without_page"]:
        say(f"left out: {counts['without_page']:,} x click without an exposure")
    return {**counts, "read": sum(counts.values())}


def _export_student(cfg: ExportConfig) -> dict[str, Any]:
    """Write a student, of a winner the one in it; return which one and its files."""
    from rrad_ray.rankers import conversion  # torch, without which labels can be exported
    from rrad_ray.rankers.ranker import Ranker

    served = winners.find_winner(cfg.input)
    if served.weights:
        say(f"'{served.name}' sums scores: its student '{served.student}' is written, without the first stage")
    with at_place(served.checkpoint, "give an encoder student"), tempfile.TemporaryDirectory() as folder:
        ranker = Ranker.load(winners.local_folder(served), dtype="float32")
        conversion.write_student(ranker, Path(folder), cfg.format, cfg.precision)
        names = tables.copy_folder(folder, cfg.output)
    say(f"{served.student} -> {tables.join(cfg.output, conversion.FILES[cfg.format])}")
    return {"student": served.checkpoint, "files": names}
