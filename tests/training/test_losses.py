"""The losses against plain loops over Python floats, sentence-transformers and exact values, and what must not change
them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rrad_ray.training.losses import LOSSES, listmle, margin_mse, ranknet

NAMES = sorted(LOSSES)
POINTWISE = {"point_mse", "bce"}  # read every document by itself
DISTANCES = {"soft_ranknet", "margin_mse", "listnet"}  # read how far targets are apart: a tie is a statement to them
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

# ---- the references: one list, one pair after the other -----------------------------------------------------


def lists(batch: Arrays) -> Iterator[list[tuple[float, float]]]:
    """The (score, target) of each query's documents."""
    for scores, targets, mask in zip(*batch, strict=True):
        yield [(float(s), float(t)) for s, t, here in zip(scores, targets, mask, strict=True) if here]


def pairs(batch: Arrays) -> list[tuple[float, float]]:
    """(score, target) differences of every pair of documents with target_i > target_j."""
    return [(s - r, t - u) for docs in lists(batch) for s, t in docs for r, u in docs if t > u]


def every_pair(batch: Arrays) -> list[tuple[float, float]]:
    return [(s - r, t - u) for docs in lists(batch) for i, (s, t) in enumerate(docs) for r, u in docs[i + 1 :]]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cross_entropy(wanted: float, predicted: float, pos_weight: float = 1.0) -> float:
    return -pos_weight * wanted * math.log(predicted) - (1 - wanted) * math.log(1 - predicted)


def first(score: float, rivals: list[float]) -> float:
    """-log of the Plackett-Luce chance of being chosen before the rivals."""
    return -math.log(math.exp(score) / (math.exp(score) + sum(math.exp(rival) for rival in rivals)))


def compared(batch: Arrays) -> list[list[tuple[float, float]]]:
    return [docs for docs in lists(batch) if len({target for _, target in docs}) > 1]


def gains(docs: list[tuple[float, float]], k: int = 0) -> list[float]:
    """Of one list; over its ideal DCG@k."""
    lowest = min(0.0, min(target for _, target in docs))
    raw = [2 ** (target - lowest) - 1 for _, target in docs]
    ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(raw, reverse=True)[: k or None]))
    return [gain / ideal for gain in raw]


def reference_point_mse(batch: Arrays) -> float:
    return mean([(s - t) ** 2 for docs in lists(batch) for s, t in docs])


def reference_bce(batch: Arrays, smoothing: float = 0.0, pos_weight: float = 1.0) -> float:
    """Every target moves towards 1/2 by the share `smoothing` of the way."""
    return mean(
        [cross_entropy(t + smoothing * (0.5 - t), sigmoid(s), pos_weight) for docs in lists(batch) for s, t in docs]
    )


def reference_ranknet(batch: Arrays, scale: float = 1.0, smoothing: float = 0.0, gap_power: float = 0.0) -> float:
    weights = [gap**gap_power for _, gap in pairs(batch)]
    values = [cross_entropy(1 - smoothing / 2, sigmoid(scale * ahead)) for ahead, _ in pairs(batch)]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def reference_margin(batch: Arrays, tau: float = 1.0) -> float:
    return mean([max(0.0, tau - ahead) for ahead, _ in pairs(batch)])


def reference_soft_ranknet(batch: Arrays, target_scale: float = 2.0) -> float:
    return mean([cross_entropy(sigmoid(target_scale * gap), sigmoid(ahead)) for ahead, gap in every_pair(batch)])


def reference_margin_mse(batch: Arrays) -> float:
    return mean([(ahead - gap) ** 2 for ahead, gap in every_pair(batch)])


def reference_lambda(batch: Arrays, k: int = 0, mu: float = 10.0) -> float:
    values = []
    for docs in lists(batch):
        if len({target for _, target in docs}) < 2:
            continue  # no pair
        docs = sorted(docs, key=lambda doc: (-doc[0], doc[1]))
        gain, discount = gains(docs, k), [math.log2(rank + 1) for rank in range(1, len(docs) + 2)]
        for i, (s, t) in enumerate(docs):
            for j, (r, u) in enumerate(docs):
                if t > u and (not k or min(i, j) < k):
                    near = 1 / discount[abs(i - j) - 1] - 1 / discount[abs(i - j)]
                    swap = abs(1 / discount[i] - 1 / discount[j])
                    values.append(abs(gain[i] - gain[j]) * (mu * near + swap) * -math.log2(sigmoid(s - r)))
    return mean(values)


def reference_listnet(batch: Arrays, temperature: float = 1.0) -> float:
    values = []
    for docs in lists(batch):
        if len(docs) > 1:
            wanted, predicted = (np.exp(np.array(column)) for column in zip(*[(t / temperature, s) for s, t in docs]))
            values.append(-float(wanted / wanted.sum() @ np.log(predicted / predicted.sum())))
    return mean(values)


def reference_contrastive(batch: Arrays) -> float:
    values = []
    for docs in compared(batch):
        highest = max(target for _, target in docs)
        below = [score for score, target in docs if target < highest]
        values.append(mean([first(score, below) for score, target in docs if target == highest]))
    return mean(values)


def reference_listmle(batch: Arrays) -> float:
    return mean([sum(first(s, [r for r, u in docs if u < t]) for s, t in docs) for docs in compared(batch)])


def reference_p_listmle(batch: Arrays) -> float:
    values = []
    for docs in compared(batch):
        total, weights = 0.0, 0.0
        for s, t in docs:
            before, alike = sum(u > t for _, u in docs), sum(u == t for _, u in docs)
            below = [r for r, u in docs if u < t]
            if below:
                weight = 2 ** (len(docs) - before - (alike + 1) / 2) - 1
                total, weights = total + weight * first(s, below), weights + weight
        values.append(total / weights)
    return mean(values)


def reference_approx_ndcg(batch: Arrays, temperature: float = 1.0) -> float:
    values = []
    for docs in compared(batch):
        smooth = 0.0
        for i, (gain, (s, _)) in enumerate(zip(gains(docs), docs, strict=True)):
            others = [r for j, (r, _) in enumerate(docs) if j != i]
            smooth += gain / math.log2(2 + sum(sigmoid((r - s) / temperature) for r in others))
        values.append(1 - smooth)
    return mean(values)


REFERENCES: dict[str, Any] = {
    name.removeprefix("reference_"): thing for name, thing in globals().items() if name.startswith("reference_")
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("approx_ndcg", {"temperature": 0.1}),
    ("bce", {"smoothing": 0.1}),
    ("bce", {"pos_weight": 4.0, "smoothing": 0.3}),
    ("lambda", {"k": 2}),
    ("lambda", {"mu": 0.0}),
    ("listnet", {"temperature": 3.0}),
    ("margin", {"tau": 0.3}),
    ("ranknet", {"scale": 0.5}),
    ("ranknet", {"smoothing": 0.2}),
    ("ranknet", {"gap_power": 1.5}),
    ("soft_ranknet", {"target_scale": 0.3}),
]
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES] + OPTIONS


def arrays(seed: int, name: str = "", queries: int = 4, slots: int = 6) -> Arrays:
    """Scores, targets with ties, and a mask with gaps, in float64: a full list first, a lone document last.
    `bce` gets grades in [0, 1]."""
    source = np.random.default_rng(seed)
    mask = source.random((queries, slots)) < 0.7
    mask[0], mask[-1] = True, np.arange(slots) == 1
    scores, targets = source.normal(0, 2, mask.shape), source.integers(-1, 3, mask.shape).astype(float)
    return scores, (targets + 1) / 3 if name == "bce" else targets, mask


def tensors(batch: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    scores, targets, mask = (torch.tensor(array) for array in batch)
    return scores.requires_grad_(), targets, mask


def value_and_gradient(name: str, batch: Arrays, **options: Any) -> tuple[float, np.ndarray]:
    scores, targets, mask = tensors(batch)
    value = LOSSES[name](scores, targets, mask, **options)
    value.backward()
    assert scores.grad is not None
    return float(value.detach()), scores.grad.numpy()


# ---- values -------------------------------------------------------------------------------------------------


def test_every_loss_has_a_reference_here() -> None:
    assert sorted(REFERENCES) == NAMES


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_equals_its_reference(name: str, options: dict[str, Any], seed: int) -> None:
    batch = arrays(seed, name)
    assert value_and_gradient(name, batch, **options)[0] == pytest.approx(
        REFERENCES[name](batch, **options), rel=1e-10
    )


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_an_option_changes_the_value(name: str, options: dict[str, Any]) -> None:
    batch = arrays(0, name)
    assert value_and_gradient(name, batch, **options)[0] != pytest.approx(
        value_and_gradient(name, batch)[0], rel=1e-3
    )


S, T, M = torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[2.0, 1.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
LN1, LN2 = math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))  # of a margin of 1, and of -2
FIRST = math.log(1 + math.exp(-1) + math.exp(2))  # document 0 before 1 and 2
THIRD = 1 / math.log2(3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Preferred pairs: 0 over 1 with margin 1, 0 over 2 with margin -2. The tie 1, 2 makes none.
        ("ranknet", (LN1 + LN2) / 2),
        ("margin", (0 + 3) / 2),
        # (1 - 2)^2, (0 - 1)^2, (3 - 1)^2 over three documents.
        ("point_mse", (1 + 1 + 4) / 3),
        # Margins of scores 1, -2, -3 against those of targets 1, 1, 0.
        ("margin_mse", (0 + 9 + 9) / 3),
        # Wanted sigmoid(2), sigmoid(2) and 1/2; cross-entropy = softplus(margin) - wanted * margin.
        (
            "soft_ranknet",
            (
                (math.log(1 + math.e) - 1 / (1 + math.exp(-2)))
                + (math.log(1 + math.exp(-2)) + 2 / (1 + math.exp(-2)))
                + (math.log(1 + math.exp(-3)) + 3 / 2)
            )
            / 3,
        ),
        # Ranks 2, 3, 1 by score, gains 3, 1, 1 over an ideal DCG of 3 + 1/log2(3) + 1/2; both pairs one rank apart.
        (
            "lambda",
            (2 / (3.5 + THIRD))
            * ((10 * (1 - THIRD) + THIRD - 0.5) * LN1 + (10 * (1 - THIRD) + 1 - THIRD) * LN2)
            / math.log(2)
            / 2,
        ),
        # Shares e/(e + 2), 1/(e + 2), 1/(e + 2) of targets; log-sum-exp of scores less 1, 0 and 3.
        ("listnet", math.log(math.e + 1 + math.exp(3)) - (math.e * 1 + 0 + 3) / (math.e + 2)),
        # Only document 0 has others below it.
        ("contrastive", FIRST),
        ("listmle", FIRST),
        ("p_listmle", FIRST),
    ],
)
def test_a_loss_has_the_value_worked_out_by_hand(name: str, value: float) -> None:
    assert float(LOSSES[name](S, T, M)) == pytest.approx(value, rel=1e-6)


def test_approx_ndcg_gives_the_figures_in_tensorflow_rankings_documentation() -> None:
    scores = torch.tensor([[0.6, 0.8, math.nan], [0.5, 0.8, 0.4]])
    targets, mask = torch.tensor([[1.0, 0.0, math.nan], [0.0, 1.0, 0.0]]), torch.tensor([[1, 1, 0], [1, 1, 1]]) > 0
    one = LOSSES["approx_ndcg"](scores[:1], targets[:1], mask[:1], temperature=0.1)
    assert float(one) == pytest.approx(1 - 0.655107, abs=1e-6)
    both = LOSSES["approx_ndcg"](scores, targets, mask, temperature=0.1)
    assert float(both) == pytest.approx(1 - 0.80536866, abs=1e-6)


def test_bce_is_torchs() -> None:
    scores, targets, _ = (torch.tensor(array) for array in arrays(3, "bce"))
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(scores, targets)
    ours = LOSSES["bce"](scores, targets, torch.ones_like(scores) > 0, pos_weight=3.0)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-12)


class Told(nn.Module):
    """What sentence-transformers' losses need of a CrossEncoder: a document's text says which score is its own."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, scores_BN: Tensor) -> None:
        super().__init__()
        self.scores = scores_BN.flatten()

    def preprocess(self, pairs: list[tuple[str, str]], **_: Any) -> dict[str, Tensor]:
        return {"slots": torch.tensor([int(text) for _, text in pairs])}

    def forward(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self.scores[tokens["slots"]]}


@pytest.mark.parametrize(
    ("name", "options", "theirs", "scheme", "their_options", "unit"),
    [
        ("ranknet", {}, "RankNetLoss", "", {}, math.log(2)),
        ("lambda", {}, "LambdaLoss", "NDCGLoss2PPScheme", {}, 1),
        ("lambda", {"k": 2}, "LambdaLoss", "NDCGLoss2PPScheme", {"k": 2}, 1),
        ("lambda", {"mu": 0}, "LambdaLoss", "LambdaRankScheme", {}, 1),
        ("listnet", {}, "ListNetLoss", "", {}, 1),
        ("listmle", {}, "ListMLELoss", "", {"respect_input_order": False}, 1),
        ("p_listmle", {}, "PListMLELoss", "", {"respect_input_order": False}, 1),
    ],
)
def test_value_and_gradient_are_those_of_sentence_transformers(
    name: str, options: dict[str, Any], theirs: str, scheme: str, their_options: dict[str, Any], unit: float
) -> None:
    from sentence_transformers.cross_encoder import losses

    source = np.random.default_rng(7)
    lengths = (5, 2, 6, 4)
    mask = np.array([[slot < length for slot in range(6)] for length in lengths])
    targets = np.array([source.permutation(6) for _ in lengths]) / 2  # without ties: theirs breaks them by the order
    if name in ("ranknet", "lambda", "listnet"):
        targets = targets.round()
    batch = (source.normal(0, 2, mask.shape), targets, mask)
    value, gradient = value_and_gradient(name, batch, **options)

    scores = torch.tensor(batch[0], requires_grad=True)
    texts = [[str(6 * row + slot) for slot in range(length)] for row, length in enumerate(lengths)]
    if scheme:
        their_options = {**their_options, "weighting_scheme": getattr(losses, scheme)()}
    labels = [torch.tensor(row[:length]) for row, length in zip(targets, lengths, strict=True)]
    their_value = unit * getattr(losses, theirs)(Told(scores), **their_options)([["q"] * len(lengths), texts], labels)
    their_value.backward()
    assert value == pytest.approx(float(their_value.detach()), rel=1e-5)  # theirs computes in float32
    assert scores.grad is not None
    np.testing.assert_allclose(gradient, scores.grad.numpy(), atol=1e-5)


# ---- what must not change them ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_padding_with_garbage_changes_neither_value_nor_gradient(name: str) -> None:
    scores, targets, mask = arrays(1, name)
    value, gradient = value_and_gradient(name, (scores, targets, mask))
    garbage = np.array([[1e4, -1e4, math.nan, math.inf, -math.inf]] * len(scores))
    for junk in (np.roll(garbage, turn, 1) for turn in range(2)):
        padded = (
            np.concatenate([garbage, scores, junk], 1),
            np.concatenate([junk, targets, garbage], 1),
            np.pad(mask, ((0, 0), (5, 5))),
        )
        padded_value, padded_gradient = value_and_gradient(name, padded)
        assert padded_value == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(padded_gradient[:, 5:-5], gradient, atol=1e-12)
        assert (padded_gradient[:, :5] == 0).all()
        assert (padded_gradient[:, -5:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("round_to", [6, 0])
def test_the_order_of_documents_and_queries_does_not_matter_even_among_equals(name: str, round_to: int) -> None:
    scores, targets, mask = arrays(2, name)
    scores = scores.round(round_to)  # whole numbers: some scores, and some documents, are equal
    value, gradient = value_and_gradient(name, (scores, targets, mask))
    source = np.random.default_rng(0)
    rows, slots = source.permutation(scores.shape[0]), source.permutation(scores.shape[1])
    moved = (scores[rows][:, slots], targets[rows][:, slots], mask[rows][:, slots])
    moved_value, moved_gradient = value_and_gradient(name, moved)
    assert moved_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(moved_gradient, gradient[rows][:, slots], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_only_a_pointwise_loss_sees_a_shift_of_all_scores(name: str) -> None:
    scores, targets, mask = arrays(4, name)
    value, shifted = (value_and_gradient(name, (scores + shift, targets, mask))[0] for shift in (0, 5))
    assert (shifted == pytest.approx(value, rel=1e-9)) == (name not in POINTWISE)


@pytest.mark.parametrize(
    "name", ["approx_ndcg", "contrastive", "lambda", "listmle", "listnet", "margin", "p_listmle"]
)
def test_a_shift_of_a_teachers_negative_targets_changes_no_loss_that_ranks(name: str) -> None:
    scores, targets, mask = arrays(4)
    targets[:, 0], mask[:, 0] = -1, True  # so that the lowest of every list is negative, before and after
    value, shifted = (value_and_gradient(name, (scores, targets - shift, mask))[0] for shift in (0, 7))
    assert shifted == pytest.approx(value, rel=1e-9)


# ---- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_is_that_of_finite_differences(name: str, options: dict[str, Any]) -> None:
    scores, targets, mask = tensors(arrays(5, name, queries=2, slots=4))
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, targets, mask, **options), (scores,))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    scores, targets, mask = arrays(6, name)
    value, gradient = value_and_gradient(name, (scores, targets, mask))
    assert value_and_gradient(name, (scores - 1e-2 * gradient, targets, mask))[0] < value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("documents", [0, 1])
def test_nothing_to_compare_gives_zero_with_a_zero_gradient(name: str, documents: int) -> None:
    scores = torch.tensor([[0.5, 2.0]] * 3, requires_grad=True)
    mask = torch.tensor([[documents == 1, False]] * 3)
    # A pointwise loss compares a lone document with its target, and these find no difference.
    target = torch.sigmoid(torch.tensor(0.5)) if name == "bce" else torch.tensor(0.5)
    value = LOSSES[name](scores, torch.stack([target, torch.tensor(7.0)]).expand(3, 2), mask)
    value.backward()
    if name != "bce" or not documents:  # its least value is the entropy of the target
        assert float(value.detach()) == 0.0
    assert scores.grad is not None
    assert scores.grad.abs().max() <= 1e-7


@pytest.mark.parametrize("name", [name for name in NAMES if name not in POINTWISE])
@pytest.mark.parametrize("grade", [0.0, 1.0, -2.0])
def test_equal_targets_are_nothing_to_compare_or_pull_the_scores_together(name: str, grade: float) -> None:
    batch = (np.array([[1.0, 3.0, 2.0]]), np.full((1, 3), grade), np.full((1, 3), True))
    value, gradient = value_and_gradient(name, batch)
    if name in DISTANCES:
        assert value > 0
        assert gradient[0, 0] < 0 < gradient[0, 1]
        assert gradient[0, 2] == pytest.approx(0, abs=0.1)
    else:
        assert value == 0
        assert (gradient == 0).all()


def test_a_list_without_pairs_does_not_dilute_the_others() -> None:
    """A mean over lists is over those that say something: half a batch of useless lists does not halve the step."""
    scores, targets, mask = arrays(9, queries=5)
    targets[2:] = 1
    for name in sorted({*NAMES} - POINTWISE - DISTANCES):
        whole, part = (value_and_gradient(name, (scores[:n], targets[:n], mask[:n]))[0] for n in (5, 2))
        assert whole == pytest.approx(part, rel=1e-12)


def test_documents_that_share_the_lowest_target_make_no_pair_in_ranknet_and_do_not_compete_in_listmle() -> None:
    scores, mask = torch.randn(1, 4), torch.ones(1, 4, dtype=torch.bool)
    assert float(ranknet(scores, torch.zeros(1, 4), mask)) == 0.0
    assert float(margin_mse(scores, torch.zeros(1, 4), mask)) > 0.0
    ranked_then_missing = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    first, second, *missing = scores[0].exp().tolist()
    wanted = -math.log(first / (first + second + sum(missing))) - math.log(second / (second + sum(missing)))
    assert float(listmle(scores, ranked_then_missing, mask)) == pytest.approx(wanted, rel=1e-5)


def test_of_equal_scores_lambda_takes_the_worst_order() -> None:
    """A scorer that knows nothing, as a fresh head does, is told where the order that it risks costs most."""
    targets, mask = np.array([[2.0, 0.0, 1.0]]), np.full((1, 3), True)
    tied = value_and_gradient("lambda", (np.zeros((1, 3)), targets, mask))[0]
    worst = value_and_gradient("lambda", (-1e-9 * targets, targets, mask))[0]
    assert tied == pytest.approx(worst, rel=1e-6)
    assert tied != pytest.approx(value_and_gradient("lambda", (1e-9 * targets, targets, mask))[0], rel=1e-3)


def test_places_as_targets_do_not_overflow_the_gains() -> None:
    """An LLM's order of 200 documents has targets up to 200: 2^200 is no float32."""
    scores = torch.randn(1, 200, requires_grad=True)
    targets, mask = torch.arange(200.0)[None], torch.ones(1, 200, dtype=torch.bool)
    for name in ("lambda", "approx_ndcg", "p_listmle"):
        value = LOSSES[name](scores, targets, mask)
        (gradient,) = torch.autograd.grad(value, scores)
        assert 0 < float(value.detach()) < math.inf
        assert torch.isfinite(gradient).all()


TARGETS = {"bce": [0.0, 0.5, 1.0]}
JUNK = [math.nan, math.inf, -math.inf, 1e30]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_no_list_makes_a_loss_or_its_gradient_infinite_or_negative(name: str, data: st.DataObject) -> None:
    slots = st.tuples(
        st.sampled_from([-1e4, -1.0, 0.0, 0.5, 1e4]), st.sampled_from(TARGETS.get(name, [-2.0, 0.0, 0.5, 1.0, 3.0]))
    )
    empty = st.tuples(st.sampled_from(JUNK), st.sampled_from(JUNK))
    width = data.draw(st.integers(1, 4))
    drawn = data.draw(
        st.lists(st.lists(slots | empty, min_size=width, max_size=width), min_size=1, max_size=3), "score, target"
    )
    scores, targets = (torch.tensor([[slot[part] for slot in row] for row in drawn]) for part in (0, 1))
    mask = scores.abs() <= 1e4
    scores.requires_grad_()
    value = LOSSES[name](scores, targets, mask)
    value.backward()
    assert -1e-6 <= float(value.detach()) < math.inf
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[~mask].any()


def test_bce_refuses_targets_that_are_no_grades() -> None:
    scores, targets, mask = (torch.tensor(array) for array in arrays(0))
    with pytest.raises(ValueError, match=r"bce: a target of (-1|2); scale targets to \[0, 1\]"):
        LOSSES["bce"](scores, targets, mask)
