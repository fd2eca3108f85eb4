"""Fields that several wire formats share: queries, documents and counts, with the messages about wrong ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from rrad_ray.online.event_rows import MAX_ID_CHARS, copy_id


@dataclass(frozen=True)
class Document:
    """A text, and the client's id for it, or a digest of the text."""

    text: str
    doc_id: str


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
    # A blank id is none: no click could name it.
    return Document(text, identity if identity and identity.strip() else text_digest(text))


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_DOCUMENT_OBJECT = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "id": {"type": "string", "maxLength": MAX_ID_CHARS}},
    "required": ["text"],
}

_DOCUMENT_SCHEMA = WithJsonSchema({"anyOf": [{"type": "string"}, _DOCUMENT_OBJECT]})

NotBlank = Annotated[str, AfterValidator(_not_blank)]

IdField = Annotated[str, Field(max_length=MAX_ID_CHARS)]  # of a user, a page, an event or a document

DocumentList = Annotated[
    list[Annotated[Document, BeforeValidator(_document), _DOCUMENT_SCHEMA]], Field(min_length=1), FailFast()
]

Texts = Annotated[list[str], Field(min_length=1), FailFast()]

OneOrMore = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]  # a string is a list of one

CountField = Annotated[int, Field(ge=0)]
