"""What clients of re-rank servers send and expect: the wire formats of Cohere, Jina, vLLM and TEI on one port.

    POST /v2/rerank          Cohere v2
    POST /v1/rerank          Cohere v1, Jina
    POST /rerank             vLLM; TEI, where the body has `texts`
    POST /score, /v1/score   vLLM
    POST /v1/search          ours: documents from the served collection, not from the request (search.py)

A request of any of them becomes an `Asked`. An answer has the fields of its format, and where several formats share a
path those of all of them. A refusal has the status and the body that the format's clients read:

    Cohere, Jina   {"message", "detail", "field"}: 422 for a field that is missing, wrong, empty or too long, 503 when
                   too many wait
    vLLM           {"error": {"message", "type", "param", "code"}}: 400, 503
    TEI            {"error", "error_type"}: 422 (400 for what is empty), 429, 424 when the model fails

and all of them 400 for a body that is not JSON, 401 without a key, 413 for too many bytes, 504 for one whose deadline
has passed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from rrad_ray.serving.errors import COHERE, TEI, VLLM, Dialect, HTTPError

SHOWN_CHARS = 60  # of a wrong value, in the message about it


# ---- requests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoringRequest:
    """A request, whoever sent it: (query, text) pairs to score, and what its answer is to hold.

    `top_n`: of the best results; 0: all. `raw`: the model's scores as they are, without the sigmoid. `doc_tokens`: a
    text is cut to so many tokens; 0: by the model's own limit alone. `unit`: who will see the results, of an online
    test; `doc_ids`: what clicks name the documents by.
    """

    queries: list[str]
    texts: list[str]
    model: str = ""
    top_n: int = 0
    give_back: bool = False
    raw: bool = False
    explain: bool = False
    doc_tokens: int = 0
    unit: str = ""
    doc_ids: list[str] | None = None


def _text(value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise PydanticCustomError("document", "must be a string or an object with a string 'text'")
    return text


def _document(value: Any) -> Document:
    identity = value.get("id") if isinstance(value, dict) else None
    if identity is not None and not isinstance(identity, str):
        raise PydanticCustomError("document", "has an 'id' that is no string")
    text = _text(value)
    return Document(text, identity if identity is not None else _identity(text))


def _identity(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Document:
    """A text, and the client's id for it, or a digest of the text."""

    text: str
    doc_id: str


_OBJECT = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "id": {"type": "string"}},
    "required": ["text"],
}

_EITHER = WithJsonSchema({"anyOf": [{"type": "string"}, _OBJECT]})

QueryText = Annotated[str, AfterValidator(_not_blank)]

Texts = Annotated[list[str], Field(min_length=1), FailFast()]

Count = Annotated[int, Field(ge=0)]


class RerankRequest(BaseModel):
    """Cohere's, Jina's and vLLM's; fields that it does not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)

    query: QueryText
    documents: Annotated[
        list[Annotated[Document, BeforeValidator(_document), _EITHER]], Field(min_length=1), FailFast()
    ]
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Count | None = None
    use_activation: bool | None = None  # vLLM's: false gives raw scores
    instruction: str | None = None  # vLLM's: for models that follow one
    explain: bool | None = None  # ours: a reason with each result, written by a decoder student that has learnt it
    user: str | None = None  # vLLM's and ours: the unit of an online test

    def asked(self, dialect: Dialect, path: str) -> ScoringRequest:
        """Cohere's v2 never gives documents back, vLLM always, Jina and Cohere's v1 when they are asked to."""
        if self.top_n == 0 and dialect is COHERE:
            raise HTTPError(422, "top_n", "must be at least 1, found 0")
        if self.instruction:
            raise HTTPError(422, "instruction", "this model follows none; leave it out")
        wanted = dialect is VLLM if self.return_documents is None else self.return_documents
        return ScoringRequest(
            [self.query] * len(self.documents),
            [document.text for document in self.documents],
            model=self.model or "",
            top_n=self.top_n or 0,
            give_back=wanted and not path.startswith("/v2/"),
            raw=self.use_activation is False,
            explain=bool(self.explain),
            doc_tokens=self.max_tokens_per_doc or 0,
            unit=self.user or "",
            doc_ids=[document.doc_id for document in self.documents],
        )


class TeiRequest(BaseModel):
    """Text Embeddings Inference's `/rerank`. What is too long is cut on the right, as its servers do by default."""

    model_config = ConfigDict(strict=True, extra="ignore")

    query: QueryText
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: str = "right"

    def asked(self, dialect: Dialect, path: str) -> ScoringRequest:
        if self.truncation_direction.lower() != "right":
            raise HTTPError(422, "truncation_direction", "only 'right' can be had")
        queries = [self.query] * len(self.texts)
        ids = list(map(_identity, self.texts))
        return ScoringRequest(queries, self.texts, give_back=self.return_text, raw=self.raw_scores, doc_ids=ids)


class ScoreRequest(BaseModel):
    """vLLM's `/score`: one query and N documents, or N and N, pair by pair."""

    model_config = ConfigDict(strict=True, extra="ignore")

    queries: Annotated[
        list[str],
        BeforeValidator(_listed),
        Field(min_length=1, validation_alias=AliasChoices("queries", "text_1", "data_1")),
    ]
    documents: Annotated[
        list[str],
        BeforeValidator(_listed),
        Field(min_length=1, validation_alias=AliasChoices("documents", "items", "text_2", "data_2")),
    ]
    model: str | None = None
    use_activation: bool | None = None

    def asked(self, dialect: Dialect, path: str) -> ScoringRequest:
        queries = self.queries * len(self.documents) if len(self.queries) == 1 else self.queries
        if len(queries) != len(self.documents):
            found = f"{len(queries)} for {len(self.documents)} documents; give one, or as many as documents"
            raise HTTPError(422, "queries", found)
        return ScoringRequest(queries, self.documents, model=self.model or "", raw=self.use_activation is False)


class SearchRequest(BaseModel):
    """Ours: as a re-rank request without documents, which the first stage is to find."""

    model_config = ConfigDict(strict=True, extra="ignore")

    query: QueryText
    model: str | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    explain: bool | None = None
    user: str | None = None

    def asked(self, dialect: Dialect, path: str) -> ScoringRequest:
        return ScoringRequest(
            [self.query],
            [],
            model=self.model or "",
            top_n=self.top_n or 0,
            explain=bool(self.explain),
            unit=self.user or "",
        )


class ClickRequest(BaseModel):
    """A click on a document of a page, which the header `X-Exposure` of its answer names."""

    model_config = ConfigDict(strict=True, extra="ignore")

    request_id: QueryText
    doc_id: QueryText  # the request's own id of the document, or the digest of its text
    position: Annotated[int, Field(ge=1)]  # on the page, from 1
    event_id: str = ""  # the sender's own, so that sending twice counts once
    dwell_s: Annotated[float, Field(ge=0)] | None = None  # seconds until the user came back
    time: Annotated[float, Field(ge=0)] | None = None  # seconds since 1970; else when it came


class EventsRequest(BaseModel):
    """What `POST /v1/events` takes."""

    model_config = ConfigDict(strict=True, extra="ignore")

    events: Annotated[list[ClickRequest], Field(min_length=1, max_length=10_000)]


def parse_clicks(body: bytes, now: float) -> list[dict[str, Any]]:
    """The rows (`rows.ClickEvent`) of a request. Raises `Refused`."""
    try:
        events = EventsRequest.model_validate_json(body).events
    except ValidationError as error:
        raise _refused(error, COHERE) from error
    return [
        {
            "event_id": click.event_id or f"{click.request_id}:{click.doc_id}:{click.position}",
            "request_id": click.request_id,
            "doc_id": click.doc_id,
            "position": click.position,
            "dwell_s": math.nan if click.dwell_s is None else click.dwell_s,
            "time": now if click.time is None else click.time,
        }
        for click in events
    ]


def distinct(doc_ids: Sequence[str]) -> list[str]:
    """The same ids; one that comes again is told apart by its place."""
    seen: set[str] = set()
    found = []
    for place, doc_id in enumerate(doc_ids):
        found.append(doc_id if doc_id not in seen else f"{doc_id}#{place}")
        seen.add(found[-1])
    return found


AnyRequest = RerankRequest | TeiRequest | ScoreRequest | SearchRequest


def openapi(*kinds: type[BaseModel]) -> dict[str, Any]:
    """The requests of a route for the endpoint's own documentation: it reads the body itself, to bound it."""
    schemas = [kind.model_json_schema(by_alias=False) for kind in kinds]
    content = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    return {"requestBody": {"required": True, "content": content}}


async def read_body(chunks: AsyncIterable[bytes], declared: str, limit: int) -> bytes:
    """The body of a request, at most `limit` bytes; `declared` is its Content-Length, if any. Raises `Refused`."""
    if declared.isdigit() and int(declared) > limit:
        raise HTTPError(413, "body", f"{declared} bytes, at most {limit} (max_body_bytes)")
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise HTTPError(413, "body", f"more than {limit} bytes (max_body_bytes)")
    return bytes(body)


@dataclass(frozen=True)
class Limits:
    """What one request may hold, by the keys of `ServeConfig`."""

    max_documents: int
    max_query_chars: int
    max_document_chars: int


def dialect_of(path: str) -> Dialect:
    """Whose path it is, before the body is known."""
    return COHERE if path.startswith(("/v1/rerank", "/v2/rerank", "/v1/search")) else VLLM


def kind_of(path: str, body: bytes) -> tuple[type[AnyRequest], Dialect]:
    """What a body is to be read as, by its path and, where two formats share one, by whether it says `texts`."""
    if path.endswith("/score"):
        return ScoreRequest, VLLM
    if path.endswith("/search"):
        return SearchRequest, COHERE
    if dialect_of(path) is COHERE:
        return RerankRequest, COHERE
    if b'"texts"' not in body:  # most are not parsed twice
        return RerankRequest, VLLM
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return RerankRequest, VLLM  # which says what is wrong with it
    tei = isinstance(content, dict) and "texts" in content and "documents" not in content
    return (TeiRequest, TEI) if tei else (RerankRequest, VLLM)


def parse_request(body: bytes, kind: type[AnyRequest], dialect: Dialect, path: str, limits: Limits) -> ScoringRequest:
    """A request within the limits; `Refused` names the field, what was found and what is wanted."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error, dialect) from error
    asked = request.asked(dialect, path)
    named = "texts" if kind is TeiRequest else "documents"
    if len(asked.texts) > limits.max_documents:
        raise HTTPError(422, named, f"{len(asked.texts)} texts, at most {limits.max_documents} (max_documents)")
    longest = max(asked.queries, key=len)
    if len(longest) > limits.max_query_chars:
        raise HTTPError(
            422, "query", f"{len(longest)} characters, at most {limits.max_query_chars} (max_query_chars)"
        )
    for index, text in enumerate(asked.texts):
        if len(text) > limits.max_document_chars:
            most = f"at most {limits.max_document_chars} (max_document_chars)"
            raise HTTPError(422, named, f"number {index} has {len(text)} characters, {most}")
    return asked


def _refused(error: ValidationError, dialect: Dialect) -> HTTPError:
    """The first of pydantic's complaints."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return HTTPError(400, "body", first["msg"])
    place, *index = first["loc"] or ("body",)
    if first["type"] == "missing":
        return HTTPError(
            422, str(place), f"missing; the request has {', '.join(first['input']) or 'no fields'}"[:200]
        )
    where = f"number {index[0]} " if index else ""
    message = first["msg"][0].lower() + first["msg"][1:]
    empty = dialect is TEI and first["type"] in ("blank", "too_short")
    return HTTPError(400 if empty else 422, str(place), f"{where}{message}, found {_shown(first['input'])}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
