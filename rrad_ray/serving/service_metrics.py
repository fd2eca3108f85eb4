"""The measurements that a service reports while it answers; `runtime/endpoint_metrics.py` hands them to Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class ServiceMetrics(Protocol):
    """Counters, gauges and histograms of one replica."""

    def request(self, path: str, status: str) -> None:
        """Count a request that has ended, by its path and status."""

    def answered(self, model: str, variant: str, seconds: float) -> None:
        """Count an answer by model and variant, and observe its latency."""

    def stage(self, stage: str, model: str, seconds: float) -> None:
        """Observe the latency of one stage of a request: `retrieve`, `tokenize`."""

    def batch(self, tokens: int, waited_s: Sequence[float]) -> None:
        """Observe the size of a batch, and how long each request that begins in it has waited."""

    def lookup(self, hits: int, misses: int) -> None:
        """Count the pairs of a request that the score cache knew, and those that it did not."""

    def ranked(self, model: str, first_stage: str, best: float, words: int) -> None:
        """Observe a ranking: what gave its scores, whether the first stage's are in them (as of `ModelScores`), the
        relevance score of its best document, and the words of its query."""

    def inside(self, count: int) -> None:
        """Set the number of requests inside the replica."""

    def events_held(self, count: int) -> None:
        """Set the number of events on this disk that are not in the store yet."""

    def events_set_aside(self, count: int) -> None:
        """Count events on this disk that no table can hold."""

    def clicks_refused(self, reason: str, count: int) -> None:
        """Count clicks that were no clicks on pages of the test: `forged`, `late`, `replayed` or `too many`."""

    def exposure_lost(self) -> None:
        """Count a page that was answered without an exposure."""

    def winner(self, result: str) -> None:
        """Count a new winner: `live` or `refused`."""

    def behind(self, name: str, is_behind: bool) -> None:
        """Set whether a model, by its name among the endpoint's, is an older one than its input holds."""

    def night(self, ended: float, deviations: Mapping[str, float]) -> None:
        """Set when the last night was decided, in seconds since 1970, and how far each figure of its drift is from
        those of earlier nights, in their standard deviations."""
