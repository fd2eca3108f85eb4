"""label on tables whose rows do not fit together, with weights of any size, and part by part in any processes."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import LabelConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling import part_labels
from rrad_ray.rows import JudgeOutput, Labels, Quarantined
from rrad_ray.stages import label
from tests.fixtures import kill_before_the_manifest, row_of, table_of

TEXTS = ["one", "two", "three"]


def of_sources(identity: str, **scores: list[float]) -> dict[str, Any]:
    """A judged dev query of three candidates with these sources' scores."""
    judged = {"split": "dev", "qrel_ids": [f"{identity}-1"], "qrel_grades": [1]}
    return row_of(identity, TEXTS) | judged | {"sources": list(scores), "source_scores": list(scores.values())}


@pytest.mark.parametrize("options", [{}, {"weights": {"dense": 1.0}}, {"weights": {"dense": 1.0}, "scale": "table"}])
def test_a_row_without_a_source_that_has_a_weight_is_an_error_that_names_query_and_source(
    options: dict[str, Any], tmp_path: Path
) -> None:
    rows = [of_sources(f"q{number}", bm25=[3, 2, 1], dense=[1, 2, 3]) for number in range(10)]
    table = table_of(tmp_path / "table", [*rows, of_sources("other", splade=[1, 2, 3], bm25=[1, 2, 3])])
    says = (
        "query 'other' has no scores of dense, which others have; give a table whose rows all have the same sources"
    )
    with pytest.raises(RradError, match=says) as caught:
        label.run(LabelConfig(table, f"{tmp_path}/labels", **options))
    assert caught.value.place == table


def test_rows_may_differ_in_a_source_that_has_no_weight(tmp_path: Path) -> None:
    rows = [of_sources("one", bm25=[3, 2, 1], dense=[1, 2, 3]), of_sources("two", bm25=[3, 2, 1])]
    table = table_of(tmp_path / "table", rows)
    assert label.run(LabelConfig(table, f"{tmp_path}/labels", weights={"bm25": 1.0})) == f"{tmp_path}/labels"


def test_labels_in_place_of_the_judges_output_are_refused_and_not_made_anew_without_an_llm(tmp_path: Path) -> None:
    """Labels are candidates too: their sources alone would have been the teacher."""
    table = table_of(tmp_path / "table", [of_sources("one", bm25=[3, 2, 1])])
    labels = label.run(LabelConfig(table, f"{tmp_path}/labels", weights={"bm25": 1.0}))
    with pytest.raises(RradError, match="labels: is the output of label; name the output of judge, or candidates"):
        label.run(LabelConfig(labels, f"{tmp_path}/again", weights={"bm25": 1.0}))


@pytest.mark.parametrize("weight", [1e308, -1e308, 1e-320])
def test_targets_hang_on_the_ratios_of_weights_however_large_or_small_they_are(weight: float, tmp_path: Path) -> None:
    table = table_of(tmp_path / "table", [of_sources("one", bm25=[3, 2, 1], dense=[5, 2, 1])])
    targets = []
    for name, size in (("plain", math.copysign(1.0, weight)), ("odd", weight)):
        cfg = LabelConfig(table, f"{tmp_path}/{name}", weights={"bm25": size, "dense": size})
        [row] = tables.read(label.run(cfg), Labels)
        targets.append(row["targets"])
    assert targets[0] == targets[1]
    assert all(map(math.isfinite, targets[1]))


def _split(identity: str, query: str, split: str) -> dict[str, Any]:
    return of_sources(identity, bm25=[3, 2, 1]) | {"query": query, "split": split, "qrel_grades": [2]}


@pytest.mark.parametrize("targets", ["teacher", "grades"])
def test_queries_whose_text_is_that_of_a_test_query_are_left_out_and_counted(
    tmp_path: Path, targets: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        _split("same", "how to add  numbers?", "unlabelled"),
        _split("wide", "ＯＰＥＮ a file", "train"),
        _split("other", "how to add", "train"),
        _split("again", "how to add", "unlabelled"),
        _split("test", "How to add numbers", "test"),
        _split("dev", "open a file", "dev"),
        _split("dev2", "open a file", "dev"),
    ]
    table = table_of(tmp_path / "table", rows)
    options: Any = {"targets": targets, "unjudged": "negative", "weights": {"bm25": 1.0}}
    output = label.run(LabelConfig(table, f"{tmp_path}/labels", **options))
    assert {row["query_id"] for row in tables.read(output, Labels)} == {"other", "again", "test", "dev", "dev2"}
    assert tables.read_manifest(output).facts["overlap"] == 2
    assert "2 queries whose text is that of a dev or test query are left out" in capsys.readouterr().out
    everything = label.run(LabelConfig(table, f"{tmp_path}/all", keep_overlap=True, **options))
    assert len(list(tables.read(everything, Labels))) == 7


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"shown": [], "responses": []}, "what was shown are not orders of the 2 doc_ids"),
        ({"shown": [[0, 1, 2]]}, "what was shown are not orders of the 2 doc_ids"),
        ({"shown": [[0, 0]]}, "what was shown are not orders of the 2 doc_ids"),
        ({"shown": [[0, 1], [1, 0]]}, "1 responses for 2 orders shown"),
        ({"task": "likelihood"}, "0 judge_scores for 2 doc_ids"),
    ],
)
def test_answers_that_are_not_about_the_documents_are_set_aside(
    tmp_path: Path, damage: dict[str, Any], reason: str
) -> None:
    judged = {"task": "order", "model": "m", "shown": [[0, 1]], "responses": ["[1] > [2]"], "judge_scores": []}
    judged |= {"reasons": [], "truncated": 0, "prompt_tokens": 1, "generated_tokens": 1}
    out = tables.Output("judge", LabelConfig("", f"{tmp_path}/judged"), JudgeOutput, {})
    out.write_all([row_of("good", ["a", "b"]) | judged, row_of("bad", ["a", "b"]) | judged | damage], 10)
    labels = label.run(LabelConfig(out.commit(), f"{tmp_path}/labels", max_quarantined=0.5))
    assert [row["query_id"] for row in tables.read(labels, Labels)] == ["good"]
    [bad] = tables.read_part(f"{labels}/quarantine", tables.part_name(0), Quarantined)
    assert bad["reason"] == f"ragged row: {reason}"


def answered(folder: Path) -> str:
    """The output of judge in five parts of eight queries: likelihoods, an unusable row and a lost overlap in each."""
    source = random.Random(0)
    out = tables.Output("judge", LabelConfig("", f"{folder}/judged"), JudgeOutput, {})
    answer = {"task": "score", "model": "m", "shown": [], "responses": [], "reasons": [], "truncated": 0}
    answer |= {"prompt_tokens": 1, "generated_tokens": 0}
    for part in range(5):
        rows = []
        for number in range(8):
            row = of_sources(f"q{part}-{number}", bm25=[3, 2, 1]) | {"query": f"query {part} {number}"} | answer
            rows.append(row | {"judge_scores": [source.gauss(0, 1) for _ in TEXTS]})
        rows[0] |= {"judge_scores": []}
        rows[1] |= {"split": "unlabelled", "query": "Query 0  2"}
        out.write_part(tables.part_name(part), rows)
    return out.commit(lineage=tables.Lineage(judge=tables.JudgeFacts("m")))


def contents(uri: str) -> tuple[Any, ...]:
    """The labels of a table, what was set aside, and the facts of its manifest."""
    manifest, bad = tables.read_manifest(uri), f"{uri}/quarantine"
    aside = {name: tables.read_part(bad, name, Quarantined) for name in tables.part_names(bad)}
    return list(tables.read(uri, Labels)), aside, manifest.facts, manifest.lineage.labels


@pytest.mark.ray
@pytest.mark.parametrize("options", [{}, {"scale": "table", "weights": {"judge": 1.0}}], ids=["fused", "table"])
def test_labels_are_the_same_by_one_process_and_by_a_pool_of_actors(tmp_path: Path, options: dict[str, Any]) -> None:
    judged = answered(tmp_path)
    results = []
    for workers in (1, {"min": 2, "max": 2}):
        output = f"{tmp_path}/labels-{type(workers).__name__}"
        results.append(
            contents(label.run(LabelConfig(judged, output, num_workers=workers, max_quarantined=0.2, **options)))
        )
        assert not (Path(output) / "work").exists()
    assert results[0] == results[1]
    rows, aside, facts, quality = results[0]
    assert [row["query_id"] for row in rows] == [f"q{part}-{number}" for part in range(5) for number in range(2, 8)]
    assert [len(part) for part in aside.values()] == [1] * 5, "each part writes its own"
    assert (facts["rows"], facts["overlap"], quality.label_quality["queries"]) == (30, 5, 30)


def test_a_killed_run_goes_on_with_the_parts_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, ordinary, asked = answered(tmp_path), part_labels.LabelPart.part, list[str]()

    def part(self: part_labels.LabelPart, name: str) -> None:
        asked.append(name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        ordinary(self, name)

    monkeypatch.setattr(part_labels.LabelPart, "part", part)
    killed = LabelConfig(judged, f"{tmp_path}/killed", max_quarantined=0.2)
    with pytest.raises(KeyboardInterrupt):
        label.run(killed)
    label.run(killed)
    assert [tables.part_number(name) for name in asked] == [0, 1, 2, 2, 3, 4]
    monkeypatch.undo()
    whole = dataclasses.replace(killed, output=f"{tmp_path}/whole")
    assert contents(killed.output) == contents(label.run(whole))


def test_a_part_that_has_gone_since_a_run_was_killed_is_labelled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, cfg = answered(tmp_path), LabelConfig("", f"{tmp_path}/killed", max_quarantined=0.2)
    cfg = dataclasses.replace(cfg, input=judged)
    kill_before_the_manifest(monkeypatch, lambda: label.run(cfg))
    tables.remove(f"{cfg.output}/{tables.part_name(2)}")
    label.run(cfg)
    assert contents(cfg.output) == contents(label.run(dataclasses.replace(cfg, output=f"{tmp_path}/whole")))


@pytest.mark.parametrize("scale", ["absolute", "table"])
def test_on_a_scale_of_all_queries_an_unscored_document_has_the_lowest_score_and_an_unscored_query_is_set_aside(
    tmp_path: Path, scale: str
) -> None:
    nan = math.nan
    rows = [of_sources("one", splade=[3, nan, 1]), of_sources("two", splade=[nan] * 3)]
    cfg = LabelConfig(
        table_of(tmp_path / "table", rows), f"{tmp_path}/labels",
        weights={"splade": 1.0}, scale=scale, max_quarantined=0.5,  # type: ignore[arg-type]
    )  # fmt: skip
    [row] = tables.read(label.run(cfg), Labels)
    assert row["targets"] == ([3, 1, 1] if scale == "absolute" else [1, -1, -1])
    [bad] = tables.read_part(f"{cfg.output}/quarantine", tables.part_name(0), Quarantined)
    assert (bad["id"], bad["reason"]) == ("two", "no score: 'splade' knows none of its documents")


def test_a_part_that_was_copied_to_another_number_is_named_before_its_rows_count_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = LabelConfig(answered(tmp_path), f"{tmp_path}/killed", max_quarantined=0.2)
    kill_before_the_manifest(monkeypatch, lambda: label.run(cfg))
    copy = Path(cfg.output, tables.part_name(7))
    shutil.copy(Path(cfg.output, tables.part_name(2)), copy)
    with pytest.raises(RradError, match="is no part of this run: its rows would count too") as caught:
        label.run(cfg)
    assert caught.value.place == str(copy)
    copy.unlink()
    label.run(cfg)
    assert contents(cfg.output) == contents(label.run(dataclasses.replace(cfg, output=f"{tmp_path}/whole")))
