"""Metrics and fusion against ir-measures, brute force, and values worked out by hand."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import ScoredDoc, nDCG

from rrad_ray.evaluation import fusion
from rrad_ray.evaluation.fusion import fit_weights, fuse, zscores
from rrad_ray.evaluation.metrics import ndcg, pair_counts, pnr, row_ndcg, untied_ndcg
from rrad_ray.evaluation.statistics import bootstrap_interval, paired_p

DOCUMENTS = [f"d{number:02d}" for number in range(30)]


@given(
    judged=st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 4), min_size=1),
    ranked=st.lists(st.sampled_from(DOCUMENTS), min_size=1, unique=True),
    k=st.sampled_from([1, 3, 10, 20]),
)
@settings(max_examples=150)
def test_ndcg_equals_that_of_ir_measures(judged: dict[str, int], ranked: list[str], k: int) -> None:
    row = {"doc_ids": ranked, "qrel_ids": list(judged), "qrel_grades": list(judged.values())}
    scores = [float(-rank) for rank in range(len(ranked))]
    run = [ScoredDoc("q", document, score) for document, score in zip(ranked, scores, strict=True)]
    qrels = [ir_measures.Qrel("q", document, grade) for document, grade in judged.items()]
    expected = ir_measures.calc_aggregate([nDCG @ k], qrels, run)[nDCG @ k]
    assert row_ndcg(row, scores, k) == pytest.approx(expected, abs=1e-9)


def test_ndcg_has_the_value_worked_out_by_hand() -> None:
    gained = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg([0, 2, 1], [1, 2, 0, 1]) == pytest.approx(gained / ideal, rel=1e-12)
    assert ndcg([0, 2, 1], [1, 2, 0, 1], k=1) == 0.0
    assert ndcg([2, 1, 1], [1, 2, 0, 1]) == 1.0
    assert ndcg([0, 0], [0, 0]) == 0.0
    assert ndcg([], []) == 0.0


def test_equal_scores_keep_the_order_of_the_row() -> None:
    row = {"doc_ids": ["a", "b", "c"], "qrel_ids": ["b"], "qrel_grades": [1]}
    assert row_ndcg(row, [0.0, 0.0, 0.0]) == pytest.approx(1 / math.log2(3))
    assert row_ndcg(row, [0.0, 1.0, 1.0]) == 1.0
    many = {"doc_ids": [f"d{number}" for number in range(500)], "qrel_ids": ["d7"], "qrel_grades": [1]}
    assert row_ndcg(many, [0.0, 1.0] * 250) == pytest.approx(1 / math.log2(5))  # d1, d3, d5, d7


@given(
    scores=st.lists(st.one_of(st.integers(0, 2), st.none()), min_size=1, max_size=6),
    grades=st.lists(st.integers(-1, 2), min_size=6, max_size=6),
    k=st.sampled_from([1, 2, 10]),
)
def test_untied_ndcg_is_the_mean_over_all_orders_of_what_is_equal_and_lists_nothing_without_a_score(
    scores: list[int | None], grades: list[int], k: int
) -> None:
    ids = [f"d{number}" for number in range(len(scores))]
    row = {"doc_ids": ids, "qrel_ids": ids, "qrel_grades": grades[: len(ids)]}
    known = [(score, grades[number]) for number, score in enumerate(scores) if score is not None]
    orders = [sorted(order, key=lambda pair: -pair[0]) for order in itertools.permutations(known)]
    wanted = np.mean([ndcg([grade for _, grade in order], row["qrel_grades"], k) for order in orders])
    given = [math.nan if score is None else score for score in scores]
    assert untied_ndcg(row, given, k) == pytest.approx(wanted)


# ---- pairs --------------------------------------------------------------------------------------------------


def test_pairs_are_counted_as_by_hand() -> None:
    # Grades 2 > 1 > 0 = 0. Pairs in order: (a,b) right, (a,c) right, (a,d) tied, (b,c) wrong, (b,d) wrong.
    assert pair_counts([3.0, 1.0, 2.0, 3.0], [2, 1, 0, 0]) == (2.5, 2.5)
    assert pair_counts([1.0, 2.0], [1, 1]) == (0.0, 0.0)


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 2)), max_size=8))
def test_pair_counts_equal_brute_force(documents: list[tuple[int, int]]) -> None:
    right = wrong = 0.0
    for (score, grade), (other_score, other_grade) in itertools.permutations(documents, 2):
        if grade > other_grade:
            right += 1.0 if score > other_score else 0.5 if score == other_score else 0.0
            wrong += 1.0 if score < other_score else 0.5 if score == other_score else 0.0
    assert pair_counts([score for score, _ in documents], [grade for _, grade in documents]) == (right, wrong)


def test_pnr_pools_over_queries() -> None:
    assert pnr([(3.0, 1.0), (1.0, 1.0)]) == 2.0
    assert pnr([(3.0, 0.0)]) == math.inf
    assert pnr([]) == math.inf


# ---- fusion -------------------------------------------------------------------------------------------------


def test_zscores_are_those_of_the_formula() -> None:
    np.testing.assert_allclose(zscores([1.0, 3.0]), [-1.0, 1.0])
    np.testing.assert_allclose(zscores([2.0, 4.0, 6.0]), [-math.sqrt(1.5), 0.0, math.sqrt(1.5)])
    np.testing.assert_allclose(zscores([1.7e308, -1.7e308]), [1.0, -1.0])


@pytest.mark.parametrize("values", [[5.0, 5.0, 5.0], [math.nan, math.nan], [math.nan, 2.0], [7.0], []])
def test_nothing_to_tell_apart_gives_zeros(values: list[float]) -> None:
    assert zscores(values).tolist() == [0.0] * len(values)


def test_a_document_without_a_score_gets_the_lowest_one() -> None:
    np.testing.assert_allclose(zscores([3.0, math.nan, 1.0]), zscores([3.0, 1.0, 1.0]))
    np.testing.assert_allclose(zscores([3.0, -math.inf, 1.0]), zscores([3.0, 1.0, 1.0]))


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8).filter(lambda x: np.std(x) > 1e-3),
    st.floats(0.1, 10),
    st.floats(-10, 10),
)
def test_zscores_do_not_see_scale_or_shift(values: list[float], scale: float, shift: float) -> None:
    normal = zscores(values)
    assert normal.mean() == pytest.approx(0, abs=1e-9)
    assert normal.std() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(zscores([scale * value + shift for value in values]), normal, atol=1e-6)


@pytest.mark.parametrize("unit", [1e-12, 1e-200, 5e-324])
def test_scores_as_small_as_probabilities_are_told_apart(unit: float) -> None:
    np.testing.assert_allclose(zscores([2 * unit, 4 * unit, 6 * unit]), [-math.sqrt(1.5), 0.0, math.sqrt(1.5)])
    assert zscores([unit, unit, unit]).tolist() == [0.0, 0.0, 0.0]


def test_fuse_is_the_weighted_sum_of_zscores() -> None:
    scores = {"a": [1.0, 3.0], "b": [10.0, 0.0], "unused": [math.nan, 0.0]}
    assert fuse(scores, {"a": 2.0, "b": 0.5}) == pytest.approx([-2.0 + 0.5, 2.0 - 0.5])
    assert fuse(scores, {"a": 1.0, "b": 1.0}) == pytest.approx([0.0, 0.0])
    with pytest.raises(KeyError, match="gone"):
        fuse(scores, {"gone": 1.0})


def planted(queries: int, good: str, noise: list[str], seed: int = 0) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return rows with one relevant document of ten, which `good` scores highest; the others score at random."""
    source = np.random.default_rng(seed)
    rows, scores = [], []
    for number in range(queries):
        ids = [f"{number}-{document}" for document in range(10)]
        relevant = int(source.integers(10))
        rows.append({"doc_ids": ids, "qrel_ids": [ids[relevant]], "qrel_grades": [1]})
        best = source.random(10)
        best[relevant] += 1.0
        scores.append({good: best.tolist()} | {name: source.normal(size=10).tolist() for name in noise})
    return rows, scores


def test_fit_weights_finds_the_planted_source() -> None:
    rows, scores = planted(40, "good", ["noise", "more"])
    weights, mean = fit_weights(rows, scores, ["noise", "good", "more"])
    assert mean == 1.0
    assert weights["good"] == 1.0
    assert max(weights["noise"], weights["more"]) < 0.5
    fused = [fuse(by_name, weights) for by_name in scores]
    assert np.mean([row_ndcg(row, mix) for row, mix in zip(rows, fused, strict=True)]) == pytest.approx(mean)


def test_a_source_that_lists_nothing_for_half_of_the_queries_is_not_credited_with_the_given_order() -> None:
    """The round that found it: such a source won all the weight, and half of the queries had no targets."""
    rows, scores = [], []
    for number in range(40):
        ids = [f"{number}-{document}" for document in range(8)]
        rows.append({"doc_ids": ids, "qrel_ids": ids[:1], "qrel_grades": [1]})  # the given order is the best
        silent = [math.nan] * 8 if number % 2 else [float(-rank) for rank in range(8)]
        scores.append({"silent": silent, "other": [-1.0, 0.0, *(float(-rank) for rank in range(2, 8))]})
    weights, mean = fit_weights(rows, scores, ["silent", "other"])
    assert weights["other"] > 0
    assert mean == pytest.approx((1 + 1 / math.log2(3)) / 2)  # where the silent one is silent, the other decides


def test_fit_weights_is_the_best_of_the_whole_grid() -> None:
    rows, scores = planted(15, "half", ["noise"], seed=1)
    for by_name in scores:  # spoil the good source, so that the best mixture is not at an edge by construction
        by_name["half"] = [
            value + 0.3 * other for value, other in zip(by_name["half"], by_name["noise"], strict=True)
        ]
    _, mean = fit_weights(rows, scores, ["half", "noise"])
    for one, two in itertools.product(fusion.WEIGHTS, repeat=2):
        if one or two:
            mixed = [fuse(by_name, {"half": one, "noise": two}) for by_name in scores]
            mixture = np.mean([row_ndcg(row, mix) for row, mix in zip(rows, mixed, strict=True)])
            assert mixture <= mean + 1e-9, (one, two)


def test_a_single_source_gets_weight_one() -> None:
    rows, scores = planted(3, "only", [])
    assert fit_weights(rows, scores, ["only"]) == ({"only": 1.0}, 1.0)


# ---- statistics ---------------------------------------------------------------------------------------------


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    source = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(source.normal(3.0, 1.0, 60), seed=seed)
        assert low < high
        covered += low <= 3.0 <= high
    assert 88 <= covered <= 99


def test_the_interval_is_that_of_the_normal_theory_and_the_same_for_a_seed() -> None:
    values = np.random.default_rng(1).normal(0.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert (low, high) == bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_interval_of_a_pooled_ratio_resamples_whole_queries() -> None:
    counts = [(4.0, 2.0)] * 20
    assert bootstrap_interval(counts, pnr) == (2.0, 2.0)


def test_paired_p_is_that_of_the_t_test() -> None:
    a, b = [0.9, 0.8, 0.7, 0.9], [0.5, 0.6, 0.7, 0.4]
    # Differences 0.4, 0.2, 0.0, 0.5: mean 0.275, sd 0.22174, t = 2.4804 with 3 degrees of freedom.
    assert paired_p(a, b) == pytest.approx(0.0893, abs=2e-4)
    assert paired_p(a, b, "greater") == pytest.approx(paired_p(a, b) / 2)
    assert paired_p(b, a, "greater") == pytest.approx(1 - paired_p(a, b) / 2)


def test_lists_that_never_differ_have_p_one() -> None:
    assert paired_p([0.1, 0.5], [0.1, 0.5]) == 1.0


def test_weights_of_many_sources_are_fitted_in_turn_and_no_single_change_makes_them_better() -> None:
    source = random.Random(0)
    rows, scores = [], []
    for number in range(30):
        ids = [f"{number}-{index}" for index in range(8)]
        grades = [source.choice([0, 0, 1, 2]) for _ in ids]
        rows.append({"doc_ids": ids, "qrel_ids": ids, "qrel_grades": grades})
        noisy = {f"s{noise}": [grade + source.gauss(0, 0.2 + noise) for grade in grades] for noise in range(8)}
        scores.append(noisy)
    names = list(scores[0])
    weights, best = fusion.fit_weights(rows, scores, names)

    def ndcg(weights: dict[str, float]) -> float:
        return float(np.mean([row_ndcg(row, fusion.fuse(by, weights)) for row, by in zip(rows, scores, strict=True)]))

    assert ndcg(weights) == pytest.approx(best)
    assert best > max(ndcg({name: 1.0}) for name in names[1:])
    changes = [{**weights, name: weight} for name in names for weight in fusion.WEIGHTS]
    assert max(map(ndcg, changes)) <= best + 1e-9


def test_weights_of_sources_that_all_point_the_wrong_way_are_not_all_nothing() -> None:
    """A fusion by no weights keeps the given order, and no winner can be made of it."""
    names = [f"distance {number}" for number in range(5)]
    rows = [{"doc_ids": list("abcd"), "qrel_ids": ["a"], "qrel_grades": [1]} for _ in range(4)]
    scores = [{name: [0.1, 0.4, 0.6, 0.9] for name in names} for _ in rows]
    weights, ndcg = fusion.fit_weights(rows, scores, names)
    assert max(weights.values()) > 0
    assert ndcg < 1
