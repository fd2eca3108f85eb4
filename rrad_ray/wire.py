"""The rerank wire format: Cohere's and Jina's union, so that their clients work unchanged, and the refusals.

A refusal is JSON, `{"detail": "documents: 10000 texts, at most 1000 (max_documents)", "field": "documents"}`:
400 for a body that is not JSON, 422 for a field that is missing, wrong, empty or too long, 413 for too many bytes,
503 with `Retry-After` when too many requests wait.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

RETRY_AFTER_S = 1
SHOWN_CHARS = 60  # of a wrong value, in the message about it


class Refused(Exception):
    """A request that gets no answer: the status, the field at fault and what was wrong with it."""

    def __init__(self, status: int, field: str, found: str) -> None:
        self.status, self.field, self.detail = status, field, f"{field}: {found}"
        super().__init__(self.detail)

    @property
    def body(self) -> dict[str, str]:
        return {"detail": self.detail, "field": self.field}

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}


# ---- requests -----------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise PydanticCustomError("document", "must be a string or an object with a string 'text'")
    return text


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return value


_OBJECT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
Text = Annotated[str, BeforeValidator(_text), WithJsonSchema({"anyOf": [{"type": "string"}, _OBJECT]})]


class RerankRequest(BaseModel):
    """What `POST /rerank` takes; fields that it does not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    query: Annotated[str, AfterValidator(_not_blank)]
    documents: Annotated[list[Text], Field(min_length=1), FailFast()]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = False
    model: str | None = None  # whatever a client sends: the endpoint has one model and says which in its answer


def openapi() -> dict[str, Any]:
    """`RerankRequest` for the endpoint's own documentation: the route reads the body itself, to bound it."""
    content = {"application/json": {"schema": RerankRequest.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read(chunks: AsyncIterable[bytes], declared: str, limit: int) -> bytes:
    """The body of a request, at most `limit` bytes; `declared` is its Content-Length, if any. Raises `Refused`."""
    if declared.isdigit() and int(declared) > limit:
        raise Refused(413, "body", f"{declared} bytes, at most {limit} (max_body_bytes)")
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise Refused(413, "body", f"more than {limit} bytes (max_body_bytes)")
    return bytes(body)


def parse(body: bytes, *, max_documents: int, max_query_chars: int) -> RerankRequest:
    """A request within the limits; `Refused` names the field, what was found and what is wanted."""
    try:
        request = RerankRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error) from error
    if len(request.documents) > max_documents:
        raise Refused(422, "documents", f"{len(request.documents)} texts, at most {max_documents} (max_documents)")
    if len(request.query) > max_query_chars:
        raise Refused(422, "query", f"{len(request.query)} characters, at most {max_query_chars} (max_query_chars)")
    return request


def _refused(error: ValidationError) -> Refused:
    """The first of pydantic's complaints."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return Refused(400, "body", first["msg"])
    place, *index = first["loc"] or ("body",)
    if first["type"] == "missing":
        return Refused(422, str(place), f"missing; the request has {', '.join(first['input']) or 'no fields'}"[:200])
    where = f"number {index[0]} " if index else ""
    message = first["msg"][0].lower() + first["msg"][1:]
    return Refused(422, str(place), f"{where}{message}, found {_shown(first['input'])}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


# ---- answers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Raw scores of a request's documents, in input order, and how many tokens the model read for them."""

    scores: list[float]
    tokens: int


class Document(BaseModel):
    text: str


class Result(BaseModel):
    index: int  # of the document in the request
    relevance_score: float = Field(description="sigmoid of the model's raw score, in [0, 1]")
    document: Document | None = None


class Usage(BaseModel):
    total_tokens: int
    prompt_tokens: int


class RerankAnswer(BaseModel):
    """What `POST /rerank` answers; `results` best first by the raw score, ties by index."""

    id: str
    model: str
    results: list[Result]
    meta: dict[str, Any] = {"api_version": {"version": "1"}}
    usage: Usage


def answer(request: RerankRequest, found: Scores, model: str) -> RerankAnswer:
    """The answer to a request. The order is that of the raw scores: it holds where the sigmoid saturates."""
    order = sorted(range(len(found.scores)), key=lambda index: (-found.scores[index], index))
    results = [
        Result(
            index=index,
            relevance_score=sigmoid(found.scores[index]),
            document=Document(text=request.documents[index]) if request.return_documents else None,
        )
        for index in order[: request.top_n]
    ]
    usage = Usage(total_tokens=found.tokens, prompt_tokens=found.tokens)
    return RerankAnswer(id=uuid.uuid4().hex, model=model, results=results, usage=usage)


def sigmoid(score: float) -> float:
    small = math.exp(-abs(score))  # never overflows
    return 1 / (1 + small) if score >= 0 else small / (1 + small)


def groups(requests: Sequence[RerankRequest], limit: int) -> list[list[RerankRequest]]:
    """Neighbouring requests with at most `limit` documents together; one with more stands alone."""
    found: list[list[RerankRequest]] = []
    room = 0
    for request in requests:
        room -= len(request.documents)
        if not found or room < 0:
            found.append([])
            room = limit - len(request.documents)
        found[-1].append(request)
    return found
