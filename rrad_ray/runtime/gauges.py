"""The figures of a running stage as Ray exports them to Prometheus; `cluster/monitoring/` draws them."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge


class OutputGauges:
    """Gauges `rrad_STAGE_NAME`, each with the run's `output` as its label."""

    def __init__(self, stage: str, output: str) -> None:
        self.stage, self.output = stage, output
        self.gauges: dict[str, Gauge] = {}

    def set(self, figures: Mapping[str, float]) -> None:
        """Export figures by name."""
        for name, value in figures.items():
            if name not in self.gauges:
                description = f"rrad-ray {self.stage}: {name}"
                self.gauges[name] = Gauge(f"rrad_{self.stage}_{name}", description, ("output",))
            self.gauges[name].set(float(value), {"output": self.output})
