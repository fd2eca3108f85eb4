"""Checks and normalisation of targets before training: which lists carry a preference, and on which scale."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrad_ray.config import TrainConfig
from rrad_ray.errors import InvalidInput
from rrad_ray.evaluation import fusion

POINTWISE = ("bce", "point_mse")  # losses of single documents: a list without a preference still has a level

DISTANCES = ("listnet", "margin_mse", "point_mse", "soft_ranknet")  # losses that read distances between targets

# A list is on another scale if its largest target is more than 2^5 = 32 times that of the median list, or less than
# 1/32 of it; a share of the lists may be.
FAR = 5

FAR_SHARE = 0.01

LARGEST = 2.0**63  # of a target: training computes in float32, where differences of larger ones, squared, overflow


class SkipReason(enum.Enum):
    """Why nothing is learnt from a list; the value is the text for the user and the manifest."""

    NOT_A_NUMBER = "target that is not a number"
    RAGGED = "not one target for each document"
    NO_DOCUMENT = "no document"
    ONE_DOCUMENT = "one document"
    NO_PREFERENCE = "no preference"
    MEASURED_QUERY = "text of a dev or test query of another table"

    @property
    def is_error(self) -> bool:
        """True for a bad row, which belongs in the quarantine; false for a good one without a preference."""
        return self in (SkipReason.NOT_A_NUMBER, SkipReason.RAGGED)


@dataclass(frozen=True)
class Prepare:
    """The transformation of label rows into training rows, the same on every worker."""

    normalize: str  # `none`, `query` or `global`
    pointwise: bool  # some loss learns from single documents
    mean: float = 0.0  # of all targets, for `global`
    deviation: float = 1.0

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the row with its targets normalised; a row with a `skip_reason` must not come here."""
        if self.normalize == "none":
            return row
        if self.normalize == "query":
            return {**row, "targets": fusion.zscores(row["targets"]).tolist()}
        return {**row, "targets": [(target - self.mean) / self.deviation for target in row["targets"]]}

    def skip_reason(self, targets: Sequence[float]) -> SkipReason | None:
        """Return why nothing can be learnt from a list of targets; None if something can.

        It does not depend on `mean` and `deviation`, so it is the same before and after all lists are counted.
        """
        if not all(abs(target) <= LARGEST for target in targets):  # nor is NaN
            return SkipReason.NOT_A_NUMBER
        if not targets:
            return SkipReason.NO_DOCUMENT
        if self.pointwise and self.normalize != "query":
            return None  # even one document has a level
        if len(targets) == 1:
            return SkipReason.ONE_DOCUMENT
        return SkipReason.NO_PREFERENCE if len(set(targets)) == 1 else None


def _reads_distances(name: str, spec: Any) -> bool:
    return name in DISTANCES or (isinstance(spec, Mapping) and bool(spec.get("gap_power")))


class TargetStats:
    """Counts and scale of the targets of all lists, added one list at a time.

    `rules`: which lists are skipped; `lists`: the number of lists to learn from; `skipped`: the number of other lists
    by reason; `moments`: mean and deviation of all targets to learn from.
    """

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg
        self.rules = Prepare(cfg.normalize, any(name in POINTWISE for name in cfg.losses))
        self.lists = 0
        self.skipped: Counter[SkipReason] = Counter()
        self.moments = fusion.Moments()
        self.range = (math.inf, -math.inf)  # the least and the greatest target
        self.sizes: Counter[int] = Counter()  # lists by the power of 2 above their largest absolute target

    @property
    def seen(self) -> int:
        """The number of all lists that were added, skipped ones too."""
        return self.lists + self.skipped.total()

    def add(self, targets: Sequence[float], reason: SkipReason | None) -> None:
        """Count a list of targets; `reason`: what `rules.skip_reason` says of it."""
        if reason:
            self.skipped[reason] += 1
            return
        self.lists += 1
        self.moments.add(targets)
        self.range = min(self.range[0], *targets), max(self.range[1], *targets)
        if largest := max(map(abs, targets)):
            self.sizes[math.frexp(largest)[1]] += 1

    def prepare(self) -> Prepare:
        """Return the transformation of rows, with the mean and deviation of all lists that were added."""
        return Prepare(self.rules.normalize, self.rules.pointwise, self.moments.mean, self.moments.deviation or 1.0)

    def skipped_by_name(self) -> dict[str, int]:
        """Return the numbers of skipped lists by the text of the reason."""
        return {reason.value: count for reason, count in self.skipped.items()}

    def facts(self) -> dict[str, Any]:
        """Return the manifest's record: how targets are normalised, and their moments and counts before that."""
        counts = {"lists": self.lists, "documents": self.moments.count, "passed_over": self.skipped_by_name()}
        before = {"mean": self.moments.mean, "deviation": self.moments.deviation}
        return {"normalize": self.cfg.normalize, **before, **counts}

    def check(self) -> str:
        """Return a warning about the scale of the targets; empty if there is none.

        Raises `ValueError` where a loss reads distances and lists have mixed scales: the lists of the largest scale
        make up nearly all of a squared loss, the others are not learnt, and nothing later shows why. One scale that
        is far from 1 only makes training slow, and may be intended, so it is a warning.
        """
        low, high = self.range
        if "bce" in self.cfg.losses and self.lists and not 0 <= low <= high <= 1:
            problem = f"targets from {low:g} to {high:g}, and the loss bce takes those in [0, 1]"
            raise InvalidInput(problem, "scale targets to [0, 1] or take another loss")
        reading = [name for name, spec in self.cfg.losses.items() if _reads_distances(name, spec)]
        if not reading or self.cfg.normalize == "query" or not self.sizes:
            return ""
        middle = self._middle()
        far = sum(count for power, count in self.sizes.items() if abs(power - middle) > FAR)
        if far > FAR_SHARE * self.lists:
            low, high = 2.0 ** (min(self.sizes) - 1), 2.0 ** max(self.sizes)
            problem = f"{far:,} of {self.lists:,} lists have targets on another scale than the rest"
            problem += f" (the largest of a list from {low:g} to {high:g}), and {', '.join(reading)} reads distances"
            raise InvalidInput(problem, "set normalize=query, or take a loss of the order alone such as ranknet")
        mean, deviation = self.moments.mean, self.moments.deviation
        off = abs(mean) > 10 or not 0.1 <= deviation <= 10
        if off and "point_mse" in reading and self.cfg.normalize == "none":
            scale = f"point_mse: targets have mean {mean:.3g} and deviation {deviation:.3g}"
            return f"{scale}, and a student begins near 0: slow to learn; normalize=global makes them 0 and 1"
        return ""

    def _middle(self) -> int:
        """Return the power of 2 of the median list."""
        seen = 0
        for power in sorted(self.sizes):
            seen += self.sizes[power]
            if 2 * seen >= sum(self.sizes.values()):
                break
        return power
