"""Manifests come back as they were written, hand on what earlier stages were, and say when they are too old."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrad_ray import tables
from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling import inspection
from rrad_ray.rows import Candidates
from rrad_ray.tables import shards, status
from rrad_ray.tables.claims import claim_of
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
from tests.fixtures import row_of

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


# ---- what no version writes -----------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def readers(uri: str) -> list[Callable[[], object]]:
    """What reads the manifest of an output, or looks whether there is one."""
    cfg = SelectConfig(input="", output=uri)
    return [
        lambda: read_manifest(uri),
        lambda: lineage_of(uri),
        lambda: tables.finished_parts(uri),
        lambda: list(tables.read(uri, Candidates)),
        lambda: list(tables.read_split(uri, Candidates, "dev")),
        lambda: shards.plan_shards(uri, 10, Candidates),
        lambda: tables.fingerprint(uri),
        lambda: claim_of(cfg, {}),
        lambda: tables.Output("test", cfg, Candidates, {}),
        lambda: status.status_lines(status.of_run(uri)),
        lambda: inspection.inspection_page(uri, 1),
    ]


def table_with_parts(folder: Path) -> tuple[str, str]:
    """A finished table with every record in its lineage, and the text of its manifest."""
    out = tables.Output("test", SelectConfig(input="", output=str(folder)), Candidates, {})
    out.write_all([row_of("q1", ["a", "b"]), row_of("q2", ["a"])], 1)
    uri = out.commit(rows=2, lineage=FULL)
    return uri, (folder / "manifest.json").read_text()


def branches(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every dictionary and list of JSON's values with each of its keys."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from branches(content[key])


@pytest.mark.parametrize(
    "parts",
    [5, "x", [], {"part-00000.parquet": 3}, {"part-00000.parquet": {"rows": "many", "bytes": 1}},
     {"part-00000.parquet": {"rows": 1}}, {"part-00000.parquet": {"rows": 1, "bytes": 1, "splits": ["dev"]}},
     {"part-00000.parquet": {"rows": -1, "bytes": 1}}, {"part-00000.parquet": {"rows": 1, "bytes": 1, "digest": 7}}],
)  # fmt: skip
def test_parts_that_are_none_are_named_by_every_reader(tmp_path: Path, parts: object) -> None:
    uri, text = table_with_parts(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(json.loads(text) | {"parts": parts}))
    for read in readers(uri):
        with pytest.raises(RradError, match=r"manifest.json is damaged, or of another version .*\(parts") as caught:
            read()
        assert (caught.value.place, caught.value.remedy) == (uri, "delete the output and run its stage again")


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"x"', "{}", '{"stage": "test"', "[" * 100_000, "\0", "NaN"])
def test_a_file_that_is_no_manifest_is_named_by_every_reader(tmp_path: Path, text: str) -> None:
    uri, _ = table_with_parts(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(text)
    for read in readers(uri):
        with pytest.raises(RradError, match=r"manifest\.json"):
            read()


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_manifest_that_anybody_has_changed_is_read_or_refused_with_a_remedy(tmp_path: Path, data: Any) -> None:
    """A value anywhere becomes anything, a key goes, or half of the file is there."""
    folder = tmp_path / "out"
    if not folder.exists():
        (tmp_path / "whole.json").write_text(table_with_parts(folder)[1])
    text = (tmp_path / "whole.json").read_text()
    if data.draw(st.integers(0, 9)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))]
    else:
        content = json.loads(text)
        holder, key = data.draw(st.sampled_from(list(branches(content))))
        if data.draw(st.booleans()):
            holder[key] = data.draw(ANYTHING)
        else:
            del holder[key]
        text = json.dumps(content)
    (folder / "manifest.json").write_text(text)
    refused = []
    for read in readers(str(folder)):
        try:
            read()
        except RradError as error:
            refused.append(error)
    assert all(error.remedy and str(folder) in error.place for error in refused)
