"""The data files of a folder, local or on S3: one answer for every reader of other programs' folders.

What Spark, Hive and Delta hide is no data: a file below the folder with a part of its path that begins with `_` or
`.`, unless that part is `name=value`. Such parts are Hive's partitions: columns of the rows of their files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray.errors import RradError
from rrad_ray.tables.files import join, listed
from rrad_ray.tables.schema import as_type, check_single, column_as
from rrad_ray.tables.text import text_lines

DELTA_LOG = "_delta_log/"

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # Hive's null


@dataclass(frozen=True)
class DataFile:
    """A file of data: its name relative to the folder (empty: it was named itself), and the values of its partitions.

    A folder that is named down to `day=1/split=dev` is in these partitions too.
    """

    folder: str
    name: str

    @property
    def uri(self) -> str:
        """The file's URI."""
        return join(self.folder, self.name) if self.name else self.folder

    @property
    def partitions(self) -> dict[str, str | None]:
        """The partitions, by name; None is Hive's null. Raises `RradError` for a name with two values."""
        above = self.folder.rstrip("/").split("/")
        if not self.name:
            above.pop()
        named: list[str] = []
        while above and "=" in above[-1]:
            named.insert(0, above.pop())
        values: dict[str, str | None] = {}
        for part in [*named, *self.name.split("/")[:-1]]:
            name, equals, text = part.partition("=")
            if not equals or not name:
                continue
            value = None if text == NO_VALUE else unquote(text)
            if values.setdefault(unquote(name), value) != value:
                problem = f"its path says {name}={values[unquote(name)]} and {name}={value}"
                raise RradError(self.uri, problem, "give a partition one value in a path")
        return values


def is_hidden(name: str) -> bool:
    """Return true for a relative path that other programs hide: `_temporary/...`, `.x.parquet.crc`, `_SUCCESS`."""
    return any(part.startswith(("_", ".")) and "=" not in part for part in name.split("/"))


def data_files(uri: str, endings: Sequence[str] | None = None) -> list[DataFile]:
    """Return the data files below a folder, sorted by name, or the file that `uri` names.

    `endings`: the endings of names that count, in either case; None: all. Without such a folder there are none.
    """
    names = list(data_facts(uri))
    if endings is not None:
        names = [name for name in names if (name or uri).lower().endswith(tuple(endings))]
    return [DataFile(uri, name) for name in names]


def data_facts(uri: str) -> dict[str, dict[str, Any]]:
    """Return the facts of `listed` of those files that hold data: none that are hidden, or deleted by a Delta log."""
    every = listed(uri)
    gone = _deleted_by_delta(uri, list(every))
    return {name: facts for name, facts in every.items() if not is_hidden(name) and name not in gone}


def names_in(uri: str, ending: str) -> set[str]:
    """Return the names of the files with an ending right in a folder, without it; none where there is no folder."""
    return {file.name.removesuffix(ending) for file in data_files(uri, (ending,))}


def _deleted_by_delta(uri: str, names: Sequence[str]) -> set[str]:
    """Return the files that a Delta table's log takes out of the table and that nobody has vacuumed yet: their rows
    stand in other files, or nowhere."""
    gone: set[str] = set()
    for name in names:  # commits have their number as name, so they come in order
        if not (name.startswith(DELTA_LOG) and name.endswith(".json")):
            continue
        for _, line in text_lines(join(uri, name), "check the path"):
            try:
                action = json.loads(line)
            except ValueError:  # no action of Delta's
                continue
            for kind, change in (("remove", gone.add), ("add", gone.discard)):
                fields = action.get(kind) if isinstance(action, dict) else None
                if isinstance(fields, dict) and isinstance(fields.get("path"), str):
                    change(unquote(fields["path"]))
    return gone


def with_partitions(table: pa.Table, file: DataFile, schema: pa.Schema) -> pa.Table:
    """Return a file's rows with those of its partitions as columns that `schema` has.

    Raises `RradError` where a partition and the file's own column disagree, or a partition cannot be a value of its
    column, or a column stands there twice, or would be read but for its capital letters.
    """
    names = set(schema.names)
    for name in schema.names:
        check_single(table, name, file.uri)
    unread = [name for name in table.column_names if name.lower() not in table.column_names]
    for name in [*file.partitions, *unread]:
        if name not in names and name.lower() in names:
            remedy = f"write '{name.lower()}', or drop it"
            raise RradError(file.uri, f"has '{name}' where '{name.lower()}' is read", remedy)
    for name, value in file.partitions.items():
        if name in names:
            table = _with_partition(table, file, schema.field(name), value)
    return table


def disagreement(file: DataFile, name: str, shown: str, other: object) -> RradError:
    """Return the error for a partition, `shown` as its path has it, that a row of its file contradicts."""
    problem = f"partition {name}={shown}, and a row of the file says {other!r}"
    return RradError(file.uri, problem, "mend the file or its path: they must agree")


def _with_partition(table: pa.Table, file: DataFile, field: pa.Field, value: str | None) -> pa.Table:
    shown = NO_VALUE if value is None else value
    try:
        [typed] = as_type(pa.array([value], pa.string()), field.type).to_pylist()
    except pa.ArrowInvalid as error:
        problem = f"partition {field.name}={shown} is no {field.type}"
        raise RradError(file.uri, problem, "mend the path, or write the column into the file") from error
    if field.name not in table.column_names:
        return table.append_column(field.name, pa.array([typed] * len(table), field.type))
    column = column_as(table, field, file.uri)
    same = pc.equal(column, pa.scalar(typed, field.type)) if typed is not None else pc.is_null(column)
    if not pc.all(pc.fill_null(same, False)).as_py() and len(table):
        other = next(each for each in column.to_pylist() if each != typed)
        raise disagreement(file, field.name, shown, other)
    return table
