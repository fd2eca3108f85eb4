"""Configs of the nightly loop: `collect`, before a night's labels, and `publish`, after its student."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from rrad_ray.config.base import CHECKED, NO_BOOL, Count, GivenUri, Seed, Share, StagePaths, Uri, require
from rrad_ray.config.evaluation import WinnerRule
from rrad_ray.rows import BM25, DENSE, JUDGE, PRERANK

NEW_STUDENT, LAST_STUDENT = "new", "last"  # the names of a night's two students in its evaluations


def _night(value: str) -> str:
    """Refuse what is no file name, and the name of a source, or of a student in the night's evaluations: the night's
    student is summed and compared with them, by name."""
    if value in (BM25, DENSE, PRERANK, JUDGE):
        raise ValueError("is the name of a source: take another one, as in 2026-11-29")
    if value in (NEW_STUDENT, LAST_STUDENT):
        raise ValueError(
            "is what a night's evaluation calls one of its students: take another name, as in 2026-11-29"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ValueError("must be up to 100 letters, digits, '.', '_' and '-', as in 2026-11-29")
    return value


Night = Annotated[str, AfterValidator(_night)]


@dataclass(frozen=True, config=CHECKED)
class CollectConfig(StagePaths):
    """The queries that are new since the last night.

    `input`: a folder with a BEIR folder's queries (`queries.jsonl`) and, where people have judged some, `qrels/`; or
    an endpoint's event log, whose pages of results name their queries.
    """

    night: Night
    """The night's name in the history, as in 2026-11-29."""
    store: GivenUri
    """The folder that the endpoint serves from: `winner.json`, which the night begins from, the queries of earlier
    nights in `asked/`, and the history."""
    frozen: Uri = ""
    """Candidates whose queries are not new: those of the frozen judged set, and of what the first student was trained
    on. Empty: none."""
    min_queries: Count = 500
    """With fewer new queries there is nothing to learn: the history says so, and a later night takes them."""
    max_queries: Count = 5000
    """The night's budget: the most queries that are judged or labelled, drawn by hash; a later night takes the
    others."""
    judged_share: Share = 0.2
    """The share of the queries without qrels that are set apart for the fresh judged set, by a hash of their text."""
    dev_share: Share = 0.25
    """The share of these that go to `dev`; the others go to `test`."""
    needs_student: bool = True
    """The night begins from the winner's student, and compares it: a winner that is a first stage is refused before
    anything is paid."""
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops."""
    seed: Seed = 0
    """Draws the queries."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PublishConfig(WinnerRule):
    """The night's student in place of the published winner, if it is better. `input`: the output of `evaluate` on the
    frozen set, with the students `new` and, where the published winner has one, `last`."""

    night: Night
    """The night's name in the history, and of its student in the store."""
    store: GivenUri
    """The folder that the endpoint serves from, as of `collect`."""
    collected: GivenUri
    """The night's queries: the output of `collect`."""
    labels: GivenUri
    """The output of `label` that `new` has learnt from: the history shows how good the labels are."""
    frozen: GivenUri
    """The candidates of the frozen set, which `input` has measured."""
    fresh: GivenUri
    """The night's candidates with their qrels: the output of `qrels`, or of `retrieve` where people have judged."""
    fresh_input: GivenUri
    """The output of `evaluate` on these, with the same students."""
    max_p: Annotated[float, Field(gt=0, le=1), NO_BOOL] = 0.05
    """The p-value, of one-sided paired t-tests that are corrected for the two sets, below which a higher nDCG@10 is
    a better one."""

    def __post_init__(self) -> None:
        want = "the two sets are compared as two: name the evaluation on the night's own candidates"
        require(self.fresh_input != self.input, "fresh_input", self.fresh_input, want)
        require(self.fresh != self.frozen, "fresh", self.fresh, "name the night's own candidates")
