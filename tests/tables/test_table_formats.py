"""A folder of Iceberg or Hudi is an error, for its files are not its rows; what merely looks like one is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrad_ray import tables
from rrad_ray.data.click_log import read_clicks
from rrad_ray.errors import RradError
from rrad_ray.rows import Candidates
from tests.tables.test_delta_log import PROTOCOL, add, commit, ids, put_rows
from tests.tables.test_tables import Config, candidates

ICEBERG = ("metadata/v2.metadata.json", "metadata/00002-0f.gz.metadata.json", "metadata/v2.metadata.json.gz")

HUDI = (".hoodie/hoodie.properties", ".hoodie/timeline/20260101.commit")


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "table") if request.param == "local" else request.getfixturevalue("s3_uri")


@pytest.mark.parametrize(("mark", "kind"), [*((m, "Iceberg") for m in ICEBERG), *((m, "Hudi") for m in HUDI)])
def test_a_folder_of_another_table_format_is_an_error(uri: str, mark: str, kind: str) -> None:
    put_rows(uri, "data/day=1/old.parquet", "data/day=1/new.parquet")
    tables.write_text(tables.join(uri, mark), "{}")
    problem = f"is a table of Apache {kind}, whose folder also holds files that are no longer part of it"
    with pytest.raises(RradError, match=problem) as caught:
        ids(uri)
    assert caught.value.place == uri
    assert "plain Parquet" in caught.value.remedy


def test_a_partition_or_the_data_folder_of_such_a_table_is_one_too(uri: str) -> None:
    put_rows(uri, "ice/data/day=1/a.parquet", "hudi/day=1/a.parquet")
    tables.write_text(tables.join(uri, "ice/metadata/v1.metadata.json"), "{}")
    tables.write_text(tables.join(uri, "hudi/.hoodie/hoodie.properties"), "hoodie.table.name=t")
    tables.write_text(tables.join(uri, "hudi/day=1/.hoodie_partition_metadata"), "depth=1")
    for name in ("ice/data", "ice/data/day=1"):
        with pytest.raises(RradError, match="is a table of Apache Iceberg") as caught:
            ids(tables.join(uri, name))
        assert caught.value.place == tables.join(uri, "ice")
    with pytest.raises(RradError, match="is a table of Apache Hudi"):
        ids(tables.join(uri, "hudi/day=1"))


def test_a_click_log_with_such_a_table_among_its_files_is_an_error(uri: str) -> None:
    tables.write_text(tables.join(uri, "a.jsonl"), '{"query": "q", "title": "t"}')
    assert len(list(read_clicks(uri, lambda *bad: None))) == 1
    put_rows(uri, "ice/data/a.parquet")
    tables.write_text(tables.join(uri, "ice/metadata/v1.metadata.json"), "{}")
    with pytest.raises(RradError, match="is a table of Apache Iceberg") as caught:
        list(read_clicks(uri, lambda *bad: None))
    assert caught.value.place == tables.join(uri, "ice")


def test_a_folder_that_is_called_metadata_and_a_table_beside_what_is_read_are_no_reason(uri: str) -> None:
    put_rows(uri, "data/a.parquet", "metadata/b.parquet")
    for name in ("metadata/about.json", "about.metadata.json", "metadata/old/v1.metadata.json", "hoodie/x"):
        tables.write_text(tables.join(uri, name), "{}")
    assert ids(uri) == ["data/a.parquet", "metadata/b.parquet"]
    assert ids(tables.join(uri, "data")) == ["data/a.parquet"]
    tables.write_text(tables.join(uri, "other/metadata/v1.metadata.json"), "{}")
    tables.write_text(tables.join(uri, "other/data/a.lance"), "{}")
    assert ids(uri) == ["data/a.parquet", "metadata/b.parquet"]


def test_the_log_of_a_delta_table_counts_where_it_has_the_metadata_of_iceberg_too(uri: str) -> None:
    put_rows(uri, "old.parquet", "new.parquet")
    commit(uri, 0, PROTOCOL, add("new.parquet"))
    tables.write_text(tables.join(uri, "metadata/v1.metadata.json"), "{}")
    assert ids(uri) == ["new.parquet"]


def test_a_finished_table_of_ours_is_read_whatever_lies_beside_its_parts(uri: str) -> None:
    out = tables.Output("test", Config(uri), Candidates, {})
    put_rows(uri, "metadata/a.parquet")
    tables.write_text(tables.join(uri, "metadata/v1.metadata.json"), "{}")
    out.write_all([candidates()], 1)
    out.commit()
    assert ids(uri) == [candidates()["query_id"]]
