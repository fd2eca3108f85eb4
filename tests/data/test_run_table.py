"""Runs as tables: the same rankings as line by line, from TREC's text and from Parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray.data.run_table import read_run
from rrad_ray.data.trec import read_trec_run
from rrad_ray.errors import RradError

LINES = ["q2 Q0 a 2 1.5 x", "q1 Q0 b 2 3 x", "q2 Q0 c 1 1.5 x", "q1\tQ0\ta  1 4 x", "", "q2 Q0 b 3 9 x"]


def test_a_run_is_the_same_as_text_and_as_a_table_and_equal_scores_stand_by_rank(tmp_path: Path) -> None:
    (tmp_path / "mine.run").write_text("\n".join(LINES))
    table = read_run(f"{tmp_path}/mine.run")
    by_query: dict[str, list[tuple[str, float]]] = {}
    for row in table.to_pylist():
        by_query.setdefault(row["query_id"], []).append((row["doc_id"], row["score"]))
    assert by_query == read_trec_run(f"{tmp_path}/mine.run")
    assert by_query["q2"] == [("b", 9.0), ("c", 1.5), ("a", 1.5)]


def test_parquet_runs_are_read_whatever_wrote_them_and_their_order_breaks_ties(tmp_path: Path) -> None:
    columns = {"query_id": [1, 1, 2], "doc_id": pa.array(["b", "a", "a"]).dictionary_encode(), "score": [1, 1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    rows = [tuple(row.values()) for row in read_run(f"{tmp_path}/mine.parquet").to_pylist()]
    assert rows == [("1", "b", 1.0), ("1", "a", 1.0), ("2", "a", 2.0)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q Q0 a 1 1 x", "q Q0 b 2 x"], r"mine.run:2: is no line of a run: 'q Q0 b 2 x'"),
        (["q Q0 a 1 1 x", "q Q0 b 2 nan x"], "mine.run:2: is no line of a run"),
        (["q Q0 a 1 1 x", "", "q Q0 a 2 0 x"], "mine.run:3: ranks document 'a' again for query 'q'"),
        (["q Q0 a 99999999999999999999 1 x"], "mine.run:1: is no line of a run"),
        ([""], "is an empty run"),
    ],
)
def test_a_bad_line_is_named(lines: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.run").write_text("\n".join(lines))
    with pytest.raises(RradError, match=message):
        read_run(f"{tmp_path}/mine.run")


def test_a_parquet_run_without_a_column_or_with_a_missing_value_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": ["q"], "docid": ["a"], "score": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(RradError, match="has no column 'doc_id'"):
        read_run(f"{tmp_path}/other.parquet")
    for missing in (None, "", " "):
        pq.write_table(
            pa.table({"query_id": ["q", "q"], "doc_id": ["a", missing], "score": [1.0, 2.0]}), tmp_path / "b.parquet"
        )
        with pytest.raises(RradError, match="row 1 is no line of a run"):
            read_run(f"{tmp_path}/b.parquet")
    pq.write_table(pq.read_table(tmp_path / "b.parquet").slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(RradError, match="is an empty run"):
        read_run(f"{tmp_path}/empty.parquet")


def test_a_run_of_distances_is_refused_and_not_read_upside_down(tmp_path: Path) -> None:
    """An index of vectors exports rank 1 with the least distance; read by scores, the best document would be last."""
    nearest = [f"q{query} Q0 d{rank} {rank} {rank / 10} faiss" for query in range(3) for rank in range(1, 6)]
    (tmp_path / "distances.run").write_text("\n".join(nearest))
    rows = [line.split() for line in nearest]
    columns = {
        "query_id": [row[0] for row in rows],
        "doc_id": [row[2] for row in rows],
        "score": [float(row[4]) for row in rows],
        "rank": pa.array([int(row[3]) for row in rows], pa.uint32()),
    }
    whole = columns["rank"]
    gap = pa.array([None, *whole.to_pylist()[1:]], pa.float64())
    for ranks in (whole.cast(pa.float64()), whole.cast(pa.string()), whole.cast(pa.decimal128(22, 0)), gap):
        pq.write_table(pa.table({**columns, "rank": ranks}), tmp_path / "other.parquet")
        with pytest.raises(RradError, match=r"ranks say the opposite of its scores, for 1[12] of 1[12] neighbours"):
            read_run(f"{tmp_path}/other.parquet")
    pq.write_table(pa.table(columns), tmp_path / "distances.parquet")
    for read, name in ((read_run, "run"), (read_trec_run, "run"), (read_run, "parquet")):
        with pytest.raises(RradError, match="ranks say the opposite of its scores, for 12 of 12 neighbours"):
            read(f"{tmp_path}/distances.{name}")
    columns["score"] = [-score for score in columns["score"]]
    pq.write_table(pa.table(columns), tmp_path / "similar.parquet")
    assert [row["doc_id"] for row in read_run(f"{tmp_path}/similar.parquet").to_pylist()][:2] == ["d1", "d2"]


@pytest.mark.parametrize("ranks", [(0, 0, 0), (2, 1, 3)], ids=["alike", "now and then"])
def test_ranks_that_do_not_turn_the_scores_round_are_passed_over(ranks: tuple[int, ...], tmp_path: Path) -> None:
    lines = [f"q Q0 d{number} {rank} {9 - number} tag" for number, rank in enumerate(ranks)]
    (tmp_path / "some.run").write_text("\n".join(lines))
    assert [row["doc_id"] for row in read_run(f"{tmp_path}/some.run").to_pylist()] == ["d0", "d1", "d2"]
    assert read_trec_run(f"{tmp_path}/some.run") == {"q": [("d0", 9), ("d1", 8), ("d2", 7)]}
