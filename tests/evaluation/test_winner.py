"""The winner is the best student inside the latency budget, the reason names the others, its file is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrad_ray.config import SelectConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation.winner import SmokeTest, Winner, choose_winner, parse_winner, write_winner

FOLDERS = {name: f"out/{name}" for name in ("small", "good", "large", "untimed", "slow", "fast", "infinite")}
CFG = SelectConfig(input="evaluation", output="", max_p99_ms=100.0)


def system(name: str, ndcg: float | None, p99: float | None, kind: str = "student") -> dict[str, Any]:
    latency = None if p99 is None else {"p50": p99 / 2, "p99": p99}
    return {"system": name, "kind": kind, "metrics": {"nDCG@10": {"mean": ndcg}}, "latency_ms": latency}


def test_the_best_student_inside_the_budget_wins_and_the_reason_names_the_others() -> None:
    systems = [
        system("bm25", 0.9, 1.0, "first_stage"),
        system("teacher", 0.95, 50.0, "teacher"),
        system("small", 0.5, 20.0),
        system("good", 0.6, 99.6),
        system("large", 0.7, 100.1),
        system("untimed", 0.8, None),
    ]
    winner = choose_winner({"systems": systems}, FOLDERS, CFG)
    assert (winner.system, winner.checkpoint, winner.metric, winner.value) == ("good", "out/good", "nDCG@10", 0.6)
    assert winner.reason == "nDCG@10 0.600 at p99 100 ms, above small 0.500; over the budget: large, untimed"
    assert "p99 <= 100 ms" in winner.rule


def test_of_equally_good_students_the_faster_one_wins() -> None:
    systems = [system("slow", 0.6, 90.0), system("fast", 0.6, 30.0), system("infinite", None, 1.0)]
    winner = choose_winner({"systems": systems}, FOLDERS, CFG)
    assert winner.system == "fast"
    assert winner.reason == "nDCG@10 0.600 at p99 30 ms, above slow 0.600, infinite –"


@pytest.mark.parametrize(
    ("systems", "says"),
    [
        ([system("large", 0.7, 250.0)], r"large 250 ms"),
        ([system("bm25", 0.9, 1.0, "first_stage")], "no student was evaluated"),
    ],
)
def test_no_student_inside_the_budget_is_an_error_that_says_what_to_do(
    systems: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(RradError, match=says) as caught:
        choose_winner({"systems": systems}, FOLDERS, CFG)
    assert caught.value.remedy == "raise max_p99_ms, or train a smaller student"


def test_a_winner_is_read_back_as_it_was_written_and_a_file_that_holds_none_says_so(tmp_path: Path) -> None:
    smoke: SmokeTest = {"query": "q", "documents": ["a", "b"], "scores": [0.5, -1.0]}
    winner = Winner("good", "out/good", "a reason", "a rule", "nDCG@10", 0.6, "a finding", smoke)
    write_winner(str(tmp_path), winner)
    text = (tmp_path / "winner.json").read_text()
    assert parse_winner(text, str(tmp_path)) == winner
    assert "smoke" not in winner.report_entry()
    assert parse_winner('{"system": "x", "checkpoint": "y"}', "") == Winner("x", "y")  # as written by hand
    for bad in ("{", "[]", '{"system": "x"}', '{"system": "x", "checkpoint": "y", "of": "another version"}'):
        with pytest.raises(RradError, match="holds no winner") as caught:
            parse_winner(bad, "out/winner")
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
