"""Configs of the nightly loop: `collect`, before a night's labels, and `publish`, after its student."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from rrad_ray.config.base import CHECKED, Count, Given, GivenUri, Seed, Share, StagePaths, Uri


@dataclass(frozen=True, config=CHECKED)
class CollectConfig(StagePaths):
    """The queries that are new since the last night.

    `input`: a folder with a BEIR folder's queries (`queries.jsonl`) and, where people have judged some, `qrels/`; or
    an endpoint's event log, whose pages of results name their queries.
    """

    night: Given
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
    max_quarantined: Share = 0.05
    """The share of bad rows above which the stage stops."""
    seed: Seed = 0
    """Draws the queries."""
