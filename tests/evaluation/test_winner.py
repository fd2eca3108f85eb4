"""The winner is the best system inside the budget, and no student below the first stage; its file is read back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import summary
from rrad_ray.evaluation.winner import SmokeTest, Winner, choose_winner, parse_winner, read_report, write_winner

FOLDERS = {name: f"out/{name}" for name in ("small", "good", "large", "untimed", "slow", "fast", "infinite")}
CFG = SelectConfig(input="evaluation", output="", max_p99_ms=100.0)
WORSE = SelectConfig(input="evaluation", output="", max_p99_ms=100.0, allow_worse=True)
SMOKE: SmokeTest = {"query": "q", "documents": ["a", "b"], "scores": [0.5, -1.0]}


def system(name: str, ndcg: float | None, p99: float | None, kind: str = "student", **more: Any) -> dict[str, Any]:
    latency = None if p99 is None else {"p50": p99 / 2, "p99": p99}
    return {"system": name, "kind": kind, "metrics": {"nDCG@10": {"mean": ndcg}}, "latency_ms": latency, **more}


def free(ndcg: float) -> dict[str, Any]:
    return system("fusion", ndcg, None, "fusion", weights={"bm25": 0.5, "dense": 1.0, "mine": 0.0})


def fused(name: str, ndcg: float, p99: float, weight: float = 1.0) -> dict[str, Any]:
    weights = {"bm25": 0.25, "dense": 1.0, name: weight}
    return system(f"{name}+first", ndcg, p99, "student_fused", weights=weights, student=name)


def report(*systems: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"systems": list(systems), **more}


def finding(content: dict[str, Any], cfg: SelectConfig = CFG) -> str:
    return summary.headline({**content, "winner": choose_winner(content, FOLDERS, cfg).report_entry()})


def test_the_best_student_inside_the_budget_wins_and_the_reason_names_the_others() -> None:
    content = report(
        system("bm25", 0.55, 1.0, "first_stage"),
        system("teacher", 0.95, 50.0, "teacher"),
        system("elsewhere", 0.9, 1.0, "run"),
        system("small", 0.5, 20.0),
        system("good", 0.6, 99.6),
        system("large", 0.7, 100.1),
        system("untimed", 0.8, None),
    )
    winner = choose_winner(content, FOLDERS, CFG)
    assert (winner.system, winner.checkpoint, winner.metric, winner.value) == ("good", "out/good", "nDCG@10", 0.6)
    assert (winner.student, winner.weights, winner.allow_worse) == ("good", {}, False)
    assert (
        winner.reason == "nDCG@10 0.600 at p99 100 ms, above bm25 0.550, small 0.500; over the budget: large, untimed"
    )
    assert "p99 <= 100 ms" in winner.rule


def test_a_student_below_the_first_stage_does_not_win_and_the_first_line_says_so() -> None:
    content = report(
        system("bm25", 0.526, 1.0, "first_stage"),
        system("dense", 0.58, 15.0, "pre_ranker"),
        free(0.593),
        system("good", 0.447, 60.0, smoke=SMOKE),
        tests=[{"system": "good", "against": "fusion", "delta": -0.146, "p": 1e-9, "p_holm": 1e-8}],
    )
    encoders: Any = {name: {"model": name, "max_length": 128} for name in ("dense", "prerank")}
    winner = choose_winner(content, FOLDERS, CFG, encoders)
    assert (winner.system, winner.student, winner.checkpoint, winner.smoke) == ("fusion", "", "", None)
    assert winner.weights == {"bm25": 0.5, "dense": 1.0}, "a weight of 0 asks for scores that nobody needs"
    assert winner.encoders == {"dense": encoders["dense"]}
    assert winner.reason == "nDCG@10 0.593, above good 0.447"
    assert finding(content) == (
        "The first stage wins: fusion has nDCG@10 0.593, and the best student, good, 0.447 "
        "(−0.146, p < 0.001, a clear difference)."
    )
    content["tests"][0]["p_holm"] = 0.2
    assert "(−0.146, p = 0.200, no clear difference)" in finding(content)
    alone = choose_winner(report(*content["systems"][:2], content["systems"][3]), FOLDERS, CFG, encoders)
    assert (alone.system, alone.weights, alone.encoders) == ("dense", {"dense": 1.0}, {"dense": encoders["dense"]})


def test_allow_worse_lets_the_student_win_and_is_recorded_and_said() -> None:
    content = report(system("bm25", 0.5, 1.0, "first_stage"), system("good", 0.4, 60.0, smoke=SMOKE))
    winner = choose_winner(content, FOLDERS, WORSE)
    assert (winner.system, winner.checkpoint, winner.allow_worse, winner.smoke) == ("good", "out/good", True, SMOKE)
    assert "allow_worse" in winner.rule
    assert finding(content, WORSE) == (
        "good does not beat the best first stage, bm25: nDCG@10 0.400 against 0.500 "
        "(−0.100, no test of significance), at 30 ms a query. It was selected because allow_worse is true."
    )
    content["systems"][1]["metrics"]["nDCG@10"]["mean"] = 0.6
    assert "allow_worse" not in finding(content, WORSE), "it had no need of it"


def test_a_student_as_good_as_the_first_stage_wins() -> None:
    content = report(system("bm25", 0.5, 1.0, "first_stage"), system("good", 0.5, 60.0))
    assert choose_winner(content, FOLDERS, CFG).system == "good"


def test_a_student_fused_with_the_first_stage_may_win_and_brings_its_weights() -> None:
    content = report(free(0.6), system("good", 0.61, 60.0, smoke=SMOKE), fused("good", 0.63, 61.0))
    winner = choose_winner(content, FOLDERS, CFG)
    assert (winner.system, winner.student, winner.checkpoint) == ("good+first", "good", "out/good")
    assert winner.weights == {"bm25": 0.25, "dense": 1.0, "good": 1.0}
    assert winner.smoke == SMOKE, "the student's own scores are checked before it is served"
    assert "without first-stage scores" not in finding(content)
    below = report(free(0.6), system("good", 0.5, 60.0), fused("good", 0.6, 61.0))
    said = "Requests without first-stage scores get good alone, which is below it at 0.500."
    assert finding(below).endswith(said)
    assert choose_winner(below, FOLDERS, CFG).system == "good+first", "it is not below the first stage"


def test_a_fusion_without_its_student_is_no_student() -> None:
    content = report(free(0.6), system("good", 0.5, 60.0), fused("good", 0.6, 61.0, weight=0.0))
    assert choose_winner(content, FOLDERS, CFG).system == "fusion"
    assert choose_winner(content, FOLDERS, WORSE).system == "good"
    assert "fusion has nDCG@10 0.600, and the best student, good, 0.500" in finding(content)


def test_a_student_that_tells_no_documents_apart_does_not_win_by_the_order_that_it_was_given() -> None:
    note = "gives all documents of a query the same score"
    same = system("good", 0.6, 10.0, constant=True, note=note)
    content = report(free(0.6), same, fused("good", 0.6, 10.0))
    winner = choose_winner(content, FOLDERS, CFG)
    assert (winner.system, winner.reason) == ("fusion", f"nDCG@10 0.600; good {note}")
    assert finding(content).startswith(f"The first stage wins, as the best student {note}: fusion has nDCG@10 0.600")
    assert choose_winner(content, FOLDERS, WORSE).system == "good"


def test_of_equally_good_students_the_one_that_needs_fewer_scores_wins_then_the_faster_one() -> None:
    systems = [system("slow", 0.6, 90.0), system("fast", 0.6, 30.0), system("infinite", None, 1.0)]
    winner = choose_winner(report(*systems), FOLDERS, CFG)
    assert winner.system == "fast"
    assert winner.reason == "nDCG@10 0.600 at p99 30 ms, above slow 0.600, infinite –"
    assert choose_winner(report(systems[0], fused("fast", 0.6, 20.0)), FOLDERS, CFG).system == "slow"


def test_where_no_student_keeps_the_budget_the_first_stage_wins_and_says_so() -> None:
    content = report(system("bm25", 0.5, 250.0, "first_stage"), system("large", 0.7, 250.0))
    winner = choose_winner(content, FOLDERS, CFG)
    assert (winner.system, winner.reason) == ("bm25", "nDCG@10 0.500; over the budget: large")
    assert finding(content).startswith("The first stage wins, as no student that is as good keeps the latency budget")
    none = report(system("bm25", 0.5, 1.0, "first_stage"))
    assert finding(none) == "The first stage wins, as no student was evaluated: bm25 has nDCG@10 0.500."


def test_the_metric_that_decides_is_the_one_of_the_finding() -> None:
    content = report(system("bm25", 0.5, 1.0, "first_stage"), system("good", 0.6, 60.0))
    for one, value in zip(content["systems"], (0.9, 0.8), strict=True):
        one["metrics"]["MRR@10"] = {"mean": value}
    cfg = SelectConfig(input="evaluation", output="", metric="MRR@10")
    assert finding(content, cfg) == (
        "The first stage wins: bm25 has MRR@10 0.900, and the best student, good, 0.800 "
        "(−0.100, no test of significance)."
    )
    assert choose_winner(content, FOLDERS, CFG).system == "good"


@pytest.mark.parametrize(
    ("systems", "says"),
    [
        ([system("large", 0.7, 250.0)], r"large 250 ms"),
        ([system("large", 0.7, 250.0), system("bm25", 0.9, 1.0, "first_stage")], r"large 250 ms"),
        ([system("bm25", 0.9, 1.0, "first_stage")], "no student was evaluated"),
    ],
)
def test_nothing_to_choose_is_an_error_that_says_what_to_do(systems: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(RradError, match=says) as caught:
        choose_winner({"systems": systems}, FOLDERS, WORSE)
    assert caught.value.remedy == "raise max_p99_ms, or train a smaller student"


def test_a_report_without_weights_of_its_fusions_is_refused() -> None:
    with pytest.raises(RradError, match="no weights of 'fusion'; run evaluate again"):
        choose_winner(report(system("fusion", 0.6, None, "fusion")), FOLDERS, CFG)


def test_a_winner_is_read_back_as_it_was_written_and_a_file_that_holds_none_says_so(tmp_path: Path) -> None:
    winner = Winner(
        finding="a finding",
        system="good+first",
        student="good",
        checkpoint="out/good",
        weights={"dense": 1.0, "good": 2.0},
        encoders={"dense": {"model": "m", "max_length": 64}},
        reason="a reason",
        allow_worse=True,
        smoke=SMOKE,
    )
    write_winner(str(tmp_path), winner)
    text = (tmp_path / "winner.json").read_text()
    assert text.splitlines()[1] == '  "finding": "a finding",', "it is what a person reads first"
    assert parse_winner(text, str(tmp_path)) == winner
    assert "smoke" not in winner.report_entry()
    by_hand = '{"system": "x", "student": "x", "checkpoint": "y", "weights": {}}'
    assert parse_winner(by_hand, "") == Winner(system="x", student="x", checkpoint="y", weights={})
    before_weights = '{"system": "x", "checkpoint": "y", "reason": "", "smoke": null}'
    nobody = '{"system": "x", "student": "", "checkpoint": "", "weights": {}}'
    unknown = by_hand.replace("{}", '{}, "of": "another version"')
    for bad in ("{", "[]", before_weights, unknown, nobody, by_hand.replace('"y"', '""')):
        with pytest.raises(RradError, match="holds no winner") as caught:
            parse_winner(bad, "out/winner")
        assert (caught.value.place, caught.value.remedy) == ("out/winner", "run select again")


PAIRS = SelectConfig(input="evaluation", output="", metric="PNR")


def paired(name: str, pnr: float | None, kind: str = "student", **more: Any) -> dict[str, Any]:
    return {**system(name, 0.5, 10.0, kind, **more), "metrics": {"PNR": {"mean": pnr}}}


def test_an_infinite_pnr_is_the_best_one_and_is_told_from_none() -> None:
    perfect = paired("good", None, infinite=["PNR"])
    content = report(paired("bm25", 2.0, "first_stage"), perfect, paired("small", 3.0))
    winner = choose_winner(content, FOLDERS, PAIRS)
    assert (winner.system, winner.value) == ("good", None)
    assert winner.reason == "PNR ∞ at p99 10 ms, above small 3.000, bm25 2.000"
    assert "PNR ∞ against 2.000 (+∞, no test of significance)" in finding(content, PAIRS)
    both = report(paired("bm25", None, "first_stage", infinite=["PNR"]), perfect)
    assert choose_winner(both, FOLDERS, PAIRS).system == "good"
    assert "good does not beat the best first stage, bm25: PNR ∞ against ∞ (0.000" in finding(both, PAIRS)
    below = report(paired("bm25", None, "first_stage", infinite=["PNR"]), paired("good", 3.0))
    assert choose_winner(below, FOLDERS, PAIRS).system == "bm25"
    assert "(−∞, no test of significance)" in finding(below, PAIRS)


@pytest.mark.parametrize("none", [None, float("nan")])
def test_a_system_without_a_figure_never_wins_and_none_is_chosen_by_a_pnr_that_is_not_known(
    none: float | None,
) -> None:
    content = report(system("bm25", 0.1, 1.0, "first_stage"), system("good", none, 10.0))
    assert choose_winner(content, FOLDERS, CFG).system == "bm25"
    first = report(system("bm25", none, 1.0, "first_stage"), system("good", 0.0, 10.0))
    assert choose_winner(first, FOLDERS, CFG).system == "good"
    with pytest.raises(RradError, match="its report has no nDCG@10 of good; run evaluate again"):
        choose_winner(report(system("good", none, 10.0)), FOLDERS, CFG)
    with pytest.raises(
        RradError, match="its report has no PNR of good; run evaluate again, or choose another metric"
    ):
        choose_winner(report(paired("bm25", 2.0, "first_stage"), paired("good", none)), FOLDERS, PAIRS)


SLOPE = '{"slope": 1e300, "offset": 0, "ece_before": 0, "ece_after": 0, "threshold": 0.5}'
FIRST = '{"system": "bm25", "student": "", "checkpoint": "", "weights": {"bm25": 1.0}}'
FUSED = '{"system": "x", "student": "s", "checkpoint": "y", "weights": {"bm25": 1.0, "s": 2}, "smoke": null}'


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("1.0", "NaN", "weights.bm25=nan: "),
        ("1.0", "Infinity", "weights.bm25=inf: "),
        ("1.0", "1e300", r"weights.bm25=1e\+300: "),
        ("1.0", "-1e300", r"weights.bm25=-1e\+300: "),
        ('"smoke": null', f'"calibration": {SLOPE}', r"calibration.slope=1e\+300: "),
        ("1.0", '"1"', "weights.bm25='1': "),
        ("1.0", "null", "weights.bm25=None: "),
        ("1.0", "true", "weights.bm25=True: "),
        ("2", "[2]", r"weights.s=\[2\]: "),
        ("1.0", "0", ""),
        ('{"bm25": 1.0, "s": 2}', '["bm25", "s"]', r"weights=\['bm25', 's'\]: "),
        ('{"bm25": 1.0, "s": 2}', "null", "weights=None: "),
        ('{"bm25": 1.0, "s": 2}', '{"bm25": 0, "s": 0.0}', "all are 0"),
        ('{"bm25": 1.0, "s": 2}', '{"bm25": 1.0, "t": 2}', "none is of the student 's'"),
        ('"s", "check', '"", "check', "student='' and checkpoint='y'"),
        ('"s", "check', 'null, "check', "student=None: "),
        ('"y"', "5", "checkpoint=5: "),
        ('"x"', '""', "system='': "),
        ('"system": "x"', '"sytem": "x"', "unknown key 'sytem' .did you mean: 'system'"),
        ('"system": "x", ', "", "no value for system"),
        ('"smoke": null', '"smoke": {"query": "a"}', "no value for smoke.documents"),
        ('"smoke": null', '"smoke": {"query": "a", "documents": ["b"], "scores": []}', "1 documents and 0 scores"),
        ('"smoke": null', '"smoke": {"query": "a", "documents": ["b"], "scores": [NaN]}', "smoke.scores.0=nan: "),
        ('"smoke": null', '"smoke": "a"', "smoke='a': "),
        ('"smoke": null', '"encoders": null', "encoders=None: "),
        ('"smoke": null', '"encoders": {"bm25": "model"}', "encoders.bm25='model': "),
        ('"smoke": null', '"encoders": {"bm25": {"model": "m"}}', "no value for encoders.bm25.max_length"),
        ('"smoke": null', '"encoders": {"bm25": {"model": "m", "max_length": 0}}', "encoders.bm25.max_length=0: "),
        (FUSED, "[" * 100_000, "recursion"),
    ],
)
def test_a_winner_that_was_edited_into_what_cannot_be_served_is_refused_by_its_key(
    was: str, now: str, says: str
) -> None:
    parse_winner(FUSED, "out/winner")
    parse_winner(FIRST, "out/winner")
    assert was in FUSED
    if not says:
        parse_winner(FUSED.replace(was, now), "out/winner")
        return
    with pytest.raises(RradError, match=f"winner.json holds no winner: .*{says}") as caught:
        parse_winner(FUSED.replace(was, now), "out/winner")
    assert (caught.value.place, caught.value.remedy) == ("out/winner", "run select again")


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_a_student_whose_scores_are_no_numbers_does_not_win(score: float | None) -> None:
    smoke = {"query": "q", "documents": ["a", "b"], "scores": [0.5, score]}
    systems = [system("good", 0.6, 10.0) | {"smoke": smoke}, system("small", 0.5, 10.0)]
    with pytest.raises(RradError, match=r"the best student, good, gave a score that is not a number"):
        choose_winner({"systems": systems}, FOLDERS, CFG)


def test_what_the_report_notes_of_the_winner_is_in_the_reason() -> None:
    systems = [system("good", 0.6, 10.0) | {"note": "gives all documents of a query the same score"}]
    reason = choose_winner({"systems": systems}, FOLDERS, CFG).reason
    assert reason == "nDCG@10 0.600 at p99 10 ms; good gives all documents of a query the same score"


@pytest.mark.parametrize("content", [None, "[]", "{}", '{"systems": 5}'])
def test_a_report_that_is_missing_or_none_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(RradError, match=r"report\.json: is missing, or no report of evaluate; run evaluate again"):
        read_report(str(tmp_path))
    (tmp_path / "report.json").write_text('{"systems":')
    with pytest.raises(RradError, match=r"report\.json: is no JSON"):
        read_report(str(tmp_path))


@pytest.mark.parametrize(
    ("systems", "problem"),
    [
        (["bm25"], "systems.0='bm25'"),
        ([{"system": "bm25", "metrics": {}}], "no value for systems.0.kind"),
        ([free(0.5) | {"metrics": {"nDCG@10": {"mean": "0.9"}}}], "systems.0.metrics.nDCG@10.mean='0.9'"),
        ([free(0.5) | {"weights": None}], "systems.0.weights=None"),
        ([system("good", float("inf"), 5.0)], "systems.0.metrics.nDCG@10.mean=inf"),
        ([system("good", float("nan"), 5.0)], "systems.0.metrics.nDCG@10.mean=nan"),
    ],
)
def test_a_report_that_was_edited_is_an_error_that_names_the_key(
    tmp_path: Path, systems: list[Any], problem: str
) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"systems": systems}))
    with pytest.raises(RradError, match=re.escape(problem)):
        read_report(str(tmp_path))


def test_a_student_without_a_p99_does_not_win_and_is_no_traceback() -> None:
    untimed = system("good", 0.9, 5.0) | {"latency_ms": {"p50": 1.0}}
    assert choose_winner(report(untimed, free(0.5)), FOLDERS, CFG).system == "fusion"
    with pytest.raises(RradError, match="no student keeps p99"):
        choose_winner(report(untimed | {"latency_ms": {"p50": 1.0, "p99": None}}), FOLDERS, CFG)


def test_a_report_of_students_that_its_manifest_does_not_know_is_another_evaluations() -> None:
    with pytest.raises(RradError, match="its report has the students stranger, and its manifest small, good"):
        choose_winner(report(system("stranger", 0.9, 5.0), free(0.5)), FOLDERS, CFG)
