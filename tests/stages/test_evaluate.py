"""evaluate on a table of three queries, without a model: TREC runs, measures by name, corrected tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from rrad_ray import tables
from rrad_ray.config import EvaluateConfig, SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.bench import Evaluation
from rrad_ray.evaluation.calibration import calibration
from rrad_ray.evaluation.comparison import length_segments, significance_tests
from rrad_ray.evaluation.statistics import holm
from rrad_ray.rows import Candidates, Labels, Ranking
from rrad_ray.stages import evaluate, select
from tests import tiny
from tests.fixtures import evaluation_of, row_of, table_of

pytestmark = pytest.mark.ray

QUERIES = ["sort", "add two numbers", "how do I open a file for writing"]


@pytest.fixture
def candidates(tmp_path: Path) -> str:
    """Write three queries with qrels and five documents; the first stage ranks the relevant one 1st, 2nd, 3rd."""
    rows = []
    for number, query in enumerate(QUERIES):
        row = row_of(f"q{number}", ["a", "b", "c", "d", "e"])
        qrels = {"qrel_ids": [f"q{number}-{number}", "elsewhere"], "qrel_grades": [2, 1]}
        rows.append({**row, "query": query, "split": "test", **qrels})
    return table_of(tmp_path / "candidates", rows)


def run(tmp_path: Path, candidates: str, **options: Any) -> dict[str, Any]:
    evaluate.run(EvaluateConfig(candidates, f"{tmp_path}/report", **options))
    return json.loads((tmp_path / "report" / "report.json").read_text())


def test_a_run_from_elsewhere_is_measured_on_all_its_documents_and_with_any_measure(
    candidates: str, tmp_path: Path
) -> None:
    lines = ["q0 Q0 elsewhere 1 9 peer", "q0 Q0 q0-0 2 8 peer", "q1 Q0 q1-4 1 5 peer", "q1 Q0 q1-1 2 4 peer"]
    (tmp_path / "peer.run").write_text("\n".join(lines))
    content = run(tmp_path, candidates, runs={"peer": f"{tmp_path}/peer.run"}, metrics=("AP", "R@2"))
    [peer] = [system for system in content["systems"] if system["system"] == "peer"]
    qrels = [
        ir_measures.Qrel(f"q{number}", doc_id, grade)
        for number in range(3)
        for doc_id, grade in ((f"q{number}-{number}", 2), ("elsewhere", 1))
    ]
    scored = [ir_measures.ScoredDoc(line.split()[0], line.split()[2], float(line.split()[4])) for line in lines]
    for name in ("nDCG@10", "AP", "R@2"):
        measure = ir_measures.parse_measure(name)
        expected = {value.query_id: value.value for value in ir_measures.iter_calc([measure], qrels, scored)}
        mean = sum(expected.get(f"q{number}", 0.0) for number in range(3)) / 3
        assert peer["metrics"][name]["mean"] == pytest.approx(mean), name
    assert peer["note"] == "1 of 3 test queries are not in it"
    rows = {row["query_id"]: row for row in tables.read(f"{tmp_path}/report", Ranking) if row["system"] == "peer"}
    assert rows["q0"]["doc_ids"] == ["elsewhere", "q0-0"]


def test_students_are_tested_against_runs_and_p_values_are_corrected_for_all_tests(
    candidates: str, tmp_path: Path
) -> None:
    rows = list(tables.read(candidates, Candidates))
    evaluation = evaluation_of(EvaluateConfig(candidates, f"{tmp_path}/report"), rows, [])
    evaluation.add("bm25", "BM25", "first_stage", [[5, 4, 3, 2, 1]] * 3)
    evaluation.add("peer", "peer", "run", [[1, 2, 3, 4, 5]] * 3)
    evaluation.add(
        "good", "good student", "student", [[9 * (index == number) for index in range(5)] for number in range(3)]
    )
    tests = significance_tests(evaluation.systems)
    assert [(test["system"], test["against"]) for test in tests] == [("good", "bm25"), ("good", "peer")]
    assert [test["p_holm"] for test in tests] == holm([test["p"] for test in tests])
    assert tests[0]["p_holm"] >= tests[0]["p"]
    assert (tests[0]["wins"], tests[0]["ties"], tests[0]["losses"]) == (2, 1, 0)
    segments = {
        row["segment"]: (row["queries"], row["ndcg_10"]["good"]) for row in length_segments(rows, evaluation.systems)
    }
    one = evaluation.systems[-1].quality["nDCG@10"][0]
    assert segments == {"1 or 2 words": (1, one), "3 or 4": (1, one), "5 or more": (1, one)}


@pytest.mark.parametrize("name", ["nDGC@10", "AP(", "R"])
def test_an_unknown_measure_is_named(candidates: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(RradError, match=r"evaluate: metrics: .*name measures as ir-measures does"):
        run(tmp_path, candidates, metrics=(name,))


def test_a_run_of_other_queries_is_named(candidates: str, tmp_path: Path) -> None:
    (tmp_path / "other.run").write_text("x Q0 d 1 1 other")
    with pytest.raises(RradError, match=r"runs.other: .*ranks none of the 3 judged queries"):
        run(tmp_path, candidates, runs={"other": f"{tmp_path}/other.run"})


def test_the_report_has_what_candidates_and_labels_hand_on(candidates: str, tmp_path: Path) -> None:
    rows = list(tables.read(candidates, Candidates))
    cost: tables.SourceCost = {"latency_ms": {"p50": 1.5, "p99": 2.5}, "documents_per_s": 9.0, "parameters": 7}
    short = tables.Output("prerank", SelectConfig(input="in", output=f"{tmp_path}/short"), Candidates, {})
    short.write_all(rows, 100)
    short.commit(lineage=tables.Lineage(tables.FirstStageFacts("a collection", {"bm25": cost})))
    label = {"missing": [False] * 5, "confidence": [1.0] * 5, "reasons": [], "parse_status": ["ok"]}
    labels = tables.Output("label", SelectConfig(input="in", output=f"{tmp_path}/labels"), Labels, {})
    labels.write_all([{**row, **label, "targets": [0.0, 1.0, 2.0, 3.0, 4.0]} for row in rows[1:]], 100)
    facts = tables.LabelFacts("a judge", {"judge": 1.0}, {"ndcg_10": {"bm25": 0.25}}, {"missing_share": 0.5})
    labels.commit(lineage=tables.Lineage(labels=facts, simulated="from the judgments"))
    content = run(tmp_path, short.uri, labels=labels.uri)
    systems = {system["system"]: system for system in content["systems"]}
    assert content["data"] == "a collection"
    assert {key: systems["bm25"][key] for key in cost} == cost
    assert systems["bm25"]["latency_of"] == "one search over the whole collection"
    assert systems["teacher"]["note"] == "simulated from the judgments. 1 of 3 test queries have no label"
    assert content["teacher"] == {
        "model": "a judge",
        "weights": {"judge": 1.0},
        "label_quality": {"missing_share": 0.5},
        "simulated": "from the judgments",
        "gate": [{"system": "bm25", "ndcg": 0.25}],
    }
    assert tables.lineage_of(f"{tmp_path}/report").evaluation == tables.EvaluationFacts({})


def strict(text: str) -> Any:
    """The content of JSON as its standard has it."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("sources", [[], ["bm25"]], ids=["no source", "bm25"])
def test_few_queries_without_any_variance_make_strict_json_and_pages_in_words(
    queries: int, sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number in range(queries):  # the relevant document is the last one, where the student finds it to be equal
        row = row_of(f"q{number}", ["w1", "w1", "w1"])
        judged = {"qrel_ids": [f"q{number}-2"], "qrel_grades": [1], "split": "test"}
        scores = {"sources": sources, "source_scores": [[0.0, 0.0, 0.0]] * len(sources)}
        rows.append({**row, **judged, **scores})
    table = table_of(tmp_path / "candidates", rows)
    label = {"missing": [False] * 3, "confidence": [1.0] * 3, "reasons": [], "parse_status": ["ok"]}
    labels = tables.Output("label", SelectConfig(input="in", output=f"{tmp_path}/labels"), Labels, {})
    labels.write_all([{**row, **label, "targets": [0.0, 0.0, 1.0]} for row in rows], 100)
    labels.commit(
        lineage=tables.Lineage(labels=tables.LabelFacts("a judge", {}, {}, {"missing_share": float("nan")}))
    )
    students = {"mine": tiny.save(tmp_path / "student", "Bert")}
    run(tmp_path, table, students=students, labels=labels.uri, latency_docs=2, latency_repeats=2)
    select.run(SelectConfig(f"{tmp_path}/report", f"{tmp_path}/winner", max_p99_ms=1e6))
    for file in tmp_path.rglob("*.json"):
        strict(file.read_text())
    content = strict((tmp_path / "report" / "report.json").read_text())
    [teacher] = [system for system in content["systems"] if system["system"] == "teacher"]
    assert teacher["metrics"]["PNR"] == {"mean": None, "low": None, "high": None}
    printed = capsys.readouterr().out
    for text in (printed, *(page.read_text() for page in tmp_path.rglob("report.html"))):
        assert not re.search(r"\b(nan|NaN|None|inf)\b", text)
        assert not sources or ("not enough queries" in text) == (queries == 1)
    if sources and queries == 2:  # all queries gained equally much: the sign test of two queries
        assert {test["p"] for test in content["tests"] if test["system"] == "teacher"} == {0.5}


def test_a_student_that_is_no_ranker_is_named_before_anything_is_measured(
    candidates: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluation, "first_stage", lambda self: pytest.fail("the first stage was measured"))
    two = tiny.save(tmp_path / "two", "Bert", num_labels=2)
    bare = tiny.save(tmp_path / "bare", "Bert", "Model")
    for student, have in ((two, "BertForSequenceClassification, which has 2 outputs"), (bare, "BertModel")):
        with pytest.raises(RradError, match=f"no ranker with one score: {have}; give the output of train"):
            run(tmp_path, candidates, students={"mine": student})


def test_select_wants_the_output_of_evaluate(candidates: str, tmp_path: Path) -> None:
    with pytest.raises(RradError, match="no output of evaluate; name the output of evaluate"):
        select.run(SelectConfig(input=candidates, output=f"{tmp_path}/winner"))


def test_a_first_stage_that_wins_is_the_first_line_on_the_terminal_in_winner_json_and_in_the_report(
    candidates: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(tables.read(candidates, Candidates))
    scores = {"sources": ["dense"], "source_scores": [[5.0, 4.0, 3.0, 2.0, 1.0]]}
    short = tables.Output("prerank", SelectConfig(input="in", output=f"{tmp_path}/short"), Candidates, {})
    short.write_all([row | scores for row in rows], 100)
    encoders: dict[str, tables.EncoderFacts] = {"dense": {"model": "a model", "max_length": 64}}
    short.commit(lineage=tables.Lineage(tables.FirstStageFacts("a collection", encoders=encoders)))
    run(tmp_path, short.uri)
    capsys.readouterr()
    select.run(SelectConfig(f"{tmp_path}/report", f"{tmp_path}/winner"))
    finding = "The first stage wins, as no student was evaluated: bi-encoder (pre-ranker) has nDCG@10"
    lines = [line for line in capsys.readouterr().out.splitlines() if "running" not in line]
    assert finding in lines[0]
    text = (tmp_path / "winner" / "winner.json").read_text()
    assert finding in text.splitlines()[1]
    winner = json.loads(text)
    assert (winner["system"], winner["student"], winner["encoders"]) == ("dense", "", encoders)
    assert f"<h1>{finding}" in (tmp_path / "winner" / "report.html").read_text()


def test_queries_that_were_judged_in_vain_count_for_probabilities_and_for_no_ranking(tmp_path: Path) -> None:
    source, rows = np.random.default_rng(0), []
    for number in range(120):
        ids = [f"q{number}-{index}" for index in range(5)]
        grades = [int(index == number % 5 and number % 2) for index in range(5)]
        scores = (source.normal(size=5) + 2.0 * np.array(grades)).tolist()
        own = {"sources": ["ours"], "source_scores": [scores], "qrel_ids": ids, "qrel_grades": grades}
        row = row_of(f"q{number}", [f"text {index}" for index in range(5)]) | own
        rows.append({**row, "split": "test" if number < 60 else "dev"})
    short = tables.Output("prerank", SelectConfig(input="in", output=f"{tmp_path}/short"), Candidates, {})
    short.write_all(rows, 100)
    [system] = run(tmp_path, short.commit())["systems"]
    assert len(list(tables.read(f"{tmp_path}/report", Ranking))) == 30
    test, dev = rows[:60], rows[60:]
    scores = [[list(row["source_scores"][0]) for row in split] for split in (dev, test)]
    own: Any = calibration(dev, scores[0], test, scores[1])
    for key in ("slope", "offset", "ece_before", "ece_after", "threshold"):
        assert system["calibration"][key] == pytest.approx(own[key], rel=1e-4), key
    assert {key: system["calibration"][key] for key in ("relevant", "nothing")} == {
        key: own[key] for key in ("relevant", "nothing")
    }
    assert own["nothing"]["recall"] > 0.3


def test_parts_without_judged_queries_are_not_opened(candidates: str, tmp_path: Path) -> None:
    rows = [dict(row) for row in tables.read(candidates, Candidates)]
    label = {"missing": [False] * 5, "confidence": [1.0] * 5, "reasons": [], "parse_status": ["ok"]}
    label["targets"] = [5.0, 4.0, 3.0, 2.0, 1.0]
    unlabelled = [row_of(f"u{number}", ["a", "b", "c", "d", "e"]) for number in range(3)]
    reports = []
    for torn in (False, True):
        folder = tmp_path / f"torn-{torn}"
        uris = []
        for name, kind, more in (("candidates", Candidates, {}), ("labels", Labels, label)):
            out = tables.Output(name, SelectConfig(input="in", output=f"{folder}/{name}"), kind, {})
            for number, part in enumerate((unlabelled, rows, [{**row, "split": "train"} for row in unlabelled])):
                out.write_part(tables.part_name(number), [{**row, **more} for row in part])
            uris.append(out.commit())
            for number in (0, 2) if torn else ():
                file = Path(out.uri) / tables.part_name(number)
                file.write_bytes(b"x" * file.stat().st_size)
        content = run(folder, uris[0], labels=uris[1])
        reports.append({key: content[key] for key in ("queries", "systems", "tests", "per_query", "segments")})
    assert reports[0] == reports[1]
    assert [system["system"] for system in reports[1]["systems"]] == ["bm25", "teacher"]


def test_candidates_without_any_relevant_document_are_refused_and_no_student_wins_by_nothing(tmp_path: Path) -> None:
    """All systems had 0.000, and at equal means `select` takes a student."""
    qrels = {"split": "test", "qrel_ids": ["elsewhere"], "qrel_grades": [1]}
    table = table_of(tmp_path / "candidates", [row_of(f"q{number}", ["one", "two"]) | qrels for number in range(3)])
    with pytest.raises(RradError, match="no query of split 'test' has a relevant document among its candidates"):
        run(tmp_path, table)


def test_a_ragged_row_is_set_aside_and_a_document_that_stands_twice_counts_once(tmp_path: Path) -> None:
    qrels = {"split": "test", "qrel_ids": ["a"], "qrel_grades": [1]}
    rows = [
        row_of(f"q{number}", ["one", "two", "three"]) | {"doc_ids": ["a", "b", "a"]} | qrels for number in range(3)
    ]
    rows.append(row_of("ragged", ["one", "two"]) | {"doc_ids": ["a"]} | qrels)
    run(tmp_path, table_of(tmp_path / "candidates", rows))
    assert tables.read_manifest(f"{tmp_path}/report").quarantined == {"ragged row": 1}
    ranked = [(row["doc_ids"], row["ndcg_10"]) for row in tables.read(f"{tmp_path}/report", Ranking)]
    assert ranked == [(["a", "b"], 1.0)] * 3
