"""A table, or any folder of Parquet files, as shards: every row once, whatever the sizes of files and row groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates
from rrad_ray.tables import shards


def write(folder: Path, name: str, count: int, first: int = 0, group: int = 100, **columns: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + count)
    content = {
        "query_id": [f"q{number}" for number in numbers],
        "query": ["a query" for _ in numbers],
        "doc_ids": [["a", "b", "c"][: number % 4] for number in numbers],
        "texts": [["x", "y", "z"][: number % 4] for number in numbers],
    }
    pq.write_table(pa.table(content | columns), folder / name, row_group_size=group)


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(0, 23), min_size=1, max_size=4), size=st.integers(1, 30), group=st.integers(1, 9))
def test_every_row_stands_in_exactly_one_shard_in_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], size: int, group: int
) -> None:
    folder = tmp_path_factory.mktemp("in")
    for number, count in enumerate(sizes):
        write(folder, f"file-{number}.parquet", count, sum(sizes[:number]), group)
    planned = shards.plan_shards(str(folder), size, Candidates)
    rows = [row for shard in planned for row in shards.read_shard(str(folder), shard, Candidates)]
    assert [row["query_id"] for row in rows] == [f"q{number}" for number in range(sum(sizes))]
    assert all(0 < shard.rows <= size for shard in planned)
    assert len({shard.part for shard in planned}) == len(planned)
    assert sum(shard.documents for shard in planned) == sum(len(row["doc_ids"]) for row in rows)


def test_a_foreign_folder_needs_four_columns_and_gets_the_rest_with_the_order_as_scores(tmp_path: Path) -> None:
    write(tmp_path / "in" / "day=1", "a.parquet", 4)
    [shard] = shards.plan_shards(f"{tmp_path}/in", 100, Candidates)
    row = shards.read_shard(f"{tmp_path}/in", shard, Candidates)[3]
    assert row["scores"] == [0.0, -1.0, -2.0]
    assert (row["split"], row["sources"], row["qrel_ids"]) == ("unlabelled", [], [])
    assert not shard.dev
    write(tmp_path / "in2", "a.parquet", 4, split=["train", "dev", "train", "train"])
    assert [shard.dev for shard in shards.plan_shards(f"{tmp_path}/in2", 2, Candidates)] == [True, False]


def test_a_column_that_is_missing_and_a_folder_without_parquet_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    pq.write_table(pa.table({"query_id": ["1"], "text": ["x"]}), tmp_path / "bad" / "a.parquet")
    with pytest.raises(
        RradError, match=r"a.parquet: has no column 'query' \(columns: query_id, text\); candidates need"
    ):
        shards.plan_shards(f"{tmp_path}/bad", 10, Candidates)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RradError, match="neither a finished table nor a folder of Parquet files"):
        shards.plan_shards(f"{tmp_path}/empty", 10, Candidates)


def test_a_table_that_its_stage_has_not_finished_is_no_input(tmp_path: Path) -> None:
    write(tmp_path / "in", "part-00000.parquet", 4)
    tables.write_text(f"{tmp_path}/in/started.json", "{}")
    with pytest.raises(RradError, match=r"no manifest.json"):
        shards.plan_shards(f"{tmp_path}/in", 10, Candidates)
