"""Tables on a local folder and on a real S3 server: what is read is what was written, or an error says what to do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rrad_ray import tables, versions
from rrad_ray.config import LabelConfig
from rrad_ray.errors import RradError, in_stage
from rrad_ray.rows import Candidates, JudgeOutput, Labels, Quarantined
from rrad_ray.tables import Lineage, Manifest, Output, join, part_name, shards

pytestmark = pytest.mark.usefixtures("in_judge")


@dataclass(frozen=True)
class Config:
    output: str
    input: str = ""
    seed: int = 0
    max_quarantined: float = 0.05


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place: a folder that does not exist yet, and one on S3."""
    return str(tmp_path / "tables") if request.param == "local" else request.getfixturevalue("s3_uri")


def candidates(query_id: str = "q1", **changes: Any) -> dict[str, Any]:
    row = {
        "query_id": query_id,
        "query": "how to add",
        "split": "train",
        "doc_ids": ["d1", "d2"],
        "texts": ["sum", "plus"],
        "scores": [1.5, -0.5],
        "sources": ["bm25"],
        "source_scores": [[3.0, 2.0]],
        "qrel_ids": ["d2"],
        "qrel_grades": [1],
    }
    return row | changes


def put(uri: str, table: pa.Table, name: str = "part-00000.parquet") -> None:
    """A part as some other program would write it, in a table with a manifest."""
    manifest = Manifest("x", {}, {}, {}, {}, {}, 0.0, {}, Lineage()).to_json().encode()
    for file, content in ((name, None), ("manifest.json", manifest)):
        with fsspec.open(join(uri, file), "wb", auto_mkdir=True) as sink:
            pq.write_table(table, sink) if content is None else sink.write(content)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types; NaN equals NaN."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


# ---- round trips --------------------------------------------------------------------------------------------

texts = st.text(max_size=20)
floats = st.floats(allow_nan=True, allow_infinity=True)
candidate_rows = st.fixed_dictionaries(
    {
        "query_id": texts,
        "query": texts,
        "split": texts,
        "doc_ids": st.lists(texts, max_size=3),
        "texts": st.lists(texts, max_size=3),
        "scores": st.lists(floats, max_size=3),
        "sources": st.lists(texts, max_size=2),
        "source_scores": st.lists(st.lists(floats, max_size=3), max_size=2),
        "qrel_ids": st.lists(texts, max_size=3),
        "qrel_grades": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    }
)


@given(rows=st.lists(candidate_rows, max_size=5), rows_per_part=st.integers(1, 3), number=st.integers(0, 10**12))
@hypothesis_settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_rows_come_back_as_they_were_written(
    uri: str, rows: list[dict[str, Any]], rows_per_part: int, number: int
) -> None:
    place = join(uri, f"{number}-{time.monotonic_ns()}")
    out = Output("test", Config(place), Candidates, {})
    assert out.write_all(rows, rows_per_part) == len(rows)
    assert out.commit(rows=len(rows)) == place
    assert same(list(tables.read(place, Candidates)), rows)
    for split in {row["split"] for row in rows}:
        assert same(list(tables.read_split(place, Candidates, split)), [row for row in rows if row["split"] == split])
    assert len(tables.part_names(place)) == max(1, math.ceil(len(rows) / rows_per_part))


def test_the_manifest_holds_schema_config_versions_and_facts(uri: str) -> None:
    out = Output("test", Config(uri, seed=7), Candidates, {})
    out.write_all([candidates()], 10)
    out.commit(rows=1, seen=1)
    manifest = tables.read_manifest(uri)
    assert manifest.stage == "test"
    assert manifest.config == {"input": "", "seed": 7, "max_quarantined": 0.05}
    assert manifest.schema["source_scores"] in (
        "list<element: list<element: double>>",
        "list<item: list<item: double>>",
    )
    assert manifest.versions["pyarrow"] == pa.__version__
    assert (manifest.facts, manifest.quarantined, manifest.inputs) == ({"rows": 1}, {}, {})
    assert manifest.seconds >= 0


def test_a_text_is_written_whole_and_leaves_no_temporary_file(uri: str) -> None:
    tables.write_text(join(uri, "a.txt"), "grün ☃")
    tables.write_text(join(uri, "a.txt"), "second")
    fs, path = tables.filesystem(uri)
    assert tables.read_text(join(uri, "a.txt")) == "second"
    assert [name.rpartition("/")[2] for name in fs.ls(path, detail=False)] == ["a.txt"]
    with pytest.raises(RradError, match=r"gone\.txt: no such file"):
        tables.read_text(join(uri, "gone.txt"))


@pytest.mark.parametrize(
    ("uri", "joined"), [("s3://b/t", "s3://b/t/p/q"), ("/a/", "/a/p/q"), ("s3://b/", "s3://b/p/q")]
)
def test_joined_uris(uri: str, joined: str) -> None:
    assert join(uri, "p", "q") == joined


# ---- who owns an output -------------------------------------------------------------------------------------


def test_a_table_without_a_manifest_does_not_exist_to_readers(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    out.write_part(part_name(0), [candidates()])
    with pytest.raises(RradError) as caught:
        next(tables.read(uri, Candidates))
    assert (caught.value.stage, caught.value.place) == ("judge", uri)
    assert "manifest.json" in caught.value.problem
    assert "run the stage" in caught.value.remedy
    out.commit()
    assert len(list(tables.read(uri, Candidates))) == 1


def test_the_same_config_again_has_nothing_to_do_and_says_so(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = Output("test", Config(uri), Candidates, {})
    assert not first.finished
    first.write_all([candidates()], 10)
    first.commit()
    before = tables.read_text(join(uri, "manifest.json"))
    capsys.readouterr()
    assert Output("test", Config(uri), Candidates, {}).finished
    assert "nothing to do" in capsys.readouterr().out
    assert tables.read_text(join(uri, "manifest.json")) == before


def test_a_changed_config_on_a_finished_output_is_an_error_that_names_the_key(uri: str) -> None:
    out = Output("test", Config(uri, seed=1), Candidates, {})
    out.write_all([candidates()], 10)
    out.commit()
    with pytest.raises(RradError) as caught:
        Output("test", Config(uri, seed=2), Candidates, {})
    assert caught.value.place == uri
    assert "seed=1 -> 2" in caught.value.problem
    assert "new output" in caught.value.remedy


def test_a_changed_input_is_an_error_that_names_it(uri: str) -> None:
    source, place = join(uri, "in.jsonl"), join(uri, "out")
    tables.write_text(source, "one")
    out = Output("test", Config(place, source), Candidates, {"input": source, "labels": ""})
    out.write_all([candidates()], 10)
    out.commit()
    assert Output("test", Config(place, source), Candidates, {"input": source}).finished
    tables.write_text(source, "one and two")
    with pytest.raises(RradError, match=r"other inputs.*input="):
        Output("test", Config(place, source), Candidates, {"input": source})


def test_a_table_made_with_another_config_is_another_input(uri: str) -> None:
    prints = []
    for number, seed in enumerate((1, 1, 2)):
        out = Output("test", Config(join(uri, str(number)), seed=seed), Candidates, {})
        out.write_all([candidates()], 10)
        prints.append(tables.fingerprint(out.commit()))
    assert prints[0] == prints[1] != prints[2]


def test_an_input_that_is_not_there_is_an_error(uri: str) -> None:
    place = join(uri, "gone")
    with pytest.raises(RradError, match="nothing there") as caught:
        Output("test", Config(join(uri, "out")), Candidates, {"input": place})
    assert caught.value.place == place


def test_the_parts_of_a_killed_run_are_found_and_kept(uri: str) -> None:
    killed = Output("test", Config(uri), Candidates, {})
    assert killed.parts() == []
    killed.write_part(part_name(0), [candidates("q1")])
    killed.write_part(part_name(2), [candidates("q3")])
    again = Output("test", Config(uri), Candidates, {})
    assert not again.finished
    assert again.parts() == ["part-00000.parquet", "part-00002.parquet"]
    again.write_part(part_name(1), [candidates("q2")])
    again.commit()
    assert [row["query_id"] for row in tables.read(uri, Candidates)] == ["q1", "q2", "q3"]


def test_a_killed_run_with_parts_cannot_be_taken_over_by_another_config(uri: str) -> None:
    Output("test", Config(uri, seed=1), Candidates, {}).write_part(part_name(0), [candidates()])
    with pytest.raises(RradError, match="seed=1 -> 2"):
        Output("test", Config(uri, seed=2), Candidates, {})


def test_a_run_that_had_nothing_done_yet_may_be_claimed_by_another_config(uri: str) -> None:
    Output("test", Config(uri, seed=1), Candidates, {})
    Output("test", Config(uri, seed=2), Candidates, {})
    assert json.loads(tables.read_text(join(uri, "started.json")))["config"]["seed"] == 2
    Output("test", Config(uri, seed=2), Candidates, {}).write_part(part_name(0), [candidates()])
    with pytest.raises(RradError, match="seed=2 -> 1"):
        Output("test", Config(uri, seed=1), Candidates, {})


# ---- quarantine ---------------------------------------------------------------------------------------------


def test_bad_rows_are_written_beside_the_output_and_counted_by_reason(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    out.write_all([candidates()], 10)
    out.quarantine("q8", "rejected: empty", "x" * 5000)
    out.quarantine("q9", "rejected: echo")
    out.quarantine("q7", "no candidates")
    out.commit(seen=100)
    assert tables.read_manifest(uri).quarantined == {"rejected": 2, "no candidates": 1}
    kept = tables.read_part(join(uri, "quarantine"), part_name(0), Quarantined)
    assert [(row["stage"], row["id"], row["reason"]) for row in kept] == [
        ("test", "q8", "rejected: empty"),
        ("test", "q9", "rejected: echo"),
        ("test", "q7", "no candidates"),
    ]
    assert [len(row["content"]) for row in kept] == [2000, 0, 0]
    assert [row["query_id"] for row in tables.read(uri, Candidates)] == ["q1"]


def test_more_bad_rows_than_allowed_fail_the_run_but_the_quarantine_stays_to_be_read(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    out.write_all([candidates()], 10)
    out.quarantine("q8", "rejected: empty")
    with pytest.raises(RradError, match=r"1 of 2 rows are bad.*rejected.*raise max_quarantined"):
        out.commit(seen=2, max_quarantined=0.49)
    assert len(tables.read_part(join(uri, "quarantine"), part_name(0), Quarantined)) == 1
    with pytest.raises(RradError, match=r"manifest\.json"):
        tables.read_manifest(uri)


def test_raising_max_quarantined_finishes_the_run_with_the_parts_it_has(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    out.write_all([candidates()], 10)
    out.quarantine("q8", "rejected: empty")
    with pytest.raises(RradError):
        out.commit(seen=2, max_quarantined=0.05)
    again = Output("test", Config(uri, max_quarantined=0.5), Candidates, {})
    assert again.parts() == [part_name(0)]
    again.quarantine("q8", "rejected: empty")
    again.commit(seen=2, max_quarantined=0.5)
    assert tables.read_manifest(uri).config["max_quarantined"] == 0.5


# ---- schemas ------------------------------------------------------------------------------------------------


def test_the_schema_of_a_row_type_has_its_fields_in_order_and_none_may_be_null() -> None:
    schema = tables.schema_of(Candidates)
    strings, doubles = pa.list_(pa.string()), pa.list_(pa.float64())
    assert schema.names == list(candidates())
    assert schema.types == [pa.string()] * 3 + [strings, strings, doubles, strings, pa.list_(doubles), strings] + [
        pa.list_(pa.int64())
    ]
    assert not any(field.nullable for field in schema)
    more = tables.schema_of(JudgeOutput)
    assert more.names[: len(schema)] == schema.names
    assert more.field("shown").type == pa.list_(pa.list_(pa.int64()))
    assert tables.arrow_type(bool) == pa.bool_()


def test_a_missing_column_names_stage_place_columns_and_the_remedy(uri: str) -> None:
    put(uri, pa.table({"stage": ["a"], "id": ["b"], "content": ["c"]}))
    with pytest.raises(RradError) as caught, in_stage("label"):
        list(tables.read(uri, Quarantined))
    error = caught.value
    assert (error.stage, error.place) == ("label", join(uri, part_name(0)))
    assert error.problem == "has no column 'reason' (columns: stage, id, content)"
    assert error.remedy == "run the stage that writes it again"


@pytest.mark.parametrize(("row", "stage"), [(Candidates, "retrieve"), (JudgeOutput, "judge"), (Labels, "label")])
def test_the_output_of_another_stage_is_answered_by_the_right_ones_name(row: type, stage: str, uri: str) -> None:
    """To run the stage again, which wrote what was given, would have brought the same again."""
    earlier = {Candidates: Quarantined, JudgeOutput: Candidates, Labels: JudgeOutput}[row]
    put(uri, tables.schema_of(earlier).empty_table())
    with pytest.raises(RradError, match=f"has no column .*; name the output of {stage}"):
        list(tables.read(uri, row))


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("scores", pa.array([["x"]]), "'scores' is list"),
        ("scores", pa.array([1.0]), "'scores' is double, not list"),
        ("doc_ids", pa.array([{"a": 1}]), "'doc_ids' is struct"),
        ("qrel_grades", pa.array([[0.5]]), "'qrel_grades' is list"),
        ("query", pa.array([None], pa.string()), "'query' holds nulls"),
        ("texts", pa.array([["a", None]]), "'texts' holds nulls"),
        ("source_scores", pa.array([[[1.0], [None]]]), "'source_scores' holds nulls"),
        ("texts", pa.array([None], pa.list_(pa.string())), "'texts' holds nulls"),
    ],
)
def test_a_column_of_a_wrong_type_or_with_nulls_is_named(
    tmp_path: Path, column: str, value: pa.Array, found: str
) -> None:
    good = pa.Table.from_pylist([candidates()], schema=tables.schema_of(Candidates))
    put(str(tmp_path), good.set_column(good.schema.get_field_index(column), column, value))
    with pytest.raises(RradError) as caught:
        list(tables.read(str(tmp_path), Candidates))
    assert found in caught.value.problem
    assert caught.value.place.endswith(part_name(0))
    assert caught.value.stage == "judge"


def test_other_widths_orders_and_extra_columns_of_other_programs_are_read(uri: str) -> None:
    table = pa.table(
        {
            "more": [1],
            "content": pa.array(["c"], pa.large_string()),
            "reason": pa.array(["r"]).dictionary_encode(),
            "id": ["b"],
            "stage": ["a"],
        }
    )
    put(uri, table)
    assert list(tables.read(uri, Quarantined)) == [{"stage": "a", "id": "b", "reason": "r", "content": "c"}]


@pytest.mark.parametrize(
    "row",
    [
        candidates(query=None),
        candidates(query=3),
        candidates(texts=["a", None]),
        candidates(scores=["high"]),
        candidates(query="half of a pair: \ud800"),
        {key: value for key, value in candidates().items() if key != "texts"},
    ],
    ids=["null", "number", "null in a list", "text for a number", "lone surrogate", "no such key"],
)
def test_a_row_that_does_not_fit_its_type_is_not_written(tmp_path: Path, row: dict[str, Any]) -> None:
    out = Output("test", Config(str(tmp_path)), Candidates, {})
    with pytest.raises(RradError) as caught:
        out.write_part(part_name(0), [candidates(), row])
    assert caught.value.place.endswith(part_name(0))
    assert out.parts() == []


# ---- when the place fails -----------------------------------------------------------------------------------


def test_a_torn_part_is_named(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    out.write_part(part_name(0), [candidates()])
    out.commit()
    place = join(uri, part_name(0))
    with fsspec.open(place, "rb") as file:
        content = file.read()
    with fsspec.open(place, "wb") as file:
        file.write(content[: len(content) // 2])
    with pytest.raises(RradError) as caught:
        list(tables.read(uri, Candidates))
    assert (caught.value.stage, caught.value.place) == ("judge", place)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An endpoint on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for key, value in {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield endpoint
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_unreachable_store_is_an_error_within_a_minute_that_names_it_and_the_remedy(unreachable: str) -> None:
    for act in (
        lambda: Output("judge", Config("s3://rrad/t"), Candidates, {}),
        lambda: tables.write_text("s3://rrad/t/a", "x"),
    ):
        began = time.monotonic()
        with pytest.raises(RradError) as caught:
            act()
        assert time.monotonic() - began < 60
        assert caught.value.stage == "judge"
        assert caught.value.place.startswith("s3://rrad/t")
        assert unreachable in caught.value.problem
        assert "AWS_ENDPOINT_URL" in caught.value.remedy


def test_a_bucket_that_does_not_exist_is_an_error_not_an_empty_table(s3_endpoint: str) -> None:
    with pytest.raises(RradError, match="s3://no-such-bucket/t"):
        tables.write_text("s3://no-such-bucket/t/a", "x")
    with pytest.raises(RradError, match="s3://no-such-bucket/t"):
        next(tables.read("s3://no-such-bucket/t", Candidates))


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """The disk takes no new file's content: the device of the system that has no space stands for each."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    opened = os.open

    def open_full(path: str, flags: int, mode: int = 0o777) -> int:
        return opened("/dev/full", os.O_WRONLY) if flags & os.O_EXCL else opened(path, flags, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_full)
        yield


def test_a_full_disk_says_so_and_the_finished_parts_stay_readable(tmp_path: Path) -> None:
    uri = str(tmp_path / "t")
    out = Output("judge", Config(uri), Candidates, {})
    out.write_part(part_name(0), [candidates("q1")])
    place = Path(uri, part_name(1))
    with pytest.raises(RradError) as caught, full_disk():
        out.write_part(part_name(1), [candidates("q2")])
    assert (caught.value.stage, caught.value.place) == ("judge", str(place))
    assert "no space left" in caught.value.problem
    assert "free some space" in caught.value.remedy
    assert not place.exists()

    again = Output("judge", Config(uri), Candidates, {})
    assert again.parts() == [part_name(0)]
    again.write_part(part_name(1), [candidates("q2")])
    again.commit()
    assert [row["query_id"] for row in tables.read(uri, Candidates)] == ["q1", "q2"]


def test_a_disk_that_fills_up_before_the_first_part_binds_nobody(tmp_path: Path) -> None:
    uri = str(tmp_path / "t")
    out = Output("judge", Config(uri, seed=1), Candidates, {})
    with pytest.raises(RradError, match="no space left"), full_disk():
        out.write_part(part_name(0), [candidates()])
    assert not Output("judge", Config(uri, seed=2), Candidates, {}).finished


def test_a_place_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RradError) as caught:
        Output("judge", Config(str(tmp_path / "file")), Candidates, {})
    assert str(tmp_path / "file") in caught.value.place


def table_of_three(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    out.write_all([candidates(f"q{number}") for number in range(3)], 1)
    out.commit()


def test_a_finished_table_knows_its_parts_and_their_rows(uri: str) -> None:
    table_of_three(uri)
    parts = tables.read_manifest(uri).parts
    assert parts is not None
    assert [(name, facts["rows"]) for name, facts in parts.items()] == [(part_name(n), 1) for n in range(3)]
    assert tables.finished_parts(uri) == tables.part_names(uri) == list(parts)


def test_a_split_is_read_without_the_parts_that_hold_none_by_the_manifest(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    splits = [["unlabelled"] * 2, ["test", "dev"], ["dev", "unlabelled"], [], ["train"]]
    for number, part in enumerate(splits):
        out.write_part(part_name(number), [candidates(f"{number}-{split}") | {"split": split} for split in part])
    out.commit()
    parts = tables.read_manifest(uri).parts or {}
    assert [facts.get("splits") for facts in parts.values()] == [
        ["unlabelled", "unlabelled"], ["dev", "test"], ["dev", "unlabelled"], None, ["train", "train"],
    ]  # fmt: skip
    for number in (0, 4):
        name = part_name(number)
        tables.write_bytes(join(uri, name), b"x" * parts[name]["bytes"])
    ids = [row["query_id"] for row in tables.read_split(uri, Candidates, "dev", "test")]
    assert ids == ["1-test", "1-dev", "2-dev"]


@pytest.mark.parametrize("damage", ["lost", "empty", "torn", "added"])
def test_a_lost_an_emptied_a_torn_and_an_added_part_are_named_by_every_reader(uri: str, damage: str) -> None:
    table_of_three(uri)
    part = join(uri, part_name(3 if damage == "added" else 1))
    fs, _ = tables.filesystem(part)
    if damage == "lost":
        tables.remove(part)
    else:
        whole = fs.cat_file(tables.filesystem(join(uri, part_name(0)))[1])
        tables.write_bytes(part, {"empty": b"", "torn": whole[:-9], "added": whole}[damage])
    readers = [
        lambda: list(tables.read(uri, Candidates)),
        lambda: list(tables.read_split(uri, Candidates, "train")),
        lambda: tables.finished_parts(uri),
        lambda: shards.plan_shards(uri, 10, Candidates),
    ]
    for read in readers:
        with pytest.raises(RradError, match="manifest") as caught:
            read()
        assert caught.value.place == part


def test_a_part_that_has_changed_and_kept_its_size_is_named_by_every_reader_of_its_rows(uri: str) -> None:
    table_of_three(uri)
    part = join(uri, part_name(1))
    fs, path = tables.filesystem(part)
    whole = fs.cat_file(path)
    [shard] = [each for each in shards.plan_shards(uri, 10, Candidates) if each.file == part_name(1)]
    column = pq.ParquetFile(pa.BufferReader(whole)).metadata.row_group(0).column(1)
    assert column.path_in_schema == "query"
    start = column.dictionary_page_offset or column.data_page_offset
    last = start + column.total_compressed_size - 1
    tables.write_bytes(part, whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    readers = [
        lambda: list(tables.read(uri, Candidates)),
        lambda: list(tables.read_split(uri, Candidates, "train")),
        lambda: shards.read_shard(uri, shard, Candidates),
        lambda: tables.read_columns(uri, part_name(1), ["query_id"], whole=True),
    ]
    for read in readers:
        with pytest.raises(RradError, match=r"its content is damaged") as caught:
            read()
        assert (caught.value.stage, caught.value.place) == ("judge", part)
        assert caught.value.remedy == "bring the table's own files back, or run its stage again"
    with pytest.raises(RradError, match=r"cannot be read .*CRC checksum") as caught:
        tables.read_columns(uri, part_name(1), ["query"])
    assert (caught.value.place, "damaged" in caught.value.remedy) == (part, True)
    tables.read_columns(uri, part_name(1), ["query_id"])  # of which no byte has changed


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100])
def test_a_part_that_a_power_cut_has_left_empty_or_torn_is_not_done(uri: str, content: bytes) -> None:
    killed = Output("test", Config(uri), Candidates, {})
    for number in range(2):
        killed.write_part(part_name(number), [candidates(f"q{number}")])
    tables.write_bytes(join(uri, part_name(1)), content)
    assert Output("test", Config(uri), Candidates, {}).parts() == [part_name(0)]


def test_a_lone_surrogate_is_quarantined_as_it_can_be_written(uri: str) -> None:
    out = Output("test", Config(uri), Candidates, {})
    out.write_all([candidates()], 10)
    out.quarantine("q\ud800", "malformed line: '\udfff'", "text \ud800")
    out.commit(seen=100)
    [row] = tables.read_part(join(uri, "quarantine"), part_name(0), Quarantined)
    assert (row["id"], row["content"]) == ("q\\ud800", "text \\ud800")


@pytest.mark.parametrize("left", ["part-00000.parquet", "part-00007.parquet", "quarantine/part-00000.parquet"])
def test_parts_that_no_run_marks_as_its_own_are_neither_written_over_nor_taken_into_the_table(
    tmp_path: Path, left: str
) -> None:
    path = tmp_path / "out" / left
    path.parent.mkdir(parents=True)
    path.write_bytes(b"somebody's")
    make = tables.stage("make", Labels, lambda cfg: {})(lambda cfg, out: out.commit(rows=out.write_all([], 10)))
    cfg = LabelConfig(input="in", output=f"{tmp_path}/out", weights={"bm25": 1.0})
    with pytest.raises(RradError, match=r"holds 1 parts that no run marks as its own .*; choose a new output"):
        make(cfg)
    assert path.read_bytes() == b"somebody's"
    assert [str(each.relative_to(tmp_path / "out")) for each in (tmp_path / "out").rglob("*.*")] == [left]
    path.unlink()
    make(cfg)


def test_an_input_whose_content_changes_under_its_name_size_and_time_is_another_one(uri: str) -> None:
    qrels, folder, place = join(uri, "qrels.tsv"), join(uri, "folder"), join(uri, "out")
    tables.write_text(qrels, "q1\td1\t1\n")
    tables.write_text(join(folder, "a.jsonl"), "one")
    inputs = {"qrels": qrels, "data": folder}
    out = Output("test", Config(place, uri), Candidates, inputs)
    out.write_all([candidates()], 10)
    out.commit()
    assert Output("test", Config(place, uri), Candidates, inputs).finished
    for changed, before, after in ((qrels, "q1\td1\t1\n", "q1\td1\t0\n"), (join(folder, "a.jsonl"), "one", "two")):
        times = os.stat(changed) if not changed.startswith("s3") else None
        tables.write_text(changed, after)
        if times:
            os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(RradError, match="holds the output of other inputs"):
            Output("test", Config(place, uri), Candidates, inputs)
        tables.write_text(changed, before)
    assert Output("test", Config(place, uri), Candidates, inputs).finished


def test_a_table_of_an_earlier_version_is_read_and_finished_and_its_killed_run_goes_on(uri: str) -> None:
    """Manifests named no parts, and fingerprints were of names and sizes alone."""
    source, place = join(uri, "in.jsonl"), join(uri, "out")
    tables.write_text(source, "one")
    out = Output("test", Config(place, source), Candidates, {"input": source})
    out.write_all([candidates()], 10)
    out.commit()
    for name in ("manifest.json", "started.json"):
        content = json.loads(tables.read_text(join(place, name)))
        content |= {"inputs": {"input": content["inputs"]["input"].partition("-")[0]}}
        for key in ("parts", "versions") if name == "started.json" else ("parts",):
            content.pop(key, None)
        tables.write_json(join(place, name), content)
    assert len(list(tables.read(place, Candidates))) == 1
    assert Output("test", Config(place, source), Candidates, {"input": source}).finished
    tables.remove(join(place, "manifest.json"))
    assert Output("test", Config(place, source), Candidates, {"input": source}).parts() == ["part-00000.parquet"]
    tables.write_text(source, "three")
    with pytest.raises(RradError, match="holds the output of other inputs"):
        Output("test", Config(place, source), Candidates, {"input": source})


def test_a_killed_run_that_goes_on_with_other_versions_says_so_and_its_manifest_has_both(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(vllm: str, commit: str) -> Output:
        monkeypatch.setattr(versions, "installed", lambda: {"ray": "2.60.0", "vllm": vllm})
        capsys.readouterr()
        out = Output("test", Config(uri), Candidates, {})
        out.note_versions({"model": commit})
        out.write_part(part_name(len(out.parts())), [candidates()])
        return out

    run("0.28.0", "abc")
    assert "warning" not in capsys.readouterr().out
    run("0.28.0", "abc")
    assert "warning" not in capsys.readouterr().out
    run("0.29.0", "abc")
    assert "warning: goes on with vllm 0.29.0 (before: 0.28.0); install the earlier" in capsys.readouterr().out
    out = run("0.29.0", "def")
    printed = capsys.readouterr().out
    assert "warning: goes on with model def (before: abc); " in printed
    assert "vllm" not in printed
    out.commit()
    assert tables.read_manifest(uri).versions == {"ray": "2.60.0", "vllm": "0.28.0, 0.29.0", "model": "abc, def"}


def test_what_a_killed_run_goes_on_from_stays_until_the_manifest_stands_and_no_longer(uri: str) -> None:
    fails = True

    @tables.stage("judge", Candidates, lambda cfg: {}, until_done="journal")
    def run(cfg: Config, out: Output) -> None:
        tables.write_text(f"{out.uri}/journal/0", "answers")
        if fails:
            raise KeyboardInterrupt
        out.write_all([candidates()], 1)
        out.commit()

    with pytest.raises(KeyboardInterrupt):
        run(Config(uri))
    assert tables.exists(f"{uri}/journal/0")
    fails = False
    run(Config(uri))
    assert not tables.exists(f"{uri}/journal/0")
    tables.write_text(f"{uri}/journal/0", "a kill right behind the manifest leaves it")
    run(Config(uri))
    assert not tables.exists(f"{uri}/journal/0")
    assert len(list(tables.read(uri, Candidates))) == 1


def test_a_run_that_stopped_for_bad_rows_ends_well_once_its_input_is_mended(uri: str) -> None:
    bad = ["q8", "q9"]

    @tables.stage("make", Candidates, lambda cfg: {})
    def run(cfg: Config, out: Output) -> None:
        out.write_all([candidates()], 1)
        for name in bad:
            out.quarantine(name, "rejected: empty")
        out.commit(seen=1 + len(bad), max_quarantined=cfg.max_quarantined)

    with pytest.raises(RradError, match="2 of 3 rows are bad"):
        run(Config(uri))
    assert len(tables.read_part(join(uri, "quarantine"), part_name(0), Quarantined)) == 2
    bad.clear()
    run(Config(uri))
    assert tables.read_manifest(uri).quarantined == {}


def test_a_part_that_is_made_again_has_a_new_quarantine_and_other_parts_keep_theirs(
    uri: str,
) -> None:
    bad = {0: "q8", 1: "q9"}

    @tables.stage("make", Candidates, lambda cfg: {}, keeps_quarantine=True)
    def run(cfg: Config, out: Output) -> None:
        for number in {0, 1} - {tables.part_number(name) for name in out.parts()}:
            if number in bad:
                out.quarantine(bad[number], "rejected: empty")
            out.write_quarantine(part_name(number))
            out.write_part(part_name(number), [candidates()])
        out.commit(seen=4, max_quarantined=cfg.max_quarantined)

    with pytest.raises(RradError, match="2 of 4 rows are bad"):
        run(Config(uri, max_quarantined=0.25))
    tables.remove(join(uri, part_name(1)))  # its failed queries are to be asked again
    bad.clear()
    run(Config(uri, max_quarantined=0.25))
    assert tables.read_manifest(uri).quarantined == {"rejected": 1}
    [kept] = tables.read_part(join(uri, "quarantine"), part_name(0), Quarantined)
    assert kept["id"] == "q8"


@pytest.mark.parametrize("left", ["journal", "journal-3-of-12", "work/labels", "ray/run"])
def test_what_a_run_left_to_go_on_from_is_not_taken_over_where_nothing_says_which_run_it_was(
    uri: str, left: str
) -> None:
    tables.write_text(join(uri, left, "part-00000.parquet.json"), "answers by another model")
    with pytest.raises(RradError, match=rf"holds {left.partition('/')[0]}/ of a run that did not end"):
        Output("test", Config(uri), Candidates, {})
    tables.remove(uri)
    tables.write_text(join(uri, "workshop.txt"), "a file of the user's")
    Output("test", Config(uri), Candidates, {})


@dataclass(frozen=True)
class Asked(Config):
    RESUMABLE: ClassVar[tuple[str, ...]] = ("openai", "kwargs.memory")
    MADE_BY: ClassVar[tuple[str, ...]] = ("openai.request",)
    openai: Any = None
    kwargs: Any = None


def test_a_key_within_a_key_may_change_until_the_output_is_finished_where_the_config_says_so(uri: str) -> None:
    asked = Asked(uri, openai={"request": {"n": 1}, "url": "a"}, kwargs={"memory": 1, "length": 9})
    mended = dataclasses.replace(asked, openai={"request": {"n": 2}, "url": "b"}, kwargs={"memory": 2, "length": 9})
    Output("test", asked, Candidates, {}).write_all([candidates()], 1)
    with pytest.raises(RradError, match=r"another config \(kwargs="):
        Output("test", dataclasses.replace(mended, kwargs={"memory": 2, "length": 8}), Candidates, {})
    Output("test", mended, Candidates, {}).commit()
    for same_output in (mended, dataclasses.replace(mended, openai={"request": {"n": 2}, "url": "c"})):
        assert Output("test", same_output, Candidates, {}).finished
    with pytest.raises(RradError, match=r"another config \(openai.request=\{'n': 2\} -> \{'n': 1\}\)"):
        Output("test", asked, Candidates, {})
