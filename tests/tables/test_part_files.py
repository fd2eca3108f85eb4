"""Parts are compared with their digests: one that was written anew or forged is named by whoever reads it."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray import tables
from rrad_ray.errors import RradError, in_stage
from rrad_ray.rows import Candidates
from rrad_ray.runtime import feed
from rrad_ray.tables import Output, join, part_files, part_name, shards
from rrad_ray.tables.sampling import drawn_rows, named_rows
from tests.fixtures import row_of
from tests.tables.test_tables import Config

PART = part_name(1)
REMEDY = "bring the table's own files back, or run its stage again"


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a table of three parts, of a row each."""
    uri = str(tmp_path / "tables") if request.param == "local" else request.getfixturevalue("s3_uri")
    return written(uri, "sum", "plus", parts=3)


def written(uri: str, *texts: str, parts: int = 1) -> str:
    out = Output("test", Config(uri), Candidates, {})
    out.write_all([row_of(f"q{number}", list(texts)) for number in range(parts)], 1)
    return out.commit()


def content_of(uri: str, name: str = PART) -> bytes:
    fs, path = tables.filesystem(join(uri, name))
    return bytes(fs.cat_file(path))


def footer_length(content: bytes) -> int:
    return int.from_bytes(content[-8:-4], "little") + 8


def another(uri: str, *texts: str) -> bytes:
    """The part as another run would write it."""
    return content_of(written(join(uri, "other"), *texts, parts=2))


def test_a_part_that_is_written_anew_with_as_many_rows_and_bytes_is_named_by_every_reader(uri: str) -> None:
    planned = [each for each in shards.plan_shards(uri, 10, Candidates) if each.file == PART]
    rewritten = another(uri, "sun", "plum")
    assert len(rewritten) == len(content_of(uri)), "by its size the part is the same"
    tables.write_bytes(join(uri, PART), rewritten)
    assert tables.finished_parts(uri) == [part_name(number) for number in range(3)]
    readers = [
        lambda: list(tables.read(uri, Candidates)),
        lambda: list(tables.read_split(uri, Candidates, "train", "dev", "test", "unlabelled")),
        lambda: tables.read_part(uri, PART, Candidates),
        lambda: [shards.read_shard(uri, each, Candidates) for each in planned],
        lambda: list(drawn_rows(uri, [PART], Candidates, 1, random.Random(0))),
        lambda: list(named_rows(uri, [PART], Candidates, ["q1"])),
        lambda: tables.read_columns(uri, PART, ["query_id"]),
        lambda: shards.plan_shards(uri, 10, Candidates),
        lambda: feed._small_columns(uri, PART),
        lambda: feed.read_rows(uri, PART, ["train"], [], Candidates),
    ]
    for read in readers:
        with pytest.raises(RradError, match="is not the part that its stage wrote") as caught, in_stage("label"):
            read()
        assert (caught.value.stage, caught.value.place, caught.value.remedy) == ("label", join(uri, PART), REMEDY)
        assert "the manifest has another digest of it" in caught.value.problem


def test_pages_that_were_forged_under_the_parts_own_footer_are_named_where_the_part_is_read_whole(uri: str) -> None:
    own, forged = content_of(uri), another(uri, "sun", "plum")
    tables.write_bytes(join(uri, PART), forged[: -footer_length(forged)] + own[-footer_length(own) :])
    [shard] = [each for each in shards.plan_shards(uri, 10, Candidates) if each.file == PART]
    readers = [
        lambda: list(tables.read(uri, Candidates)),
        lambda: shards.read_shard(uri, shard, Candidates),
        lambda: feed.read_rows(uri, PART, ["train"], [], Candidates),
    ]
    for read in readers:
        with pytest.raises(RradError, match="its content is damaged, for its footer has another digest") as caught:
            read()
        assert (caught.value.place, caught.value.remedy) == (join(uri, PART), REMEDY)


def test_a_part_of_an_earlier_attempt_gets_its_digest_and_is_compared_before_there_is_a_manifest(uri: str) -> None:
    place = join(uri, "killed")
    Output("test", Config(place), Candidates, {}).write_part(part_name(0), [row_of("q0", ["a", "b"])])
    again = Output("test", Config(place), Candidates, {})
    again.write_part(PART, [row_of("q1", ["a", "b"])])
    own = content_of(place, part_name(0))
    tables.write_bytes(join(place, part_name(0)), own[:6] + bytes([own[6] ^ 1]) + own[7:])
    with pytest.raises(RradError, match="its content is damaged"):
        tables.read_part(place, part_name(0), Candidates)
    tables.write_bytes(join(place, part_name(0)), own)
    again.commit()
    parts = tables.read_manifest(place).parts or {}
    for name in (part_name(0), PART):
        content = content_of(place, name)
        footer = footer_length(content)
        assert parts[name]["digest"] == hashlib.sha256(content[-footer:]).hexdigest()
        assert hashlib.sha256(content[:-footer]).hexdigest().encode() in content[-footer:]


def test_a_manifest_and_parts_without_digests_are_read_and_nothing_is_compared(uri: str) -> None:
    content = json.loads(tables.read_text(join(uri, "manifest.json")))
    for facts in content["parts"].values():
        del facts["digest"]
    tables.write_json(join(uri, "manifest.json"), content)
    [row] = tables.read_part(uri, PART, Candidates)
    sink = pa.BufferOutputStream()  # as earlier versions wrote parts
    pq.write_table(pa.Table.from_pylist([row], schema=tables.schema_of(Candidates)), sink, compression="zstd")
    tables.write_bytes(join(uri, PART), sink.getvalue().to_pybytes())
    assert tables.read_part(uri, PART, Candidates) == [row]
    killed = Output("test", Config(join(uri, "killed")), Candidates, {})
    tables.write_bytes(join(killed.uri, PART), sink.getvalue().to_pybytes())
    killed.commit()
    assert "digest" not in (tables.read_manifest(killed.uri).parts or {})[PART]
    assert list(tables.read(killed.uri, Candidates)) == [row]


def test_a_table_that_is_made_anew_is_compared_with_its_new_manifest(uri: str) -> None:
    for texts in (["one", "two"], ["six", "ten"]):
        tables.remove(uri)
        assert [row["texts"] for row in tables.read(written(uri, *texts), Candidates)] == [texts]


def test_a_footer_longer_than_one_look_has_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_files.part_bytes(pa.table({"word": ["one", "two"]}))
    digests = []
    for looked in (1, 7, 8, 100, 2**16):
        monkeypatch.setattr(part_files, "FOOTER_BYTES", max(looked, part_files.FOOTER_END))
        digests.append(part_files.footer_digest(io.BytesIO(part)))
    assert set(digests) == {hashlib.sha256(part[-footer_length(part) :]).hexdigest()}


@pytest.mark.parametrize("kind", ["file", "table"])
def test_a_killed_run_is_told_that_its_inputs_content_has_changed_and_not_its_size(tmp_path: Path, kind: str) -> None:
    source, place = str(tmp_path / "in"), str(tmp_path / "out")

    def write(text: str) -> None:
        tables.remove(source)
        if kind == "file":
            tables.write_text(source, text)
        else:
            written(source, text, "more")

    def resumed() -> list[str]:
        return Output("test", Config(place, source), Candidates, {"input": source}).parts()

    write("one")
    Output("test", Config(place, source), Candidates, {"input": source}).write_part(PART, [row_of("q", ["a", "b"])])
    write("two")
    with pytest.raises(RradError, match=r"other inputs \(input='.*' -> '.*': its content has changed, not its"):
        resumed()
    write("one")
    assert resumed() == [PART]
    write("four")
    with pytest.raises(RradError, match=r"other inputs \(input='[^:]*' -> '[^:]*'\)|its content has changed"):
        resumed()
