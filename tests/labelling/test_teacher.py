"""The teacher's scores, and the gate: it passes a labeller that knows something and stops one that does not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rrad_ray import tables
from rrad_ray.config import GateConfig, JudgeConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import metrics, statistics
from rrad_ray.labelling import gate, teacher
from rrad_ray.labelling.aggregation import Verdict
from rrad_ray.labelling.label_quality import LabelQuality
from rrad_ray.rows import by_source, with_qrels

SHUFFLED_Q0 = (0.7120087966556172, 0.22416228249114478)


def judge_output(number: int, relevant: int, judge: list[float], bm25: list[float], **changes: Any) -> dict[str, Any]:
    ids = [f"d{number}-{index}" for index in range(len(judge))]
    row: dict[str, Any] = {
        "query_id": f"q{number}",
        "query": "how",
        "split": "dev",
        "doc_ids": ids,
        "texts": ["text"] * len(ids),
        "scores": bm25,
        "sources": ["bm25"],
        "source_scores": [bm25],
        "qrel_ids": [ids[relevant]],
        "qrel_grades": [1],
        "task": "likelihood",
        "model": "m",
        "shown": [],
        "responses": [],
        "judge_scores": judge,
        "reasons": [],
        "truncated": 0,
        "prompt_tokens": 1,
        "generated_tokens": 0,
    }
    return row | changes


def rows(queries: int, judge_knows: float, bm25_knows: float, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of ten documents, one of them relevant; each ranker lifts it so far above standard normal noise."""
    source = np.random.default_rng(seed)
    outputs = []
    for number in range(queries):
        relevant = int(source.integers(10))
        lift = np.eye(10)[relevant]
        judge, bm25 = source.normal(size=10) + judge_knows * lift, source.normal(size=10) + bm25_knows * lift
        outputs.append(judge_output(number, relevant, judge.tolist(), bm25.tolist()))
    return outputs


def test_a_labeller_that_knows_more_than_the_first_stage_passes() -> None:
    quality = teacher.teacher_quality(rows(60, judge_knows=4.0, bm25_knows=1.0))
    passed, text = gate.gate(quality, "bm25", 0.05)
    assert passed
    assert "60 judged dev queries" in text
    assert text.endswith(": worth its labels")
    assert quality["ndcg_10"]["judge"] > 0.9 > quality["ndcg_10"]["bm25"] > quality["ndcg_10"]["shuffled"]


@pytest.mark.parametrize(
    ("judge_knows", "bm25_knows"),
    [(0.0, 1.0), (-3.0, 0.0), (2.0, 4.0)],
    ids=["knows nothing", "is worse than chance", "knows less than the first stage"],
)
def test_a_labeller_that_is_not_worth_its_labels_fails(judge_knows: float, bm25_knows: float) -> None:
    passed, text = gate.gate(teacher.teacher_quality(rows(60, judge_knows, bm25_knows)), "bm25", 0.05)
    assert not passed
    assert "NOT worth its labels" in text


def test_a_labeller_that_beats_chance_by_too_little_to_be_sure_fails_even_above_the_first_stage() -> None:
    quality = teacher.teacher_quality(rows(8, judge_knows=0.3, bm25_knows=-4.0, seed=3))
    p = statistics.paired_p(quality["per_query"]["judge"], quality["per_query"]["shuffled"], "greater")
    assert quality["ndcg_10"]["judge"] > quality["ndcg_10"]["bm25"]
    assert p > 0.01
    assert not gate.gate(quality, "bm25", 0.01)[0]
    assert gate.gate(quality, "bm25", 1.0)[0]


def test_quality_holds_the_means_of_what_it_measured_and_the_teacher_is_no_worse_than_its_parts() -> None:
    data = rows(30, judge_knows=1.5, bm25_knows=1.5)
    quality = teacher.teacher_quality(data)
    for name in ("shuffled", "bm25", "judge"):
        assert quality["ndcg_10"][name] == pytest.approx(sum(quality["per_query"][name]) / 30)
    assert quality["per_query"]["judge"][4] == metrics.row_ndcg(data[4], data[4]["judge_scores"])
    assert quality["ndcg_10"]["teacher"] >= max(quality["ndcg_10"]["judge"], quality["ndcg_10"]["fusion"])
    assert quality["fusion_weights"] == {"bm25": 1.0}
    assert set(quality["teacher_weights"]) == {"judge", "bm25"}


def test_shuffled_is_the_same_for_a_query_wherever_it_runs_and_differs_between_queries() -> None:
    data = rows(50, 0.0, 0.0)
    assert [teacher.shuffled(row) for row in data] == [teacher.shuffled(dict(row)) for row in data]
    # SHA-256 of the id, not Python's salted hash: a fixed value, the same in every process.
    assert teacher.shuffled(data[0])[:2] == pytest.approx(SHUFFLED_Q0, rel=1e-12)
    assert len({tuple(np.argsort(teacher.shuffled(row))) for row in data}) == 50
    assert all(len(teacher.shuffled(row)) == 10 for row in data)


def test_judged_rows_are_those_of_the_split_with_a_relevant_document() -> None:
    data = [
        judge_output(0, 0, [1.0], [1.0]),
        judge_output(1, 0, [1.0], [1.0], split="test"),
        judge_output(2, 0, [1.0], [1.0], qrel_grades=[0]),
        judge_output(3, 0, [1.0], [1.0], qrel_ids=[], qrel_grades=[]),
    ]
    assert [row["query_id"] for row in with_qrels(data)] == ["q0"]
    assert [row["query_id"] for row in with_qrels(data, "test")] == ["q1"]


def test_the_scores_of_a_likelihood_judge_are_taken_as_they_are() -> None:
    row = judge_output(0, 0, [-2.0, -1.0], [1.0, math.nan])
    assert teacher.verdict(row) == Verdict([-2.0, -1.0], [False, False], [1.0, 1.0], ["ok"])
    assert by_source(row)["bm25"][0] == 1.0
    assert list(teacher.with_judge(row, teacher.verdict(row))) == ["judge", "bm25"]


def order_of(*responses: str, shown: list[int]) -> dict[str, Any]:
    changes = {"task": "order", "shown": [shown] * len(responses), "responses": list(responses), "judge_scores": []}
    return judge_output(0, 0, [0.0] * len(shown), [float(index) for index in range(len(shown))], **changes)


def test_the_verdict_of_an_order_is_that_of_its_answers_in_the_documents_own_order() -> None:
    row = order_of("[1] > [3]", shown=[2, 0, 1])
    assert teacher.verdict(row) == Verdict([0.0, 1.0, 2.0], [True, False, False], [1.0] * 3, ["ok"])
    assert teacher.verdict(order_of("no idea", shown=[2, 0, 1])).statuses == ["rejected: no identifiers"]
    assert teacher.verdict(row, missing="append").targets == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("text", ["[1] > [3]", "1. [1] sorts lists\n2. [3] finds files", "Sure! It is [1] > [3]"])
def test_documents_that_an_answer_does_not_come_to_for_want_of_tokens_are_not_left_out(text: str) -> None:
    row = order_of(text, shown=[2, 0, 1, 3]) | {"cut": [True]}
    [status] = teacher.verdict(row).statuses
    assert status.endswith("cut off")
    assert teacher.verdict(row) == Verdict([1.0, 3.0, 4.0, 1.0], [False] * 4, [1.0] * 4, [status])


def test_ranks_count_from_one_and_a_missing_document_has_none() -> None:
    assert teacher.ranks(teacher.verdict(order_of("[1] > [3]", shown=[2, 0, 1]))) == [0, 2, 1]
    assert teacher.ranks(teacher.verdict(judge_output(0, 0, [-2.0, -1.0], [1.0, 1.0]))) == [2, 1]


def test_candidates_that_no_judge_has_seen_have_a_verdict_without_answers_that_is_not_rejected() -> None:
    row = judge_output(0, 0, [1.0, 2.0], [1.0, 1.0])
    del row["task"]
    assert teacher.verdict(row) == Verdict([0.0, 0.0], [False, False], [1.0, 1.0], [])
    assert not teacher.verdict(row).rejected


@pytest.mark.parametrize(
    ("whole", "targets", "missing", "texts"),
    [(True, [0.0, 2.0, 0.0], [True, False, True], ["a", "b", "c"]), (False, [2.0, 0.0], [False, True], ["b", "c"])],
    ids=["documents without a grade are negatives", "documents without a grade are left out"],
)
def test_grades_become_targets_and_those_of_zero_or_less_are_missing(
    whole: bool, targets: list[float], missing: list[bool], texts: list[str]
) -> None:
    row = judge_output(0, 0, [0.0] * 3, [3.0, 2.0, 1.0], texts=["a", "b", "c"])
    row |= {"qrel_ids": ["d0-2", "d0-1", "elsewhere"], "qrel_grades": [0, 2, 1]}
    labels = teacher.graded(row, whole)
    assert (labels["targets"], labels["missing"], labels["texts"]) == (targets, missing, texts)
    assert labels["scores"] == labels["source_scores"][0] == [3.0, 2.0, 1.0][-len(texts) :]
    assert labels["confidence"] == [1.0] * len(texts)
    assert (labels["qrel_ids"], labels["qrel_grades"]) == (row["qrel_ids"], row["qrel_grades"])


# ---- label quality ------------------------------------------------------------------------------------------


def quality_of(*given: dict[str, Any]) -> dict[str, Any]:
    quality = LabelQuality()
    for row in given:
        quality.add(row, teacher.verdict(row))
    return quality.facts()


def test_an_answer_that_keeps_the_order_shown_is_all_position_bias_and_one_that_turns_it_round_is_minus_one() -> None:
    assert quality_of(order_of("[1] > [2] > [3]", shown=[2, 0, 1]))["position_bias"] == pytest.approx(1.0)
    assert quality_of(order_of("[3] > [2] > [1]", shown=[2, 0, 1]))["position_bias"] == pytest.approx(-1.0)


def test_repeats_agree_by_the_documents_they_mean_not_by_the_numbers_they_write() -> None:
    row = order_of("[1] > [2] > [3]", "[3] > [2] > [1]", shown=[0, 1, 2])
    assert quality_of(row)["repeat_agreement"] == pytest.approx(-1.0)
    row["shown"] = [[0, 1, 2], [2, 1, 0]]
    assert quality_of(row)["repeat_agreement"] == pytest.approx(1.0)


def test_shares_are_of_answers_and_of_documents_shown_and_ndcg_of_judged_queries() -> None:
    rows = [order_of(text, shown=[0, 1, 2]) for text in ("[1] > [3]", "no")]
    rows.append(order_of("1, 1, 2", shown=[2, 0, 1]))
    facts = quality_of(*rows)
    assert facts["answers"] == {"ok": 1, "rejected": 1, "repaired": 1}
    assert (facts["rejected_share"], facts["repaired_share"]) == (1 / 3, 1 / 3)
    assert facts["missing_share"] == 2 / 6, "one document left out of each of two answers"
    assert facts["judged_queries"] == 2
    assert facts["ndcg_10"] == pytest.approx((1.0 + metrics.ndcg([0, 1, 0], [1])) / 2)


def test_the_labels_ndcg_is_of_dev_queries_alone() -> None:
    dev, test = order_of("[1] > [2]", shown=[0, 1]), order_of("[2] > [1]", shown=[0, 1])
    judged = {"qrel_ids": [dev["doc_ids"][0]], "qrel_grades": [1]}
    facts = quality_of(dev | judged | {"split": "dev"}, test | judged | {"split": "test"})
    assert (facts["judged_queries"], facts["ndcg_10"]) == (1, 1.0)


def test_figures_without_data_are_left_out() -> None:
    assert LabelQuality().facts() == {"queries": 0, "answers": {}, "rejected_share": 0.0, "repaired_share": 0.0}
    facts = quality_of(order_of("no idea", shown=[0, 1, 2]))
    assert facts == {"queries": 1, "answers": {"rejected": 1}, "rejected_share": 1.0, "repaired_share": 0.0}


def test_an_answer_that_ranks_every_document_alike_has_no_position_bias_to_measure() -> None:
    assert "position_bias" not in quality_of(order_of("[1]", shown=[0]))


def ahead(inputs: list[dict[str, Any]], **options: Any) -> gate.Gate:
    """A gate that has looked at the input, and has asked nobody yet."""
    cfg = JudgeConfig("in", "out", model="a model", gate=GateConfig(min_queries=5, **options))
    check = gate.Gate(cfg, SimpleNamespace(uri="out"), ["part"])  # type: ignore[arg-type]
    check.look_ahead(inputs)
    return check


def looked(check: gate.Gate, outputs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the gate finds in these outputs."""
    monkeypatch.setattr(tables, "read_part", lambda *place: outputs)
    check.look(["part"])
    return check.facts


@pytest.mark.parametrize("enabled", [True, False])
def test_an_input_without_sources_is_compared_with_shuffled_input_and_the_given_order(
    enabled: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = [{**row, "sources": [], "source_scores": []} for row in rows(40, judge_knows=5.0, bm25_knows=0.0)]
    facts = looked(ahead(bare, enabled=enabled), bare, monkeypatch)
    assert facts["passed"]
    assert set(facts["ndcg_10"]) == {"shuffled", "given", "judge"}
    given = [metrics.row_ndcg(row, [-float(index) for index in range(10)]) for row in bare]
    assert facts["ndcg_10"]["given"] == pytest.approx(sum(given) / 40)
    assert f"the order given {facts['ndcg_10']['given']:.3f}: worth its labels" in capsys.readouterr().out


def test_a_labeller_worse_than_the_given_order_stops_the_run_unless_the_gate_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = [{**row, "sources": [], "source_scores": []} for row in rows(40, judge_knows=-3.0, bm25_knows=0.0)]
    with pytest.raises(RradError, match="NOT worth its labels; use a better model"):
        looked(ahead(bare), bare, monkeypatch)
    assert not looked(ahead(bare, enabled=False), bare, monkeypatch)["passed"]


def test_a_source_that_not_all_judged_queries_have_is_an_error_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = rows(40, judge_knows=5.0, bm25_knows=0.0)
    with pytest.raises(RradError, match=r"gate.against: 'dense' is not among the sources \(bm25\); choose one"):
        ahead(some, against="dense")
    mixed = [*some, {**some[0], "sources": ["mine"], "source_scores": [some[0]["scores"]]}]
    with pytest.raises(RradError, match=r"'bm25' is not among the sources \(the queries have none in common\)"):
        ahead(mixed)
    assert looked(ahead(mixed, against="given"), mixed, monkeypatch)["passed"]
    assert ahead(some, against="dense", enabled=False).against == "given"
    assert ahead(some[:4], against="dense").against == "dense", "too few for a check: nothing to look at"
    assert ahead(some, against="given").against == "given"
    assert set(looked(ahead(some), some, monkeypatch)["ndcg_10"]) == {
        "shuffled",
        "bm25",
        "judge",
        "fusion",
        "teacher",
    }


def test_queries_of_one_document_do_not_stop_a_labeller_that_has_nothing_to_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    single = [judge_output(number, 0, [1.0], [1.0]) for number in range(30)]
    assert looked(ahead(single), single, monkeypatch) == {"queries": 0, "checked": False}


def test_one_judged_query_is_too_few_for_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    [row] = rows(1, judge_knows=5.0, bm25_knows=0.0)
    cfg = JudgeConfig("in", "out", model="a model", gate=GateConfig(min_queries=0))
    check = gate.Gate(cfg, SimpleNamespace(uri="out"), ["part"])  # type: ignore[arg-type]
    assert looked(check, [row], monkeypatch) == {"queries": 1, "checked": False}
