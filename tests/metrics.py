"""The endpoint's metrics as Prometheus reads them from this machine's one node; they are some seconds old."""

from __future__ import annotations

from typing import Any

import httpx
import ray
from prometheus_client.parser import text_string_to_metric_families


def exported() -> list[Any]:
    """Return the samples of all replicas, each with name, labels and value."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", trust_env=False).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return [sample for sample in samples if sample.name.startswith("ray_rrad_serve_")]
