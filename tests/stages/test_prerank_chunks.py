"""prerank with chunks: a document has the cosine of its best chunk, alone, and the row says which one that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import ChunksConfig, PrerankConfig
from rrad_ray.rankers.bi_encoder import BiEncoder
from rrad_ray.rankers.chunker import Chunker
from rrad_ray.rows import PRERANK, Candidates, PrerankOutput, by_source
from rrad_ray.stages.prerank import PrerankPart
from rrad_ray.tables import checkpoints, shards
from tests.fixtures import row_of, table_of

MODEL = checkpoints.BUNDLED[0]
LONG = (
    "rows of a table are counted one by one. " * 6
    + "two numbers are added by the plus sign. "
    + "a file is open. " * 6
)
TEXTS = ["a sorted list", LONG, "the plus sign adds numbers", "files " * 80]
CHUNKS = ChunksConfig(tokens=16, overlap=4, most=20)


def preranked(tmp_path: Path, name: str, **options: Any) -> list[dict[str, Any]]:
    given = table_of(tmp_path / f"given-{name}", [row_of("q1", TEXTS), row_of("q2", [LONG, LONG + "!"])])
    cfg = PrerankConfig(given, f"{tmp_path}/{name}", max_length=32, **options)
    out = tables.Output("prerank", cfg, PrerankOutput, {})
    planned = shards.plan_shards(given, 10, Candidates)
    PrerankPart(cfg, checkpoints.resolve(MODEL), out, planned).part(planned[0].part)
    return tables.read_part(out.uri, planned[0].part, PrerankOutput)


def test_a_documents_cosine_is_the_highest_of_its_chunks_and_the_row_names_the_chunk(tmp_path: Path) -> None:
    encoder = BiEncoder(checkpoints.resolve(MODEL), max_length=32)
    chunker = Chunker(encoder.model.tokenizer, CHUNKS)
    query = encoder.queries(["add two numbers"])[0]
    for row in preranked(tmp_path, "chunked", chunks=CHUNKS):
        assert row["scores"] == by_source(row)[PRERANK]
        assert row["scores"] == sorted(row["scores"], reverse=True)
        for text, score, span in zip(row["texts"], row["scores"], row["best_chunks"], strict=True):
            split = chunker([text])
            alone = [float(encoder.documents([chunk])[0] @ query) for chunk in split.texts]
            assert score == pytest.approx(max(alone), abs=2e-2)  # bfloat16 where the machine is faster with it
            assert span in split.spans
            assert alone[split.spans.index(span)] == pytest.approx(max(alone), abs=2e-2)
    [row, _] = preranked(tmp_path, "again", chunks=CHUNKS)
    start, end = row["best_chunks"][row["texts"].index(LONG)]
    assert "plus sign" in LONG[start:end]


def test_documents_that_fit_have_the_scores_that_they_have_without_chunks(tmp_path: Path) -> None:
    wide = ChunksConfig(tokens=32)
    [whole, _], [chunked, _] = preranked(tmp_path, "whole"), preranked(tmp_path, "wide", chunks=wide)
    assert whole["best_chunks"] == []
    for text in (TEXTS[0], TEXTS[2]):
        before, after = (row["scores"][row["texts"].index(text)] for row in (whole, chunked))
        assert before == pytest.approx(after, abs=2e-2)
    assert chunked["best_chunks"][chunked["texts"].index(TEXTS[0])] == [0, len(TEXTS[0])]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"chunks": ChunksConfig(tokens=33)}, "a chunk would be cut to max_length=32"),
        ({"chunks": ChunksConfig(tokens=8), "source": "bm25"}, "the scores of a source are of whole documents"),
    ],
)
def test_chunks_that_would_be_cut_or_not_scored_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PrerankConfig("in", "out", max_length=32, **options)
    with pytest.raises(ValueError, match=r"must be below chunks\.tokens"):
        ChunksConfig(tokens=4, overlap=4)


def test_a_second_pre_ranker_takes_the_place_of_the_first(tmp_path: Path) -> None:
    before = row_of("q1", TEXTS) | {"sources": ["bm25", PRERANK], "source_scores": [[4.0, 3.0, 2.0, 1.0], [9.0] * 4]}
    given = table_of(tmp_path / "given", [before])
    cfg = PrerankConfig(given, f"{tmp_path}/out", max_length=32)
    out = tables.Output("prerank", cfg, PrerankOutput, {})
    planned = shards.plan_shards(given, 10, Candidates)
    PrerankPart(cfg, checkpoints.resolve(MODEL), out, planned).part(planned[0].part)
    [row] = tables.read_part(out.uri, planned[0].part, PrerankOutput)
    assert row["sources"] == ["bm25", PRERANK]
    assert row["source_scores"][1] == row["scores"]
    assert 9.0 not in row["scores"]
