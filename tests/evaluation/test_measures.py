"""Measures of ir-measures: each is computed on ids as people have them, or refused by name when a config is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ir_measures
import pytest

from rrad_ray.config import EvaluateConfig, load
from rrad_ray.errors import RradError
from rrad_ray.evaluation.measures import per_query
from tests.fixtures import row_of

REGISTRY = ir_measures.measures.registry
COMPUTED = {"AP", "ERR", "Judged", "Compat", "RR", "nDCG", "P", "R", "Success", "IPrec", "SetF", "Accuracy", "infAP"}


def named(name: str) -> str:
    """A measure of ir-measures with the parameters that it wants."""
    known = REGISTRY[name].SUPPORTED_PARAMS
    measure = REGISTRY[name](max_rel=4) if "max_rel" in known else REGISTRY[name]
    return str(measure @ 10 if "cutoff" in known else measure @ 0.5 if "recall" in known else measure)


def refusal(measure: str) -> str:
    """The error that a config with this measure gets; empty for none."""
    try:
        EvaluateConfig("in", "out", metrics=(measure,))
    except RradError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_measure_is_computed_on_ids_of_any_text_or_refused_by_name(name: str) -> None:
    measure = named(name)
    if refused := refusal(measure):
        assert refused.startswith(f"evaluate: metrics: {measure}")
        assert name not in COMPUTED, refused
        return
    rows, rankings = [], []
    for number in range(3):
        judged = {"qrel_ids": ["ä b/1", "http://x#2", "none"], "qrel_grades": [3, 0, 1]}
        rows.append({**row_of(f"how? {number}", ["ä b/1", "http://x#2", "other"]), **judged})
        rankings.append([("other", 3.0), ("ä b/1", 2.0), ("http://x#2", 1.0)][: 3 if number else 0])
    quality = per_query(rows, rankings, [measure])
    values = quality["MRR@10" if measure == "RR@10" else measure]
    assert values[0] == 0.0
    assert 0 < values[1] == values[2] <= 3


def test_a_measure_that_fails_on_these_queries_is_an_error_that_names_it() -> None:
    row: dict[str, Any] = {**row_of("q", ["a", "b"]), "qrel_ids": ["a"], "qrel_grades": [1]}
    with pytest.raises(RradError, match=r"metrics: Accuracy cannot be computed for these queries: .*; leave it out"):
        per_query([row], [[("a", 2.0)]], ["Accuracy"])


@pytest.mark.parametrize(
    "name",
    ["nDGC@10", "alpha_nDCG@10", "R", "AP(", "P@x", "nDCG@0", "P@0", "R@0", "AP@0", "RR@0", "Success@0", "nDCG@1.5"],
)
def test_a_measure_that_cannot_be_had_is_refused_when_the_config_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("input: a\noutput: b\n")
    with pytest.raises(RradError, match="metrics: "):
        load.load_config(EvaluateConfig, f"{tmp_path}/e.yaml", [f"metrics=[{name!r}]"])
