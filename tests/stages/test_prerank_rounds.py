"""prerank for a second round of labels: a student orders, and the queries where it disagrees most stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import PickConfig, PrerankConfig
from rrad_ray.errors import RradError
from rrad_ray.labelling.picking import rank_disagreement
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import PRERANK, Candidates, PrerankOutput, by_source
from rrad_ray.stages import prerank
from rrad_ray.stages.prerank import PrerankPart
from rrad_ray.tables import checkpoints, shards
from tests import endpoints
from tests.fixtures import row_of, table_of

WORDS = ("open a file", "sort a list", "add two numbers", "count words", "join two tables")
SPLITS = ("train", "unlabelled", "dev", "test")


def row(number: int) -> dict[str, Any]:
    texts = [f"{WORDS[(number + place * (number + 1)) % 5]} {place}" for place in range(5)]
    query = " ".join([WORDS[number % 5]] * (1 + number % 3))
    return {**row_of(f"q{number}", texts), "query": query, "split": SPLITS[number % 4]}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student"))
    endpoints.student(folder, layers=1)
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> str:
    return table_of(tmp_path_factory.mktemp("given") / "table", [row(number) for number in range(32)])


def preranked(given: str, output: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of the output, and what the manifest will say of them."""
    cfg = PrerankConfig(given, str(output), top_k=2, bottom_k=1, **options)
    out = tables.Output("prerank", cfg, PrerankOutput, {})
    planned = shards.plan_shards(given, shards.MOST_ROWS, Candidates)
    model = cfg.student or ("" if cfg.source else checkpoints.resolve(cfg.model))
    PrerankPart(cfg, model, out, planned).part(planned[0].part)
    return tables.read_part(out.uri, planned[0].part, PrerankOutput), prerank._count(cfg, out, planned)


def ids(rows: list[dict[str, Any]], *splits: str) -> set[str]:
    return {row["query_id"] for row in rows if row["split"] in splits or not splits}


def test_a_student_orders_and_its_scores_are_kept_as_those_of_the_preranker(
    given: str, student: str, tmp_path: Path
) -> None:
    rows, _ = preranked(given, tmp_path / "out", student=student)
    ranker = Ranker.load(student)
    assert len(rows) == 32
    for each in rows:
        whole = row(int(each["query_id"][1:]))
        scores = dict(zip(whole["doc_ids"], ranker.score(whole["query"], whole["texts"]), strict=True))
        best = sorted(scores, key=lambda name: -scores[name])
        kept = best if each["split"] in ("dev", "test") else [*best[:2], best[-1]]
        assert each["doc_ids"] == kept
        assert each["scores"] == by_source(each)[PRERANK] == pytest.approx([scores[name] for name in kept], abs=2e-2)


def worth_of(given: str, output: Path, student: str, against: str) -> dict[str, float]:
    """Return the disagreement of each query that is not measured, by the scores that `prerank` itself computes."""
    before = {row["query_id"]: row for row in tables.read_part(given, tables.part_name(0), Candidates)}
    rows, _ = preranked(given, output, student=student, keep_whole=SPLITS)
    worth = {}
    for each in rows:
        if each["split"] in ("train", "unlabelled"):
            whole = before[each["query_id"]]
            theirs = dict(zip(whole["doc_ids"], by_source(whole)[against], strict=True))
            others = [theirs[name] for name in each["doc_ids"]]
            worth[each["query_id"]] = rank_disagreement(each["scores"], others)
    return worth


def test_the_queries_stay_where_the_student_and_the_first_stage_disagree_most(
    given: str, student: str, tmp_path: Path
) -> None:
    pick = PickConfig(by="disagreement", share=0.25, against="bm25")
    rows, facts = preranked(given, tmp_path / "out", student=student, pick=pick)
    assert ids(rows, "dev", "test") == {f"q{number}" for number in range(32) if number % 4 > 1}
    worth, picked = worth_of(given, tmp_path / "all", student, "bm25"), ids(rows, "train", "unlabelled")
    assert len(picked) == 4
    assert min(worth[name] for name in picked) >= max(worth[name] for name in worth if name not in picked) - 1e-9
    assert (facts["rows"], facts["left_out"], facts["seen"]) == (20, 12, 32)


def test_two_students_are_compared_by_the_scores_that_the_earlier_one_left(
    given: str, student: str, tmp_path: Path
) -> None:
    first, _ = preranked(given, tmp_path / "first", student=student, keep_whole=SPLITS)
    both, other = table_of(tmp_path / "both", first), str(tmp_path / "other")
    endpoints.student(other, seed=1, layers=1)
    pick = PickConfig(by="disagreement", share=0.25, against=PRERANK)
    rows, _ = preranked(both, tmp_path / "out", student=other, pick=pick)
    worth, picked = worth_of(both, tmp_path / "all", other, PRERANK), ids(rows, "train", "unlabelled")
    assert len(picked) == 4
    assert max(worth.values()) > 0.1, "they differ"
    assert min(worth[name] for name in picked) >= max(worth[name] for name in worth if name not in picked) - 1e-9


def test_splits_and_queries_that_were_labelled_before_are_left_out_and_counted(given: str, tmp_path: Path) -> None:
    before = table_of(tmp_path / "before", [row(number) for number in (0, 1, 4, 5, 2)])
    options: dict[str, Any] = {"source": "bm25", "splits": ("train", "unlabelled", "dev")}
    rows, facts = preranked(given, tmp_path / "out", pick=PickConfig(without=[before]), **options)
    assert ids(rows) == {f"q{number}" for number in range(32) if number % 4 < 3} - {"q0", "q1", "q4", "q5"}
    assert facts["left_out"] == 8 + 4, "those of test, and four; the dev query is measured again"


def test_whole_candidates_are_picked_from_as_others_are(given: str, tmp_path: Path) -> None:
    pick = PickConfig(share=0.25, without=[table_of(tmp_path / "before", [row(0), row(1)])])
    rows, facts = preranked(given, tmp_path / "out", source="bm25", pick=pick, keep_whole=SPLITS)
    assert len(ids(rows, "dev", "test")) == 16
    assert len(ids(rows, "train", "unlabelled")) == 4, "a quarter of 14"
    assert not {"q0", "q1"} & ids(rows)
    assert facts["left_out"] == 12


def test_the_longest_queries_stay(given: str, tmp_path: Path) -> None:
    rows, _ = preranked(given, tmp_path / "out", source="bm25", pick=PickConfig(by="length", share=0.3))
    picked = {len(each["query"].split()) for each in rows if each["split"] in ("train", "unlabelled")}
    left = [row(number) for number in range(32) if number % 4 < 2 and f"q{number}" not in ids(rows)]
    assert min(picked) >= max(len(each["query"].split()) for each in left)


def test_a_student_that_is_none_is_refused_before_a_row_is_read(given: str, tmp_path: Path) -> None:
    cfg = PrerankConfig(given, str(tmp_path / "out"), student=checkpoints.resolve(checkpoints.BUNDLED[0]))
    with pytest.raises(RradError, match="is no ranker with one score"):
        prerank.run(cfg)


def test_queries_of_another_collection_with_the_same_ids_are_not_those_labelled_before(
    given: str, tmp_path: Path
) -> None:
    before = table_of(tmp_path / "before", [row(number) | {"query": "another"} for number in (0, 1)])
    with pytest.raises(RradError, match="query 'q0' asks 'another' there"):
        preranked(given, tmp_path / "out", pick=PickConfig(without=[before]), source="bm25")


def test_a_student_whose_scores_are_no_numbers_orders_nothing(given: str, student: str, tmp_path: Path) -> None:
    """The candidates' order was kept, as the student's own."""
    ranker = Ranker.load(student, dtype="float32")
    ranker.model.classifier.weight.data *= float("nan")
    ranker.save(tmp_path / "lost")
    with pytest.raises(RradError, match="lost: gives a document of query 'q0' a score that is not a number"):
        preranked(given, tmp_path / "out", student=f"{tmp_path}/lost")
