"""Arrow schemas of the row types, and the check of a table against one."""

from __future__ import annotations

from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa

from rrad_ray.errors import RradError

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def arrow_type(hint: Any) -> pa.DataType:
    """Return `list<list<double>>` for `list[list[float]]`."""
    if get_origin(hint) is list:
        return pa.list_(arrow_type(get_args(hint)[0]))
    return _ARROW[hint]


def schema_of(row: type) -> pa.Schema:
    """Return the Arrow schema of a row type."""
    return pa.schema([pa.field(name, arrow_type(hint), nullable=False) for name, hint in get_type_hints(row).items()])


def _nulls(column: pa.ChunkedArray) -> int:
    """Return how many nulls a column holds, those within its lists too."""
    count, values = column.null_count, column
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = pa.compute.list_flatten(values)
        count += values.null_count
    return count


def check_schema(table: pa.Table, row: type, uri: str, nulls: bool = False) -> pa.Table:
    """Return the columns of `row`, in its types; raise `RradError` that names the first column that is missing or of
    a wrong type or, unless `nulls` are allowed, one that holds some."""
    columns = []
    schema = schema_of(row)
    for field in schema:
        if field.name not in table.column_names:
            have = ", ".join(table.column_names)
            problem = f"has no column '{field.name}' (columns: {have})"
            raise RradError(uri, problem, "run the stage that writes it again")
        column = table.column(field.name)
        if not nulls and _nulls(column):
            raise RradError(uri, f"column '{field.name}' holds nulls", "drop or fill those rows")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            problem = f"column '{field.name}' is {column.type}, not {field.type}"
            raise RradError(uri, problem, "convert the column") from error
        except pa.ArrowNotImplementedError as error:
            problem = f"column '{field.name}' is {column.type}, not {field.type}"
            raise RradError(uri, problem, "convert the column") from error
    return pa.Table.from_arrays(columns, schema=schema)
