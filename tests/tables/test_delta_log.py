"""A Delta table's rows are those of its last version by its log, or it is an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rrad_ray import tables
from rrad_ray.data.click_log import read_clicks
from rrad_ray.errors import RradError
from tests.tables.test_data_files import candidates, put, read

PROTOCOL = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}

VECTOR = {"storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"}
VECTOR |= {"sizeInBytes": 40, "cardinality": 1}

TEXTS = pa.map_(pa.string(), pa.string())
VECTOR_TYPE = pa.struct({"storageType": pa.string(), "pathOrInlineDv": pa.string(), "offset": pa.int32()})
VECTOR_TYPE = pa.struct([*VECTOR_TYPE, pa.field("sizeInBytes", pa.int32()), pa.field("cardinality", pa.int64())])
FEATURES = pa.list_(pa.string())
ADD = {"path": pa.string(), "partitionValues": TEXTS, "size": pa.int64(), "modificationTime": pa.int64()}
ADD |= {"dataChange": pa.bool_(), "stats": pa.string(), "deletionVector": VECTOR_TYPE}
REMOVE = {
    "path": pa.string(),
    "deletionTimestamp": pa.int64(),
    "dataChange": pa.bool_(),
    "deletionVector": VECTOR_TYPE,
}
METADATA = {"id": pa.string(), "schemaString": pa.string(), "partitionColumns": FEATURES, "configuration": TEXTS}
VERSIONS = {"minReaderVersion": pa.int32(), "minWriterVersion": pa.int32(), "readerFeatures": FEATURES}
CHECKPOINT = {"add": ADD, "remove": REMOVE, "metaData": METADATA, "protocol": VERSIONS}
SIDECAR = {"path": pa.string(), "sizeInBytes": pa.int64(), "modificationTime": pa.int64()}


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "table") if request.param == "local" else request.getfixturevalue("s3_uri")


def put_rows(uri: str, *names: str) -> None:
    """Write a data file of one row under each name, whose query id is the name."""
    for name in names:
        put(uri, name, candidates(name))


def add(path: str, **fields: Any) -> dict[str, Any]:
    usual = {"partitionValues": {}, "size": 1, "modificationTime": 1, "dataChange": True}
    return {"add": {"path": path, **usual, **fields}}


def remove(path: str, **fields: Any) -> dict[str, Any]:
    return {"remove": {"path": path, "deletionTimestamp": 1, "dataChange": True, **fields}}


def settings(**configuration: str) -> dict[str, Any]:
    format_ = {"provider": "parquet", "options": {}}
    return {"metaData": {"id": "1", "format": format_, "partitionColumns": [], "configuration": configuration}}


def commit(uri: str, version: int, *actions: dict[str, Any]) -> None:
    text = "\n".join(map(json.dumps, actions))
    tables.write_text(tables.join(uri, f"_delta_log/{version:020d}.json"), text)


def checkpoint(uri: str, name: str, *actions: dict[str, Any]) -> None:
    """Write a file of a checkpoint, or a sidecar: each action is a row with nulls for the others."""
    kinds = CHECKPOINT | ({"sidecar": SIDECAR} if any("sidecar" in action for action in actions) else {})
    schema = pa.schema([(kind, pa.struct(fields)) for kind, fields in kinds.items()])
    put(uri, f"_delta_log/{name}", pa.Table.from_pylist(list(map(as_map, actions)), schema))


def as_map(action: dict[str, Any]) -> dict[str, Any]:
    def pairs(fields: dict[str, Any]) -> dict[str, Any]:
        maps = ("partitionValues", "configuration")
        return {key: list(value.items()) if key in maps else value for key, value in fields.items()}

    return {kind: pairs(fields) for kind, fields in action.items()}


def ids(uri: str) -> list[str]:
    return [row["query_id"] for row in read(uri)]


def test_a_file_that_a_delta_table_has_replaced_is_no_data(uri: str) -> None:
    put_rows(uri, "old.parquet", "day=1%202/old.parquet", "new.parquet")
    commit(uri, 0, PROTOCOL, settings(), add("old.parquet"), add("new.parquet"), add("day=1%25202/old.parquet"))
    assert ids(uri) == ["day=1%202/old.parquet", "new.parquet", "old.parquet"]
    commit(uri, 1, remove("old.parquet"), remove("day=1%25202/old.parquet"))
    commit(uri, 2, remove("new.parquet"))
    commit(uri, 3, add("new.parquet"))
    assert ids(uri) == ["new.parquet"]


def test_a_file_that_no_commit_adds_is_no_data(uri: str) -> None:
    put_rows(uri, "kept.parquet", "orphan.parquet", "_change_data/cdc.parquet")
    commit(uri, 0, PROTOCOL, add("kept.parquet"))
    commit(uri, 1, {"cdc": {"path": "_change_data/cdc.parquet"}}, {"commitInfo": {"operation": "UPDATE"}})
    assert ids(uri) == ["kept.parquet"]


def test_a_table_whose_old_commits_are_gone_is_read_from_its_checkpoint_and_the_later_commits(uri: str) -> None:
    put_rows(uri, "deleted.parquet", "gone.parquet", "kept.parquet", "later.parquet")
    removed, live = remove("gone.parquet"), [add("deleted.parquet"), add("kept.parquet")]
    checkpoint(uri, f"{10:020d}.checkpoint.parquet", PROTOCOL, settings(), removed, *live)
    tables.write_text(tables.join(uri, "_delta_log/_last_checkpoint"), '{"version":10,"size":5}')
    assert ids(uri) == ["deleted.parquet", "kept.parquet"]
    commit(uri, 9, remove("kept.parquet"))  # it is in the checkpoint
    commit(uri, 11, remove("deleted.parquet"), add("later.parquet"))
    assert ids(uri) == ["kept.parquet", "later.parquet"]


def test_a_checkpoint_of_several_parts_counts_when_all_are_there(uri: str) -> None:
    put_rows(uri, "a.parquet", "b.parquet", "old.parquet")
    commit(uri, 0, PROTOCOL, add("old.parquet"))
    checkpoint(uri, f"{1:020d}.checkpoint.{1:010d}.{2:010d}.parquet", PROTOCOL, add("a.parquet"))
    with pytest.raises(RradError, match="the log of this Delta table lacks version 1"):
        ids(uri)
    commit(uri, 1, remove("old.parquet"), add("a.parquet"))
    assert ids(uri) == ["a.parquet"]
    checkpoint(uri, f"{1:020d}.checkpoint.{2:010d}.{2:010d}.parquet", add("b.parquet"))
    assert ids(uri) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("ending", ["parquet", "json"])
def test_a_checkpoint_with_sidecars_is_read_with_them(uri: str, ending: str) -> None:
    put_rows(uri, "a.parquet", "b.parquet", "old.parquet")
    checkpoint(uri, "_sidecars/one.parquet", add("a.parquet"), remove("old.parquet"))
    checkpoint(uri, "_sidecars/two.parquet", add("b.parquet"))
    name = f"{7:020d}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.{ending}"
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["v2Checkpoint"]}
    sidecars = [{"sidecar": {"path": f"{each}.parquet", "sizeInBytes": 1}} for each in ("one", "two")]
    actions = [{"protocol": protocol}, settings(), *sidecars]
    if ending == "json":
        version = {"checkpointMetadata": {"version": 7}}
        tables.write_text(tables.join(uri, "_delta_log", name), "\n".join(map(json.dumps, [version, *actions])))
    else:
        checkpoint(uri, name, *actions)
    assert ids(uri) == ["a.parquet", "b.parquet"]


def test_deletion_vectors_are_an_error_until_they_are_purged(uri: str) -> None:
    put_rows(uri, "a.parquet", "purged.parquet")
    commit(uri, 0, PROTOCOL, add("a.parquet"))
    commit(uri, 1, add("a.parquet", deletionVector=VECTOR), remove("a.parquet"))  # in either order
    with pytest.raises(RradError, match=r"deleted rows of it by a deletion vector; purge deletion vectors") as caught:
        read(uri)
    assert caught.value.place == tables.join(uri, "a.parquet")
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"]}
    checkpoint(uri, f"{1:020d}.checkpoint.parquet", {"protocol": protocol}, add("a.parquet", deletionVector=VECTOR))
    with pytest.raises(RradError, match="deletion vector"):
        tables.fingerprint(uri)
    commit(uri, 2, remove("a.parquet", deletionVector=VECTOR), add("purged.parquet"))
    assert ids(uri) == ["purged.parquet"]


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        ([add("missing.parquet")], "belongs to the last version of its Delta table, and is not there"),
        ([add("s3://elsewhere/table/a.parquet")], "lies elsewhere: s3://elsewhere/table/a.parquet"),
        ([add("file:/elsewhere/a.parquet")], "lies elsewhere: file:/elsewhere/a.parquet"),
        ([settings(**{"delta.columnMapping.mode": "name"})], "other names in its files .column mapping by name"),
        ([settings(**{"delta.columnMapping.mode": "id"})], "other names in its files .column mapping by id"),
        ([{"protocol": {"minReaderVersion": 3, "readerFeatures": ["catalogManaged"]}}], "supported: catalogManaged"),
        ([{"protocol": {"minReaderVersion": 4}}], "not supported: version 4"),
        ([], "is an empty file of a Delta table's log"),
    ],
)
def test_a_table_whose_files_are_not_its_rows_is_an_error(uri: str, actions: list[dict[str, Any]], says: str) -> None:
    put_rows(uri, "a.parquet")
    commit(uri, 0, PROTOCOL, settings(), add("a.parquet"))
    commit(uri, 1, *actions)
    with pytest.raises(RradError, match=says) as caught:
        read(uri)
    assert caught.value.place.startswith(uri)
    assert "plain Parquet" in caught.value.remedy


def test_a_mode_of_column_mapping_that_a_checkpoint_has_is_seen(uri: str) -> None:
    put_rows(uri, "a.parquet")
    mapped = settings(**{"delta.columnMapping.mode": "name"})
    checkpoint(uri, f"{3:020d}.checkpoint.parquet", PROTOCOL, mapped, add("a.parquet"))
    with pytest.raises(RradError, match="column mapping by name"):
        read(uri)


def test_a_log_that_is_not_whole_is_an_error_that_names_the_version(uri: str) -> None:
    put_rows(uri, "a.parquet")
    tables.write_text(tables.join(uri, "_delta_log/00000000000000000000.crc"), "{}")
    with pytest.raises(RradError, match="the log of this Delta table lacks version 0"):
        read(uri)
    commit(uri, 1, add("a.parquet"))
    with pytest.raises(RradError, match="lacks version 0"):
        read(uri)
    commit(uri, 0, PROTOCOL)
    assert ids(uri) == ["a.parquet"]
    commit(uri, 3, remove("a.parquet"))
    with pytest.raises(RradError, match="lacks version 2"):
        read(uri)
    commit(uri, 2, {"commitInfo": {}})
    tables.write_text(tables.join(uri, "_delta_log/_last_checkpoint"), '{"version":5,"size":5}')
    with pytest.raises(RradError, match="lacks version 4"):
        read(uri)


def test_a_torn_commit_is_an_error_that_names_its_line(uri: str) -> None:
    put_rows(uri, "a.parquet")
    commit(uri, 0, PROTOCOL, add("a.parquet"))
    name = f"_delta_log/{1:020d}.json"
    tables.write_text(tables.join(uri, name), '{"commitInfo": {}}\n{"remove": {"pa')
    with pytest.raises(RradError, match="is no action of a Delta table's log") as caught:
        read(uri)
    assert caught.value.place == f"{tables.join(uri, name)}:2"


def test_an_absolute_path_into_the_table_is_a_file_of_it(uri: str) -> None:
    put_rows(uri, "a b.parquet", "old.parquet")
    full = f"{uri}/a%20b.parquet".replace("s3://", "s3a://")
    commit(uri, 0, PROTOCOL, add(full if "s3a" in full else f"file:{full}"))
    assert ids(uri) == ["a b.parquet"]


def test_partitions_that_the_log_alone_has_are_columns_and_part_of_the_fingerprint(uri: str) -> None:
    put_rows(uri, "Xy/a.parquet", "split=dev/b.parquet")
    held = {"split": "test"}
    commit(uri, 0, PROTOCOL, add("Xy/a.parquet", partitionValues=held), add("split=dev/b.parquet"))
    assert [(row["query_id"], row["split"]) for row in read(uri)] == [
        ("Xy/a.parquet", "test"),
        ("split=dev/b.parquet", "dev"),
    ]
    before = tables.fingerprint(uri)
    commit(uri, 1, add("Xy/a.parquet", partitionValues={"split": "train"}))
    assert [row["split"] for row in read(uri)] == ["train", "dev"]
    assert tables.fingerprint(uri) != before


def test_a_partition_of_a_delta_table_that_is_named_itself_has_the_live_files(uri: str) -> None:
    put_rows(uri, "day=1/split=dev/old.parquet", "day=1/split=dev/new.parquet", "day=2/split=dev/a.parquet")
    commit(uri, 0, PROTOCOL, add("day=1/split=dev/old.parquet"), add("day=2/split=dev/a.parquet"))
    commit(uri, 1, add("day=1/split=dev/new.parquet"), remove("day=1/split=dev/old.parquet"))
    for name in ("day=1", "day=1/split=dev/"):
        [row] = read(tables.join(uri, name))
        assert (row["query_id"], row["split"]) == ("day=1/split=dev/new.parquet", "dev")


def test_a_delta_table_below_a_folder_has_its_live_files_alone(uri: str) -> None:
    for name in ("monday", "tuesday"):
        folder = tables.join(uri, "log", name)
        for query in ("kept", "deleted"):
            put(folder, f"{query}.parquet", pa.table({"query": [f"{query} {name}"], "title": ["t"]}))
        commit(folder, 0, PROTOCOL, add("kept.parquet"), add("deleted.parquet"))
        commit(folder, 1, remove("deleted.parquet"))
    tables.write_text(tables.join(uri, "log", "plain.jsonl"), '{"query": "plain", "title": "t"}')
    clicks = read_clicks(tables.join(uri, "log"), lambda *bad: None)
    assert [click["query"] for click in clicks] == ["kept monday", "plain", "kept tuesday"]


def test_rows_that_a_delta_table_deletes_make_another_input_and_its_checkpoints_none(uri: str) -> None:
    put_rows(uri, "a.parquet", "b.parquet", "c.parquet")
    commit(uri, 0, PROTOCOL, add("a.parquet"), add("b.parquet"))
    before = tables.fingerprint(uri)
    checkpoint(uri, f"{0:020d}.checkpoint.parquet", PROTOCOL, settings(), add("a.parquet"), add("b.parquet"))
    tables.write_text(tables.join(uri, "_delta_log/_last_checkpoint"), '{"version":0,"size":4}')
    put_rows(uri, "orphan.parquet")
    assert tables.fingerprint(uri) == before
    checkpoint(uri, f"{1:020d}.checkpoint.parquet", PROTOCOL, settings(), add("a.parquet"), remove("b.parquet"))
    assert tables.fingerprint(uri) != before
