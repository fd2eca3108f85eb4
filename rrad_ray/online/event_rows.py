"""Rows of the event log: what a value may be, at the endpoint's door and in the log, and which rows a table can hold.

An event is refused at the door (`serving/event_requests.py`), before it is acknowledged, unless it can be stored and
read back. So what the reader sets aside was written by others, or damaged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError

from rrad_ray import tables
from rrad_ray.errors import InvalidInput
from rrad_ray.rows import ClickEvent, Exposure

EXPOSURES, CLICKS = "exposures", "clicks"
EVENT_ROWS = 65_536  # of a file that are read at a time
KINDS: dict[str, type] = {EXPOSURES: Exposure, CLICKS: ClickEvent}

MAX_ID_CHARS = 256  # of a user, a unit, an event, a request or a document
MAX_POSITION = 2**31 - 1
MAX_DWELL_S = 86_400.0  # a day: who is away for longer does not read
MAX_TIME_S = 2.0**32  # the year 2106: milliseconds since 1970, a common slip, are far beyond


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


NotBlank = Annotated[str, AfterValidator(_not_blank)]
IdToName = Annotated[NotBlank, Field(max_length=MAX_ID_CHARS)]

_INT64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def copy_id(doc_id: str, index: int) -> str:
    """Return what an exposure calls a document whose id stands on the page already; `index` counts from 0.

    Called again where that name is taken, it makes a longer one.
    """
    return f"{doc_id}#{index}"


def is_called(shown_id: str, doc_id: str, index: int) -> bool:
    """Return true if an exposure calls the document of this id so at this index: by the id, or by one of a copy."""
    mark = copy_id("", index)
    copies = (len(shown_id) - len(doc_id)) // len(mark)
    return shown_id == doc_id + mark * copies


def _model_of(row: type) -> type[BaseModel]:
    """Return the pydantic class of a row type; Arrow would take a missing value for null and cut 1.5 to 1."""
    hints = {name: _INT64 if hint is int else hint for name, hint in get_type_hints(row).items()}
    fields: dict[str, Any] = {name: (hint, ...) for name, hint in hints.items()}
    return create_model(row.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **fields)


_MODELS = {kind: _model_of(row) for kind, row in KINDS.items()}
_SCHEMAS = {kind: tables.schema_of(row) for kind, row in KINDS.items()}


def _fitting(kind: str, row: Any) -> dict[str, Any]:
    """Return a row of a kind as its table holds it; `InvalidInput` if it cannot."""
    try:
        return _MODELS[kind].model_validate(row).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the row"
        problem = f"{where}: {first['msg']}, found {first['input']!r:.60}"
        raise InvalidInput(problem, f"write the columns of {KINDS[kind].__name__}") from error


def events_table(kind: str, rows: Sequence[Any]) -> pa.Table:
    """Return rows of a kind as the table that is stored; `InvalidInput` if one of them does not fit into it."""
    return _table(kind, [_fitting(kind, row) for row in rows])


def _table(kind: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows that `_fitting` has passed as a table; `InvalidInput` for what Arrow refuses all the same."""
    try:
        return pa.Table.from_pylist(rows, schema=_SCHEMAS[kind])
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"no rows of {kind}: {error}", f"write the columns of {KINDS[kind].__name__}") from error


def encode_events(rows: Sequence[Any], kind: str) -> bytes:
    """Return rows of a kind as lines of a segment; `InvalidInput` if a row could not be stored."""
    events_table(kind, rows)
    return b"".join(json.dumps([kind, row]).encode() + b"\n" for row in rows)


def decode_events(lines: Sequence[bytes]) -> tuple[dict[str, pa.Table], dict[int, str]]:
    """Return the tables that lines of a segment make, by kind, and why each of the others fits into none, by its
    index."""
    rows: dict[str, dict[int, Any]] = {kind: {} for kind in KINDS}
    unfit: dict[int, str] = {}
    for index, line in enumerate(lines):
        try:
            kind, row = json.loads(line)
            fitting = _fitting(kind, row)
            _table(kind, [fitting])
            rows[kind][index] = fitting
        except (ValueError, TypeError, KeyError, RecursionError) as error:  # InvalidInput is a ValueError
            unfit[index] = f"{type(error).__name__}: {error}"
    return {kind: _table(kind, list(fitting.values())) for kind, fitting in rows.items() if fitting}, unfit
