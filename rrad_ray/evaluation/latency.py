"""The cost of a system: latency of one query, documents per second, parameters."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rrad_ray.rows import Row
from rrad_ray.tables import SourceCost

# The operations that a latency is of, as the report names them.
SEARCH = "one search over the whole collection"
RERANK = "re-ranking {docs} documents given as text"
FUSED = "{} and first-stage scores"


def rerank_latency(
    score: Callable[[str, Sequence[str]], Any], rows: Sequence[Row], docs: int, repeats: int
) -> dict[str, Any]:
    """Measure p50 and p99 of one query with `docs` documents of the rows, and documents/s, on this machine; where the
    rows have fewer, some more than once.

    The first two of `repeats` + 2 queries warm up and do not count.
    """
    texts = itertools.cycle([text for row in rows for text in row["texts"]])
    times_ms = []
    for number in range(repeats + 2):
        batch = list(itertools.islice(texts, docs))
        began = time.perf_counter()
        score(rows[number % len(rows)]["query"], batch)
        times_ms.append(1000 * (time.perf_counter() - began))
    times_ms = times_ms[2:]
    p50, p99 = (float(np.percentile(times_ms, at)) for at in (50, 99))
    per_s = 1000 * docs / float(np.mean(times_ms))
    return {"latency_ms": {"p50": p50, "p99": p99}, "documents_per_s": per_s, "latency_of": RERANK.format(docs=docs)}


def fusion_cost(costs: Sequence[SourceCost | None]) -> dict[str, Any]:
    """Return the cost of a fusion of first-stage sources: that of all of them; empty where one is not known."""
    known = [cost for cost in costs if cost and cost["latency_ms"]]
    if len(known) < len(costs):
        return {}
    return {
        "latency_ms": {at: sum(cost["latency_ms"][at] for cost in known) for at in ("p50", "p99")},
        "documents_per_s": 1 / sum(1 / cost["documents_per_s"] for cost in known),
        "parameters": sum(cost["parameters"] for cost in known),
        "latency_of": SEARCH,
    }
