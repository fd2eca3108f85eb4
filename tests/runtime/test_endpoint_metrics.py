"""The endpoint's measurements as Ray gets them."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import pytest

from rrad_ray.runtime import endpoint_metrics, gauges
from rrad_ray.runtime.endpoint_metrics import RayMetrics
from tests.commands import PATIENCE_S


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """Record what each metric is told, by its name, in place of Ray's own."""
    recorded = dict[str, list[tuple[float, dict[str, str]]]]()

    class Recorded:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = (), **more: Any) -> None:
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float = 1, tags: dict[str, str] | None = None) -> None:
            assert (tags or {}).keys() == set(self.tag_keys)
            recorded.setdefault(self.name, []).append((value, tags or {}))

        inc = observe = set

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(endpoint_metrics, kind, Recorded)
    return recorded


def test_gauges_are_exported_again_until_nobody_holds_them(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray forgets a value after twenty seconds, and a night is decided once a day."""
    monkeypatch.setattr(gauges, "RENEW_S", 0.01)
    before = {*threading.enumerate()}  # other tests may have some
    metrics = RayMetrics()
    metrics.night(5.0, {"words": 4.0})
    metrics.behind("winner", True)
    [renewal] = {*threading.enumerate()} - before
    last = {"night_ended": (5.0, {}), "night_deviations": (4.0, {"figure": "words"})}
    last["winner_behind"] = (1, {"input": "winner"})
    until = time.monotonic() + PATIENCE_S
    while min(len(values[f"rrad_serve_{name}"]) for name in last) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert {name: values[f"rrad_serve_{name}"][2] for name in last} == last
    del metrics
    gc.collect()
    renewal.join(PATIENCE_S)
    assert not renewal.is_alive()


def test_a_figure_that_the_last_night_does_not_have_no_longer_deviates(values: dict[str, Any]) -> None:
    metrics = RayMetrics()
    metrics.night(5.0, {"words": 4.0, "letters in Thai": -7.0})
    metrics.night(6.0, {"words": 1.0})
    assert values["rrad_serve_night_ended"] == [(5.0, {}), (6.0, {})]
    last = {tags["figure"]: value for value, tags in values["rrad_serve_night_deviations"]}
    assert last == {"words": 1.0, "letters in Thai": 0.0}


def test_only_models_that_sum_the_first_stages_scores_are_counted_by_it(values: dict[str, Any]) -> None:
    metrics = RayMetrics()
    for use in ("", "used", "missing"):
        metrics.ranked("student", use, 0.75, 3)
    assert values["rrad_serve_first_stage"] == [(1, {"use": "used"}), (1, {"use": "missing"})]
    assert values["rrad_serve_best_score"] == [(0.75, {"model": "student"})] * 3
    assert values["rrad_serve_query_words"] == [(3, {})] * 3


def test_a_model_behind_its_input_is_a_one(values: dict[str, Any]) -> None:
    metrics = RayMetrics()
    metrics.behind("winner", True)
    metrics.behind("winner", False)
    assert values["rrad_serve_winner_behind"] == [(1, {"input": "winner"}), (0, {"input": "winner"})]
