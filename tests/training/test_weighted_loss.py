"""The weighted sum of named losses: values, options, and what a config gets wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rrad_ray.config import TrainConfig, load
from rrad_ray.training.losses import LOSSES, margin_mse, point_mse, ranknet, soft_ranknet
from rrad_ray.training.weighted_loss import weighted

NAMES = sorted(LOSSES)


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, targets with ties, and a mask with gaps, in float64, of four lists of six slots."""
    source = torch.Generator().manual_seed(seed)
    mask = torch.rand(4, 6, generator=source) < 0.7
    mask[0] = True
    scores = 2 * torch.randn(4, 6, generator=source, dtype=torch.float64)
    return scores, torch.randint(-1, 3, (4, 6), generator=source).double(), mask


def test_point_mse_and_margin_mse_weighted_one_are_their_sum() -> None:
    tensors = batch(7)
    hybrid = weighted({"point_mse": 1, "margin_mse": 1})(*tensors)
    assert float(hybrid) == pytest.approx(float(point_mse(*tensors)) + float(margin_mse(*tensors)), rel=1e-12)
    half = weighted({"point_mse": 0.5, "ranknet": 3.0})(*tensors)
    assert float(half) == pytest.approx(0.5 * float(point_mse(*tensors)) + 3 * float(ranknet(*tensors)), rel=1e-12)


def test_weighted_takes_a_losss_options_beside_plain_weights() -> None:
    tensors = batch(7)
    loss = weighted({"ranknet": {"weight": 0.5, "smoothing": 0.2}, "lambda": {"k": 2}, "point_mse": 2})(*tensors)
    wanted = 0.5 * ranknet(*tensors, smoothing=0.2) + LOSSES["lambda"](*tensors, k=2) + 2 * point_mse(*tensors)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-12)


def test_weighted_hands_the_target_scale_to_soft_ranknet_unless_its_options_name_one() -> None:
    tensors = batch(8)
    loss = weighted({"soft_ranknet": 1.0}, target_scale=0.7)
    assert float(loss(*tensors)) == pytest.approx(float(soft_ranknet(*tensors, target_scale=0.7)), rel=1e-12)
    assert float(loss(*tensors)) != pytest.approx(float(soft_ranknet(*tensors)), rel=1e-3)
    own = weighted({"soft_ranknet": {"target_scale": 3}}, target_scale=0.7)
    assert float(own(*tensors)) == pytest.approx(float(soft_ranknet(*tensors, target_scale=3)), rel=1e-12)


def test_garbage_in_padding_does_not_reach_the_weighted_sum() -> None:
    scores = torch.tensor([[1.0, 0.0, math.nan]], requires_grad=True)
    value = weighted({"ranknet": 1.0})(scores, torch.tensor([[1.0, 0.0, math.nan]]), torch.tensor([[1, 1, 0]]) > 0)
    value.backward()
    assert float(value.detach()) == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_an_unknown_loss_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"losses\.rank_net: no such loss; choose from " + ", ".join(NAMES)):
        weighted({"ranknet": 1.0, "rank_net": 1.0})


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"margin": {"tua": 1.0}}, r"losses\.margin\.tua: no such option; choose from weight, tau$"),
        ({"point_mse": {"scale": 1.0}}, r"losses\.point_mse\.scale: no such option; choose from weight$"),
        ({"margin": {"tau": "much"}}, r"losses\.margin\.tau='much': write a number"),
        ({"margin": None}, r"losses\.margin\.weight=None: write a number"),
        ({"margin": True}, r"losses\.margin\.weight=True: write a number"),
        ({"margin": math.nan}, r"losses\.margin\.weight=nan: write a number"),
        ({"margin": -1.0}, r"losses\.margin\.weight=-1\.0: must not be negative"),
        ({"margin": {"tau": 0}}, r"losses\.margin\.tau=0: must be positive"),
        ({"listnet": {"temperature": -1}}, r"losses\.listnet\.temperature=-1: must be positive"),
        ({"approx_ndcg": {"temperature": 0}}, r"losses\.approx_ndcg\.temperature=0: must be positive"),
        ({"lambda": {"k": 2.5}}, r"losses\.lambda\.k=2\.5: must be a whole number"),
        ({"lambda": {"mu": -1}}, r"losses\.lambda\.mu=-1: must not be negative"),
        ({"ranknet": {"smoothing": 1}}, r"losses\.ranknet\.smoothing=1: must be in \[0, 1\)"),
        ({"ranknet": {"gap_power": -1}}, r"losses\.ranknet\.gap_power=-1: must not be negative"),
        ({"ranknet": {"scale": 0}}, r"losses\.ranknet\.scale=0: must be positive"),
        ({"soft_ranknet": {"target_scale": -2}}, r"losses\.soft_ranknet\.target_scale=-2: must be positive"),
        ({"bce": {"smoothing": -0.1}}, r"losses\.bce\.smoothing=-0\.1: must be in \[0, 1\)"),
        ({"bce": {"pos_weight": 0}}, r"losses\.bce\.pos_weight=0: must be positive"),
    ],
)
def test_a_wrong_option_is_named_with_its_place_before_any_step(losses: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted(losses)


def test_a_yaml_gives_a_loss_its_options_and_an_override_changes_one(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(
        "input: a\noutput: b\nlosses:\n  margin: {weight: 1.0, tau: 0.5}\n  point_mse: 0.5\n", encoding="utf-8"
    )
    cfg = load.load_config(TrainConfig, f"{tmp_path}/train.yaml", ["losses.margin.tau=2"])
    assert cfg.losses == {"margin": {"weight": 1.0, "tau": 2}, "point_mse": 0.5}
    tensors = batch(7)
    wanted = LOSSES["margin"](*tensors, tau=2) + 0.5 * point_mse(*tensors)
    assert float(weighted(cfg.losses, target_scale=cfg.target_scale)(*tensors)) == pytest.approx(float(wanted))
