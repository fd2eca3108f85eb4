"""Labels before a student learns from them: which lists say anything, and on which scale their targets stand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrad_ray.config import TrainConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation import fusion

POINTWISE = ("bce", "point_mse")  # read each document by itself: a list without a preference still has a level

DISTANCES = ("listnet", "margin_mse", "point_mse", "soft_ranknet")  # read how far targets are apart

FAR = 5  # powers of 2 between a list's largest target and the median list's: 32 times, no longer one scale

FAR_SHARE = 0.01  # of the lists that may be so far away


@dataclass(frozen=True)
class Prepare:
    """A label row as the student learns from it, the same on every worker."""

    normalize: str
    pointwise: bool  # a loss learns from a document by itself
    mean: float = 0.0
    deviation: float = 1.0

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The row with its targets normalised; None for one that there is nothing to learn from."""
        if self.useless(row["targets"]):
            return None
        if self.normalize == "none":
            return row
        if self.normalize == "query":
            return {**row, "targets": fusion.zscores(row["targets"]).tolist()}
        return {**row, "targets": [(target - self.mean) / self.deviation for target in row["targets"]]}

    def useless(self, targets: Sequence[float]) -> str:
        """Why a list teaches nothing; empty if it does. What begins with `target` is wrong, not merely useless."""
        if not all(map(math.isfinite, targets)):
            return "target that is not a number"
        if not targets:
            return "no document"
        if self.pointwise and self.normalize != "query":
            return ""
        if len(targets) == 1:
            return "one document"
        return "no preference" if len(set(targets)) == 1 else ""


def _reads_distances(name: str, given: Any) -> bool:
    return name in DISTANCES or (isinstance(given, Mapping) and bool(given.get("gap_power")))


class TargetStats:
    """Counts and scale of all lists to learn from, one at a time: the table is never held.

    `lists`: those that there is something to learn from; `over`: how many lists were passed over, and why;
    `moments`: of all targets together.
    """

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg
        self.plain = Prepare(cfg.normalize, any(name in POINTWISE for name in cfg.losses))
        self.lists = 0
        self.over: Counter[str] = Counter()
        self.moments = fusion.Moments()
        self.sizes: Counter[int] = Counter()  # lists by the power of 2 of their largest target

    def add(self, targets: Sequence[float]) -> str:
        """Takes a list in; why nothing is learnt from it, or an empty string."""
        if why := self.plain.useless(targets):
            self.over[why] += 1
            return why
        self.lists += 1
        self.moments.add(targets)
        if largest := max(map(abs, targets)):
            self.sizes[math.frexp(largest)[1]] += 1
        return ""

    def prepare(self) -> Prepare:
        """What every worker does with its rows."""
        return Prepare(self.plain.normalize, self.plain.pointwise, self.moments.mean, self.moments.deviation or 1.0)

    def facts(self) -> dict[str, Any]:
        """For the manifest: how targets were normalised, and what they were before."""
        counts = {"lists": self.lists, "documents": self.moments.count, "passed_over": dict(self.over)}
        before = {"mean": self.moments.mean, "deviation": self.moments.deviation}
        return {"normalize": self.cfg.normalize, **before, **counts}

    def check(self) -> str:
        """A warning, or an empty string. Raises `ValueError` where a loss reads distances on scales that are mixed.

        Mixed scales are an error: the lists of the largest make up nearly all of a squared loss, the others are not
        learnt, and nothing later shows why. A scale far from 1 alone is slow, but may be what is wanted.
        """
        reading = [name for name, given in self.cfg.losses.items() if _reads_distances(name, given)]
        if not reading or self.cfg.normalize == "query" or not self.sizes:
            return ""
        middle = self._middle()
        far = sum(count for power, count in self.sizes.items() if abs(power - middle) > FAR)
        if far > FAR_SHARE * self.lists:
            low, high = 2.0 ** (min(self.sizes) - 1), 2.0 ** max(self.sizes)
            found = f"{far:,} of {self.lists:,} lists have targets on another scale than the rest"
            found += f" (the largest of a list from {low:g} to {high:g}), and {', '.join(reading)} reads distances"
            raise InvalidInput(found, "set normalize=query, or take a loss of the order alone such as ranknet")
        mean, deviation = self.moments.mean, self.moments.deviation
        off = abs(mean) > 10 or not 0.1 <= deviation <= 10
        if off and "point_mse" in reading and self.cfg.normalize == "none":
            told = f"point_mse: targets have mean {mean:.3g} and deviation {deviation:.3g}"
            return f"{told}, and a student begins near 0: slow to learn; normalize=global makes them 0 and 1"
        return ""

    def _middle(self) -> int:
        """The median list's power of 2."""
        seen = 0
        for power in sorted(self.sizes):
            seen += self.sizes[power]
            if 2 * seen >= sum(self.sizes.values()):
                break
        return power
