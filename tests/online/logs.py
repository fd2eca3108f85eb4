"""Events of an online test as they are given, joined and analysed as those of a log are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig
from rrad_ray.online import analysis
from rrad_ray.online.event_digests import with_words
from rrad_ray.online.traffic import Traffic
from rrad_ray.online.traffic_join import JoinedTraffic, join_traffic
from rrad_ray.rows import ClickEvent, Exposure


def _table(rows: Iterable[Any], kind: type) -> pa.Table:
    table = pa.Table.from_pylist(list(rows), schema=tables.schema_of(kind))
    return table.append_column("seq", pa.array(range(len(table)), pa.int64()))


def all_joined(exposures: Iterable[Exposure], clicks: Iterable[ClickEvent], cfg: ExperimentConfig) -> JoinedTraffic:
    shown, clicked = with_words(_table(exposures, Exposure)), _table(clicks, ClickEvent)
    with tempfile.TemporaryDirectory() as folder:  # what is mapped outlives it
        return join_traffic([shown], [clicked], cfg, Path(folder))


def joined(
    exposures: Iterable[Exposure], clicks: Iterable[ClickEvent], cfg: ExperimentConfig
) -> tuple[Traffic, Mapping[str, int]]:
    """The traffic, and the events left out by reason."""
    every = all_joined(exposures, clicks, cfg)
    return every.traffic, every.left_out


def analysed(exposures: Iterable[Exposure], clicks: Iterable[ClickEvent], cfg: ExperimentConfig) -> dict[str, Any]:
    """The content of `report.json`."""
    return analysis.analyse(all_joined(exposures, clicks, cfg), cfg)
