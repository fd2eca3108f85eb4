"""Alert rules and dashboards: Prometheus parses every expression, and each metric in them is one that we export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from rrad_ray.config import JudgeConfig
from rrad_ray.runtime import gauges
from rrad_ray.runtime.collector import RunMetrics
from tests.commands import PATIENCE_S, ROOT

FILES = ROOT / "cluster" / "monitoring"
DASHBOARDS = sorted(FILES.glob("*.json"))
RULES = [
    rule
    for group in yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]


def expressions(dashboard: Path) -> Iterator[str]:
    for panel in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def exported() -> set[str]:
    """Return the names that Prometheus reads of all metrics of ours."""
    text = (ROOT / "rrad_ray" / "runtime" / "endpoint_metrics.py").read_text(encoding="utf-8")
    ends = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}
    serve = [f"{name}{end}" for kind, name in re.findall(r'(\w+)\(\s*"(rrad_serve_\w+)"', text) for end in ends[kind]]
    judge = RunMetrics(JudgeConfig("a", "b", task="order")).facts().keys() | {"cost"}
    train = {"step", "loss", "dev_ndcg", "dev_perplexity", "pairs_per_s"}
    names = [*serve, *(f"rrad_judge_{name}" for name in judge), *(f"rrad_train_{name}" for name in train)]
    return {f"ray_{name}" for name in names}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=[path.name for path in DASHBOARDS])
def test_a_dashboard_draws_what_is_exported(dashboard: Path) -> None:
    assert json.loads(dashboard.read_text(encoding="utf-8"))["uid"] == f"rrad-ray-{dashboard.stem}"
    for expression in expressions(dashboard):
        promql_parser.parse(expression)
        assert set(re.findall(r"ray_\w+", expression)) <= exported(), expression


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_is_a_rule_of_prometheus_on_what_is_exported(rule: dict[str, Any]) -> None:
    assert (
        {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    )
    promql_parser.parse(rule["expr"])
    names = set(re.findall(r"ray_\w+", rule["expr"]))
    assert names
    assert names <= exported()
    assert rule["labels"]["severity"] in ("warning", "critical")
    kept = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert kept <= set(re.findall(r"by \((\w+)\)", rule["expr"])), "a label that the sum has lost"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["check", "rules", FILES / "alerts.yaml"], id="the rules"),
        *(
            pytest.param(["test", "rules", path], id=path.stem)
            for path in sorted((ROOT / "tests" / "cluster").glob("*_test.yaml"))
        ),
    ],
)
def test_prometheus_own_tool_takes_the_alerts_and_they_fire_when_they_should(arguments: list[str]) -> None:
    if not (program := shutil.which("promtool")):
        pytest.skip("promtool is not on this machine (apt-get install prometheus)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_uids_and_the_alerts_names_differ() -> None:
    assert len(DASHBOARDS) == len({path.stem for path in DASHBOARDS}) == 3
    assert len(RULES) == len({rule["alert"] for rule in RULES}) == 16


def test_a_stages_figures_are_gauges_with_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[tuple[str, float, dict[str, str]]] = []

    class Recorded:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert tag_keys == ("output",)
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            sets.append((self.name, value, tags))

    monkeypatch.setattr(gauges, "Gauge", Recorded)
    figures = gauges.OutputGauges("train", "s3://b/encoder")
    figures.set({"step": 10})
    figures.set({"step": 20, "loss": 0.5})
    assert [name for name, _, _ in sets] == ["rrad_train_step", "rrad_train_step", "rrad_train_loss"]
    assert sets[2][1:] == (0.5, {"output": "s3://b/encoder"})
    assert len(figures.gauges) == 2
