"""Event logs that others have written: what a column's type cannot hold costs its own row, and not the log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rrad_ray.errors import RradError
from rrad_ray.online.event_log import read_click_events, read_exposures
from tests.online.test_event_journal import click, exposure

ROWS = [click(number) for number in range(3)]


def written(folder: Path, **columns: Any) -> tuple[list[Any], list[str]]:
    """Write three clicks with some columns replaced; return those that are read and the reasons of the others."""
    table = pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]} | columns)
    (folder / "clicks").mkdir(exist_ok=True)
    pq.write_table(table, folder / "clicks" / "x.parquet")
    reasons: list[str] = []
    kept = list(read_click_events(str(folder), lambda key, reason, content: reasons.append(reason)))
    return kept, reasons


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ([1.0, math.nan, 3.0], "missing value: position is null"),
        (pa.array([1.0, None, 3.0]), "missing value: position is null"),
        ([1.0, 2.5, 3.0], "malformed row: position is 2.5, no int64"),
        ([1.0, math.inf, 3.0], "malformed row: position is inf, no int64"),
        ([1.0, 1e30, 3.0], "malformed row: position is 1e+30, no int64"),
        (["1", "second", "3"], "malformed row: position is 'second', no int64"),
        (pa.array([1, 2**63, 3], pa.uint64()), "malformed row: position is 9223372036854775808, no int64"),
        (pa.array(["1", "x", "3"]).dictionary_encode(), "malformed row: position is 'x', no int64"),
    ],
)
def test_positions_of_another_type_are_read_and_one_gap_costs_one_row(
    tmp_path: Path, position: Any, reason: str
) -> None:
    kept, reasons = written(tmp_path, position=position)
    assert reasons == [f"{reason} (x.parquet:2)"]
    if not isinstance(position, pa.DictionaryArray):
        assert [row["position"] for row in kept] == [1, 3]
        assert all(type(row["position"]) is int for row in kept)


def test_a_log_that_pandas_wrote_with_gaps_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame.loc[1, "position"] = None
    frame.loc[2, "dwell_s"] = None
    frame["request_id"] = [1.0, 2.0, 3.0]  # numbers for ids, which an earlier gap has made floats
    kept, reasons = written(tmp_path, **{name: pa.array(frame[name]) for name in frame})
    assert reasons == ["missing value: position is null (x.parquet:2)"]
    assert [(row["request_id"], row["position"]) for row in kept] == [("1", 1), ("3", 1)]
    assert math.isnan(kept[1]["dwell_s"]), "a dwell that is not known"


def test_ids_that_an_earlier_gap_has_rounded_are_an_error_that_names_the_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"request_id": [2**60 + 1, None, 2**60 + 3]})  # one number as floats
    with pytest.raises(RradError, match=r"x\.parquet: column 'request_id' holds ids as double, .*; write the ids as"):
        written(tmp_path, request_id=pa.array(frame["request_id"]))


def test_text_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    broken = pa.array([b"a", b"\xff", b"c"])
    raw = pa.Array.from_buffers(pa.string(), 3, broken.buffers())
    for column in (broken, raw):
        kept, reasons = written(tmp_path, doc_id=column)
        assert [row["doc_id"] for row in kept] == ["a", "c"]
        assert "doc_id is" in reasons[0]
        assert len(reasons) == 1


def test_a_column_of_another_kind_altogether_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RradError, match=r"column 'time' is timestamp\[ms\], not double .*; convert the column"):
        written(tmp_path, time=pa.array([1, 2, 3], pa.timestamp("ms")))


def test_lists_of_other_types_are_read(tmp_path: Path) -> None:
    rows = [exposure(number) for number in range(2)]
    (tmp_path / "exposures").mkdir()
    for kind in (pa.large_list(pa.large_string()), pa.list_(pa.string(), 2), pa.list_(pa.string())):
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        columns["doc_ids"] = pa.array(columns["doc_ids"], kind)
        columns["teams"] = pa.array([[], []])  # list<null>
        pq.write_table(pa.table(columns), tmp_path / "exposures" / "x.parquet")
        assert list(read_exposures(str(tmp_path), lambda *bad: pytest.fail(str(bad)))) == rows
