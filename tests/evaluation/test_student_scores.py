"""Students' scores by one process and by a pool of actors, and the scores that a killed run has left behind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from rrad_ray import tables
from rrad_ray.config import EvaluateConfig
from rrad_ray.evaluation import student_scores
from rrad_ray.evaluation.student_scores import ScoreSlice
from rrad_ray.rankers.chunker import ChunkRanker
from rrad_ray.rankers.ranker import Ranker
from rrad_ray.rows import Candidates, Ranking
from rrad_ray.stages import evaluate
from tests import tiny
from tests.fixtures import row_of, table_of


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("students")
    sizes = {"hidden_size": 64, "intermediate_size": 256, "initializer_range": 0.5}
    trained = {"encoder": tiny.save(folder / "encoder", "Bert", **sizes)}
    return trained | {"decoder": tiny.save(folder / "decoder", "Llama", **sizes)}


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Judged queries of both splits, of texts of many lengths."""
    source, rows = random.Random(0), []
    for number in range(60):
        query, *texts = (" ".join(source.choices(tiny.WORDS[4:], k=source.randint(1, 30))) for _ in range(6))
        qrels = {"split": ("dev", "test")[number % 2], "qrel_ids": [f"{number}-0"], "qrel_grades": [1]}
        rows.append({**row_of(str(number), texts), "query": query, **qrels})
    return table_of(tmp_path_factory.mktemp("candidates"), rows)


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_scores, "SLICE", student_scores.PASS_QUERIES)


def rankings(output: str) -> list[dict[str, Any]]:
    return list(tables.read(output, Ranking))


@pytest.mark.ray
@pytest.mark.usefixtures("one_thread")
def test_scores_are_the_same_to_the_last_bit_by_one_process_and_by_a_pool_of_actors(
    tmp_path: Path, candidates: str, students: dict[str, str]
) -> None:
    tables_by_workers = []
    for workers in (1, {"min": 2, "max": 2}):
        output = f"{tmp_path}/{type(workers).__name__}"
        options: dict[str, Any] = {"precision": "float32", "latency_repeats": 1, "num_workers": workers}
        tables_by_workers.append(rankings(evaluate.run(EvaluateConfig(candidates, output, students, **options))))
        assert not (Path(output) / tables.WORK).exists()
    assert tables_by_workers[0] == tables_by_workers[1]
    assert len(tables_by_workers[0]) == 30 * (1 + 2 * len(students)), "bm25, and each student alone and fused"


def test_slices_share_the_passes_of_whole_splits(tmp_path: Path, candidates: str, students: dict[str, str]) -> None:
    options: dict[str, Any] = {"precision": "float32", "latency_repeats": 1}
    output = evaluate.run(EvaluateConfig(candidates, f"{tmp_path}/report", students, **options))
    rows = [row for row in tables.read(candidates, Candidates) if row["split"] == "test"]
    ranker, expected = Ranker.load(students["encoder"], dtype="float32"), list[float]()
    for start in range(0, len(rows), 16):
        batch = rows[start : start + 16]
        expected += ranker.score_pairs(
            [row["query"] for row in batch for _ in row["texts"]], [text for row in batch for text in row["texts"]]
        )
    scores = {
        (row["query_id"], doc_id): score
        for row in rankings(output)
        if row["system"] == "encoder"
        for doc_id, score in zip(row["doc_ids"], row["scores"], strict=True)
    }
    assert [scores[row["query_id"], doc_id] for row in rows for doc_id in row["doc_ids"]] == expected


def test_a_killed_run_goes_on_with_the_slices_that_are_missing_in_the_number_format_that_it_had(
    tmp_path: Path, candidates: str, students: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary, asked, formats = ScoreSlice.part, list[int](), list[torch.dtype]()

    def part(self: ScoreSlice, name: str) -> None:
        asked.append(tables.part_number(name))
        if len(asked) == 6:
            raise KeyboardInterrupt
        ordinary(self, name)

    score = ChunkRanker.best_chunks

    def best_chunks(self: ChunkRanker, *pairs: Any) -> Any:
        formats.append(self.ranker.model.dtype)
        return score(self, *pairs)

    monkeypatch.setattr(ScoreSlice, "part", part)
    monkeypatch.setattr(ChunkRanker, "best_chunks", best_chunks)
    killed = EvaluateConfig(candidates, f"{tmp_path}/killed", students, latency_repeats=1)
    monkeypatch.setattr(student_scores, "number_format", lambda *student: "bfloat16")
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(killed)
    monkeypatch.setattr(student_scores, "number_format", lambda *student: "float32")  # faster now, beside other load
    evaluate.run(killed)
    assert asked == [0, 1, 2, 3, 4, 5, 5, 6, 7]
    assert set(formats) == {torch.bfloat16}
