"""`publish`: a night's student is published if it is better, and the history says why, once for each night."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import LabelConfig, PublishConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.night_history import history_page, is_far, read_nights, record_night
from rrad_ray.evaluation.nights import compare_ndcg, decide, drift_figures, served_ndcg
from rrad_ray.evaluation.winner import Winner, read_winner
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import CollectedQuery, Labels, Ranking
from rrad_ray.stages import publish
from rrad_ray.tables import checkpoints
from tests import browsers, tiny, winners
from tests.fixtures import row_of, table_of

GOOD, FAIR, BAD = (2.0, 1.0, 0.0), (1.0, 2.0, 0.0), (0.0, 2.0, 1.0)  # scores; the first document is relevant
NDCG = {GOOD: 1.0, FAIR: 0.6309297535714575, BAD: 0.5}
Scores = tuple[float, ...]


def judged(number: int, fresh: bool) -> dict[str, Any]:
    row = row_of(f"{'fresh' if fresh else 'frozen'}-{number}", ["one", "two", "three"])
    return row | {"split": "test", "qrel_ids": row["doc_ids"][:1], "qrel_grades": [1]}  # type: ignore[index]


def evaluation(
    folder: Path,
    rows: Sequence[Any],
    of_system: dict[str, list[Scores]],
    students: dict[str, str] | None = None,
) -> str:
    """The output of `evaluate`, and of `retrieve` beside it, for two students, as far as `publish` reads it."""
    table_of(folder / "candidates", list(rows))
    out = tables.Output("evaluate", LabelConfig("", f"{folder}/report"), Ranking, {})
    report = {"systems": [{"system": "bm25", "kind": "first_stage", "metrics": {"nDCG@10": {"mean": 0.55}}}]}
    report["systems"][0]["latency_ms"] = None  # type: ignore[assignment]
    ranked = []
    for name, scores in of_system.items():
        quality = [NDCG[each] for each in scores]
        for row, values, ndcg in zip(rows, scores, quality, strict=True):
            facts = {key: row[key] for key in ("query_id", "query", "split", "doc_ids")}
            ranked.append({**facts, "system": name, "scores": list(values), "ndcg_10": ndcg, "mrr_10": ndcg})
        smoke = {"query": "q", "documents": ["one"], "scores": [0.5]}
        figures = {"nDCG@10": {"mean": sum(quality) / len(quality)}}
        latency = {"p50": 1.0, "p99": 2.0}
        system = {"system": name, "kind": "student", "metrics": figures, "latency_ms": latency, "smoke": smoke}
        report["systems"].append(system)
    out.write_all([row | {"best_chunks": []} for row in ranked], 1000)
    tables.write_json(f"{out.uri}/report.json", report)
    facts_of = tables.EvaluationFacts({name: f"runs/{name}" for name in of_system} | (students or {}))
    return out.commit(lineage=tables.Lineage(evaluation=facts_of))


def night(
    tmp_path: Path, name: str, frozen: list[Scores], fresh: list[Scores], last: Scores = FAIR, **options: Any
) -> PublishConfig:
    """A night at its end, as `publish` reads it. `frozen`, `fresh`: the scores that its student gives each query."""
    store, folder = tmp_path / "store", tmp_path / name
    if not store.exists():
        winners.write(store, "encoder", "runs/encoder", {"query": "q", "documents": ["one"], "scores": [0.1]})
    for kind, scores in (("frozen", frozen), ("fresh", fresh)):
        rows = [judged(number, kind == "fresh") for number in range(len(scores))]
        began = read_winner(str(store)).checkpoint
        evaluation(folder / kind, rows, {"last": [last] * len(scores), "new": scores}, {"last": began or "runs/last"})
    asked = tables.Output("collect", LabelConfig("", f"{folder}/new"), CollectedQuery, {})
    one = {"query_id": "n", "query": "sort <b>lists</b>", "split": "unlabelled", "qrel_ids": [], "qrel_grades": []}
    asked.write_all([one, one | {"query_id": "m", "query": "정렬"}], 10)
    tables.write_text(f"{folder}/new/last/winner.json", (store / "winner.json").read_text())
    asked.commit()
    labels = tables.Output("label", LabelConfig("", f"{folder}/labels"), Labels, {})
    labels.write_all([], 10)
    quality = {"queries": 2, "rejected_share": 0.25, "answers": {"ok": 3}}
    labels.commit(lineage=tables.Lineage(labels=tables.LabelFacts("teacher", {}, label_quality=quality)))
    given = {"frozen": "frozen/candidates", "fresh": "fresh/candidates", "fresh_input": "fresh/report"}
    given |= {"collected": "new", "labels": "labels", "input": "frozen/report", "output": "published"}
    uris = {key: f"{folder}/{value}" for key, value in given.items()}
    return PublishConfig(night=name, store=str(store), **{**uris, **options})


def test_a_better_student_is_published_under_the_nights_name_and_the_history_says_by_how_much(tmp_path: Path) -> None:
    cfg = night(tmp_path, "2026-11-29", [GOOD] * 20 + [FAIR] * 5, [GOOD] * 9 + [FAIR])
    publish.run(cfg)
    winner = read_winner(cfg.store)
    assert (winner.system, winner.student, winner.checkpoint) == ("2026-11-29", "2026-11-29", "runs/new")
    assert winner.smoke == {"query": "q", "documents": ["one"], "scores": [0.5]}
    [entry] = read_nights(cfg.store)
    assert (entry["night"], entry["decision"], entry["last"]) == ("2026-11-29", "published", "encoder")
    assert entry["reason"] == winner.finding
    assert entry["reason"].startswith(
        "better than the published winner (frozen: 0.926 against 0.631 over 25 queries, p"
    )
    assert entry["sets"]["fresh"]["new"] == pytest.approx(0.9630929753571458)
    assert entry["drift"]["labels: rejected share"] == 0.25
    assert entry["drift"]["letters in Hangul"] == pytest.approx(2 / 13)
    assert entry["drift"]["scores of the last student, median"] == 1.0
    texts = tables.read_columns(cfg.store, "asked/2026-11-29.parquet", None)["query"].to_pylist()
    assert texts == ["sort <b>lists</b>", "정렬"]


@pytest.mark.parametrize(
    ("frozen", "fresh", "reason"),
    [
        ([GOOD] * 25, [GOOD] * 9 + [BAD] * 41, "below the published winner on the fresh set"),
        ([GOOD] + [BAD] * 2, [BAD] * 10, "bm25 wins on the frozen set"),
        ([GOOD] * 2 + [FAIR] * 23, [FAIR] * 25, "on no set clearly above the published winner"),
    ],
)
def test_a_student_that_is_no_better_is_refused_and_the_winner_stays(
    frozen: list[Scores], fresh: list[Scores], reason: str, tmp_path: Path
) -> None:
    cfg = night(tmp_path, "1", frozen, fresh)
    before = Path(cfg.store, "winner.json").read_bytes()
    if reason.startswith("bm25"):
        path = Path(cfg.input, "report.json")
        path.write_text(path.read_text().replace("0.55", "0.95"))
    publish.run(cfg)
    assert Path(cfg.store, "winner.json").read_bytes() == before
    [entry] = read_nights(cfg.store)
    assert entry["decision"] == "refused"
    assert entry["reason"].startswith(reason), entry["reason"]
    assert Path(cfg.store, "asked", "1.parquet").exists(), "its queries were labelled all the same"


FIT = {"slope": 3.0, "offset": -1.0, "ece_before": 0.2, "ece_after": 0.1, "threshold": 0.4}
FIT |= {name: {"precision": 0.5, "recall": 0.5} for name in ("relevant", "nothing")}  # type: ignore[misc]


def calibrated_night(tmp_path: Path, **fit: Any) -> tuple[PublishConfig, str]:
    """A night that begins from a calibrated winner, and its student, for whose calibration the report has `fit`."""
    student = tiny.save(tmp_path / "trained" / "model", "Bert")
    lineage = tables.Lineage(labels=tables.LabelFacts("teacher", {}), simulated="simulated")
    tables.Output("train", LabelConfig("", f"{tmp_path}/trained"), Labels, {}).commit(lineage=lineage)
    night(tmp_path, "0", [GOOD], [GOOD])
    store = tmp_path / "store" / "winner.json"
    store.write_text(json.dumps(json.loads(store.read_text()) | {"calibration": FIT}))
    cfg = night(tmp_path, "1", [GOOD] * 20, [GOOD] * 20)
    for uri in (cfg.input, cfg.fresh_input):
        path = Path(uri, "manifest.json")
        path.write_text(path.read_text().replace("runs/new", student.removesuffix("/model")))
    report = Path(cfg.input, "report.json")
    content = json.loads(report.read_text())
    for system in content["systems"]:
        system |= fit if system["system"] == "new" else {}
    report.write_text(json.dumps(content))
    return cfg, student


def test_a_night_that_began_from_probabilities_publishes_probabilities(tmp_path: Path) -> None:
    cfg, student = calibrated_night(tmp_path, calibration=FIT)
    publish.run(cfg)
    winner = read_winner(cfg.store)
    assert (winner.system, winner.checkpoint) == ("1", f"{cfg.output}/model")
    assert winner.calibration == FIT
    assert winner.smoke == {"query": "q", "documents": ["one"], "scores": [0.5 * 3.0 - 1.0]}
    texts = ["w1 w9", "w4", "w7 w2"]
    plain, scaled = (
        Ranker.load(folder, dtype="float32").score("w1 w2", texts) for folder in (student, winner.checkpoint)
    )
    assert scaled == pytest.approx([3.0 * score - 1.0 for score in plain], abs=1e-4)
    assert checkpoints.student_lineage(winner.checkpoint).simulated == "simulated"


@pytest.mark.parametrize("fit", [{}, {"uncalibrated": "dev has 3 relevant candidates"}])
def test_a_night_without_a_calibration_does_not_replace_a_winner_whose_scores_are_probabilities(
    fit: dict[str, Any], tmp_path: Path
) -> None:
    cfg, _ = calibrated_night(tmp_path, **fit)
    before = Path(cfg.store, "winner.json").read_bytes()
    publish.run(cfg)
    assert Path(cfg.store, "winner.json").read_bytes() == before
    [entry] = read_nights(cfg.store)
    assert entry["decision"] == "refused"
    assert entry["reason"].startswith(
        "the published winner's scores are probabilities, and 'new' cannot be calibrated"
    )
    assert (fit.get("uncalibrated") or "no judged queries of dev") in entry["reason"]


@pytest.mark.parametrize("last_write", ["record_night", "write_winner", "say"])
def test_a_night_that_was_killed_at_any_write_has_one_entry_in_the_end(
    last_write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = night(tmp_path, "1", [GOOD] * 20, [GOOD] * 20)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish, last_write, die)
        with pytest.raises(KeyboardInterrupt):
            publish.run(cfg)
    assert (read_winner(cfg.store).system == "1") == (last_write == "say")
    publish.run(cfg)
    publish.run(cfg)
    assert [(entry["night"], entry["decision"]) for entry in read_nights(cfg.store)] == [("1", "published")]
    assert read_winner(cfg.store).checkpoint == "runs/new"


def test_a_night_does_not_replace_a_winner_that_it_has_not_been_compared_with(tmp_path: Path) -> None:
    cfg = night(tmp_path, "1", [GOOD] * 20, [GOOD] * 20)
    winners.write(tmp_path / "store", "another", "runs/another", {})
    publish.run(cfg)
    assert read_winner(cfg.store).system == "another"
    assert read_nights(cfg.store)[0]["reason"].startswith("another was published after the night had begun; better")


def test_winners_are_compared_as_they_are_served_with_the_weights_that_they_won_with() -> None:
    row = judged(0, fresh=True)  # bm25 has the relevant document first: 0, -1, -2
    scores = {row["query_id"]: dict(zip(row["doc_ids"], BAD, strict=True))}
    student = Winner(system="s", student="s", checkpoint="c", weights={})
    assert served_ndcg(student, [row], scores) == [NDCG[BAD]]
    for weight, ndcg in ((0.1, NDCG[GOOD]), (4.0, NDCG[BAD])):
        fused = dataclasses.replace(student, system="s+first", weights={"bm25": 1.0, "s": weight})
        assert served_ndcg(fused, [row], scores) == [ndcg]
    first = Winner(system="bm25", student="", checkpoint="", weights={"bm25": 1.0})
    assert served_ndcg(first, [row], {}) == [1.0]
    with pytest.raises(RradError, match="query 'fresh-0' has no scores of dense, which fusion sums"):
        served_ndcg(dataclasses.replace(first, system="fusion", weights={"dense": 1.0}), [row], {})


def test_two_sets_are_two_tests() -> None:
    clear = {"queries": 9, "last": 0.5, "new": 0.6, "p": 0.04}
    assert decide({"frozen": clear, "fresh": clear | {"p": 0.04}}, 0.05)[0] is False  # type: ignore[dict-item]
    assert decide({"frozen": clear | {"p": 0.02}, "fresh": clear | {"p": 0.9}}, 0.05)[0] is True  # type: ignore
    assert decide({"frozen": clear | {"p": float("nan")}, "fresh": clear}, 0.05)[0] is True  # type: ignore
    below = {"frozen": clear | {"p": 1e-9}, "fresh": clear | {"new": 0.49}}
    assert decide(below, 0.05)[1].startswith("below the published winner on the fresh set")  # type: ignore[arg-type]
    assert compare_ndcg([0.5, 0.25], [0.5, 0.25]) == {"queries": 2, "last": 0.375, "new": 0.375, "p": 1.0}


def test_drift_is_of_lengths_scripts_labels_and_the_sources_overlap() -> None:
    row = row_of("q", [str(number) for number in range(10)])
    up, down = [float(number) for number in range(10)], [float(-number) for number in range(10)]
    rows = [row | {"sources": ["a", "b"], "source_scores": [up, down]}, row | {"sources": ["a", "b"]}]
    rows[1]["source_scores"] = [up, [*up[:-1], float("nan")]]
    figures = drift_figures(["one two", "слово слово слово слово"], rows, {"confidence": 0.5, "queries": 3})
    assert figures == {
        "words of a query": 3.0,
        "words of a query, 90th percentile": pytest.approx(3.8),
        "letters in Cyrillic": pytest.approx(20 / 26),
        "letters in Latin": pytest.approx(6 / 26),
        "overlap of the sources' first 5": pytest.approx(0.4),
        "labels: confidence": 0.5,
    }


def test_nights_stand_in_the_order_in_which_they_were_decided_whatever_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8, 13):
        monkeypatch.setattr(time, "gmtime", lambda number=number: time.localtime(86_400 * number))
        record_night(str(tmp_path), str(number), "refused", "no better", drift={"words": float(number)})
    assert [entry["night"] for entry in read_nights(str(tmp_path))] == ["8", "9", "10", "11", "12"]


def test_a_figure_far_from_those_of_earlier_nights_is_marked_and_the_page_escapes_what_others_wrote(
    tmp_path: Path,
) -> None:
    assert is_far(0.9, [0.1, 0.11, 0.1, 0.09, 0.1])
    assert not is_far(0.12, [0.1, 0.11, 0.1, 0.09, 0.1])
    assert not is_far(0.9, [0.1, 0.11, None, 0.09, 0.1]), "four nights are too few"
    assert is_far(0.2, [0.1] * 5)
    assert not is_far(None, [0.1] * 5)
    for number in range(12):
        drift = {"words of a query": 9.0 if number == 11 else 3.0 + number % 2, "<i>letters</i>": 1.0}
        record_night(str(tmp_path), f"n{number:02d}", "refused", "<script>alert(1)</script>", drift=drift)
    record_night(str(tmp_path), "n12", "waits", "3 new queries")
    record_night(str(tmp_path), "n12", "waits", "4 new queries")
    assert [entry["reason"] for entry in read_nights(str(tmp_path))][-2:] == [
        "<script>alert(1)</script>",
        "4 new queries",
    ]
    page = (tmp_path / "history.html").read_text()
    assert page == history_page(read_nights(str(tmp_path)))
    assert page.count('<td class="far">9.000 !</td>') == 1
    assert "<script" not in page
    assert "<i>letters" not in page
    assert "No night has been published." in page
    assert ">n04<" in page.split('id="drift"')[1]
    assert ">n03<" not in page.split('id="drift"')[1], "the last eight stand side by side"
    (tmp_path / "history.jsonl").write_text('{"night": "1"}\n')
    with pytest.raises(
        RradError, match=r"history\.jsonl:1: no entry of a night: no value for decision; mend or delete the line"
    ):
        read_nights(str(tmp_path))


@pytest.mark.parametrize(
    "fields",
    [
        {"drift": [1]},
        {"drift": {"words of a query": "many"}},
        {"sets": 3},
        {"sets": {"frozen": {"last": 0.5}}},
        {"queries": None},
        {"queries": "12"},
        {"night": 1},
        {"decision": None},
    ],
)
def test_a_line_of_the_history_that_its_page_cannot_show_is_named_before_anything_is_written(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    line = json.dumps({"night": "1", "decision": "refused", **fields})
    (tmp_path / "history.jsonl").write_text(f"{line}\n")
    with pytest.raises(RradError, match=r"history\.jsonl:1: no entry of a night: .*; mend or delete the line"):
        record_night(str(tmp_path), "2", "waits", "too few")
    assert (tmp_path / "history.jsonl").read_text() == f"{line}\n"


def test_an_evaluation_without_the_nights_student_is_an_error(tmp_path: Path) -> None:
    cfg = night(tmp_path, "1", [GOOD] * 3, [GOOD] * 3)
    evaluation(tmp_path / "other", [judged(0, False)], {"last": [FAIR]}, {"last": "runs/encoder"})
    with pytest.raises(RradError, match="no evaluation of a student 'new'; run evaluate with students"):
        publish.run(dataclasses.replace(cfg, input=f"{tmp_path}/other/report"))
    with pytest.raises(RradError, match="no scores of a student 'new'"):
        publish.run(dataclasses.replace(cfg, fresh_input=f"{tmp_path}/other/report"))


def test_markup_in_the_history_that_nothing_has_escaped_does_not_run(tmp_path: Path) -> None:
    record_night(str(tmp_path), "n1", "refused", "no better", drift={"words of a query": 3.0})
    browsers.check_runs_nothing(history_page(read_nights(str(tmp_path))), tmp_path)


MANY, FEW = [GOOD] * 20 + [FAIR] * 5, [GOOD] * 9 + [FAIR]


def change_students(report: str, **students: str) -> None:
    manifest = json.loads(Path(report, "manifest.json").read_text())
    manifest["lineage"]["evaluation"]["students"] |= students
    Path(report, "manifest.json").write_text(json.dumps(manifest))


def test_evaluations_of_other_students_than_the_nights_two_decide_nothing(tmp_path: Path) -> None:
    cfg = night(tmp_path, "n1", MANY, FEW)
    change_students(cfg.fresh_input, new="runs/other")
    with pytest.raises(RradError, match=r"its student 'new' is .*runs/other, and .*runs/new in"):
        publish.run(cfg)
    for report in (cfg.input, cfg.fresh_input):
        change_students(report, new="runs/new", last="runs/ancient")
    with pytest.raises(RradError, match=r"its student 'last' is .*runs/ancient, and the night began from"):
        publish.run(cfg)
    assert read_winner(cfg.store).system == "encoder"


def test_candidates_that_are_not_those_measured_decide_nothing(tmp_path: Path) -> None:
    cfg = night(tmp_path, "n1", MANY, FEW)
    every = [judged(number, False) for number in range(25)]
    table_of(tmp_path / "half", every[:5])
    with pytest.raises(RradError, match="lacks 20 of the 25 queries of"):
        publish.run(dataclasses.replace(cfg, frozen=f"{tmp_path}/half"))
    table_of(tmp_path / "other", [row | {"doc_ids": ["x", "y", "z"]} for row in every])
    with pytest.raises(RradError, match="query 'frozen-0' has other documents than in"):
        publish.run(dataclasses.replace(cfg, frozen=f"{tmp_path}/other"))


def test_a_score_that_is_not_a_number_is_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = (float("nan"),) * 3
    monkeypatch.setitem(NDCG, lost, 1.0)
    with pytest.raises(RradError, match="gave a document of query 'frozen-0' a score that is not a number"):
        publish.run(night(tmp_path, "n1", [lost] * 25, [lost] * 10))


def test_a_night_is_not_called_as_a_source_whose_weight_it_would_take(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the name of a source"):
        night(tmp_path, "bm25", MANY, FEW)
    cfg = night(tmp_path, "splade", MANY, FEW)
    report = json.loads(Path(cfg.input, "report.json").read_text())
    both = {"system": "new+first", "kind": "student_fused", "weights": {"splade": 0.5, "new": 1.0}}
    report["systems"].append(both | {"metrics": {"nDCG@10": {"mean": 0.99}}, "latency_ms": {"p50": 1.0, "p99": 2.0}})
    Path(cfg.input, "report.json").write_text(json.dumps(report))
    for kind, count in (("frozen", 25), ("fresh", 10)):
        rows = [judged(number, kind == "fresh") | {"sources": ["splade"]} for number in range(count)]
        table_of(tmp_path / f"{kind}-splade", rows)
    cfg = dataclasses.replace(cfg, frozen=f"{tmp_path}/frozen-splade", fresh=f"{tmp_path}/fresh-splade")
    with pytest.raises(RradError, match="night=splade: the winner sums a source of that name"):
        publish.run(cfg)


def test_another_night_of_the_same_name_is_refused_and_the_entry_stays(tmp_path: Path) -> None:
    first = night(tmp_path, "n1", MANY, FEW)
    publish.run(first)
    publish.run(dataclasses.replace(first, output=f"{tmp_path}/again"))  # the same night once more
    entries = read_nights(first.store)
    Path(tmp_path, "n1").rename(tmp_path / "old")
    second = night(tmp_path, "n1", [GOOD] * 20 + [BAD] * 5, [GOOD] * 10, last=BAD)
    with pytest.raises(RradError, match="night=n1: the history has another night of that name"):
        publish.run(dataclasses.replace(second, output=f"{tmp_path}/second"))
    assert read_nights(first.store)[0]["last"] == entries[0]["last"] == "encoder"


def test_the_fresh_set_is_another_one_than_the_frozen_set(tmp_path: Path) -> None:
    cfg = night(tmp_path, "n1", MANY, FEW)
    with pytest.raises(ValueError, match="the two sets are compared as two"):
        dataclasses.replace(cfg, fresh_input=cfg.input)
