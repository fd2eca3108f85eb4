"""A click log of any of three formats is read the same; what cannot be used is handed over with its reason."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.data import click_log
from rrad_ray.errors import RradError, in_stage

CLICKS = [
    {"query": "sort a list", "title": "sorted()", "summary": "returns a new sorted list", "clicks": 3},
    {"query": "排序", "title": "列表", "summary": "", "clicks": 1},
]


def read(place: Path) -> tuple[list[Any], list[tuple[str, str, str]]]:
    rejected: list[tuple[str, str, str]] = []
    return list(click_log.read_clicks(str(place), lambda *bad: rejected.append(bad))), rejected


def written(place: Path, rows: list[dict[str, Any]] = CLICKS) -> Path:
    """The rows in a file of the format that its name says."""
    if place.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), place)
        return place
    if ".jsonl" in place.name:
        text = "\n".join(json.dumps(row) for row in rows)
    else:
        text = "\n".join("\t".join(str(value) for value in row.values()) for row in rows)
    place.write_bytes(gzip.compress(text.encode()) if place.name.endswith(".gz") else text.encode())
    return place


@pytest.mark.parametrize("name", ["c.parquet", "c.jsonl", "c.jsonl.gz", "c.tsv", "c.tsv.gz"])
def test_every_format_gives_the_same_clicks(tmp_path: Path, name: str) -> None:
    assert read(written(tmp_path / name)) == (CLICKS, [])


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "clicks.parquet"  # as Spark names a folder
    folder.mkdir()
    written(folder / "b.tsv", CLICKS[1:])
    written(folder / "a.jsonl", CLICKS[:1])
    (folder / "_SUCCESS").write_text("")
    assert read(folder) == (CLICKS, [])


def test_a_folder_on_s3_is_read_the_same(s3_uri: str, tmp_path: Path) -> None:
    from rrad_ray import tables

    tables.write_bytes(f"{s3_uri}/clicks/a.parquet", written(tmp_path / "a.parquet").read_bytes())
    assert list(click_log.read_clicks(f"{s3_uri}/clicks", lambda *bad: None)) == CLICKS


def test_summary_and_clicks_may_be_left_out_and_a_header_line_is_no_click(tmp_path: Path) -> None:
    least = {"query": "q", "title": "t", "summary": "", "clicks": 1}
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfquery\ttitle\tsummary\nq\tt\n")
    assert read(tmp_path / "a.tsv") == ([least], [])
    written(tmp_path / "b.parquet", [{"query": "q", "title": " t ", "summary": None, "other": 1}])
    assert read(tmp_path / "b.parquet") == ([least], [])


def test_what_is_no_click_is_handed_over_with_file_row_and_reason(tmp_path: Path) -> None:
    bad: list[Any] = [
        {"title": "t"},
        {"query": "q", "title": None},
        {"query": " ", "title": "t"},
        {"query": "q", "title": "\n"},
        {"query": "q", "title": 7},
        {"query": "q", "title": "t", "clicks": 0},
        {"query": "q", "title": "t", "clicks": True},
        {"query": "q", "title": "\ud800"},
        [1],
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in [CLICKS[0], *bad]) + "\n{")
    found, rejected = read(tmp_path / "x.jsonl")
    assert found == CLICKS[:1]
    assert [(place, reason.partition(":")[0]) for place, reason, _ in rejected] == [
        ("x.jsonl:2", "missing field"),
        ("x.jsonl:3", "missing field"),
        ("x.jsonl:4", "empty text"),
        ("x.jsonl:5", "empty text"),
        ("x.jsonl:6", "missing field"),
        ("x.jsonl:7", "malformed line"),
        ("x.jsonl:8", "malformed line"),
        ("x.jsonl:9", "malformed JSON"),
        ("x.jsonl:10", "malformed JSON"),
        ("x.jsonl:11", "malformed JSON"),
    ]
    assert rejected[0][1:] == ("missing field: x.jsonl:2 has no query (fields: title)", '{"title": "t"}')


@pytest.mark.parametrize("name", ["X.JSONL", "x.ndjson", "x.NdJson"])
def test_a_log_of_json_lines_may_end_in_ndjson_or_capitals_and_its_clicks_be_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(
        '{"query": "q", "title": "t", "clicks": "3"}\n{"query": "q", "title": "t", "clicks": "x"}'
    )
    [click], [(_, reason, _)] = read(tmp_path / name)
    assert click["clicks"] == 3
    assert reason == f"malformed line: {name}:2 has 'x' as clicks, which is no whole number from 1"


def test_clicks_of_a_path_and_of_its_lines_are_compared_as_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "clicks=3"
    folder.mkdir()
    (folder / "a.tsv").write_text("q\tt\ts\t3\nq\tt\n")
    (folder / "b.jsonl").write_text('{"query": "q", "title": "t", "clicks": " 3"}\n')
    found, rejected = read(tmp_path)
    assert ([click["clicks"] for click in found], rejected) == ([3, 3, 3], [])
    (folder / "c.tsv").write_text("q\tt\ts\t4\n")
    with pytest.raises(RradError, match="partition clicks=3, and a row of the file says '4'"):
        read(tmp_path)


def test_a_parquet_log_with_two_columns_of_a_name_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table([["q"], ["t"], ["u"]], ["query", "title", "title"]), tmp_path / "x.parquet")
    with pytest.raises(RradError, match=r"x\.parquet: has two columns 'title'; rename or drop one"):
        read(tmp_path / "x.parquet")


@pytest.mark.parametrize("line", ["only a query", "q\tt\ts\tmany", "q\tt\ts\t1\tmore", "q\tt\ts\t1.5"])
def test_a_line_of_other_columns_is_handed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.tsv").write_text(f"q\tt\n{line}\n")
    found, [(place, reason, content)] = read(tmp_path / "x.tsv")
    assert len(found) == 1
    assert (place, reason.partition(":")[0], content) == ("x.tsv:2", "malformed line", line)


@settings(max_examples=200)
@given(st.lists(st.binary().filter(lambda line: b"\n" not in line and b"\r" not in line)))
def test_any_bytes_are_read_or_handed_over_or_an_error_says_where_they_are_no_utf8(
    lines: list[bytes],
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("x.tsv", "x.jsonl"):
            good = b"q\tt" if name == "x.tsv" else json.dumps(CLICKS[0]).encode()
            (Path(folder) / name).write_bytes(b"\n".join([good, *lines]))
            try:
                texts = [line.decode("utf-8", "surrogatepass").lstrip("\ufeff") for line in lines]
            except UnicodeDecodeError:
                texts = ["\0"]
            if any("\0" in text for text in texts):
                with pytest.raises(RradError, match=rf"{name}:\d+: .*byte \d+ of the line"):
                    read(Path(folder) / name)
                continue
            found, rejected = read(Path(folder) / name)
            assert len(found) + len(rejected) == 1 + sum(bool(text.strip()) for text in texts)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.tsv", None, "no such file"),
        ("gone.parquet", None, "no such file"),
        ("folder", None, r"no file of a click log \(0 other files\)"),
        ("notes.txt", b"q\tt", "no file of a click log"),
        ("empty.tsv", b"\n", "holds no rows; no row can be used"),
        ("bad.jsonl", b'{"query": "q"}', r"bad.jsonl:1: has no title \(fields: query\); no row can be used"),
        ("broken.parquet", b"PAR1", "broken.parquet"),
        ("broken.jsonl.gz", b"no gzip", "broken.jsonl.gz"),
    ],
)
def test_a_log_of_no_use_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RradError, match=says) as caught, in_stage("finetune"):
        read(tmp_path / name)
    assert caught.value.stage == "finetune"
    assert caught.value.remedy


def test_columns_of_another_type_are_rows_handed_over_not_a_crash(tmp_path: Path) -> None:
    rows = [{"query": 1, "title": "t"}, {"query": 2, "title": "u"}]
    with pytest.raises(RradError, match="has no text in field 'query' but int"):
        read(written(tmp_path / "x.parquet", rows))


@pytest.mark.parametrize("clicks", ["9" * 400, str(2**63), "1e999", "-1", "0", "2.5"])
def test_numbers_that_no_column_holds_are_handed_over(tmp_path: Path, clicks: str) -> None:
    for name, line in (
        ("x.tsv", f"q\tt\ts\t{clicks}"),
        ("x.jsonl", f'{{"query": "q", "title": "t", "clicks": {clicks}}}'),
    ):
        good = "q\tt" if name == "x.tsv" else '{"query": "q", "title": "t"}'
        (tmp_path / name).write_text(f"{good}\n{line}\n")
        found, rejected = read(tmp_path / name)
        assert [click["clicks"] for click in found] == [1]
        assert [reason.partition(":")[0] for _, reason, _ in rejected] == ["malformed line"]


@pytest.mark.parametrize("header", ["Query\tTitle\tSummary", "search_query\tdoc_title", "keyword\tTitle"])
def test_a_header_line_of_any_spelling_is_no_click(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.tsv").write_text(f"{header}\nq\tt\n")
    found, rejected = read(tmp_path / "x.tsv")
    assert ([click["query"] for click in found], rejected) == (["q"], [])


def test_columns_of_other_programs_are_read_by_what_they_mean(tmp_path: Path) -> None:
    columns = {"query": pa.array([b"q"]), "title": pa.array(["t"]).dictionary_encode(), "clicks": [Decimal("3")]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == ([{"query": "q", "title": "t", "summary": "", "clicks": 3}], [])
    pq.write_table(pa.table(columns | {"clicks": [Decimal("2.5")]}), tmp_path / "y.parquet")
    with pytest.raises(RradError, match=r"y\.parquet: column 'clicks' is decimal"):
        read(tmp_path / "y.parquet")


def test_a_row_without_clicks_has_one_in_every_format_and_is_told(tmp_path: Path) -> None:
    """Of one table with a gap, the row counted once as Parquet and was set aside as lines."""
    table = pa.table({"query": ["q", "r"], "title": ["t", "u"], "clicks": pa.array([3, None])})
    pq.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "y.tsv").write_text("query\ttitle\tclicks\nq\tt\t3\nr\tu\t\n")
    (tmp_path / "z.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    gaps: list[str] = []
    for count, name in enumerate(("x.parquet", "y.tsv", "z.jsonl"), 1):
        log = f"{tmp_path}/{name}"
        rows = list(click_log.read_clicks(log, lambda *bad: pytest.fail(str(bad)), lambda: gaps.append("")))
        assert ([row["clicks"] for row in rows], len(gaps)) == ([3, 1], count)
    pq.write_table(table.drop_columns("clicks"), tmp_path / "x.parquet")
    log = f"{tmp_path}/x.parquet"
    rows = list(click_log.read_clicks(log, lambda *_: None, lambda: pytest.fail("no row has clicks")))
    assert [row["clicks"] for row in rows] == [1, 1]


def test_clicks_that_pandas_has_made_floats_of_are_whole_numbers(tmp_path: Path) -> None:
    table = pa.table({"query": ["q", "r"], "title": ["t", "u"], "clicks": [3.0, float("nan")]})
    pq.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "y.tsv").write_text("query\ttitle\tclicks\nq\tt\t3.0\nr\tu\t1.0\n")
    for name in ("x.parquet", "y.tsv"):
        found, rejected = read(tmp_path / name)
        assert ([click["clicks"] for click in found], rejected) == ([3, 1], [])


@settings(max_examples=40)
@given(st.permutations(["query", "title", "summary", "clicks", "url"]), st.integers(2, 5))
def test_columns_of_a_log_stand_where_its_header_says(names: list[str], width: int) -> None:
    import tempfile

    row = {**{name: str(value) for name, value in CLICKS[0].items()}, "url": "u"}
    names = names[:width]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "x.tsv"
        log.write_text("\t".join(names) + "\n" + "\t".join(row[name] for name in names) + "\n")
        if {"query", "title"} <= set(names):
            kept = {name: value for name, value in CLICKS[0].items() if name in names}
            assert read(log) == ([{"summary": "", "clicks": 1} | kept], [])


@pytest.mark.parametrize("header", ["query\tsummary\tclicks", "title\tclicks", "query\tquery\tclicks"])
def test_a_header_of_a_log_without_query_or_title_is_an_error(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.tsv").write_text(f"{header}\nq\tt\n")
    with pytest.raises(RradError, match=r"x\.tsv:1: its header .* does not say which column is query and title"):
        read(tmp_path / "x.tsv")


@pytest.mark.parametrize("clicks", ["1_0", "१", "1.5", "1e3", "1."])
def test_clicks_of_a_line_are_written_as_a_whole_number(tmp_path: Path, clicks: str) -> None:
    (tmp_path / "x.tsv").write_text(f"q\tt\nq\tt\ts\t{clicks}\n")
    assert [reason.partition(":")[0] for _, reason, _ in read(tmp_path / "x.tsv")[1]] == ["malformed line"]
