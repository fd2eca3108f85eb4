"""Every text file is opened one way: UTF-8 with or without a mark, or an error that names file, line and byte."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import threading
import zipfile
from pathlib import Path

import pytest

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.tables.text import read_json

TEXT = "größe\t☃\r\n\r\nzwei\n"


def lines(path: Path) -> list[tuple[int, str]]:
    return list(tables.text_lines(str(path), "write it"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_mark_blank_lines_and_windows_line_ends_are_no_text(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("x.tsv.gz" if packed else "x.tsv")
    content = codecs.BOM_UTF8 + TEXT.encode() + codecs.BOM_UTF8 + b"joined\n"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert lines(path) == [(1, "größe\t☃"), (3, "zwei"), (4, "joined")]
    if not packed:
        assert tables.read_text(str(path)).startswith("größe")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "shift_jis"]
)
def test_another_encoding_is_an_error_that_names_file_line_and_byte(
    tmp_path: Path, encoding: str, newline: str
) -> None:
    (tmp_path / "x.tsv").write_bytes(f"one{newline}the größe 表{newline}".encode(encoding, errors="ignore"))
    for act in (lambda: lines(tmp_path / "x.tsv"), lambda: tables.read_text(f"{tmp_path}/x.tsv")):
        with pytest.raises(
            RradError, match=r"x\.tsv:[12]: no UTF-8 text: byte \d+ of the line is 0x[0-9A-F]{2}"
        ) as caught:
            act()
        assert "iconv" in caught.value.remedy


def test_the_byte_is_counted_from_the_beginning_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"ab\ncd\xe9f\n")
    for act in (lambda: lines(tmp_path / "x"), lambda: tables.read_text(f"{tmp_path}/x")):
        with pytest.raises(RradError, match=r"x:2: no UTF-8 text: byte 3 of the line is 0xE9"):
            act()


def test_a_packed_file_without_its_ending_and_a_torn_one_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(gzip.compress(b"a\n"))
    with pytest.raises(RradError, match=r"x\.tsv: is packed by gzip.*; unpack it, or pack it by gzip as NAME\.gz"):
        lines(tmp_path / "x.tsv")
    (tmp_path / "x.zst").write_bytes(b"\x28\xb5\x2f\xfd\x04\x00\x11\x00\x00a\n\x8e")
    with pytest.raises(RradError, match=r"x\.zst: is packed by zstd"):
        lines(tmp_path / "x.zst")
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a\n" * 9999)[:40])
    with pytest.raises(RradError, match=r"x\.gz"):
        lines(tmp_path / "x.gz")


def test_a_torn_json_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(RradError, match=r"x\.json: is no JSON"):
        read_json(f"{tmp_path}/x.json")


def test_a_text_that_is_written_anew_all_the_time_is_read_whole(s3_uri: str) -> None:
    texts, over = ["a" * 9, "b" * 5000], threading.Event()
    tables.write_text(f"{s3_uri}/x.json", texts[0])

    def write() -> None:
        while not over.is_set():
            for text in texts:
                tables.write_text(f"{s3_uri}/x.json", text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {tables.read_text(f"{s3_uri}/x.json") for _ in range(60)} <= {*texts}
    finally:
        over.set()
        writer.join()


@pytest.mark.parametrize("where", ["local", "s3"])
def test_of_a_text_beyond_its_bound_no_more_is_read(tmp_path: Path, s3_uri: str, where: str) -> None:
    uri = f"{tmp_path if where == 'local' else s3_uri}/x.txt"
    tables.write_text(uri, "seven\n")
    assert tables.read_text(uri, 6) == tables.read_text(uri, 1000) == "seven\n"
    with pytest.raises(RradError, match=r"x\.txt: has more than 5 bytes"):
        tables.read_text(uri, 5)


def test_a_file_in_bzip2_or_xz_is_unpacked_and_a_torn_one_is_named(tmp_path: Path) -> None:
    for ending, pack in {"bz2": bz2.compress, "xz": lzma.compress}.items():
        path = tmp_path / f"x.{ending}"
        path.write_bytes(pack(TEXT.encode()))
        assert lines(path) == [(1, "größe\t☃"), (3, "zwei")]
        for damaged in (pack(TEXT.encode() * 999)[:-9], b"no such file", pack(b"a")[:12] + b"x" * 40):
            path.write_bytes(damaged)
            with pytest.raises(RradError, match="cut short, damaged, or of another kind"):
                lines(path)


def test_a_zip_of_which_one_file_would_be_read_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("a.tsv", "one")
        packed.writestr("b.tsv", "two")
    with pytest.raises(RradError, match="is packed by zip, which is not read; unpack it"):
        lines(tmp_path / "x.zip")
