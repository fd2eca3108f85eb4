"""Columns that other programs have written are read by what they mean, or an error names the column."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray.errors import RradError
from rrad_ray.tables.schema import as_type, check_schema, schema_of, table_of_rows


class Kept(TypedDict):
    ids: list[str]
    grid: list[list[float]]
    name: str
    count: int
    score: float


class Narrow(TypedDict):
    name: str


class Wide(Narrow):
    spans: NotRequired[list[list[int]]]


KEPT: list[dict[str, Any]] = [
    {"ids": ["a", "b"], "grid": [[1.0, 2.0], [3.0, 4.0]], "name": "x", "count": 2, "score": 0.5},
    {"ids": ["ü", "c"], "grid": [[5.0, 6.0], [7.0, 8.0]], "name": "y", "count": 3, "score": 1.5},
]
STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]
FLOATS = [pa.float64(), pa.float32(), pa.float16(), pa.decimal128(10, 2)]
INTEGERS = [pa.int8(), pa.uint64(), pa.int64(), pa.float64(), pa.decimal128(10, 0), pa.string()]
LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda kind: pa.list_(kind, 2)]


def array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values in that type, also where they are texts in bytes or numbers in text."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = [value.encode() for value in values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values = [str(value) for value in values]
    if pa.types.is_decimal(kind):
        values = [Decimal(str(value)) for value in values]
    return pa.array(values, kind)


def in_lists(values: pa.Array, lists: Any) -> pa.Array:
    """The values in lists of two each, of one of Arrow's types of lists."""
    kind, offsets = lists(values.type), list(range(0, len(values) + 1, 2))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, 2)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        maker = pa.ListViewArray if pa.types.is_list_view(kind) else pa.LargeListViewArray
        size = pa.int32() if pa.types.is_list_view(kind) else pa.int64()
        return maker.from_arrays(pa.array(offsets[:-1], size), pa.array([2] * (len(offsets) - 1), size), values)
    return (pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray).from_arrays(offsets, values)


@settings(max_examples=150)
@given(st.data())
def test_whatever_types_another_program_has_given_them_values_mean_the_same(data: st.DataObject) -> None:
    ids = array([value for row in KEPT for value in row["ids"]], data.draw(st.sampled_from(STRINGS)))
    if data.draw(st.booleans()):
        ids = ids.dictionary_encode() if not pa.types.is_string_view(ids.type) else ids
    numbers = [value for row in KEPT for inner in row["grid"] for value in inner]
    grid = in_lists(array(numbers, data.draw(st.sampled_from(FLOATS))), data.draw(st.sampled_from(LISTS)))
    table = pa.table(
        {
            "score": array([row["score"] for row in KEPT], data.draw(st.sampled_from(FLOATS))),
            "count": array([row["count"] for row in KEPT], data.draw(st.sampled_from(INTEGERS))),
            "name": array([row["name"] for row in KEPT], data.draw(st.sampled_from(STRINGS))),
            "grid": in_lists(grid, data.draw(st.sampled_from(LISTS))),
            "ids": in_lists(ids, data.draw(st.sampled_from(LISTS))),
        }
    )
    start = data.draw(st.integers(0, 2))
    table = pa.concat_tables([table, table]).slice(start, 2)  # what a row group or a filter leaves
    assert check_schema(table, Kept, "x").to_pylist() == (KEPT + KEPT)[start : start + 2]


@pytest.mark.parametrize("lists", LISTS)
def test_null_lists_and_empty_ones_stay_what_they_are(lists: Any) -> None:
    values: list[Any] = [["a", "b"], None, ["c", "d"]]
    given_array = pa.array(values, lists(pa.string()))
    assert as_type(given_array, pa.list_(pa.string())).to_pylist() == values
    assert as_type(pa.array([[], None, []]), pa.list_(pa.string())).to_pylist() == [[], None, []]


def test_whole_numbers_are_ids_and_fractions_are_none() -> None:
    assert as_type(pa.array([7, 8]), pa.string()).to_pylist() == ["7", "8"]
    assert as_type(pa.array([7.0, None]), pa.string()).to_pylist() == ["7", None]  # pandas, where one is missing
    with pytest.raises(pa.ArrowInvalid):
        as_type(pa.array([7.5]), pa.string())


@pytest.mark.parametrize(
    ("kind", "exact"),
    [(pa.float64(), 2**53 - 1), (pa.float32(), 2**24 - 1), (pa.float16(), 2**11 - 1)],
)
def test_ids_that_a_float_has_rounded_are_refused_with_their_column(kind: pa.DataType, exact: int) -> None:
    assert as_type(pa.array([exact, None], pa.int64()).cast(kind), pa.string()).to_pylist() == [str(exact), None]
    rounded = pa.array([1, -exact - 1]).cast(kind)
    table = pa.table(
        {"ids": [["a"]] * 2, "grid": [[[1.0]]] * 2, "name": rounded, "count": [1] * 2, "score": [1.0] * 2}
    )
    says = (
        rf"x: column 'name' holds ids as {kind}, such as -{exact + 1}, .*; write the ids as text or 64-bit integers"
    )
    with pytest.raises(RradError, match=says):
        check_schema(table, Kept, "x")
    lists = pa.ListArray.from_arrays([0, 1, 2], rounded)
    with pytest.raises(RradError, match="column 'ids' holds ids as"):
        check_schema(table.set_column(0, "ids", lists), Kept, "x")


BROKEN = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("ids", pa.array(["['a']"])),
        ("ids", pa.array([[{"id": "a"}]])),
        ("ids", pa.array([[["a"]]])),
        ("ids", pa.array([[True]])),
        ("ids", pa.array([[datetime.date(2026, 1, 1)]])),
        ("grid", pa.array([[1.0]])),
        ("name", pa.array([b"\xff"])),
        ("name", BROKEN),
        ("name", pa.array([datetime.datetime(2026, 1, 1)])),
        ("count", pa.array([2.5])),
        ("count", pa.array([Decimal("2.5")])),
        ("count", pa.array([2**63], pa.uint64())),
        ("count", pa.array([datetime.datetime(2026, 1, 1)])),
        ("score", pa.array([datetime.datetime(2026, 1, 1)])),
        ("score", pa.array([True])),
        ("score", pa.array(["high"])),
    ],
)
def test_a_column_of_another_meaning_is_named(column: str, values: pa.Array) -> None:
    table = pa.table({"ids": [["a"]], "grid": [[[1.0]]], "name": ["x"], "count": [1], "score": [1.0]})
    with pytest.raises(RradError, match=f"x: column '{column}' is .*; convert the column"):
        check_schema(table.set_column(table.schema.get_field_index(column), column, values), Kept, "x")


def test_a_column_that_stands_there_twice_is_named() -> None:
    table = pa.table([[["a"]], [[[1.0]]], ["x"], [1], [1.0], ["y"]], [*Kept.__annotations__, "name"])
    with pytest.raises(RradError, match="two columns 'name'"):
        check_schema(table, Kept, "x")


def test_a_column_that_earlier_versions_did_not_write_is_read_as_empty_lists() -> None:
    table = pa.table({"name": ["a", "b"]})
    assert check_schema(table, Wide, "t").to_pylist() == [{"name": "a", "spans": []}, {"name": "b", "spans": []}]
    rows = [{"name": "a", "spans": [[1, 2]]}, {"name": "b"}]
    assert table_of_rows(rows, Wide).to_pylist() == [rows[0], {"name": "b", "spans": []}]
    assert table_of_rows(rows, Wide).schema == schema_of(Wide)
    with pytest.raises(KeyError):
        table_of_rows([{"spans": []}], Wide)
    with pytest.raises(RradError, match="has no column 'name'"):
        check_schema(pa.table({"spans": [[]]}), Wide, "t")
