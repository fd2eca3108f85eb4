"""A benchmark's command line, its table and its JSON. It needs torch and transformers only, for peers' machines."""

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
    """A benchmark's result.

    `figures`: values to compare with bounds. `rows`: the table for people. `settings`: what was run.
    """

    figures: dict[str, float]
    rows: Sequence[Mapping[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)


def main(name: str, bench: Callable[..., Result], *options: click.Option) -> None:
    """Run a benchmark as a command: `bench(quick, scratch folder)`, with its own options by name."""

    @click.command(help=f"Benchmark {name}; see benchmarks/README.md.", params=list(options))
    @click.option("--quick", is_flag=True, help="a smaller one, within 10 minutes on 2 cores")
    @click.option("--json", "file", type=click.Path(dir_okay=False), help="write the figures there")
    def command(quick: bool, file: str | None, **chosen: Any) -> None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves workers beside other load
        with tempfile.TemporaryDirectory(prefix=f"rrad-{name}-") as scratch:
            result = bench(quick, scratch, **chosen)
        print(f"\n{name}{' (quick)' if quick else ''}\n{table(result.rows)}\n")
        for key, value in result.figures.items():
            print(f"{key} = {value:.4g}")
        if file:
            settings = {"quick": quick, **chosen, **result.settings}
            content = {"name": name, "figures": result.figures, "settings": settings, "machine": machine()}
            Path(file).write_text(json.dumps(content, indent=2))

    command()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as a Markdown table."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Format a number with thousands separators, a float with four digits; anything else as text."""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, Any]:
    """Return cores, memory, processor and versions of this machine."""
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **versions.installed(),
    }
