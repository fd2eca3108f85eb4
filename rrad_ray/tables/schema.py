"""Arrow schemas of the row types, and the check of a table against one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray.errors import InvalidInput, RradError
from rrad_ray.rows import Candidates, JudgeOutput, Labels

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)

_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)  # Spark's old text

_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)

# From here on, a float stands for several whole numbers, by the bits of its type.
_ROUNDED_FROM = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): 2.0**53}

_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)

# The types whose values mean the same as the type that a row has; anything else is refused, not guessed at.
_MEANS = {
    pa.string(): (*_STRINGS, *_BYTES, *_NUMBERS),
    pa.int64(): (*_NUMBERS, *_STRINGS, pa.types.is_boolean),
    pa.float64(): (*_NUMBERS, *_STRINGS),
    pa.bool_(): (pa.types.is_boolean,),
}


def arrow_type(hint: Any) -> pa.DataType:
    """Return `list<list<double>>` for `list[list[float]]`."""
    if get_origin(hint) is list:
        return pa.list_(arrow_type(get_args(hint)[0]))
    return _ARROW[hint]


def schema_of(row: type) -> pa.Schema:
    """Return the Arrow schema of a row type."""
    return pa.schema([pa.field(name, arrow_type(hint), nullable=False) for name, hint in get_type_hints(row).items()])


def optional_columns(row: type) -> set[str]:
    """Return the columns that tables of earlier versions lack (`NotRequired`): lists, which are empty then."""
    hints = get_type_hints(row, include_extras=True)
    return {name for name, hint in hints.items() if get_origin(hint) is NotRequired}


def table_of_rows(rows: Sequence[Mapping[str, Any]], row: type) -> pa.Table:
    """Return rows as a table, with empty lists where an optional column is not given; `KeyError` for another."""
    schema, optional = schema_of(row), optional_columns(row)
    columns = {
        name: [each.get(name, []) if name in optional else each[name] for each in rows] for name in schema.names
    }
    return pa.table(columns, schema=schema)


def is_listed(kind: pa.DataType) -> bool:
    """Return true for any of Arrow's types of lists."""
    return any(check(kind) for check in _LISTS)


def as_type(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return an array in a type of the rows, whatever other program has written it: its lists of any kind, its texts
    as dictionaries or views, its numbers of any width.

    Raises `pa.ArrowInvalid` where that would change what a value means: 2.5 is no whole number, a date no text; and
    `InvalidInput` for ids that the other program has rounded, of which several may be one now.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return array.cast(kind)
    if pa.types.is_list(kind):
        if not is_listed(array.type):
            raise pa.ArrowInvalid("these are no lists")
        # Not by `cast`: pyarrow 26 loses values of a list view.
        lengths = pc.list_value_length(array)
        ends = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int32()))
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
        return pa.ListArray.from_arrays(
            offsets, as_type(pc.list_flatten(array), kind.value_type), mask=array.is_null()
        )
    if not any(check(array.type) for check in _MEANS[kind]):
        raise pa.ArrowInvalid(f"{array.type} does not mean {kind}")
    if pa.types.is_string(kind) and (pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
        _check_rounded(array)
        array = array.cast(pa.int64())  # ids that pandas has made floats of, since one was missing
    array = array.cast(kind)
    array.validate(full=True)  # Parquet may hold texts that are no UTF-8
    return array


def _check_rounded(ids: pa.Array) -> None:
    """Raise `InvalidInput` for floats that are too large to be told from the next whole number."""
    limit = _ROUNDED_FROM.get(ids.type)
    if limit is None:
        return  # decimals
    values = ids.cast(pa.float64())
    rounded = values.filter(pc.and_(pc.greater_equal(pc.abs(values), limit), pc.is_finite(values)))
    if len(rounded):
        problem = f"holds ids as {ids.type}, such as {rounded[0].as_py():.0f}, which rounds numbers above {limit:.0f}"
        remedy = "write the ids as text or 64-bit integers from where they come: pandas keeps them so by dtype=str"
        raise InvalidInput(problem, remedy)


@contextmanager
def in_column(name: str, uri: str) -> Iterator[None]:
    """Raise an `InvalidInput` of this block as the `RradError` that names the column and its file."""
    try:
        yield
    except InvalidInput as error:
        raise RradError(uri, f"column '{name}' {error.problem}", error.remedy) from error


def check_single(table: pa.Table, name: str, uri: str) -> None:
    """Raise `RradError` for a column that stands in the table twice."""
    if table.column_names.count(name) > 1:
        raise RradError(uri, f"has two columns '{name}'", "rename or drop one")


def column_as(table: pa.Table, field: pa.Field, uri: str) -> pa.ChunkedArray:
    """Return a column of a table in a field's type; raise `RradError` that names a column of another meaning, of
    rounded ids, or one that stands there twice."""
    check_single(table, field.name, uri)
    column = table.column(field.name)
    try:
        with in_column(field.name, uri):
            return pa.chunked_array([as_type(chunk, field.type) for chunk in column.chunks], field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        problem = f"column '{field.name}' is {column.type}, not {field.type} ({error})"
        raise RradError(uri, problem, "convert the column") from error


def _nulls(column: pa.ChunkedArray) -> int:
    """Return how many nulls a column of a row type holds, those within its lists too."""
    count, values = column.null_count, column
    while pa.types.is_list(values.type):
        values = pc.list_flatten(values)
        count += values.null_count
    return count


def check_columns(wanted: Iterable[str], have: Sequence[str], uri: str, remedy: str = "") -> None:
    """Raise `RradError` that names the first of the columns wanted that a file does not have. Without a remedy, it is
    to name the output of the stage that writes this column: often that of another one was given."""
    for name in wanted:
        if name not in have:
            remedy = remedy or next((each for row, each in _WRITERS.items() if name in get_type_hints(row)), _AGAIN)
            raise RradError(uri, f"has no column '{name}' (columns: {', '.join(have)})", remedy)


_WRITERS = {
    Candidates: "name the output of retrieve or prerank",
    JudgeOutput: "name the output of judge, or run judge again if another version has written it",
    Labels: "name the output of label, or run label again if another version has written it",
}
_AGAIN = "run the stage that writes it again"


def check_schema(table: pa.Table, row: type, uri: str, nulls: bool = False) -> pa.Table:
    """Return the columns of `row`, in its types, optional ones that are missing as empty lists.

    Raises `RradError` that names the first column that is missing or of a wrong type or, unless `nulls` are allowed,
    one that holds some.
    """
    columns = []
    schema, optional = schema_of(row), optional_columns(row)
    for field in schema:
        if field.name in optional and field.name not in table.column_names:
            columns.append(pa.chunked_array([pa.array([[]] * table.num_rows, field.type)]))
            continue
        check_columns([field.name], table.column_names, uri)
        column = column_as(table, field, uri)
        if not nulls and _nulls(column):
            raise RradError(uri, f"column '{field.name}' holds nulls", "drop or fill those rows")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
