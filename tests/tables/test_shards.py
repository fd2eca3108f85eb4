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


def rejects(
    folder: Path, size: int = 100
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]], list[shards.Shard]]:
    rejected: list[tuple[str, str, str]] = []
    planned = shards.plan_shards(str(folder), size, Candidates)
    rows = [
        row
        for shard in planned
        for row in shards.read_shard(str(folder), shard, Candidates, lambda *bad: rejected.append(bad))
    ]
    return rows, rejected, planned


def test_rows_whose_lists_do_not_belong_together_are_handed_over_with_the_reason_and_the_rest_stays(
    tmp_path: Path,
) -> None:
    ragged: dict[str, list[Any]] = {
        "query_id": [
            "good",
            "texts",
            "scores",
            "source",
            "sources",
            "qrels",
            "null",
            "null text",
            "no list",
            "no text",
        ],
        "query": ["q", "q", "q", "q", "q", "q", None, "q", "q", "q"],
        "doc_ids": [*[["a", "b"]] * 8, None, ["a", "b"]],
        "texts": [["x", "y"], ["x"], *[["x", "y"]] * 5, ["x", None], ["x", "y"], ["", " \n"]],
        "scores": [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0, 0.0], *[[2.0, 1.0]] * 7],
        "sources": [["s"]] * 4 + [["s", "t"]] + [["s"]] * 5,
        "source_scores": [*[[[1.0, 2.0]]] * 3, [[1.0]], *[[[1.0, 2.0]]] * 6],
        "qrel_ids": [["a"]] * 10,
        "qrel_grades": [[1]] * 5 + [[1, 0]] + [[1]] * 4,
    }
    write(tmp_path / "in", "a.parquet", 10, **ragged)
    rows, rejected, planned = rejects(tmp_path / "in")
    assert [row["query_id"] for row in rows] == ["good"]
    assert [(identity, reason.partition(":")[0]) for identity, reason, _ in rejected] == [
        ("texts", "ragged row"),
        ("scores", "ragged row"),
        ("source", "ragged row"),
        ("sources", "ragged row"),
        ("qrels", "ragged row"),
        ("null", "missing value"),
        ("null text", "missing value"),
        ("no list", "missing value"),
        ("no text", "missing value"),
    ]
    assert rejected[0][1] == "ragged row: 1 texts for 2 doc_ids"
    assert [shard.rows for shard in planned] == [10]


@pytest.mark.parametrize("infinite", [float("inf"), float("-inf")])
def test_a_source_with_an_infinite_score_is_handed_over_and_one_that_did_not_score_a_document_stays(
    tmp_path: Path, infinite: float
) -> None:
    """Alone an infinite score would be the first, and in a sum of z-scores the last."""
    row = {"doc_ids": [["a", "b"]] * 2, "texts": [["x", "y"]] * 2, "scores": [[2.0, 1.0]] * 2, "sources": [["s"]] * 2}
    write(tmp_path / "in", "a.parquet", 2, source_scores=[[[1.0, float("nan")]], [[1.0, infinite]]], **row)
    rows, rejected, _ = rejects(tmp_path / "in")
    assert [row["query_id"] for row in rows] == ["q0"]
    assert [(identity, reason.partition(":")[0]) for identity, reason, _ in rejected] == [("q1", "infinite score")]


def test_sources_of_one_name_and_a_source_called_as_the_teacher_are_handed_over(tmp_path: Path) -> None:
    """By their names scores are fused and weighed: a source `judge` would stand in the teacher's place."""
    names = [["s", "t"], ["s", "s"], ["judge", "s"]]
    row = {"doc_ids": [["a", "b"]] * 3, "texts": [["x", "y"]] * 3, "scores": [[2.0, 1.0]] * 3, "sources": names}
    write(tmp_path / "in", "a.parquet", 3, source_scores=[[[1.0, 2.0], [3.0, 4.0]]] * 3, **row)
    rows, rejected, _ = rejects(tmp_path / "in")
    assert [row["query_id"] for row in rows] == ["q0"]
    assert [identity for identity, _, _ in rejected] == ["q1", "q2"]
    assert rejected[0][1].startswith("ambiguous source: s, s;")


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=5), min_size=1, max_size=4), st.integers(1, 6))
def test_a_query_that_comes_again_in_any_file_is_handed_over_whatever_the_shards_are(
    tmp_path_factory: pytest.TempPathFactory, ids: list[list[str]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("in")
    for number, query_ids in enumerate(ids):
        write(folder, f"{number}.parquet", len(query_ids), query_id=pa.array(query_ids, pa.string()))
    rows, rejected, _ = rejects(folder, size)
    every = [query_id for query_ids in ids for query_id in query_ids]
    assert [row["query_id"] for row in rows] == list(dict.fromkeys(every))
    assert len(rejected) == len(every) - len(rows)
    assert {reason for _, reason, _ in rejected} <= {"duplicate id: an earlier row has this query id"}


def test_rows_with_an_empty_query_or_id_are_handed_over(tmp_path: Path) -> None:
    query_ids = ["a", "", " ", "d", "e", "f"]
    queries, doc_ids = ["q", "q", "q", " ", "", "q"], [["x"]] * 5 + [["x", ""]]
    write(tmp_path / "in", "a.parquet", 6, query_id=query_ids, query=queries, doc_ids=doc_ids, texts=doc_ids)
    rows, rejected, _ = rejects(tmp_path / "in")
    assert [row["query_id"] for row in rows] == ["a"]
    assert [reason for _, reason, _ in rejected] == [
        *["missing value: query_id is empty"] * 2,
        *["missing value: query is empty"] * 2,
        "missing value: doc_ids holds an empty id",
    ]


def test_query_ids_of_another_type_are_an_error_when_shards_are_planned(tmp_path: Path) -> None:
    write(tmp_path / "in", "a.parquet", 2, query_id=[1.5, 2.0])
    with pytest.raises(RradError, match=r"a\.parquet: column 'query_id' is double, not string"):
        shards.plan_shards(f"{tmp_path}/in", 10, Candidates)


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), min_size=1, max_size=6), st.integers(1, 3))
def test_of_a_document_that_a_row_lists_again_the_first_one_counts(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[str]], size: int
) -> None:
    folder, count = tmp_path_factory.mktemp("in"), len(lists)
    texts = [[f"{doc_id}{index}" for index, doc_id in enumerate(ids)] for ids in lists]
    grades = {"qrel_ids": [["a", "a"]] * count, "qrel_grades": [[2, 0]] * count}
    write(folder, "a.parquet", count, doc_ids=pa.array(lists, pa.list_(pa.string())), texts=texts, **grades)
    planned = shards.plan_shards(str(folder), size, Candidates)
    rows = [row for shard in planned for row in shards.read_shard(str(folder), shard, Candidates)]
    for ids, row in zip(lists, rows, strict=True):
        assert row["doc_ids"] == list(dict.fromkeys(ids))
        assert row["texts"] == [f"{doc_id}{ids.index(doc_id)}" for doc_id in row["doc_ids"]]
        assert (row["qrel_ids"], row["qrel_grades"]) == (["a"], [2])
        assert row["scores"] == [-float(ids.index(doc_id)) for doc_id in row["doc_ids"]]
    assert sum(shard.documents for shard in planned) == sum(len(set(ids)) for ids in lists)
    repeated = sum(map(len, lists)) - sum(len(set(ids)) for ids in lists)
    assert shards.repeats(planned) == ({"repeated_documents": repeated} if repeated else {})


@pytest.mark.parametrize("split", ["validation", "Train", "", "dev ", "eval", None])
def test_a_split_that_there_is_not_is_named_with_file_row_and_remedy_before_a_row_is_read(
    tmp_path: Path, split: str | None
) -> None:
    write(tmp_path / "in", "a.parquet", 2)
    write(tmp_path / "in", "b.parquet", 2, split=["train", split])
    shown = "null" if split is None else repr(split)
    with pytest.raises(RradError, match=rf"b\.parquet: row 1 has the split {shown}; write one of train, dev, test"):
        shards.plan_shards(f"{tmp_path}/in", 10, Candidates)


@pytest.mark.parametrize(
    "lists", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda kind: pa.list_(kind, 2)]
)
def test_documents_are_counted_in_lists_of_every_kind(tmp_path: Path, lists: Any) -> None:
    values = [["a", "b"], ["c", "c"]]
    table = pa.table(
        {
            "query_id": pa.array([1, 2]),
            "query": pa.array(["x", "y"]).dictionary_encode(),
            "doc_ids": pa.array(values, lists(pa.large_string())),
            "texts": pa.array(values, lists(pa.string())),
            "split": pa.array(["dev", "train"], pa.large_string()),
        }
    )
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    rows, rejected, [shard] = rejects(tmp_path / "in")
    assert (shard.documents, shard.repeated, shard.dev, rejected) == (3, 1, True, [])
    assert [(row["query_id"], row["doc_ids"]) for row in rows] == [("1", ["a", "b"]), ("2", ["c"])]


def test_a_column_of_documents_that_is_no_list_is_named_when_shards_are_planned(tmp_path: Path) -> None:
    write(tmp_path / "in", "a.parquet", 2, doc_ids=["a", "b"])
    with pytest.raises(RradError, match=r"a\.parquet: column 'doc_ids' is string, not list"):
        shards.plan_shards(f"{tmp_path}/in", 10, Candidates)
