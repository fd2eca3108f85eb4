"""Fields that several wire formats share: queries, documents and counts, with the messages about wrong ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from rrad_ray.online.event_rows import MAX_ID_CHARS, copy_id
from rrad_ray.serving.errors import HTTPError

MAX_SOURCES = 64  # of first-stage scores in a request: each of them becomes a number for each of its documents


@dataclass(frozen=True)
class Document:
    """A text, the client's id for it, empty without one, and the scores of first-stage sources for it."""

    text: str
    doc_id: str
    first_stage: Mapping[str, float | None] = field(default_factory=dict)


def first_stage_columns(
    lists: Mapping[str, Sequence[float | None]] | None, documents: Sequence[Document] | Sequence[str]
) -> dict[str, list[float]]:
    """Return each source's scores of a request's documents, NaN for null and for an object without one.

    `lists`: the parallel lists of a request, beside the scores that its document objects have. Raises `HTTPError` for
    a list of another length than the documents, for a source that comes in both ways, and for more than
    `MAX_SOURCES`.
    """
    by_object = [document.first_stage if isinstance(document, Document) else {} for document in documents]
    columns = dict(lists or {})
    if (count := len(set(columns).union(*by_object))) > MAX_SOURCES:
        raise HTTPError(422, "first_stage", f"{count} sources, at most {MAX_SOURCES}")
    for name, values in columns.items():
        if len(values) != len(documents):
            problem = f"{len(values)} scores of '{name}' for {len(documents)} documents; give one for each, or null"
            raise HTTPError(422, "first_stage", problem)
    for name in dict.fromkeys(name for scores in by_object for name in scores):
        if name in columns:
            raise HTTPError(422, "first_stage", f"'{name}' is in the request and in its documents; give it once")
        columns[name] = [scores.get(name) for scores in by_object]
    return {name: [math.nan if v is None else float(v) for v in values] for name, values in columns.items()}


def text_digest(text: str) -> str:
    """Return the id of a document without one: a digest of its text (BLAKE2b, 64 bits, hexadecimal)."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def distinct_ids(doc_ids: Sequence[str]) -> list[str]:
    """Return the ids with their index added to those that come again: `["a", "a"]` becomes `["a", "a#1"]`.

    No copy takes an id that another document has: `["a", "a", "a#1"]` becomes `["a", "a#1#1", "a#1"]`.
    """
    seen, taken = set[str](), set(doc_ids)
    distinct = []
    for index, doc_id in enumerate(doc_ids):
        if doc_id in seen:
            while doc_id in taken:
                doc_id = copy_id(doc_id, index)
            taken.add(doc_id)
        distinct.append(doc_id)
        seen.add(doc_id)
    return distinct


def _text(value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise PydanticCustomError("document", "must be a string or an object with a string 'text'")
    return text


def _document(value: Any) -> Document:
    identity = value.get("id") if isinstance(value, dict) else None
    if identity is not None and not isinstance(identity, str):
        raise PydanticCustomError("document", "has an 'id' that is no string")
    if identity and len(identity) > MAX_ID_CHARS:
        problem = "has an 'id' of {chars} characters, at most {most}"
        raise PydanticCustomError("document", problem, {"chars": len(identity), "most": MAX_ID_CHARS})
    text = _text(value)
    doc_id = identity if identity and identity.strip() else ""  # a blank id is none: no click could name it
    return Document(text, doc_id, _first_stage(value.get("first_stage")) if isinstance(value, dict) else {})


def _first_stage(value: Any) -> Mapping[str, float | None]:
    if value is None:
        return {}
    _few_sources(value)
    try:
        return _SCORES_OF_ONE.validate_python(value)
    except ValidationError as error:
        problem = "has a 'first_stage' that is no object of numbers below 1e100 by source"
        raise PydanticCustomError("document", problem) from error


def _few_sources(value: Any) -> Any:
    """Return scores by source as they came; raise for so many that each wrong one would cost an error object."""
    if isinstance(value, dict) and len(value) > MAX_SOURCES:
        problem = "has scores of {count} sources, at most {most}"
        raise PydanticCustomError("sources", problem, {"count": len(value), "most": MAX_SOURCES})
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# Null: the source did not score this document. Squares of larger ones would not be finite.
_FirstStageScore = Annotated[float, Field(ge=-1e100, le=1e100, allow_inf_nan=False)] | None

_SCORES_OF_ONE = TypeAdapter[dict[str, float | None]](dict[str, _FirstStageScore], config=ConfigDict(strict=True))

FirstStageScores = Annotated[
    dict[str, Annotated[list[_FirstStageScore], FailFast()]] | None, BeforeValidator(_few_sources)
]  # by source

_DOCUMENT_OBJECT = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "id": {"type": "string", "maxLength": MAX_ID_CHARS},
        "first_stage": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
    },
    "required": ["text"],
}

_DOCUMENT_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, _DOCUMENT_OBJECT]})

# Of a user, a page, an event or a document. A blank one is none: all that are blank would be one.
IdField = Annotated[str, Field(max_length=MAX_ID_CHARS), AfterValidator(lambda name: name if name.strip() else "")]

DocumentList = Annotated[
    list[Annotated[Document, BeforeValidator(_document), _DOCUMENT_SCHEMA]], Field(min_length=1), FailFast()
]

Texts = Annotated[list[str], Field(min_length=1), FailFast()]

OneOrMore = Annotated[list[str], FailFast(), BeforeValidator(_as_list), Field(min_length=1)]  # a string is one

CountField = Annotated[int, Field(ge=0)]
