"""Configs of the online test: who sees which variant, what it needs beforehand, and how it is read."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from rrad_ray.config.base import (
    CHECKED,
    NO_BOOL,
    BetweenZeroAndOne,
    Count,
    Number,
    Positive,
    Share,
    StagePaths,
    Uri,
    require,
)

DAY_S = 86_400.0

OnlineMetric = Literal["page_ctr", "user_ctr", "ctr_at_k", "dwell", "reformulation"]
ONLINE_METRICS = get_args(OnlineMetric)


def check_design(name: str, variants: dict[str, float], design: str, prefix: str = "") -> None:
    """Raise `KeyProblem` for a design that cannot be; `prefix`: of the keys, where they are nested ones."""
    key = f"{prefix}variants"
    require(bool(name), f"{prefix}name", name, "must not be empty")
    require(len(variants) >= 2, key, variants, "name at least two, as in {old: 1, new: 1}")
    for variant, weight in variants.items():
        require(bool(variant), key, variants, "a variant needs a name")
        require(0 <= weight < float("inf"), f"{key}.{variant}", weight, "must be a number from 0")
    require(sum(variants.values()) > 0, key, variants, "at least one weight must be positive")
    require(design == "ab" or len(variants) == 2, key, variants, "design=interleave mixes exactly two")


@dataclass(frozen=True, config=CHECKED)
class ExperimentDesign:
    """Who sees what in an online test (`online.assignment`)."""

    name: str
    """The test's name; who gets which variant depends on it: another name, another and independent draw."""
    variants: dict[str, Number]
    """Variants by name with their weights; a variant's share of the units is its weight's share of all weights."""
    control: str = ""
    """The variant that the others are compared with; empty: the first one."""
    design: Literal["ab", "interleave"] = "ab"
    """`ab`: every unit sees one variant. `interleave`: every page mixes the two (team draft)."""

    def __post_init__(self) -> None:
        check_design(self.name, self.variants, self.design)
        require(
            not self.control or self.control in self.variants,
            "control",
            self.control,
            f"choose one of {', '.join(self.variants)}",
        )

    @property
    def against(self) -> str:
        """The control's name."""
        return self.control or next(iter(self.variants))

    @property
    def treatments(self) -> list[str]:
        """All variants but the control."""
        return [variant for variant in self.variants if variant != self.against]


@dataclass(frozen=True, config=CHECKED)
class ExpectConfig:
    """The expectations of a test beforehand, which say how much traffic it needs (`rrad plan`)."""

    ctr: BetweenZeroAndOne = 0.3
    """Page CTR of the control."""
    lift: Number = 0.05
    """The smallest relative lift worth finding; always-valid readings are sharpest about there."""
    power: BetweenZeroAndOne = 0.8
    """The chance to find that lift."""
    design_effect: Positive = 1.0
    """Variance of the page CTR with units that come back, divided by the binomial variance; the report measures
    it."""
    preference: BetweenZeroAndOne = 0.55
    """`interleave`: share of the units with a preference that prefer the better variant."""

    def __post_init__(self) -> None:
        require(self.lift != 0, "expect.lift", self.lift, "no sample is large enough to find no lift")
        require(0 < self.ctr * (1 + self.lift) < 1, "expect.lift", self.lift, "the lifted CTR must be in (0, 1)")
        require(
            self.preference != 0.5,
            "expect.preference",
            self.preference,
            "at 0.5 no variant is preferred: no sample is large enough",
        )


@dataclass(frozen=True, config=CHECKED)
class TrafficConfig(ExperimentDesign):
    """The keys that say what an online test needs beforehand: its design, its error rate, its expectations (`rrad
    plan`)."""

    alpha: BetweenZeroAndOne = 0.05
    """The error rate of tests and intervals."""
    expect: ExpectConfig = Field(default_factory=ExpectConfig)
    """What is known or hoped beforehand."""


@dataclass(frozen=True, config=CHECKED)
class ExperimentConfig(TrafficConfig, StagePaths):
    """The keys by which an online test is read.

    `input`: a folder with `exposures/` and `clicks/`, each of Parquet files with the columns of `rows.Exposure` and
    `rows.ClickEvent`.
    """

    metric: OnlineMetric = "page_ctr"
    """The metric that decides, and that segments and looks are about."""
    k: Count = 5
    """The k of CTR@k."""
    reformulation_s: Positive = 300.0
    """Seconds within which a similar query of the same unit counts as a reformulation."""
    mismatch_p: BetweenZeroAndOne = 0.001
    """The p-value below which shares of units that the weights do not explain are reported as a mismatch."""
    looks: Count = 20
    """Always-valid readings, evenly in time."""
    min_units: Annotated[int, Field(ge=2), NO_BOOL] = 100
    """Units of each variant before a reading, which the normal approximation needs."""
    max_dwell_s: Positive = 1800.0
    """Seconds that a longer dwell is counted as: somebody who is away for longer is not reading."""
    max_age_s: Positive = DAY_S
    """The most seconds between a page and a click on it; later clicks are left out."""
    max_clicks: Count = 100
    """The most clicks of a page that count: the first ones in the log."""
    state: Uri = ""
    """A folder that keeps what has been read of the log, for this reading and later ones: files that it knows are not
    read again. Empty: the whole log is read."""
    memory_gib: Positive = 0.5
    """Memory of the join of pages and clicks, in GiB; beyond it, the join spills to files on this machine."""
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops."""
