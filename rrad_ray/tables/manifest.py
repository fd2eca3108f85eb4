"""Manifests: what a finished output says of itself, and what it hands to the stages after it.

A stage that needs a fact about an earlier one finds it in its own input's `Lineage`: each stage passes on the lineage
of its input and adds its own record. So no stage walks upstream, or knows another one's config or files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import Field

from rrad_ray.errors import InvalidInput, RradError
from rrad_ray.tables.file_models import file_model, misfit_of
from rrad_ray.tables.files import join
from rrad_ray.tables.json_files import json_text, write_json
from rrad_ray.tables.text import read_json

MANIFEST, HISTORY = "manifest.json", "history.json"

PART_REMEDY = "bring the table's own files back, or run its stage again"


class PartFacts(TypedDict):
    """The size and the digest of a part of a finished table, which readers compare, and the least and the greatest
    split of its rows: readers of another split pass over it.

    Parts of rows without a split have no `splits`, and those of earlier versions no `digest`: the SHA-256 of the
    footer, which has that of all bytes before it (`part_files`).
    """

    rows: int
    bytes: int
    splits: NotRequired[list[str]]
    digest: NotRequired[str]


class SourceCost(TypedDict):
    """The cost of one first-stage source: a search over the whole collection, on the machine of `retrieve`."""

    latency_ms: dict[str, float]  # p50 and p99; empty if there was no query to measure with
    documents_per_s: float
    parameters: int


class EncoderFacts(TypedDict):
    """The bi-encoder behind a source, which scores a text by itself: its model, and the tokens that it reads."""

    model: str
    max_length: int


class IndexFacts(TypedDict):
    """The index of a search by vectors. A query met `probes` of a part's `lists` (0: four times the square root of
    its number of documents). `recall`: the share of the exact best `depth` that it found, on `queries` queries."""

    probes: int
    lists: int
    queries: int
    depth: int
    recall: float


@dataclass(frozen=True)
class FirstStageFacts:
    """The record of `retrieve`: the collection, the cost of each source that searched it, the bi-encoders among the
    sources, by source (`prerank` adds its own), and the index, if there was one."""

    data: str
    sources: dict[str, SourceCost] = field(default_factory=dict)
    encoders: dict[str, EncoderFacts] = field(default_factory=dict)
    index: IndexFacts | None = None


@dataclass(frozen=True)
class JudgeFacts:
    """The record of `judge`: the labeller's model, and how it did on dev (`labelling.gate`).

    `answer_regex`: the regular expression by which its answers are read; empty: the built-in parser. `grades`: those
    that its labels stand for, ascending, where its scores are on their scale; else empty.
    """

    model: str
    gate: dict[str, Any] = field(default_factory=dict)
    answer_regex: str = ""
    grades: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class QrelsFacts:
    """The record of `qrels`: the model whose grades stand as qrels, and how many queries of each split they judge.

    `agreement`: with people, as of `labelling.model_qrels.agreement`. `note`: all that in a sentence for reports.
    """

    model: str
    queries: dict[str, int]
    note: str
    agreement: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelFacts:
    """The record of `label`: what the targets are made of, and how good they are.

    `model`: the judge's; empty where no LLM was asked. `weights`: of the judge and the sources in the fusion. `dev`:
    nDCG@10 on dev by system, under `ndcg_10`, and the fitted weights. `label_quality`: `LabelQuality.facts`.
    `teachers`: the models of other teachers, by their names.
    """

    model: str
    weights: dict[str, float]
    dev: dict[str, Any] = field(default_factory=dict)
    label_quality: dict[str, Any] = field(default_factory=dict)
    teachers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingFacts:
    """The record of `train` and `finetune`: what cut the schedule short, empty for one that came to its end; the
    splits that were learnt from; and the teachers of other labels than the input's: of `more`, and of what the model
    had learnt before."""

    cut_short: str = ""
    splits: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluationFacts:
    """The record of `evaluate`: the checkpoint of each student in its report."""

    students: dict[str, str]


@dataclass(frozen=True)
class Lineage:
    """The facts that an output hands on about the stages before it, itself included; None for a stage that took no
    part.

    `simulated` says where labels come from that no model made; empty for labels of a model. `qrels`: None where no
    model has made the qrels.
    """

    first_stage: FirstStageFacts | None = None
    qrels: QrelsFacts | None = None
    judge: JudgeFacts | None = None
    labels: LabelFacts | None = None
    training: TrainingFacts | None = None
    evaluation: EvaluationFacts | None = None
    simulated: str = ""

    @property
    def teachers(self) -> list[str]:
        """The models behind the labels, but for simulated ones, and behind others that a student has learnt."""
        models = [self.judge.model] if self.judge else []
        models += [self.labels.model, *self.labels.teachers.values()] if self.labels else []
        others = self.training.teachers if self.training else []
        return [model for model in dict.fromkeys([*([] if self.simulated else models), *others]) if model]

    @property
    def qrels_note(self) -> str:
        """The sentence on qrels that no people have made; empty for those of people."""
        return self.qrels.note if self.qrels else ""

    def check_teachers(self, models: Iterable[str]) -> None:
        """Raise `InvalidInput` for a teacher that has made the qrels: it would be measured by itself."""
        if self.qrels:
            check_grader(self.qrels.model, models)


@dataclass(frozen=True)
class Manifest:
    """The manifest of a finished output.

    `config` and `inputs` identify the run, `schema` the rows. `quarantined`: bad rows by reason. `facts`: figures of
    this run for people, `rrad status` and tests; what later stages need is in `lineage`. `parts`: the parts by name;
    None where nothing is known of them.
    """

    stage: str
    schema: dict[str, str]
    config: dict[str, Any]
    inputs: dict[str, str]
    quarantined: dict[str, int]
    versions: dict[str, str]
    seconds: float
    facts: dict[str, Any]
    lineage: Lineage
    parts: dict[str, PartFacts] | None = None

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        return json_text(dataclasses.asdict(self), indent=2)


_Count = Annotated[int, Field(ge=0)]
_PartFile = file_model(
    PartFacts,
    rows=_Count,
    bytes=_Count,
    splits=Annotated[list[str], Field(min_length=2, max_length=2)],
    digest=Annotated[str, Field(pattern="^[0-9a-f]{64}$")],
)
_CostFile = file_model(
    SourceCost,
    latency_ms=dict[str, float | None],  # JSON's null stands for a number that could not be computed
    documents_per_s=float | None,
)
_FirstStageFile = file_model(
    FirstStageFacts,
    sources=dict[str, _CostFile],  # type: ignore[valid-type]
    encoders=dict[str, file_model(EncoderFacts)],  # type: ignore[misc]
    index=file_model(IndexFacts, recall=Annotated[float, Field(ge=0, le=1)]) | None,
)
_RECORDS = {
    "first_stage": (FirstStageFacts, _FirstStageFile),
    "qrels": (QrelsFacts, file_model(QrelsFacts)),
    "judge": (JudgeFacts, file_model(JudgeFacts)),
    "labels": (LabelFacts, file_model(LabelFacts)),
    "training": (TrainingFacts, file_model(TrainingFacts)),
    "evaluation": (EvaluationFacts, file_model(EvaluationFacts)),
}
_ManifestFile = file_model(
    Manifest,
    lineage=file_model(Lineage, **{name: model | None for name, (_, model) in _RECORDS.items()}),
    parts=dict[str, _PartFile] | None,  # type: ignore[valid-type]
)


def read_manifest(uri: str) -> Manifest:
    """Read the manifest of a finished output.

    Raises `RradError` if there is none, or as `parse_manifest` does.
    """
    manifest = find_manifest(uri)
    if manifest is None:
        problem = "no manifest.json: the table does not exist or its stage has not finished"
        raise RradError(uri, problem, "check the path, or run the stage that writes it")
    return manifest


def find_manifest(uri: str) -> Manifest | None:
    """Read the manifest of an output; None for one that is not finished, and for files from elsewhere.

    Raises `RradError` as `parse_manifest` does.
    """
    content = read_json(join(uri, MANIFEST))
    return None if content is None else parse_manifest(content, uri)


def parse_manifest(content: Any, uri: str) -> Manifest:
    """Return the manifest that the JSON of the output at `uri` holds.

    Raises `RradError` if another version of rrad-ray has written it, or if it holds what no version writes.
    """
    if misfit := misfit_of(_ManifestFile, content):
        problem = f"its manifest.json is damaged, or of another version of rrad-ray ({misfit})"
        raise RradError(uri, problem, "delete the output and run its stage again")
    lineage = content["lineage"]
    records = {name: kind(**lineage[name]) for name, (kind, _) in _RECORDS.items() if lineage.get(name) is not None}
    return Manifest(**{**content, "lineage": Lineage(**{**lineage, **records})})


def index_sentence(facts: IndexFacts) -> str:
    """Return in words what an index has found."""
    return (
        f"searched by an index ({facts['probes']:,} lists of each part): recall@{facts['depth']} "
        f"{facts['recall']:.3f} against the exact product, on {facts['queries']:,} queries"
    )


def check_grader(grader: str, teachers: Iterable[str]) -> None:
    """Raise `InvalidInput` for a teacher that is the model which grades or has graded."""
    for model in teachers:
        if _model_name(model) == _model_name(grader):
            problem = f"the teacher {model} has made the qrels itself: measured by them, it agrees with itself"
            raise InvalidInput(problem, "make the qrels by another model, or take another teacher")


def _model_name(model: str) -> str:
    """Return the last name of a model's id or folder, by which copies of one model in several places are alike."""
    return model.rstrip("/").removesuffix("/model").rpartition("/")[2].casefold()


def lineage_of(uri: str) -> Lineage:
    """Return what a table hands on; an empty lineage for files from elsewhere, which have no manifest."""
    manifest = find_manifest(uri)
    return Lineage() if manifest is None else manifest.lineage


def write_history(uri: str, history: dict[str, list[float]]) -> None:
    """Write the curves of a training beside its checkpoint.

    Losses, `loss*`, go along `steps`; figures on dev, `dev_*`, along `dev_steps`.
    """
    write_json(join(uri, HISTORY), history)


def read_history(uri: str) -> dict[str, list[float]]:
    """Read the curves of a training; empty where none has been written, as beside a model from elsewhere."""
    return read_json(join(uri, HISTORY)) or {}
