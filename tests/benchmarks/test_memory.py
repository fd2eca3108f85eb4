"""Memory over time: a leak is told from noise, from a warm-up and from a process that has just begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.memory import MemoryLog

MINUTES = 30


class Process:
    """A process whose memory is a function of the minute."""

    def __init__(self, pid: int, name: str, mib: Callable[[float], float]) -> None:
        self.pid, self.called, self.mib, self.minute = pid, name, mib, 0.0

    def name(self) -> str:
        return self.called

    def memory_info(self) -> Any:
        return type("Memory", (), {"rss": self.mib(self.minute) * 2**20})


def logged(*processes: Process, begin: Sequence[float] = ()) -> MemoryLog:
    """Return the log of so many processes, each from its first minute on, looked at every two seconds."""
    minute = 0.0
    starts = begin or [0.0] * len(processes)
    running: Any = lambda: [each for each, start in zip(processes, starts) if minute >= start]  # noqa: E731
    log = MemoryLog(running, lambda: 60 * minute)
    for minute in np.linspace(0, MINUTES, 30 * MINUTES):
        for each in processes:
            each.minute = minute
        log.look()
    return log


def test_a_leak_is_told_from_noise_and_from_the_warm_up() -> None:
    draw = np.random.default_rng(0)
    warms_up = Process(1, "replica", lambda minute: 400 + 300 * min(1, minute / 8) + draw.normal(0, 10))
    leaks = Process(2, "haproxy", lambda minute: 100 + 2 * minute + draw.normal(0, 10))
    log = logged(warms_up, leaks)
    replica, haproxy = log.rows()
    assert (replica["process"], replica["flat"], haproxy["process"], haproxy["flat"]) == (
        "replica",
        "yes",
        "haproxy",
        "no",
    )
    assert replica["MiB/min"] == pytest.approx(0, abs=0.3)
    assert haproxy["MiB/min"] == pytest.approx(2, abs=0.3)
    assert replica["start MiB"] == pytest.approx(400, abs=40)
    assert replica["warm MiB"] == pytest.approx(700, abs=20)
    assert haproxy["end MiB"] == pytest.approx(160, abs=40)
    assert not log.is_flat()
    assert logged(warms_up).is_flat()


def test_memory_that_shrinks_is_flat_and_of_a_process_that_came_late_nothing_is_said() -> None:
    shrinks, late = Process(1, "old", lambda minute: 300 - 5 * minute), Process(2, "new", lambda minute: 50 + minute)
    log = logged(shrinks, late, begin=[0.0, 20.0])
    old, new = sorted(log.rows(), key=lambda row: row["pid"])
    assert (old["flat"], new["flat"]) == ("yes", "")
    assert log.is_flat()
    assert not MemoryLog(lambda: [], lambda: 0.0).is_flat(), "nothing was looked at"
