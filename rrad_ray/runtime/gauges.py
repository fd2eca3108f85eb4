"""Gauges of a running stage or endpoint as Ray exports them to Prometheus; `cluster/monitoring/` draws them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from typing import Protocol

from ray.util.metrics import Gauge

# Ray (2.60) exports a value once, and forgets it after twenty seconds: what stands still would leave Prometheus, and
# no alert of it would ever fire.
RENEW_S = 5.0


class LastingGauge:
    """A gauge that remembers its last value for each set of tags."""

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge
        self.values: dict[tuple[tuple[str, str], ...], float] = {}

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Export a value, now and at every `renew`."""
        self.values[tuple((tags or {}).items())] = value
        self.gauge.set(value, tags=dict(tags or {}))

    def renew(self) -> None:
        """Export all values again."""
        for tags, value in list(self.values.items()):
            self.gauge.set(value, tags=dict(tags))


class Renewed(Protocol):
    """Whatever holds gauges."""

    def renew(self) -> None:
        """Export the values of all gauges again."""


def keep_renewed(owner: Renewed) -> None:
    """Have a thread call `owner.renew()` every few seconds until nobody holds the owner any longer."""
    threading.Thread(target=_renew, args=(weakref.ref(owner),), name="gauges", daemon=True).start()


def _renew(reference: weakref.ref[Renewed]) -> None:
    while (owner := reference()) is not None:
        owner.renew()
        del owner  # or the thread would hold it while it sleeps
        time.sleep(RENEW_S)


class OutputGauges:
    """Gauges `rrad_STAGE_NAME`, each with the run's `output` as its label; they last as long as this object."""

    def __init__(self, stage: str, output: str) -> None:
        self.stage, self.output = stage, output
        self.gauges: dict[str, LastingGauge] = {}

    def set(self, figures: Mapping[str, float]) -> None:
        """Export figures by name."""
        if not self.gauges:  # of several training workers one alone has figures
            keep_renewed(self)
        for name, value in figures.items():
            if name not in self.gauges:
                description = f"rrad-ray {self.stage}: {name}"
                gauge = Gauge(f"rrad_{self.stage}_{name}", description, ("output",))
                self.gauges[name] = LastingGauge(gauge)
            self.gauges[name].set(float(value), {"output": self.output})

    def renew(self) -> None:
        """Export the last figures again."""
        for gauge in list(self.gauges.values()):
            gauge.renew()
