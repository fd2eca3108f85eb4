"""A benchmark's command line, its table and its JSON: on a machine, too, that has only torch and transformers."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from rrad_ray import versions


@dataclass
class Result:
    """`figures`: what is compared with a bound. `rows`: the table for people. `settings`: what was run."""

    figures: dict[str, float]
    rows: Sequence[Mapping[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)


def main(name: str, bench: Callable[..., Result], *options: click.Option) -> None:
    """The command of a benchmark: `bench(quick, scratch folder)`, and its own options by name."""

    @click.command(help=f"Benchmark {name}; see benchmarks/README.md.", params=list(options))
    @click.option("--quick", is_flag=True, help="a smaller one, within 10 minutes on 2 cores")
    @click.option("--json", "file", type=click.Path(dir_okay=False), help="write the figures there")
    def command(quick: bool, file: str | None, **chosen: Any) -> None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's 15 they starve beside whatever else runs
        with tempfile.TemporaryDirectory(prefix=f"rrad-{name}-") as scratch:
            result = bench(quick, scratch, **chosen)
        print(f"\n{name}{' (quick)' if quick else ''}\n{table(result.rows)}\n")
        for key, value in result.figures.items():
            print(f"{key} = {value:.4g}")
        if file:
            settings = {"quick": quick, **chosen, **result.settings}
            found = {"name": name, "figures": result.figures, "settings": settings, "machine": machine()}
            Path(file).write_text(json.dumps(found, indent=2))

    command()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as Markdown."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **versions.installed(),
    }
