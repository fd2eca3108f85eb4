"""The input of `judge`, and of `label` after it: its rows, and the reader of the answers in them."""

from __future__ import annotations

from rrad_ray import tables
from rrad_ray.config import JudgeConfig
from rrad_ray.labelling.answer_patterns import AnswerReader, answer_reader
from rrad_ray.languages.scripts import folded
from rrad_ray.rows import MEASURED, Candidates, JudgeOutput


def source_row(cfg: JudgeConfig) -> type:
    """Return the row type that a task reads."""
    return JudgeOutput if cfg.task == "explain" else Candidates


def measured_queries(uri: str) -> frozenset[str]:
    """Return the texts of a table's dev and test queries, as `folded` compares them."""
    return frozenset(folded(row["query"]) for row in tables.read_split(uri, Candidates, *MEASURED))


def source_reader(uri: str) -> AnswerReader:
    """Return the reader of the answers in a table, which its `judge` has recorded; without a record the built-in
    one."""
    judge = tables.lineage_of(uri).judge
    return answer_reader(judge.answer_regex if judge else "")
