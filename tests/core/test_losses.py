"""The losses against plain loops over Python floats, exact values, and what must not change them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rrad_ray.losses import LOSSES, margin_mse, point_mse, ranknet, soft_ranknet, weighted

NAMES = sorted(LOSSES)
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


# ---- the references: one pair after the other ---------------------------------------------------------------


def pairs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """(query, i, j) of every two different slots that hold documents."""
    found = []
    for b in range(mask.shape[0]):
        for i in range(mask.shape[1]):
            for j in range(mask.shape[1]):
                if i != j and mask[b, i] and mask[b, j]:
                    found.append((b, i, j))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reference_ranknet(s: np.ndarray, t: np.ndarray, mask: np.ndarray) -> float:
    return mean([-math.log(sigmoid(s[b, i] - s[b, j])) for b, i, j in pairs(mask) if t[b, i] > t[b, j]])


def reference_soft_ranknet(s: np.ndarray, t: np.ndarray, mask: np.ndarray, scale: float = 2.0) -> float:
    values = []
    for b, i, j in pairs(mask):
        if i < j:
            wanted, given = sigmoid(scale * (t[b, i] - t[b, j])), sigmoid(s[b, i] - s[b, j])
            values.append(-wanted * math.log(given) - (1 - wanted) * math.log(1 - given))
    return mean(values)


def reference_point_mse(s: np.ndarray, t: np.ndarray, mask: np.ndarray) -> float:
    return mean([(s[place] - t[place]) ** 2 for place in np.ndindex(*mask.shape) if mask[place]])


def reference_margin_mse(s: np.ndarray, t: np.ndarray, mask: np.ndarray) -> float:
    return mean([((s[b, i] - s[b, j]) - (t[b, i] - t[b, j])) ** 2 for b, i, j in pairs(mask) if i < j])


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "ranknet": reference_ranknet,
    "soft_ranknet": reference_soft_ranknet,
    "point_mse": reference_point_mse,
    "margin_mse": reference_margin_mse,
}


def arrays(seed: int, queries: int = 4, slots: int = 6) -> Arrays:
    """Scores, targets with ties, and a mask with gaps, in float64."""
    source = np.random.default_rng(seed)
    mask = source.random((queries, slots)) < 0.7
    mask[0] = True
    return source.normal(0, 2, mask.shape), source.integers(-1, 3, mask.shape).astype(float), mask


def tensors(found: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    scores, targets, mask = (torch.tensor(array) for array in found)
    return scores.requires_grad_(), targets, mask


def value_and_gradient(name: str, found: Arrays) -> tuple[float, np.ndarray]:
    scores, targets, mask = tensors(found)
    value = LOSSES[name](scores, targets, mask)
    value.backward()
    assert scores.grad is not None
    return float(value.detach()), scores.grad.numpy()


def test_every_loss_has_a_reference_here() -> None:
    assert sorted(REFERENCES) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_equals_its_reference(name: str, seed: int) -> None:
    found = arrays(seed)
    assert value_and_gradient(name, found)[0] == pytest.approx(REFERENCES[name](*found), rel=1e-12)


S, T, M = torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[2.0, 1.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        # Preferred pairs: 0 over 1 with margin 1, 0 over 2 with margin -2. The tie 1, 2 makes none.
        (ranknet, (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2),
        # (1 - 2)^2, (0 - 1)^2, (3 - 1)^2 over three documents.
        (point_mse, (1 + 1 + 4) / 3),
        # Margins of scores 1, -2, -3 against those of targets 1, 1, 0.
        (margin_mse, (0 + 9 + 9) / 3),
        # Wanted sigmoid(2), sigmoid(2) and 1/2; cross-entropy = softplus(margin) - wanted * margin.
        (
            soft_ranknet,
            (
                (math.log(1 + math.e) - 1 / (1 + math.exp(-2)))
                + (math.log(1 + math.exp(-2)) + 2 / (1 + math.exp(-2)))
                + (math.log(1 + math.exp(-3)) + 3 / 2)
            )
            / 3,
        ),
    ],
)
def test_a_loss_has_the_value_worked_out_by_hand(loss: Any, value: float) -> None:
    assert float(loss(S, T, M)) == pytest.approx(value, rel=1e-6)


def test_ranknet_and_soft_ranknet_take_their_scales() -> None:
    scores, targets, mask = arrays(3)
    scaled = float(ranknet(torch.tensor(scores), torch.tensor(targets), torch.tensor(mask), scale=0.5))
    assert scaled == pytest.approx(reference_ranknet(0.5 * scores, targets, mask), rel=1e-12)
    soft = float(soft_ranknet(torch.tensor(scores), torch.tensor(targets), torch.tensor(mask), target_scale=0.3))
    assert soft == pytest.approx(reference_soft_ranknet(scores, targets, mask, 0.3), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_padding_with_garbage_changes_neither_value_nor_gradient(name: str) -> None:
    scores, targets, mask = arrays(1)
    value, gradient = value_and_gradient(name, (scores, targets, mask))
    garbage = np.array([[1e4, -1e4, 77.0]] * len(scores))
    padded = (
        np.concatenate([garbage, scores, garbage], 1),
        np.concatenate([-garbage, targets, 3 * garbage], 1),
        np.concatenate([garbage > 1e9, mask, garbage > 1e9], 1),
    )
    padded_value, padded_gradient = value_and_gradient(name, padded)
    assert padded_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(padded_gradient[:, 3:-3], gradient, atol=1e-12)
    assert not padded_gradient[:, :3].any()
    assert not padded_gradient[:, -3:].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_documents_and_queries_does_not_matter(name: str) -> None:
    scores, targets, mask = arrays(2)
    value, gradient = value_and_gradient(name, (scores, targets, mask))
    source = np.random.default_rng(0)
    rows, slots = source.permutation(scores.shape[0]), source.permutation(scores.shape[1])
    moved = tuple(array[rows][:, slots] for array in (scores, targets, mask))
    moved_value, moved_gradient = value_and_gradient(name, moved)  # type: ignore[arg-type]
    assert moved_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(moved_gradient, gradient[rows][:, slots], atol=1e-12)


@pytest.mark.parametrize("name", ["ranknet", "soft_ranknet", "margin_mse"])
def test_a_pair_loss_does_not_see_a_shift_of_all_scores_but_point_mse_does(name: str) -> None:
    scores, targets, mask = arrays(4)
    assert value_and_gradient(name, (scores + 5, targets, mask))[0] == pytest.approx(
        value_and_gradient(name, (scores, targets, mask))[0], rel=1e-9
    )
    shifted = value_and_gradient("point_mse", (scores + 5, targets, mask))[0]
    assert shifted != pytest.approx(value_and_gradient("point_mse", (scores, targets, mask))[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    scores, targets, mask = tensors(arrays(5, queries=2, slots=4))
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, targets, mask), (scores,))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    scores, targets, mask = arrays(6)
    value, gradient = value_and_gradient(name, (scores, targets, mask))
    assert value_and_gradient(name, (scores - 1e-2 * gradient, targets, mask))[0] < value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("documents", [0, 1])
def test_nothing_to_compare_gives_zero_with_a_zero_gradient(name: str, documents: int) -> None:
    scores = torch.tensor([[0.5, 2.0]] * 3, requires_grad=True)
    mask = torch.tensor([[documents == 1, False]] * 3)
    targets = torch.tensor([[0.5, 7.0]] * 3)  # point_mse compares a lone document, and finds no difference
    value = LOSSES[name](scores, targets, mask)
    value.backward()
    assert float(value.detach()) == 0.0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_documents_that_share_the_lowest_target_make_no_pair_in_ranknet() -> None:
    scores, targets, mask = torch.randn(1, 4), torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
    assert float(ranknet(scores, targets, mask)) == 0.0
    assert float(margin_mse(scores, targets, mask)) > 0.0


@pytest.mark.parametrize("name", NAMES)
def test_large_margins_stay_finite(name: str) -> None:
    scores = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = LOSSES[name](scores, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool))
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


# ---- weighted -----------------------------------------------------------------------------------------------


def test_point_mse_and_margin_mse_weighted_one_are_their_sum() -> None:
    found = [tensor.detach() for tensor in tensors(arrays(7))]
    hybrid = weighted({"point_mse": 1, "margin_mse": 1})(*found)
    assert float(hybrid) == pytest.approx(float(point_mse(*found)) + float(margin_mse(*found)), rel=1e-12)
    half = weighted({"point_mse": 0.5, "ranknet": 3.0})(*found)
    assert float(half) == pytest.approx(0.5 * float(point_mse(*found)) + 3 * float(ranknet(*found)), rel=1e-12)


def test_weighted_hands_the_target_scale_to_soft_ranknet() -> None:
    found = [tensor.detach() for tensor in tensors(arrays(8))]
    loss = weighted({"soft_ranknet": 1.0}, target_scale=0.7)
    assert float(loss(*found)) == pytest.approx(float(soft_ranknet(*found, target_scale=0.7)), rel=1e-12)
    assert float(loss(*found)) != pytest.approx(float(soft_ranknet(*found)), rel=1e-3)


def test_an_unknown_loss_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"losses\.rank_net.*margin_mse, point_mse, ranknet, soft_ranknet"):
        weighted({"ranknet": 1.0, "rank_net": 1.0})
