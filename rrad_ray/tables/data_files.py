"""The data files of a folder, local or on S3: one answer for every reader of other programs' folders.

What Spark, Hive and Delta hide is no data: a file below the folder with a part of its path that begins with `_` or
`.`, unless that part is `name=value`. Such parts are Hive's partitions: columns of the rows of their files. Of a
Delta table, the data are the files of its last version; tables of other such formats are refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from rrad_ray.errors import RradError
from rrad_ray.tables.delta_log import DELTA_LOG, WHOLE_LOG, live_files
from rrad_ray.tables.files import above_partitions, join, listed, visible_names
from rrad_ray.tables.schema import as_type, check_single, column_as
from rrad_ray.tables.table_formats import check_formats

ROW_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".orc", ".avro", ".arrow", ".feather")
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4", ".snappy", ".deflate", ".zip")
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # Hive's null


@dataclass(frozen=True)
class DataFile:
    """A file of data: its name relative to the folder (empty: it was named itself), and the values of its partitions.

    A folder that is named down to `day=1/split=dev` is in these partitions too. `logged`: values of partitions that a
    table's log has and the path has not.
    """

    folder: str
    name: str
    logged: tuple[tuple[str, str | None], ...] = ()

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
        return dict(self.logged) | values


def is_hidden(name: str) -> bool:
    """Return true for a relative path that other programs hide: `_temporary/...`, `.x.parquet.crc`, `_SUCCESS`."""
    return any(part.startswith(("_", ".")) and "=" not in part for part in name.split("/"))


def data_files(uri: str, endings: Sequence[str] | None = None) -> list[DataFile]:
    """Return the data files below a folder, sorted by name, or the file that `uri` names.

    `endings`: the endings of names that count, in either case; None: all. Without such a folder there are none.
    """
    return _by_ending(uri, endings)[0]


def row_files(uri: str, endings: Sequence[str]) -> list[DataFile]:
    """Return `data_files`. Raises `RradError` for a file beside them that holds rows by its name, in a form or a
    packing that is not read: they would be left out without a word."""
    files, others = _by_ending(uri, endings)
    for name in others:
        if _holds_rows(name.lower(), endings):
            problem = f"its rows would be left out: what is read here ends in {', '.join(endings)}"
            raise RradError(join(uri, name), problem, "convert or unpack it, or leave it out by '_' before its name")
    return files


def check_no_partition(files: Iterable[DataFile], names: AbstractSet[str], why: str, remedy: str) -> None:
    """Raise `RradError` for a file whose path says a value that its reader takes from elsewhere."""
    for file in files:
        for name in sorted(file.partitions.keys() & names):
            problem = f"partition {name}={file.partitions[name]} cannot be used: {why}"
            raise RradError(file.uri, problem, remedy)


def _by_ending(uri: str, endings: Sequence[str] | None) -> tuple[list[DataFile], list[str]]:
    """Return the data files whose names end so, and the names of the others; of a file itself the name is empty."""
    every = listed(uri)
    facts = _of_data(uri, every)
    names = [name for name in facts if endings is None or (name or uri).lower().endswith(tuple(endings))]
    check_formats(uri, every, names)
    files = [DataFile(uri, name, facts[name].get("partitions", ())) for name in names]
    return files, sorted(facts.keys() - {*names})


def _holds_rows(name: str, endings: Sequence[str]) -> bool:
    """Return true for a name of rows; JSON beside Parquet, unpacked, is some program's description of the files."""
    bare = next((name.removesuffix(each) for each in PACKINGS if name.endswith(each)), name)
    about = bare == name and name.endswith(".json") and ".jsonl" not in endings
    return bare.endswith(ROW_ENDINGS) and not about


def data_facts(uri: str) -> dict[str, dict[str, Any]]:
    """Return the facts of `listed` of those files that hold data: none that are hidden, or that are no longer part of
    a Delta table. `partitions`: values that such a table's log alone has, where there are some."""
    return _of_data(uri, listed(uri))


def names_in(uri: str, ending: str) -> set[str]:
    """Return the names of the files with an ending right in a folder, without it; none where there is no folder."""
    return {file.name.removesuffix(ending) for file in data_files(uri, (ending,))}


@dataclass(frozen=True)
class _DeltaTable:
    """A Delta table: its URI, the files of its log, and the folder in a listing that has its files or some of them.

    `folder` and `below` end in a slash, or are empty: `corpus/` of a folder with such a table, and `day=1/` of a
    table of which this folder alone is listed.
    """

    uri: str
    log: Sequence[str]
    folder: str = ""
    below: str = ""


def _of_data(uri: str, every: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the facts of the files that hold data among those of a listing of `uri`."""
    facts = {name: each for name, each in every.items() if not is_hidden(name)}
    for table in _delta_tables(uri, every):
        facts = {name: each for name, each in facts.items() if not name.startswith(table.folder)}
        for live, values in live_files(table.uri, table.log, table.below).items():
            name = table.folder + live.removeprefix(table.below)
            if name not in every:
                problem = "belongs to the last version of its Delta table, and is not there"
                raise RradError(join(uri, name), problem, f"{WHOLE_LOG}; if it was being written, run again")
            in_path = DataFile(uri, name).partitions
            logged = tuple((key, value) for key, value in values if key not in in_path)
            facts[name] = every[name] | ({"partitions": logged} if logged else {})
    return dict(sorted(facts.items()))


def _delta_tables(uri: str, every: Mapping[str, Any]) -> Iterator[_DeltaTable]:
    """Yield the Delta tables in a listing of `uri`, or the one of which `uri` is a partition."""
    logs = defaultdict[str, list[str]](list)
    for name in every:
        folder, log, rest = name.partition(f"{DELTA_LOG}/")
        if log and (not folder or folder.endswith("/")) and not is_hidden(folder):
            logs[folder].append(rest)
    if every and "" not in every and "" not in logs:
        for table, below in above_partitions(uri):
            if log_names := visible_names(join(table, DELTA_LOG)):
                yield _DeltaTable(table, log_names, below=below)
                return
    for folder, names in logs.items():
        if not any(folder != other and folder.startswith(other) for other in logs):
            yield _DeltaTable(join(uri, folder.rstrip("/")) if folder else uri, names, folder)


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
