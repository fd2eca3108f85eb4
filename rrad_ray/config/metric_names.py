"""Measures by the names of ir-measures: which of them can be computed here, known before anything runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rrad_ray.errors import RradError

REMEDY = "name measures as ir-measures does, as in [AP, R@100]"


def check_metrics(names: Sequence[str]) -> None:
    """Raise `RradError` for the first name that `parse_metric` refuses."""
    for name in names:
        parse_metric(name)


@functools.cache  # each copy of a config asks again, and some measures start a process
def parse_metric(name: str) -> Any:
    """Return the measure that ir-measures knows by this name.

    Raises `RradError` if it knows none, or none of its installed providers computes it for a query: they are asked
    for its value on a small example.
    """
    import ir_measures  # which takes a second, and most configs name none

    try:
        measure = ir_measures.parse_measure(name)
        if not ir_measures.DefaultPipeline.supports(measure):
            raise ValueError("none of the installed providers computes it")
        cutoff = measure.params.get("cutoff", 1)
        if isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 1:  # trec_eval ends the process
            raise ValueError(f"its cutoff is {cutoff}, and must be a whole number from 1")
    except (AssertionError, NameError, ValueError, TypeError, KeyError) as error:  # ir-measures raises each
        raise RradError("metrics", f"{name}: {error}", REMEDY) from error
    qrels = [ir_measures.Qrel("1", f"d{number}", grade) for number, grade in enumerate((2, 0, 1))]
    ranking = [ir_measures.ScoredDoc("1", f"d{number}", -float(number)) for number in range(2)]
    try:
        values = list(ir_measures.iter_calc([measure], qrels, ranking))
        if not values:
            raise ValueError("it has no value of a single query")
    except Exception as error:  # whatever the library or the program behind a provider raises
        problem = f"{name} cannot be computed on this machine: {error or type(error).__name__}"
        raise RradError("metrics", problem, "leave it out, or install what it needs") from error
    return measure
