"""A folder's data files: what Spark, Hive and Delta hide is none; what stands in a path is a column or an error."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.data import candidate_files
from rrad_ray.data.beir import read_beir_texts, text_files_of
from rrad_ray.data.click_log import read_clicks
from rrad_ray.data.run_table import read_run
from rrad_ray.errors import RradError
from rrad_ray.online import event_log
from rrad_ray.retrieval.preparing import OwnVectors
from rrad_ray.rows import Candidates, ClickEvent, Exposure
from rrad_ray.tables import shards

HIDDEN = (
    "_temporary/0/part-0.parquet",
    "_SUCCESS",
    "_metadata",
    ".hidden.parquet",
    ".part-0.parquet.crc",
    "_delta_index/part-0.parquet",
    "day=1/_temporary/x.parquet",
    "day=1/.x.parquet",
    ".ipynb_checkpoints/x.parquet",
    "_x.parquet",
)


def put(uri: str, name: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    tables.write_bytes(tables.join(uri, name), sink.getvalue().to_pybytes())


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "data") if request.param == "local" else request.getfixturevalue("s3_uri")


def candidates(query_id: str, **columns: Any) -> pa.Table:
    return pa.table({"query_id": [query_id], "query": ["q"], "doc_ids": [["a"]], "texts": [["x"]], **columns})


def read(uri: str) -> list[dict[str, Any]]:
    planned = shards.plan_shards(uri, 10, Candidates)
    return [row for shard in planned for row in shards.read_shard(uri, shard, Candidates)]


def test_files_that_spark_hive_and_delta_hide_are_no_data_and_change_no_fingerprint(uri: str) -> None:
    for name in ("day=1/b.parquet", "_day=2/c.parquet", "a.parquet"):
        put(uri, name, candidates(name))
    before = tables.fingerprint(uri)
    for name in HIDDEN:
        tables.write_text(tables.join(uri, name), "no data")
    assert [row["query_id"] for row in read(uri)] == ["_day=2/c.parquet", "a.parquet", "day=1/b.parquet"]
    assert tables.fingerprint(uri) == before


def test_every_reader_of_a_folder_leaves_hidden_files_out(uri: str) -> None:
    exposure: dict[str, Any] = {key: ["x"] for key in Exposure.__annotations__}
    exposure |= {"doc_ids": [["a"]], "teams": [["a"]], "time": [1.0]}
    click: dict[str, Any] = {key: ["x"] for key in ClickEvent.__annotations__}
    click |= {"position": [1], "dwell_s": [1.0], "time": [1.0]}
    put(uri, "events/exposures/day=1/a.parquet", pa.table(exposure))
    put(uri, "events/clicks/a.parquet", pa.table(click))
    put(uri, "log/day=1/a.parquet", pa.table({"query": ["q"], "title": ["t"]}))
    for folder in ("events/exposures", "events/clicks", "log"):
        for name in HIDDEN:
            tables.write_text(tables.join(uri, folder, name), "no data")
    rejected: list[Any] = []
    events = tables.join(uri, "events")
    assert len(list(event_log.read_exposures(events, lambda *bad: rejected.append(bad)))) == 1
    assert len(list(event_log.read_click_events(events, lambda *bad: rejected.append(bad)))) == 1
    assert len(list(read_clicks(tables.join(uri, "log"), lambda *bad: rejected.append(bad)))) == 1
    assert rejected == []


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_rows_of_a_form_or_packing_that_is_not_read_are_an_error_and_what_is_about_the_data_is_none(
    uri: str, ending: str
) -> None:
    """Of 72 documents the 40 in `.jsonl` were read, and those in `.jsonl.bz2` left out without a word."""
    for name in (f"day=1/a{ending}", "README.md", "notes.txt", "plot.png", "_b.csv", "x.parquet.tmp"):
        tables.write_text(tables.join(uri, name), "x")
    if ending == ".parquet":
        tables.write_text(tables.join(uri, "dataset_info.json"), "{}")
    assert [file.name for file in tables.row_files(uri, (ending,))] == [f"day=1/a{ending}"]
    assert [file.name for file in tables.row_files(tables.join(uri, f"day=1/a{ending}"), (ending,))] == [""]
    for other in ("b.CSV", "b.jsonl.bz2", "b.json.gz", "sub/b.parquet.zip", "b.avro", "b.orc.snappy"):
        stray = tables.join(uri, other)
        tables.write_text(stray, "x")
        with pytest.raises(RradError, match="its rows would be left out") as caught:
            tables.row_files(uri, (ending,))
        assert caught.value.place == stray
        tables.remove(stray)


def test_every_reader_of_other_peoples_folders_refuses_rows_that_it_would_leave_out(tmp_path: Path) -> None:
    readers: dict[str, Any] = {
        "corpus": lambda: text_files_of(str(tmp_path), "corpus"),
        "log": lambda: list(read_clicks(f"{tmp_path}/log", lambda *_: None)),
        "hits": lambda: list(candidate_files.read_candidates(f"{tmp_path}/hits", {}, lambda *_: None)),
        "run": lambda: read_run(f"{tmp_path}/run"),
        "vectors": lambda: OwnVectors(f"{tmp_path}/vectors"),
        "candidates": lambda: shards.plan_shards(f"{tmp_path}/candidates", 10, Candidates),
        "exposures": lambda: event_log.log_files(str(tmp_path), "exposures"),
    }
    for folder, read in readers.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part-1.tsv.bz2").touch()
        with pytest.raises(RradError, match=r"part-1\.tsv\.bz2: its rows would be left out"):
            read()


def test_lines_of_json_may_end_as_spark_ends_them(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "part-0.json").write_text('{"_id": "a", "text": "x"}\n')
    (tmp_path / "corpus" / "part-1.json.gz").write_bytes(gzip.compress(b'{"_id": "b", "text": "y"}\n'))
    assert read_beir_texts(str(tmp_path), "corpus", lambda *bad: pytest.fail(str(bad))) == {"a": "x", "b": "y"}
    (tmp_path / "log.json").write_text('{"query": "q", "title": "t"}\n')
    assert [row["title"] for row in read_clicks(f"{tmp_path}/log.json", lambda *_: None)] == ["t"]


def test_a_folder_of_hidden_files_alone_is_no_input(uri: str) -> None:
    put(uri, "_temporary/0/a.parquet", candidates("1"))
    with pytest.raises(RradError, match="neither a finished table nor a folder of Parquet files"):
        shards.plan_shards(uri, 10, Candidates)


def test_a_partition_is_a_column_and_a_text_stays_text(uri: str) -> None:
    put(uri, "split=dev/query=010%2F2/part.parquet", candidates("1").drop_columns(["query"]))
    put(uri, "split=test/part.parquet", candidates("2", split=["test"]))
    put(uri, "part.parquet", candidates("3"))
    assert [(row["query_id"], row["split"], row["query"]) for row in read(uri)] == [
        ("3", "unlabelled", "q"),
        ("1", "dev", "010/2"),
        ("2", "test", "q"),
    ]
    assert [shard.dev for shard in shards.plan_shards(uri, 10, Candidates)] == [False, True, False]


def test_a_folder_that_is_named_down_to_its_partition_and_a_single_file_keep_it(uri: str) -> None:
    put(uri, "split=dev/part.parquet", candidates("1"))
    for name in ("split=dev", "split=dev/", "split=dev/part.parquet"):
        assert [row["split"] for row in read(tables.join(uri, name))] == ["dev"]


class Typed(TypedDict):
    position: int
    time: float
    name: str


def test_partitions_are_typed_by_the_row_and_hives_null_is_null() -> None:
    schema, file = tables.schema_of(Typed), tables.DataFile("x", "position=07/time=1.5/name=07/a.parquet")
    row = tables.with_partitions(pa.table({"other": [1]}), file, schema).to_pylist()[0]
    assert row == {"other": 1, "position": 7, "time": 1.5, "name": "07"}
    nothing = tables.DataFile("x", "name=__HIVE_DEFAULT_PARTITION__/a.parquet")
    assert tables.with_partitions(pa.table({"other": [1]}), nothing, schema)["name"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("split=dev/a.parquet", {"split": ["train"]}, "partition split=dev, and a row of the file says 'train'"),
        ("doc_ids=a/a.parquet", {}, r"partition doc_ids=a is no list"),
        ("Split=dev/a.parquet", {}, "has 'Split' where 'split' is read"),
        ("a.parquet", {"Split": ["dev"]}, "has 'Split' where 'split' is read"),
        ("split=dev/split=test/a.parquet", {}, "split=dev and split=test"),
        ("split=validation/a.parquet", {}, "row 0 has the split 'validation'"),
        ("split=/a.parquet", {}, "row 0 has the split ''"),
        ("split=__HIVE_DEFAULT_PARTITION__/a.parquet", {}, "row 0 has the split null"),
    ],
)
def test_a_partition_that_cannot_be_used_or_disagrees_is_an_error_that_names_the_file(
    uri: str, name: str, columns: dict[str, Any], says: str
) -> None:
    put(uri, name, candidates("1", **columns))
    with pytest.raises(RradError, match=says) as caught:
        read(uri)
    assert caught.value.place == tables.join(uri, name)
    assert caught.value.remedy


def test_a_click_logs_partitions_are_fields_of_its_rows(uri: str) -> None:
    tables.write_text(tables.join(uri, "clicks=3/a.jsonl"), '{"query": "q", "title": "t"}')
    tables.write_text(tables.join(uri, "query=010/a.jsonl"), '{"title": "t"}')
    put(uri, "query=011/a.parquet", pa.table({"title": ["t"]}))
    rows = [(row["query"], row["clicks"]) for row in read_clicks(uri, lambda *bad: None)]
    assert rows == [("q", 3), ("010", 1), ("011", 1)]
    tables.write_text(tables.join(uri, "query=012/a.jsonl"), '{"query": "013", "title": "t"}')
    with pytest.raises(RradError, match="partition query=012, and a row of the file says '013'"):
        list(read_clicks(uri, lambda *bad: None))
