"""The memory of an endpoint's processes over time: what each has at first and at the end, and whether it stays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from benchmarks import servers

WARM_UP = 1 / 3  # of the time, in which buffers and caches find their size
MAY_ADD = 0.05  # of a process's memory at the end of the warm-up, and
MAY_ADD_MIB = 8.0  # at least so much: what the line through its sizes after that may add until the end
FEWEST = 5  # sizes by which a process is judged


@dataclass
class ProcessSizes:
    """The resident memory of one process: `sizes` in MiB at `minutes` since the first look at any."""

    name: str
    minutes: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)


class MemoryLog:
    """Looks at the memory of Serve's processes. `processes` gives those, `clock` seconds."""

    def __init__(
        self,
        processes: Callable[[], Sequence[psutil.Process]] = servers.serve_processes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.processes, self.clock, self.began = processes, clock, clock()
        self.seen: dict[int, ProcessSizes] = {}

    def look(self) -> float:
        """Take down what each process has; return the MiB of all."""
        total, now = 0.0, (self.clock() - self.began) / 60
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                size = process.memory_info().rss / 2**20
                known = self.seen.setdefault(process.pid, ProcessSizes(process.name()))
                known.minutes.append(now)
                known.sizes.append(size)
                total += size
        return total

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each process, the largest first. `flat`: the line through its sizes after the warm-up
        (least squares) adds `MAY_ADD` of its size, or `MAY_ADD_MIB`, at most; empty for a process of few looks."""
        end = max((each.minutes[-1] for each in self.seen.values()), default=0.0)
        rows = [_row(pid, each, WARM_UP * end) for pid, each in self.seen.items()]
        return sorted(rows, key=lambda row: -row["end MiB"])

    def is_flat(self) -> bool:
        """Return whether the memory of every process that can be judged is flat."""
        judged = [row["flat"] for row in self.rows() if row["flat"]]
        return bool(judged) and set(judged) == {"yes"}


def _row(pid: int, process: ProcessSizes, warm: float) -> dict[str, Any]:
    after = [number for number, minute in enumerate(process.minutes) if minute >= warm]
    row: dict[str, Any] = {"process": process.name, "pid": str(pid), "start MiB": process.sizes[0]}
    row |= {"warm MiB": float("nan"), "end MiB": process.sizes[-1], "MiB/min": float("nan"), "flat": ""}
    if len(after) >= FEWEST and process.minutes[0] < warm:  # one that came late is still warming up
        minutes, sizes = (np.array(values)[after] for values in (process.minutes, process.sizes))
        slope = float(np.polyfit(minutes, sizes, 1)[0])
        warm_mib = float(np.median(sizes[: max(1, len(sizes) // 10)]))
        added = slope * float(minutes[-1] - minutes[0])
        flat = added <= max(MAY_ADD * warm_mib, MAY_ADD_MIB)
        row |= {"warm MiB": warm_mib, "MiB/min": slope, "flat": "yes" if flat else "no"}
    return row
