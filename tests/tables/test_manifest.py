"""Manifests come back as they were written, hand on what earlier stages were, and say when they are too old."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rrad_ray import tables
from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates
from rrad_ray.tables.manifest import (
    EvaluationFacts,
    FirstStageFacts,
    JudgeFacts,
    LabelFacts,
    Lineage,
    QrelsFacts,
    lineage_of,
    read_history,
    read_manifest,
    write_history,
)

FULL = Lineage(
    first_stage=FirstStageFacts("pydoc:", {"bm25": {"latency_ms": {}, "documents_per_s": 9.5, "parameters": 0}}),
    qrels=QrelsFacts("a grader", {"dev": 2}, "by a grader", {"kappa": 0.5}),
    judge=JudgeFacts("a judge", {"checked": True, "passed": True}, grades=[0.0, 1.0]),
    labels=LabelFacts("a judge", {"bm25": 1.0}, {"ndcg_10": {"bm25": 0.5}}, {"missing_share": 0.25}),
    evaluation=EvaluationFacts({"encoder": "out/encoder"}),
    simulated="from the judgments",
)


def finished(folder: Path, lineage: Lineage | None) -> str:
    out = tables.Output("test", SelectConfig(input="", output=str(folder)), Candidates, {})
    return out.commit(rows=3, lineage=lineage)


@pytest.mark.parametrize("lineage", [Lineage(), FULL, dataclasses.replace(FULL, judge=None)])
def test_a_lineage_comes_back_as_it_was_handed_on(tmp_path: Path, lineage: Lineage) -> None:
    uri = finished(tmp_path / "out", lineage)
    assert lineage_of(uri) == lineage
    assert read_manifest(uri).facts == {"rows": 3}


def test_an_output_hands_on_nothing_unless_it_says_so_and_files_from_elsewhere_do_not(tmp_path: Path) -> None:
    assert lineage_of(finished(tmp_path / "out", None)) == Lineage()
    assert lineage_of(str(tmp_path / "elsewhere")) == Lineage()


@pytest.mark.parametrize("change", [{"lineage": None}, {"rows": 3}, {"lineage": {"teacher": {}}}])
def test_a_manifest_of_another_version_says_so(tmp_path: Path, change: dict[str, object]) -> None:
    uri = finished(tmp_path / "out", FULL)
    content = json.loads((tmp_path / "out" / "manifest.json").read_text()) | change
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RradError, match="another version of rrad-ray") as caught:
        read_manifest(uri)
    assert caught.value.remedy == "delete the output and run its stage again"
    with pytest.raises(RradError, match="another version of rrad-ray"):
        finished(tmp_path / "out", FULL)  # such an output does not count as finished either


def test_curves_come_back_and_a_model_from_elsewhere_has_none(tmp_path: Path) -> None:
    curves = {"steps": [1.0, 2.0], "loss": [0.7, 0.6]}
    write_history(str(tmp_path), curves)
    assert read_history(str(tmp_path)) == curves
    assert read_history(str(tmp_path / "elsewhere")) == {}


def test_a_manifest_from_before_qrels_could_be_a_models_is_read(tmp_path: Path) -> None:
    uri = finished(tmp_path / "out", dataclasses.replace(FULL, qrels=None))
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    del content["lineage"]["qrels"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(content))
    assert lineage_of(uri) == dataclasses.replace(FULL, qrels=None)
