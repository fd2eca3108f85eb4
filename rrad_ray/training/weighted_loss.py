"""The weighted sum of losses that a config names, each with its options: checked before the first step."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from rrad_ray.errors import InvalidInput
from rrad_ray.training.losses import LOSSES


class Loss(Protocol):
    """A loss with its options bound: a scalar of scores, targets and mask."""

    def __call__(self, scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor: ...


def _part(name: str, spec: Any, defaults: Mapping[str, float]) -> tuple[float, Loss]:
    """Return a loss's weight and the loss with its options bound, from `1.0` or `{weight: 1.0, tau: 0.5}`.

    `defaults`: options that hold unless `spec` names them. Raises `ValueError` as `weighted` does.
    """
    if name not in LOSSES:
        raise InvalidInput(f"losses.{name}: no such loss", f"choose from {', '.join(sorted(LOSSES))}")
    options = {**defaults, **(spec if isinstance(spec, Mapping) else {"weight": spec})}
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    known = ["weight", *(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)]
    for key, value in options.items():
        if key not in known:
            raise InvalidInput(f"losses.{name}.{key}: no such option", f"choose from {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"losses.{name}.{key}={value!r}: write a number")
    weight = options.pop("weight", 1.0)
    if weight < 0:
        raise ValueError(f"losses.{name}.weight={weight!r}: must not be negative")
    loss = functools.partial(LOSSES[name], **options)
    empty = torch.zeros(1, 1)
    try:  # so that a wrong option is an error now, not at the first step
        loss(empty, empty, empty > 0)
    except ValueError as error:
        raise ValueError(f"losses.{name}.{error}") from error
    return weight, loss


def weighted(losses: Mapping[str, Any], *, target_scale: float = 2.0) -> Loss:
    """Return the weighted sum of named losses: `{point_mse: 1.0, margin_mse: 1.0}` is DisRanker's hybrid loss.

    A loss has a weight, or options with a weight among them (default 1): `{margin: {weight: 0.5, tau: 2.0}}`.
    `target_scale` is the default of soft_ranknet's option. Raises `ValueError` for an unknown name or option, listing
    the known ones, and for a value out of range.
    """
    defaults = {"soft_ranknet": {"target_scale": target_scale}}
    parts = [_part(name, spec, defaults.get(name, {})) for name, spec in losses.items()]

    def loss(scores_BN: Tensor, targets_BN: Tensor, mask_BN: Tensor) -> Tensor:
        total = torch.where(mask_BN, scores_BN, 0.0).sum() * 0.0
        for weight, part in parts:
            total = total + weight * part(scores_BN, targets_BN, mask_BN)
        return total

    return loss
