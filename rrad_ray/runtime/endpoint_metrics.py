"""The endpoint's measurements as Ray Serve exports them to Prometheus; `cluster/monitoring/` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from rrad_ray.runtime.gauges import LastingGauge, keep_renewed

MILLISECONDS: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000]

TOKENS: list[float] = [256, 1024, 4096, 8192, 16_384, 32_768, 65_536]

RELEVANCE: list[float] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]

WORDS: list[float] = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 50]


class RayMetrics:
    """The measurements of one replica (`serving.service_metrics.ServiceMetrics`)."""

    def __init__(self) -> None:
        by_status: Any = ("path", "status")  # Ray's own types know one key only
        by_variant: Any = ("model", "variant")
        by_stage: Any = ("stage", "model")
        by_result: Any = ("result",)
        self.requests = Counter("rrad_serve_requests", "Requests", tag_keys=by_status)
        self.answers = Counter("rrad_serve_answered", "Requests answered", tag_keys=by_variant)
        self.latency_ms = Histogram("rrad_serve_ms", "Latency", boundaries=MILLISECONDS, tag_keys=by_stage)
        self.batch_tokens = Histogram("rrad_serve_pass_tokens", "Tokens of a scoring call", boundaries=TOKENS)
        self.cached_pairs = Counter("rrad_serve_cache", "Pairs that a cache was asked for", tag_keys=by_result)
        self.requests_inside = LastingGauge(Gauge("rrad_serve_inside", "Requests that are inside a replica"))
        self.held = LastingGauge(Gauge("rrad_serve_events_held", "Events on this disk and not yet in the store"))
        self.set_aside = Counter("rrad_serve_events_set_aside", "Events on this disk that no table can hold")
        self.exposures_lost = Counter("rrad_serve_exposures_not_logged", "Pages answered without an exposure")
        by_reason: Any = ("reason",)
        self.refused_clicks = Counter(
            "rrad_serve_clicks_refused", "Clicks on no page of the test", tag_keys=by_reason
        )
        self.winners = Counter("rrad_serve_winners", "New winners", tag_keys=by_result)
        self._begin_drift()
        keep_renewed(self)

    def _begin_drift(self) -> None:
        """Begin the measurements of what drifts, and of what is served in another's place."""
        by_use: Any = ("use",)
        by_model: Any = ("model",)
        by_input: Any = ("input",)
        by_figure: Any = ("figure",)
        self.first_stage = Counter(
            "rrad_serve_first_stage", "Rankings of models that sum its scores", tag_keys=by_use
        )
        self.best_scores = Histogram(
            "rrad_serve_best_score", "Relevance score of the best document", boundaries=RELEVANCE, tag_keys=by_model
        )
        self.query_words = Histogram("rrad_serve_query_words", "Words of a query", boundaries=WORDS)
        older = Gauge("rrad_serve_winner_behind", "1: an older model is served", tag_keys=by_input)
        night_ended = Gauge("rrad_serve_night_ended", "When the last night was decided, seconds since 1970")
        deviations = Gauge("rrad_serve_night_deviations", "Of its drift from earlier nights", tag_keys=by_figure)
        self.older, self.night_ended = LastingGauge(older), LastingGauge(night_ended)
        self.deviations = LastingGauge(deviations)

    def renew(self) -> None:
        """Export the last value of every gauge again."""
        for gauge in (self.requests_inside, self.held, self.older, self.night_ended, self.deviations):
            gauge.renew()

    def request(self, path: str, status: str) -> None:
        self.requests.inc(tags={"path": path, "status": status})

    def answered(self, model: str, variant: str, seconds: float) -> None:
        self.answers.inc(tags={"model": model, "variant": variant})
        self.stage("all", model, seconds)

    def stage(self, stage: str, model: str, seconds: float) -> None:
        self.latency_ms.observe(1000 * seconds, tags={"stage": stage, "model": model})

    def batch(self, tokens: int, waited_s: Sequence[float]) -> None:
        self.batch_tokens.observe(tokens)
        for seconds in waited_s:
            self.stage("wait", "", seconds)

    def lookup(self, hits: int, misses: int) -> None:
        for result, count in (("known", hits), ("asked", misses)):
            if count:
                self.cached_pairs.inc(count, tags={"result": result})

    def ranked(self, model: str, first_stage: str, best: float, words: int) -> None:
        if first_stage:
            self.first_stage.inc(tags={"use": first_stage})
        self.best_scores.observe(best, tags={"model": model})
        self.query_words.observe(words)

    def inside(self, count: int) -> None:
        self.requests_inside.set(count)

    def events_held(self, count: int) -> None:
        self.held.set(count)

    def events_set_aside(self, count: int) -> None:
        self.set_aside.inc(count)

    def clicks_refused(self, reason: str, count: int) -> None:
        self.refused_clicks.inc(count, tags={"reason": reason})

    def exposure_lost(self) -> None:
        self.exposures_lost.inc()

    def winner(self, result: str) -> None:
        self.winners.inc(tags={"result": result})

    def behind(self, name: str, is_behind: bool) -> None:
        self.older.set(int(is_behind), tags={"input": name})

    def night(self, ended: float, deviations: Mapping[str, float]) -> None:
        self.night_ended.set(ended)
        known = (figure for [(_, figure)] in self.deviations.values)  # a gauge keeps its value until it gets another
        for figure, value in {**dict.fromkeys(known, 0.0), **deviations}.items():
            self.deviations.set(value, tags={"figure": figure})
