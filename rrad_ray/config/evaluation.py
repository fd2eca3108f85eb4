"""Configs of `qrels`, `evaluate` and `select`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rrad_ray.config.base import (
    CHECKED,
    Actors,
    Backend,
    Count,
    Given,
    GivenUri,
    Positive,
    Precision,
    ResourceSpec,
    Seed,
    Share,
    StagePaths,
    Uri,
    check_backend,
    require,
)
from rrad_ray.config.chunks import ChunksConfig
from rrad_ray.config.metric_names import check_metrics
from rrad_ray.config.template_files import load_template
from rrad_ray.config.templates import LikelihoodTemplate
from rrad_ray.errors import in_stage
from rrad_ray.rows import Split


@dataclass(frozen=True, config=CHECKED)
class QrelsConfig(StagePaths):
    """Qrels by a model, for queries that people have not judged. `input`: candidates, which come out with the model's
    grades as qrels; qrels that are there stay."""

    graded: GivenUri
    """The output of `judge` with `task: grade`, about all of these queries or some of them, by a model that is no
    teacher of what will be measured."""
    dev_share: Share = 0.25
    """The share of the judged queries of `train` and `unlabelled` that go to `dev`, drawn by their ids; the others go
    to `test`."""
    unjudged: Literal["drop", "negative"] = "drop"
    """In the comparison with people: documents that they have not judged are left out, or count as grade 0
    (`negative`), where they have judged relevant ones only."""
    min_judgments: Count = 50
    """With fewer documents than this that people have judged too, no agreement is reported."""
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops."""


@dataclass(frozen=True, config=CHECKED)
class EvaluateConfig(StagePaths):
    """Every ranker on the same queries, side by side. `input`: candidates."""

    RESUMABLE: ClassVar[tuple[str, ...]] = ("num_workers", "resources")

    students: dict[str, Given] = Field(default_factory=dict)
    """Students by name: the output of `train`, or a checkpoint folder."""
    labels: Uri = ""
    """The output of `label`, for the teacher's row; empty: none."""
    teacher: str = ""
    """The teacher's model, to measure its latency; empty: no figure."""
    template: str = "question"
    """The likelihood prompt of that measurement, as in `judge`."""
    doc_tokens: Count = 96
    """Tokens that a document is cut to in that measurement."""
    runs: dict[str, GivenUri] = Field(default_factory=dict)
    """TREC run files of these queries by name, measured beside the other systems."""
    metrics: tuple[str, ...] = ()
    """More measures by the names of ir-measures, as in [AP, R@100, "nDCG(gains={1:1,2:3})@5"]."""
    title: str = ""
    """The title of the report."""
    split: Split = "test"
    """The split that is reported."""
    dev: Split = "dev"
    """The split from which fusion weights come."""
    latency_docs: Count = 20
    """Documents of a request in latency measurements."""
    latency_repeats: Count = 30
    """Requests in latency measurements."""
    seed: Seed = 0
    """Draws the bootstrap samples."""
    backend: Backend = "torch"
    """What computes the students' scores, as in `serve`: what is served should be what was measured."""
    precision: Precision = "auto"
    """Number format of the students, as in `serve`."""
    chunks: ChunksConfig = Field(default_factory=ChunksConfig)
    """Long documents in chunks, as in `serve`: students score each, and the best one counts."""
    num_workers: Actors = 1
    """The most processes that score queries by students, or {min: 2, max: 8}: they come and go with the work and the
    cluster. 1, without a GPU: the stage's own process."""
    resources: ResourceSpec = Field(default_factory=lambda: {"CPU": 1.0})
    """What one of them asks of Ray, as in {GPU: 1}."""

    def __post_init__(self) -> None:
        with in_stage("evaluate"):  # ir-measures' own words follow: the stage says whose metrics they are
            check_metrics(self.metrics)
        check_backend(self.backend, self.precision)
        if self.teacher:
            load_template(LikelihoodTemplate, self.template)  # a wrong one is refused before anything is measured
        require(not self.teacher or bool(self.labels), "teacher", self.teacher, "it is measured beside its `labels`")
        want = "weights must not be fitted on the split that is reported"
        require(self.split != self.dev, "dev", self.dev, want)


@dataclass(frozen=True, config=CHECKED)
class WinnerRule(StagePaths):
    """The rule by which a system wins in the output of `evaluate`."""

    metric: Literal["nDCG@10", "MRR@10", "PNR"] = "nDCG@10"
    """The measure that decides."""
    max_p99_ms: Positive = 1000.0
    """The p99 latency in milliseconds, for `latency_docs` documents, above which a student cannot win."""
    allow_worse: bool = False
    """Let the best student win although the best first stage is above it; `winner.json` and the report say so."""


@dataclass(frozen=True, config=CHECKED)
class SelectConfig(WinnerRule):
    """The best quality inside the latency budget, and never a student below the first stage. `input`: the output of
    `evaluate`."""

    calibrate: bool = False
    """Make `relevance_score` the probability of being relevant, by a slope and an offset from dev: in the head of the
    winner's student, which is copied to `model/` of the output, and in winner.json for a sum."""
    publish: Uri = ""
    """A folder that gets report.json and report.html too, where a person looks first; empty: none."""
