"""What evaluate refuses before it measures, and a student whose scores say nothing: no engine, no cluster."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rrad_ray import tables
from rrad_ray.config import ChunksConfig, EvaluateConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.bench import Evaluation
from rrad_ray.evaluation.learnt import write_learnt
from rrad_ray.evaluation.systems import ranking_rows
from rrad_ray.rankers.chunker import ChunkRanker
from rrad_ray.rankers.ranker import Ranker
from tests import tiny
from tests.fixtures import evaluation_of, row_of, table_of

TEXTS = ["w1", "w2 w3", "w4"]


def of_sources(identity: str, *sources: str, split: str = "test") -> dict[str, Any]:
    """A judged query of three candidates that these sources found."""
    scores = [[float(-number) for number in range(len(TEXTS))]] * len(sources)
    judged = {"split": split, "qrel_ids": [f"{identity}-1"], "qrel_grades": [1]}
    return row_of(identity, TEXTS) | judged | {"sources": list(sources), "source_scores": scores}


def evaluation(tmp_path: Path, test: list[Any], dev: list[Any] | None = None, **options: Any) -> Evaluation:
    table = table_of(tmp_path / "candidates", [*test, *(dev or [])])
    return evaluation_of(EvaluateConfig(table, f"{tmp_path}/report", **options), test, dev or [])


@pytest.mark.parametrize(
    ("options", "name", "owners"),
    [
        ({"runs": {"bm25": "x.run"}}, "bm25", ("runs.bm25", "input")),
        ({"runs": {"fusion": "x.run"}}, "fusion", ("runs.fusion", "input")),
        ({"students": {"dense": "out/student"}}, "dense", ("students.dense", "input")),
        ({"students": {"peer": "out/student"}, "runs": {"peer": "x.run"}}, "peer", ("students.peer", "runs.peer")),
        (
            {"students": {"small": "out/small", "small+first": "out/other"}},
            "small+first",
            ("students.small+first", "students.small"),
        ),
        ({"labels": "out/labels", "students": {"teacher": "out/x"}}, "teacher", ("students.teacher", "labels")),
    ],
)
def test_two_systems_of_one_name_are_refused_before_anything_is_measured(
    options: dict[str, Any], name: str, owners: tuple[str, str], tmp_path: Path
) -> None:
    test = [of_sources("q0", "bm25", "dense")]
    bench = evaluation(tmp_path, test, [of_sources("d0", "bm25", "dense", split="dev")], **options)
    problem = f"two systems are called '{name}', the other one by {owners[1]}"
    with pytest.raises(RradError) as caught:
        bench.measure_all()
    assert (caught.value.place, caught.value.problem) == (owners[0], problem)
    assert not bench.systems


def test_a_run_may_be_called_fusion_where_nothing_is_fused(tmp_path: Path) -> None:
    lines = "q0 Q0 q0-1 1 2.0 x\nq0 Q0 q0-0 2 1.0 x\n"
    (tmp_path / "x.run").write_text(lines)
    bench = evaluation(tmp_path, [of_sources("q0", "bm25")], runs={"fusion": f"{tmp_path}/x.run"})
    bench.measure_all()
    assert [system.name for system in bench.systems] == ["bm25", "fusion"]


@pytest.mark.parametrize("first", ["few", "many"])
def test_rows_of_different_sources_are_an_error_that_names_query_and_source(first: str, tmp_path: Path) -> None:
    rows = [of_sources("few", "bm25"), of_sources("many", "bm25", "dense")]
    bench = evaluation(tmp_path, rows if first == "few" else rows[::-1])
    with pytest.raises(RradError, match="query 'few' has no scores of dense, which others have; give a table"):
        bench.measure_all()
    assert not bench.systems


def test_a_source_is_measured_by_the_documents_that_it_lists_and_not_by_the_order_of_another(tmp_path: Path) -> None:
    """Of a run without every second query .952 was reported where ir-measures says .452."""
    rows = [of_sources(f"q{number}", "whole", "half") | {"qrel_ids": [f"q{number}-0"]} for number in range(4)]
    for number, row in enumerate(rows):
        found = [1.0, 2.0, 3.0] if number % 2 else [math.nan, math.nan, 1.0]
        row["source_scores"] = [[3.0, 2.0, 1.0], [math.nan] * 3 if number == 0 else found]
    bench = evaluation(tmp_path, rows)
    bench.measure_all()
    whole, half = bench.systems
    assert whole.quality["nDCG@10"] == [1.0] * 4
    assert half.quality["nDCG@10"] == [0.0, 0.5, 0.0, 0.5]  # nothing listed; last of three; only the wrong one
    assert half.entry["note"] == "lists nothing for 1 of 4 test queries"
    assert half.entry["metrics"]["PNR"]["mean"] == pytest.approx(
        1.5 / 6.5
    )  # of eight pairs three are ties, half each
    assert [row["doc_ids"] for row in ranking_rows(rows, half)][:3:2] == [[], ["q2-2"]]


def student(folder: Path, weight: float) -> str:
    """A checkpoint whose head multiplies by this weight."""
    ranker = Ranker.load(tiny.save(folder / "source", "Bert"))
    torch.nn.init.constant_(ranker.model.classifier.weight, weight)
    ranker.save(str(folder / "student"))
    return str(folder / "student")


def test_a_student_whose_scores_are_no_numbers_is_an_error_that_names_it(tmp_path: Path) -> None:
    students = {"broken": student(tmp_path, float("nan"))}
    bench = evaluation(tmp_path, [of_sources("q0", "bm25")], students=students, latency_repeats=1)
    with pytest.raises(RradError, match="gave a score that is not a number, for query 'q0'; train it") as caught:
        bench.measure_all()
    assert caught.value.place == "students.broken"


def test_a_student_that_tells_no_documents_apart_is_noted_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = {"flat": student(tmp_path, 0.0)}
    bench = evaluation(tmp_path, [of_sources("q0", "bm25")], students=students, latency_repeats=1)
    bench.measure_all()
    note = "gives all documents of a query the same score: its figures are those of the candidates' order"
    assert bench.systems[-1].entry["note"] == note
    assert f"WARNING: flat student {note}" in capsys.readouterr().out


def test_a_student_that_tells_documents_apart_has_no_note(tmp_path: Path) -> None:
    bench = evaluation(
        tmp_path, [of_sources("q0", "bm25")], students={"x": tiny.save(tmp_path / "x", "Bert")}, latency_repeats=1
    )
    bench.measure_all()
    assert bench.systems[-1].entry["note"] == ""


CUT = "was cut short by max_seconds=90 at step 64 of 1,420"


@pytest.mark.parametrize(
    ("named", "cut", "splits", "note"),
    [
        ("trained", CUT, ["train"], CUT),
        ("trained/model", CUT, [], CUT),
        ("trained", "", ["train", "test"], "learnt from queries of split test, which measure it here"),
        (
            "trained",
            CUT,
            ["dev", "test"],
            f"{CUT} and learnt from queries of split test and dev, which measure it here",
        ),
    ],
)
def test_a_student_of_a_training_cut_short_or_of_queries_that_measure_it_is_noted_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str, cut: str, splits: list[str], note: str
) -> None:
    tiny.save(tmp_path / "trained" / "model", "Bert")
    manifest = tables.Manifest(
        stage="train",
        schema={},
        config={},
        inputs={},
        quarantined={},
        versions={},
        seconds=90.0,
        facts={},
        lineage=tables.Lineage(training=tables.TrainingFacts(cut, splits)),
    )
    (tmp_path / "trained" / tables.MANIFEST).write_text(manifest.to_json())
    students = {"short": f"{tmp_path}/{named}"}
    bench = evaluation(tmp_path, [of_sources("q0", "bm25")], students=students, latency_repeats=1)
    bench.measure_all()
    assert (bench.systems[-1].entry["note"], bench.systems[-1].entry["constant"]) == (note, False)
    assert f"WARNING: short student {note}" in capsys.readouterr().out


def test_a_student_is_noted_that_learnt_from_the_queries_that_measure_it_whatever_their_split_was(
    tmp_path: Path,
) -> None:
    tiny.save(tmp_path / "first" / "model", "Bert")
    tiny.save(tmp_path / "second" / "model", "Bert")
    rows = [of_sources(f"q{number}", "bm25") for number in range(4)]
    asked = [row["query"] for row in rows]
    write_learnt(f"{tmp_path}/first", [f"  {asked[0].upper()}?", "of another table"], "bundled:all-minilm-l6-v2")
    write_learnt(f"{tmp_path}/second", [asked[1]], f"{tmp_path}/first/model")  # begins from the first
    students = {
        "first": f"{tmp_path}/first",
        "second": f"{tmp_path}/second",
        "own": tiny.save(tmp_path / "own", "Bert"),
    }
    bench = evaluation(tmp_path, rows, students=students, latency_repeats=1)
    bench.measure_all()
    notes = {each.entry["system"]: each.entry["note"] for each in bench.systems if each.entry["kind"] == "student"}
    counts = {name: sum(text in asked[:which] for text in asked) for name, which in (("first", 1), ("second", 2))}
    for name, count in counts.items():
        assert notes[name] == f"learnt from {count} of the 4 queries that measure it here"
    assert notes["own"] == ""


def test_a_student_of_simulated_labels_is_noted_where_no_labels_are_named(tmp_path: Path) -> None:
    tiny.save(tmp_path / "trained" / "model", "Bert")
    facts: dict[str, Any] = {"schema": {}, "config": {}, "inputs": {}, "quarantined": {}, "versions": {}, "facts": {}}
    lineage = tables.Lineage(training=tables.TrainingFacts(splits=["train"]), simulated="from the judgments")
    manifest = tables.Manifest(stage="train", seconds=9.0, lineage=lineage, **facts)
    (tmp_path / "trained" / tables.MANIFEST).write_text(manifest.to_json())
    bench = evaluation(tmp_path, [of_sources("q0", "bm25")], students={"x": f"{tmp_path}/trained"}, latency_repeats=1)
    bench.measure_all()
    assert bench.systems[-1].entry["note"] == "learnt from simulated labels"


def test_a_student_that_reads_chunks_has_the_best_ones_scores_and_names_them_in_its_rankings(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "student", "Bert", limit=24, initializer_range=0.5)
    row = of_sources("q0", "bm25")
    row["texts"] = [f"w1 w2 w{number} w4 " * 9 for number, _ in enumerate(row["texts"])]
    chunks = ChunksConfig(tokens=9)
    options: dict[str, Any] = {"latency_repeats": 1, "precision": "float32", "students": {"x": folder}}
    bench = evaluation(tmp_path, [row], chunks=chunks, **options)
    bench.measure_all()
    ranker = Ranker.load(folder, dtype="float32")
    scores, spans = ChunkRanker(ranker, chunks).best_chunks([row["query"]] * len(row["texts"]), row["texts"])
    [first, student] = bench.systems
    assert list(student.scores) == [scores]
    assert scores != ranker.score(row["query"], row["texts"])
    assert student.entry["note"] == "reads documents in chunks of 9 tokens, the best one counts"
    [ranking] = ranking_rows([row], student)
    span_of = dict(zip(row["doc_ids"], spans, strict=True))
    assert ranking["best_chunks"] == [span_of[doc_id] for doc_id in ranking["doc_ids"]]
    assert ranking_rows([row], first)[0]["best_chunks"] == []
