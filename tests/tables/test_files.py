"""Paths of any name read and write the same place, local and on S3; other schemes are an error."""

from __future__ import annotations

import gzip
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rrad_ray import tables
from rrad_ray.errors import InvalidInput, RradError
from rrad_ray.tables import files
from rrad_ray.tables.files import ABANDONED_S, listed, remove_abandoned
from rrad_ray.uris import check_uri

# Names that other code gives a meaning: globs, escapes, fsspec's chains, versions, schemes, homes.
ODD = ("a b", " x", "%20", "#1", "a?b", "*", "[ab]", "{a,b}", "a::b", "::", "simplecache::x", "s3:", "a=b&c", "~")
ODD += ("~x", "ü ☃", "日本", "a\\b", "a'b", 'a"b', "$HOME", "a+b", "a;b", "-x", "a?b=1", "a\tb", "_x", ".x", "x.tmp")
NAMES = st.sampled_from(ODD) | st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", ".."))


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "files") if request.param == "local" else request.getfixturevalue("s3_uri")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(names=st.lists(NAMES, min_size=1, max_size=3))
@example(["[ab]", "*"])
@example(["x?version=1", "a::b"])
@example(["s3:", "~"])
def test_a_file_of_any_name_is_read_where_it_was_written_and_removed_alone(uri: str, names: list[str]) -> None:
    file = tables.join(uri, *names)
    tables.write_text(file, "ours")
    tables.write_text(tables.join(uri, "neighbour"), "theirs")
    assert tables.exists(file)
    assert tables.read_text(file) == "ours"
    assert list(listed(uri)) == sorted(["/".join(names), "neighbour"])
    assert [found.uri for found in tables.data_files(file)] == [file]
    tables.remove(file)
    assert list(listed(uri)) == ["neighbour"]
    assert not tables.exists(file)
    tables.remove(uri)


def test_what_is_written_under_an_odd_name_stands_under_that_very_name(tmp_path: Path) -> None:
    for name in ODD:
        tables.write_text(f"{tmp_path}/{name}/file", name)
        assert (tmp_path / name / "file").read_text() == name
        shutil.rmtree(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_relative_paths_parents_the_home_and_slashes_at_the_end_are_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    tables.write_text("../there/x", "1")
    for path in ("../there/x", "~/there/x", f"{tmp_path}/there/x", f"/{tmp_path}/here/.././there//x"):
        assert tables.read_text(path) == "1"
    assert list(listed("~/there/")) == list(listed("../there")) == ["x"]
    assert tables.absolute("~/there/") == str(tmp_path / "there")
    assert os.listdir(tmp_path / "here") == []


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("S3://bucket/x", "'S3://' is no place"),
        ("gs://bucket/x", "'gs://' is no place"),
        ("s3a://bucket/x", "'s3a://' is no place"),
        ("hdfs://host/x", "'hdfs://' is no place"),
        ("file:///tmp/x", "'file://' is no place"),
        ("https://host/x", "'https://' is no place"),
        ("memory://x", "'memory://' is no place"),
        ("s3:/bucket/x", "'s3:/' is no place"),
        ("file:/tmp/x", "'file:/' is no place"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket/a/../b", "'.' or '..'"),
        ("s3://bucket/a?versionId=1", "names a version"),
        ("", "is no path"),
        ("a\0b", "is no path"),
    ],
)
def test_another_scheme_is_an_error_with_its_remedy_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for act in (lambda: tables.write_text(uri, "x"), lambda: tables.read_text(uri), lambda: tables.exists(uri)):
        with pytest.raises(RradError, match=says) as caught:
            act()
        assert "s3://BUCKET/PATH" in caught.value.remedy or "in full" in caught.value.remedy
    assert os.listdir(tmp_path) == []
    with pytest.raises(InvalidInput):
        check_uri(uri)


def test_a_folder_is_not_mixed_with_one_whose_name_begins_alike(uri: str) -> None:
    for name in ("clicks/a.parquet", "clicks2/b.parquet", "clicks.parquet"):
        tables.write_text(tables.join(uri, name), "x")
    assert list(listed(tables.join(uri, "clicks"))) == ["a.parquet"]


def test_a_file_that_cannot_be_read_is_an_error_whose_remedy_is_about_reading(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a line" * 100)[:20])
    (tmp_path / "plain.gz").write_bytes(b"no gzip")
    for name, says in {
        "folder.txt": "is a folder, not a file; name a file",
        "cut.gz": "cannot be read .EOFError: .*; the file is cut short",
        "plain.gz": "cannot be read .BadGzipFile: .*; the file is cut short, damaged, or of another kind",
        "cut.gz/x": "a part of its path is a file, not a folder; look",
    }.items():
        with pytest.raises(RradError, match=says) as caught:
            list(tables.text_lines(f"{tmp_path}/{name}", "look"))
        assert caught.value.place.endswith(name)
    for content in (b"PAR1", b"PAR1" + b"\xff" * 40 + b"\x20\0\0\0PAR1"):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(RradError, match="the file is cut short"):
            tables.read_columns(str(tmp_path), "x.parquet", None)


@contextmanager
def another_user() -> Iterator[None]:
    """Act as a user who may read nothing of this one's private folders; root may read them all."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o111])
def test_a_folder_without_rights_is_an_error_and_not_an_empty_one(mode: int) -> None:
    folder = Path(tempfile.mkdtemp())  # below a folder that everyone may enter
    (folder / "part").write_text("rows")
    folder.chmod(mode)
    try:
        with another_user():
            with pytest.raises(RradError, match="may be read and written"):
                listed(str(folder))
            if not mode:
                with pytest.raises(RradError, match="may be read and written"):
                    tables.exists(str(folder / "part"))
            assert not tables.exists(f"{folder}-none")
            assert listed(f"{folder}-none") == {}
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_a_link_in_the_place_of_a_file_that_is_being_written_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others can write to the folder too, one of them may have put it there."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    own = tmp_path / "own"
    own.write_text("the user's own")
    (tmp_path / "new.00000000.tmp").symlink_to(own)
    with pytest.raises(RradError, match="File exists"):
        tables.write_text(str(tmp_path / "new"), "new")
    assert own.read_text() == "the user's own"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_of_two_that_write_one_file_at_once_each_writes_it_whole_and_the_last_ones_stands(
    tmp_path: Path, first_ends_first: bool
) -> None:
    path = str(tmp_path / "file")
    with ExitStack() as outer, ExitStack() as inner:
        first, second = (outer, inner) if not first_ends_first else (inner, outer)
        first.enter_context(tables.writing(path)).write(b"first")
        second.enter_context(tables.writing(path)).write(b"second")
        inner.close()
        assert Path(path).read_text() == ("first" if first_ends_first else "second")
    assert Path(path).read_text() == ("second" if first_ends_first else "first")
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_whose_writing_fails_leaves_nothing_and_the_old_one_stays(tmp_path: Path) -> None:
    tables.write_text(str(tmp_path / "file"), "old")
    with pytest.raises(RradError, match="TypeError"), tables.writing(str(tmp_path / "file")) as file:
        file.write("new")  # type: ignore[arg-type]
    assert (os.listdir(tmp_path), (tmp_path / "file").read_text()) == (["file"], "old")


def test_only_what_killed_processes_have_left_for_an_hour_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    kept = ("a.0123abcd.tmp", "old.tmp", "old.0123ABCD.tmp", "part.parquet")
    for name in (*kept, "old.0123abcd.tmp", "below/old.0123abcd.tmp"):
        (tmp_path / name).touch()
        if "old" in name:
            os.utime(tmp_path / name, (0, time.time() - ABANDONED_S - 60))
    remove_abandoned(str(tmp_path))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


def test_a_folder_above_or_beside_the_one_that_is_read_may_be_closed_to_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object) -> bool:
        raise PermissionError("AccessDenied")

    assert files.visible_names(str(tmp_path / "missing")) == []
    monkeypatch.setattr(files, "_exists", refused)
    assert files.visible_names(str(tmp_path)) == []
    with pytest.raises(RradError, match="AccessDenied"):
        listed(str(tmp_path))


def test_the_folders_above_a_partition_come_nearest_first_with_the_way_down() -> None:
    assert list(files.above_partitions("s3://b/t/day=1/split=dev/")) == [
        ("s3://b/t/day=1", "split=dev/"),
        ("s3://b/t", "day=1/split=dev/"),
    ]
    assert list(files.above_partitions("s3://b/t")) == []
