"""qrels by a model: which queries get them, who may not make them, and that all that stands on them says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import EvaluateConfig, JudgeConfig, LabelConfig, QrelsConfig, SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import summary
from rrad_ray.rows import Candidates, JudgeOutput, Labels
from rrad_ray.stages import evaluate, judge, label, qrels, select
from rrad_ray.tables import status
from tests.fixtures import row_of, table_of

TEXTS = ["one", "two", "three"]
JUDGED = {"task": "grade", "shown": [], "responses": [], "reasons": [], "truncated": 0}
JUDGED |= {"prompt_tokens": 1, "generated_tokens": 1}


def rows(count: int = 40, judged: int = 20) -> list[dict[str, Any]]:
    """Queries without qrels, and behind them some of `train` whose first document people have judged."""
    unjudged = [row_of(f"q{number}", TEXTS) for number in range(count)]
    people = [row_of(f"p{number}", TEXTS) for number in range(judged)]
    by_people = [row | {"split": "train", "qrel_ids": row["doc_ids"], "qrel_grades": [1, 0, 0]} for row in people]
    return [*unjudged, *by_people]


def graded(folder: Path, of: list[dict[str, Any]], model: str = "org/Grader", **facts: Any) -> str:
    """The output of `judge` with `task: grade`: the first document has grade 2.6, the others 0.4."""
    out = tables.Output("judge", LabelConfig("", str(folder)), JudgeOutput, {})
    out.write_all([{**row, **JUDGED, "model": model, "judge_scores": [2.6, 0.4, 0.4]} for row in of], 7)
    made = {"grades": [0.0, 1.0, 2.0, 3.0], **facts}
    return out.commit(lineage=tables.Lineage(judge=tables.JudgeFacts(model, **made)))


def made(tmp_path: Path, **options: Any) -> str:
    every = rows()
    candidates = table_of(tmp_path / "candidates", every)
    by_model = graded(tmp_path / "graded", [*every[:30], *every[40:]])
    return qrels.run(QrelsConfig(candidates, f"{tmp_path}/qrels", graded=by_model, **options))


def test_queries_without_qrels_get_the_models_grades_and_those_of_people_stay(tmp_path: Path) -> None:
    output = made(tmp_path, min_judgments=60)
    by_id = {row["query_id"]: row for row in tables.read(output, Candidates)}
    assert len(by_id) == 60
    of_model = [by_id[f"q{number}"] for number in range(30)]
    assert all(row["qrel_ids"] == row["doc_ids"] and row["qrel_grades"] == [3, 0, 0] for row in of_model)
    splits = [row["split"] for row in of_model]
    assert set(splits) == {"dev", "test"}
    assert splits.count("dev") < splits.count("test")
    assert all(by_id[f"q{number}"] == rows()[number] for number in range(30, 40)), "they were not graded"
    assert all(by_id[f"p{number}"] == rows()[40 + number] for number in range(20)), "people have judged them"
    lineage = tables.lineage_of(output)
    assert lineage.qrels is not None
    assert lineage.qrels.queries == {"dev": splits.count("dev"), "test": splits.count("test")}
    # People and model agree about every one of 60 documents; their grades differ, 1 and 3.
    assert lineage.qrels.agreement == {"judgments": 60, "kappa": 1.0, "kendall": pytest.approx(1.0)}
    assert lineage.qrels.note in "\n".join(status.status_lines(status.of_run(output)))


def test_a_split_that_a_query_has_stays_and_too_few_judgments_of_people_give_no_agreement(tmp_path: Path) -> None:
    every = [row | {"split": split} for row, split in zip(rows(2, 19), ["test", "dev", *["train"] * 19], strict=True)]
    candidates = table_of(tmp_path / "candidates", every)
    cfg = QrelsConfig(candidates, f"{tmp_path}/qrels", graded=graded(tmp_path / "graded", every), dev_share=0.0)
    split_of = {row["query_id"]: row["split"] for row in tables.read(qrels.run(cfg), Candidates)}
    assert (split_of["q0"], split_of["q1"], split_of["p0"]) == ("test", "dev", "train")
    facts = tables.lineage_of(cfg.output).qrels
    assert facts is not None
    assert facts.agreement != {}, "57 are enough"
    few = dataclasses.replace(cfg, output=f"{tmp_path}/few", min_judgments=58)
    facts = tables.lineage_of(qrels.run(few)).qrels
    assert facts is not None
    assert facts.agreement == {}
    assert facts.note.endswith("people have judged 57 of its documents: how far they agree is not known")


def test_tables_without_grades_or_of_other_queries_are_refused(tmp_path: Path) -> None:
    candidates = table_of(tmp_path / "candidates", rows(3, 0))
    logits = graded(tmp_path / "logits", rows(3, 0), grades=[])
    others = graded(tmp_path / "others", [row_of("other", TEXTS)])
    for source, problem in (
        (logits, "its scores are no grades; name an output of judge with task=grade"),
        (candidates, "its scores are no grades"),
        (others, "none of its 1 queries is in the input"),
    ):
        with pytest.raises(RradError, match=problem):
            qrels.run(QrelsConfig(candidates, f"{tmp_path}/qrels", graded=source))
    output = made(tmp_path / "again")
    with pytest.raises(RradError, match="its qrels are by the model org/Grader already"):
        qrels.run(QrelsConfig(output, f"{tmp_path}/twice", graded=f"{tmp_path}/again/graded"))


def test_grades_that_are_no_numbers_are_set_aside_and_counted(tmp_path: Path) -> None:
    every = rows(40, 0)
    candidates = table_of(tmp_path / "candidates", every)
    out = tables.Output("judge", LabelConfig("", f"{tmp_path}/graded"), JudgeOutput, {})
    grades = [[float("nan"), 0.4, 0.4], *[[2.6, 0.4, 0.4]] * 39]
    judged = [row | JUDGED | {"model": "m", "judge_scores": own} for row, own in zip(every, grades, strict=True)]
    out.write_all(judged, 100)
    graded_by = out.commit(lineage=tables.Lineage(judge=tables.JudgeFacts("m", grades=[0.0, 1.0, 2.0, 3.0])))
    output = qrels.run(QrelsConfig(candidates, f"{tmp_path}/qrels", graded=graded_by))
    manifest = json.loads(Path(output, "manifest.json").read_text())
    assert manifest["quarantined"] == {"missing value": 1}
    assert sum(tables.read_manifest(output).facts["queries"].values()) == 39


def test_the_teachers_own_model_is_refused_wherever_its_copy_stands(tmp_path: Path) -> None:
    output = made(tmp_path)
    with pytest.raises(RradError, match=r"judge: model: the teacher s3://b/grader/ has made the qrels itself"):
        judge.run(JudgeConfig(output, f"{tmp_path}/judged", model="s3://b/grader/"))
    lineage = dataclasses.replace(tables.lineage_of(output), judge=tables.JudgeFacts("other/Teacher"))
    by_teacher = tables.Output("judge", LabelConfig("", f"{tmp_path}/judged"), JudgeOutput, {})
    by_teacher.write_all([{**row, **JUDGED, "model": "m", "judge_scores": [1, 2, 3]} for row in rows()], 100)
    by_teacher.commit(lineage=lineage)
    cfg = LabelConfig(
        by_teacher.uri, f"{tmp_path}/l", teachers={"second": f"{tmp_path}/graded"}, weights={"judge": 1}
    )
    with pytest.raises(RradError, match="the teacher org/Grader has made the qrels itself"):
        label.run(cfg)
    alone = label.run(dataclasses.replace(cfg, teachers={}))
    assert tables.lineage_of(alone).teachers == ["other/Teacher"]
    of_grader = label.run(LabelConfig(f"{tmp_path}/graded", f"{tmp_path}/own", weights={"judge": 1}))
    with pytest.raises(RradError, match="evaluate: labels: the teacher org/Grader has made the qrels itself"):
        evaluate.run(EvaluateConfig(output, f"{tmp_path}/report", labels=of_grader))
    own = qrels.QrelsConfig(alone, f"{tmp_path}/q", graded=graded(tmp_path / "by_teacher", rows(), "TEACHER/model"))
    with pytest.raises(RradError, match=r"graded: the teacher other/Teacher has made"):
        qrels.run(dataclasses.replace(own, input=by_of(tmp_path)))


def by_of(tmp_path: Path) -> str:
    """Candidates whose lineage has a teacher of the grader's name."""
    out = tables.Output("judge", LabelConfig("", f"{tmp_path}/candidates_of_a_teacher"), Candidates, {})
    out.write_all(rows(), 100)
    return out.commit(lineage=tables.Lineage(judge=tables.JudgeFacts("other/Teacher")))


def test_report_terminal_and_winner_say_whose_qrels_they_stand_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = made(tmp_path)
    note = tables.lineage_of(output).qrels_note
    evaluate.run(EvaluateConfig(output, f"{tmp_path}/report"))
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["qrels"]["note"] == note
    assert content["qrels"]["model"] == "org/Grader"
    assert "are by the model org/Grader" in " ".join(capsys.readouterr().out.split())
    assert note in summary.markdown_table(content).replace("&#39;", "'")
    select.run(SelectConfig(f"{tmp_path}/report", f"{tmp_path}/winner"))
    winner = json.loads((tmp_path / "winner" / "winner.json").read_text())
    assert winner["finding"].endswith("The qrels are by a model (org/Grader), not by people.")
    for page in ("report", "winner"):
        html = (tmp_path / page / "report.html").read_text()
        assert note in html.replace("&#39;", "'")
        assert "The qrels are by a model (org/Grader), not by people." in html
    people = table_of(tmp_path / "people", [row | {"split": "test"} for row in rows(0, 5)])
    evaluate.run(EvaluateConfig(people, f"{tmp_path}/by_people"))
    assert json.loads((tmp_path / "by_people" / "report.json").read_text())["qrels"] is None
    assert "by a model" not in (tmp_path / "by_people" / "report.html").read_text()


def test_grades_of_another_query_under_the_same_id_are_refused(tmp_path: Path) -> None:
    every = rows()
    other = [row | {"query": "wholly another question"} for row in every]
    candidates, by_model = table_of(tmp_path / "candidates", every), graded(tmp_path / "graded", other)
    with pytest.raises(RradError, match="query 'q0' asks 'wholly another question' there, and 'add two numbers' in"):
        qrels.run(QrelsConfig(candidates, f"{tmp_path}/qrels", graded=by_model))
    same = graded(tmp_path / "same", [row | {"query": "  ADD two numbers"} for row in every])
    qrels.run(QrelsConfig(candidates, f"{tmp_path}/fine", graded=same))


def test_a_grade_that_the_template_does_not_have_is_set_aside(tmp_path: Path) -> None:
    every = rows()
    out = tables.Output("judge", LabelConfig("", f"{tmp_path}/graded"), JudgeOutput, {})
    scores = [[2.6, 1e30, 0.4], *[[2.6, 0.4, 0.4]] * (len(every) - 1)]
    graded_rows = [
        {**row, **JUDGED, "model": "org/Grader", "judge_scores": each}
        for row, each in zip(every, scores, strict=True)
    ]
    out.write_all(graded_rows, 100)
    out.commit(lineage=tables.Lineage(judge=tables.JudgeFacts("org/Grader", grades=[0.0, 1.0, 2.0, 3.0])))
    made = qrels.run(QrelsConfig(table_of(tmp_path / "c", every), f"{tmp_path}/q", graded=out.uri))
    assert tables.read_manifest(made).quarantined == {"off scale": 1}
    assert next(tables.read(made, Candidates))["qrel_ids"] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"query": "another"}, "asks 'another' there"),
        ({"split": "train"}, "has a label of none of the 20 judged queries of split 'test'"),
        ({"doc_ids": ["x", "y", "z"]}, "has a label of none of the 20 judged queries"),
        ({"targets": [1.0, float("nan"), 0.0]}, "has a target that is not a number"),
    ],
)
def test_labels_that_are_not_about_the_measured_queries_are_no_teacher(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    """Their rows took ids as `7` of another collection for their own, or the candidates' order for the teacher's."""
    by_people = [row | {"split": "test"} for row in rows(0, 20)]
    made = {"targets": [2.0, 1.0, 0.0], "missing": [False] * 3, "confidence": [1.0] * 3}
    out = tables.Output("label", LabelConfig("", f"{tmp_path}/labels"), Labels, {})
    out.write_all([{**row, **made, "reasons": [], "parse_status": [], **change} for row in by_people], 10)
    out.commit(lineage=tables.Lineage(labels=tables.LabelFacts("teacher", {})))
    cfg = EvaluateConfig(table_of(tmp_path / "c", by_people), f"{tmp_path}/report", labels=out.uri)
    with pytest.raises(RradError, match=problem):
        evaluate.run(cfg)
