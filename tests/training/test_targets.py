"""Labels before a student learns from them: what is passed over, what is normalised, and scales that are mixed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrad_ray.config import TrainConfig
from rrad_ray.training.targets import SkipReason, TargetStats

LISTS = [[3.0, 1.0, 2.0], [0.0, 4.0], [10.0, 12.0, 11.0, 10.0]]


def surveyed(lists: list[list[float]], **changes: Any) -> TargetStats:
    stats = TargetStats(TrainConfig("in", "out", **changes))
    for targets in lists:
        stats.add(targets, stats.rules.skip_reason(targets))
    return stats


def row(targets: list[float]) -> dict[str, Any]:
    return {"query_id": "q", "targets": targets}


# ---- normalised ---------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6, unique=True), min_size=1, max_size=20))
def test_mean_and_deviation_are_those_of_all_targets_though_no_two_lists_are_held(lists: list[list[float]]) -> None:
    stats, every = surveyed(lists), np.concatenate(lists)
    assert (stats.lists, stats.moments.count) == (len(lists), len(every))
    assert stats.moments.mean == pytest.approx(every.mean(), abs=1e-6)
    assert stats.moments.deviation == pytest.approx(every.std(), abs=1e-6)


def test_global_scores_have_mean_0_and_deviation_1_and_keep_their_distances_between_queries() -> None:
    stats = surveyed(LISTS, normalize="global")
    prepare = stats.prepare()
    prepared = [prepare(row(targets))["targets"] for targets in LISTS]
    every = np.concatenate(prepared)
    assert every.mean() == pytest.approx(0.0, abs=1e-12)
    assert every.std() == pytest.approx(1.0)
    assert prepared[2][0] - prepared[0][1] == pytest.approx(9.0 / stats.moments.deviation)
    assert stats.facts() == {
        "normalize": "global",
        "mean": pytest.approx(53 / 9),
        "deviation": pytest.approx(np.concatenate(LISTS).std()),
        "lists": 3,
        "documents": 9,
        "passed_over": {},
    }


def test_scores_by_query_are_z_scores_of_their_list_and_ties_stay_ties() -> None:
    prepare = surveyed(LISTS, normalize="query").prepare()
    prepared = prepare(row([10.0, 12.0, 11.0, 10.0]))
    assert prepared["query_id"] == "q"
    assert np.mean(prepared["targets"]) == pytest.approx(0.0)
    assert np.std(prepared["targets"]) == pytest.approx(1.0)
    assert prepared["targets"][0] == prepared["targets"][3] < prepared["targets"][2] < prepared["targets"][1]


def test_without_normalisation_a_row_stays_as_it_is() -> None:
    given_row = row([3.0, 1.0])
    assert surveyed(LISTS).prepare()(given_row) is given_row


def test_targets_that_are_all_one_value_are_not_divided_by_nothing() -> None:
    prepare = surveyed([[2.0, 2.0], [2.0]], losses={"point_mse": 1.0}, normalize="global").prepare()
    assert prepare(row([2.0, 2.0])) == row([0.0, 0.0])


def test_bce_and_normalised_targets_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"normalize='query': the loss bce takes targets in \[0, 1\]"):
        TrainConfig("in", "out", normalize="query", losses={"bce": 1.0})
    with pytest.raises(ValueError, match="Input should be 'none', 'query' or 'global'"):
        TrainConfig("in", "out", normalize="zscore")


# ---- passed over --------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ([2.0, 1.0], None),
        ([0.0, 0.0, 0.0], SkipReason.NO_PREFERENCE),
        ([4.0], SkipReason.ONE_DOCUMENT),
        ([], SkipReason.NO_DOCUMENT),
        ([1.0, NAN], SkipReason.NOT_A_NUMBER),
        ([INF, 1.0], SkipReason.NOT_A_NUMBER),
        ([-INF, -INF], SkipReason.NOT_A_NUMBER),
    ],
)
def test_a_list_without_a_preference_is_passed_over_and_counted(
    targets: list[float], reason: SkipReason | None
) -> None:
    stats = surveyed([[1.0, 0.0], targets])
    assert (stats.lists, stats.seen) == (1 if reason else 2, 2)
    assert stats.facts()["passed_over"] == ({reason.value: 1} if reason else {})
    assert stats.rules.skip_reason(targets) is reason
    assert stats.prepare().skip_reason(targets) is reason, "workers pass over what was counted"


def test_a_target_that_is_no_number_is_an_error_and_a_list_without_a_preference_is_not() -> None:
    assert [reason for reason in SkipReason if reason.is_error] == [SkipReason.NOT_A_NUMBER, SkipReason.RAGGED]
    assert SkipReason.NOT_A_NUMBER.value == "target that is not a number"


@pytest.mark.parametrize("name", ["point_mse", "bce"])
def test_a_loss_of_single_documents_learns_the_level_of_a_list_without_a_preference(name: str) -> None:
    stats = surveyed([[1.0, 1.0], [0.0], []], losses={name: 1.0, "ranknet": 1.0})
    assert (stats.lists, stats.skipped_by_name()) == (2, {"no document": 1})
    by_query = surveyed([[1.0, 1.0], [0.0]], losses={"point_mse": 1.0}, normalize="query")
    assert by_query.lists == 0, "normalised within the list, it has no level"


# ---- scales -------------------------------------------------------------------------------------------------

CHANCES = [[0.9, 0.2], [0.6, 0.1, 0.3]] * 20
PERCENT = [[90.0, 20.0], [60.0, 10.0]] * 2


@pytest.mark.parametrize("losses", [{"point_mse": 1.0}, {"margin_mse": 1.0}, {"ranknet": {"gap_power": 1.0}}])
@pytest.mark.parametrize("normalize", ["none", "global"])
def test_mixed_scales_are_an_error_for_losses_that_read_distances(losses: dict[str, Any], normalize: str) -> None:
    stats = surveyed(CHANCES + PERCENT, losses=losses, normalize=normalize)
    says = r"4 of 44 lists have targets on another scale than the rest \(.* from 0\.5 to 128\).*; set normalize=query"
    with pytest.raises(ValueError, match=says):
        stats.check()


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
    warning = surveyed(far, losses={"point_mse": 1.0}).check()
    assert warning.startswith("point_mse: targets have mean 42 and deviation 29")
    assert "normalize=global" in warning
    assert surveyed(far, losses={"point_mse": 1.0}, normalize="global").check() == ""
    assert surveyed(far, losses={"margin_mse": 1.0}).check() == ""


def test_targets_that_training_cannot_compute_with_are_set_aside_and_others_stay() -> None:
    """In float32, 3e39 and 1e39 are both infinite: a list of them had no preference, and its loss was 0."""
    rules = surveyed([]).rules
    for huge in ([3e39, 1e39], [math.inf, 1.0], [1.0, -math.inf], [math.nan, 1.0], [1e20, 0.0]):
        assert rules.skip_reason(huge) is SkipReason.NOT_A_NUMBER
    assert rules.skip_reason([1.7e18, 1.6e18]) is None, "nanoseconds since 1970"


def test_targets_that_bce_does_not_take_are_told_with_the_labels_not_at_the_first_step() -> None:
    with pytest.raises(ValueError, match=r"targets from 0 to 3, and the loss bce takes those in \[0, 1\]"):
        surveyed([[0.0, 1.0], [3.0, 1.0]], losses={"bce": 1.0}).check()
    surveyed([[0.0, 1.0], [0.5, 1.0]], losses={"bce": 1.0}).check()
    surveyed([], losses={"bce": 1.0}).check()
