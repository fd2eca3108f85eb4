"""A label row, as small as one can be, for the tests of the listwise labeller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TEXTS = ["sums numbers", "opens a file", "sorts a list", "parses JSON"]


def row(targets: Sequence[float], missing: Sequence[bool] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a label row with one document for each target; `changes` replace columns."""
    ids = [f"d{number}" for number in range(len(targets))]
    label = {
        "query_id": "q1",
        "query": "sort numbers",
        "split": "train",
        "doc_ids": ids,
        "texts": [TEXTS[number % len(TEXTS)] + "!" * number for number in range(len(targets))],
        "targets": list(targets),
        "missing": list(missing or [False] * len(targets)),
        "qrel_ids": ids[2:3],
        "qrel_grades": [1],
    }
    return label | changes
