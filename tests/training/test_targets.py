"""Labels before a student learns from them: what is passed over, what is normalised, and scales that are mixed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.config import TrainConfig
from rrad_ray.training.targets import TargetStats

LISTS = [[3.0, 1.0, 2.0], [0.0, 4.0], [10.0, 12.0, 11.0, 10.0]]


def surveyed(lists: list[list[float]], **changes: Any) -> TargetStats:
    survey = TargetStats(TrainConfig("in", "out", **changes))
    for targets in lists:
        survey.add(targets)
    return survey


def row(targets: list[float]) -> dict[str, Any]:
    return {"query_id": "q", "targets": targets}


# ---- normalised ---------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6, unique=True), min_size=1, max_size=20))
def test_mean_and_deviation_are_those_of_all_targets_though_no_two_lists_are_held(lists: list[list[float]]) -> None:
    survey, every = surveyed(lists), np.concatenate(lists)
    assert (survey.lists, survey.moments.count) == (len(lists), len(every))
    assert survey.moments.mean == pytest.approx(every.mean(), abs=1e-6)
    assert survey.moments.deviation == pytest.approx(every.std(), abs=1e-6)


def test_global_scores_have_mean_0_and_deviation_1_and_keep_their_distances_between_queries() -> None:
    survey = surveyed(LISTS, normalize="global")
    prepare = survey.prepare()
    found = [prepare(row(targets))["targets"] for targets in LISTS]  # type: ignore[index]
    every = np.concatenate(found)
    assert every.mean() == pytest.approx(0.0, abs=1e-12)
    assert every.std() == pytest.approx(1.0)
    assert found[2][0] - found[0][1] == pytest.approx(9.0 / survey.moments.deviation)
    assert survey.facts() == {
        "normalize": "global",
        "mean": pytest.approx(53 / 9),
        "deviation": pytest.approx(np.concatenate(LISTS).std()),
        "lists": 3,
        "documents": 9,
        "passed_over": {},
    }


def test_scores_by_query_are_z_scores_of_their_list_and_ties_stay_ties() -> None:
    prepare = surveyed(LISTS, normalize="query").prepare()
    found = prepare(row([10.0, 12.0, 11.0, 10.0]))
    assert found is not None
    assert found["query_id"] == "q"
    assert np.mean(found["targets"]) == pytest.approx(0.0)
    assert np.std(found["targets"]) == pytest.approx(1.0)
    assert found["targets"][0] == found["targets"][3] < found["targets"][2] < found["targets"][1]


def test_without_normalisation_a_row_stays_as_it_is() -> None:
    given_row = row([3.0, 1.0])
    assert surveyed(LISTS).prepare()(given_row) is given_row


def test_targets_that_are_all_one_value_are_not_divided_by_nothing() -> None:
    prepare = surveyed([[2.0, 2.0], [2.0]], losses={"point_mse": 1.0}, normalize="global").prepare()
    assert prepare(row([2.0, 2.0])) == row([0.0, 0.0])


def test_bce_and_normalised_targets_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"normalize='query': the loss bce takes targets in \[0, 1\]"):
        TrainConfig("in", "out", normalize="query", losses={"bce": 1.0})
    with pytest.raises(ValueError, match="choose one of none, query, global"):
        TrainConfig("in", "out", normalize="zscore")


# ---- passed over --------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("targets", "why"),
    [
        ([2.0, 1.0], ""),
        ([0.0, 0.0, 0.0], "no preference"),
        ([4.0], "one document"),
        ([], "no document"),
        ([1.0, NAN], "target that is not a number"),
        ([INF, 1.0], "target that is not a number"),
        ([-INF, -INF], "target that is not a number"),
    ],
)
def test_a_list_without_a_preference_is_passed_over_and_counted(targets: list[float], why: str) -> None:
    survey = surveyed([[1.0, 0.0], targets])
    assert survey.lists == (1 if why else 2)
    assert survey.facts()["passed_over"] == ({why: 1} if why else {})
    assert (survey.prepare()(row(targets)) is None) == bool(why), "workers pass over what was counted"


@pytest.mark.parametrize("name", ["point_mse", "bce"])
def test_a_loss_of_single_documents_learns_the_level_of_a_list_without_a_preference(name: str) -> None:
    survey = surveyed([[1.0, 1.0], [0.0], []], losses={name: 1.0, "ranknet": 1.0})
    assert (survey.lists, dict(survey.skipped)) == (2, {"no document": 1})
    by_query = surveyed([[1.0, 1.0], [0.0]], losses={"point_mse": 1.0}, normalize="query")
    assert by_query.lists == 0, "normalised within the list, it has no level"


# ---- scales -------------------------------------------------------------------------------------------------

CHANCES = [[0.9, 0.2], [0.6, 0.1, 0.3]] * 20
PERCENT = [[90.0, 20.0], [60.0, 10.0]] * 2


@pytest.mark.parametrize("losses", [{"point_mse": 1.0}, {"margin_mse": 1.0}, {"ranknet": {"gap_power": 1.0}}])
@pytest.mark.parametrize("normalize", ["none", "global"])
def test_mixed_scales_are_an_error_for_losses_that_read_distances(losses: dict[str, Any], normalize: str) -> None:
    survey = surveyed(CHANCES + PERCENT, losses=losses, normalize=normalize)
    says = r"4 of 44 lists have targets on another scale than the rest \(.* from 0\.5 to 128\).*; set normalize=query"
    with pytest.raises(ValueError, match=says):
        survey.check()


def test_mixed_scales_do_not_matter_by_query_nor_to_losses_of_the_order_alone() -> None:
    assert surveyed(CHANCES + PERCENT, losses={"point_mse": 1.0}, normalize="query").check() == ""
    for name in ("ranknet", "margin", "listmle", "lambda"):
        assert surveyed(CHANCES + PERCENT, losses={name: 1.0}).check() == ""


@pytest.mark.parametrize(
    "lists",
    [
        [[1.2, -0.7, -0.5], [2.5, *[-0.25] * 10]] * 30,  # z-scores
        [[float(n) for n in range(1, count)] for count in range(3, 40)],  # orders of 2 to 38 documents
        [[0.0, 1.0], [3.0, 0.0, 2.0]] * 30,  # grades
        [[-1.5, -7.0], [-4.0, -4.1]] * 30,  # likelihoods
    ],
    ids=["z-scores", "orders", "grades", "likelihoods"],
)
def test_what_label_and_judge_make_is_on_one_scale(lists: list[list[float]]) -> None:
    assert surveyed(lists, losses={"margin_mse": 1.0}).check() == ""
    assert surveyed(lists, losses={"point_mse": 1.0}, normalize="global").check() == ""


def test_one_scale_far_from_a_students_is_a_warning_for_point_mse_alone() -> None:
    far = [[90.0, 20.0], [60.0, 10.0, 30.0]] * 20
    told = surveyed(far, losses={"point_mse": 1.0}).check()
    assert told.startswith("point_mse: targets have mean 42 and deviation 29")
    assert "normalize=global" in told
    assert surveyed(far, losses={"point_mse": 1.0}, normalize="global").check() == ""
    assert surveyed(far, losses={"margin_mse": 1.0}).check() == ""
