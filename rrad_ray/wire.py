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
import time
from collections.abc import AsyncIterable, Mapping, Sequence
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

RETRY_AFTER_S = 1
HUNG_UP = "499"  # what web servers count a request as whose client has gone
SHOWN_CHARS = 60  # of a wrong value, in the message about it


@dataclass(frozen=True)
class Dialect:
    """How one kind of client is refused: `statuses` are those that differ from ours."""

    name: str
    statuses: Mapping[int, int]


COHERE = Dialect("cohere", {})
VLLM = Dialect("vllm", {422: 400})
TEI = Dialect("tei", {500: 424, 503: 429})
VLLM_TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 413: "BadRequestError"}
TEI_TYPES = {400: "Empty", 401: "Unauthorized", 424: "Backend", 429: "Overloaded", 504: "Overloaded"}


class Refused(Exception):
    """A request that gets no answer: the status, the field at fault and what was wrong with it."""

    def __init__(self, status: int, field: str, found: str) -> None:
        self.status, self.field, self.detail = status, field, f"{field}: {found}"
        super().__init__(self.detail)

    def told(self, dialect: Dialect) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, body and headers, as the clients of a dialect read them."""
        status = dialect.statuses.get(self.status, self.status)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if dialect is TEI:
            return status, {"error": self.detail, "error_type": TEI_TYPES.get(status, "Validation")}, headers
        if dialect is VLLM:
            kind = VLLM_TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
            return (
                status,
                {"error": {"message": self.detail, "type": kind, "param": self.field, "code": status}},
                headers,
            )
        return status, {"message": self.detail, "detail": self.detail, "field": self.field}, headers


# ---- requests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
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
Query = Annotated[str, AfterValidator(_not_blank)]
Texts = Annotated[list[str], Field(min_length=1), FailFast()]
Count = Annotated[int, Field(ge=0)]


class RerankRequest(BaseModel):
    """Cohere's, Jina's and vLLM's; fields that it does not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)

    query: Query
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

    def asked(self, dialect: Dialect, path: str) -> Asked:
        """Cohere's v2 never gives documents back, vLLM always, Jina and Cohere's v1 when they are asked to."""
        if self.top_n == 0 and dialect is COHERE:
            raise Refused(422, "top_n", "must be at least 1, found 0")
        if self.instruction:
            raise Refused(422, "instruction", "this model follows none; leave it out")
        wanted = dialect is VLLM if self.return_documents is None else self.return_documents
        return Asked(
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

    query: Query
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: str = "right"

    def asked(self, dialect: Dialect, path: str) -> Asked:
        if self.truncation_direction.lower() != "right":
            raise Refused(422, "truncation_direction", "only 'right' can be had")
        queries = [self.query] * len(self.texts)
        ids = list(map(_identity, self.texts))
        return Asked(queries, self.texts, give_back=self.return_text, raw=self.raw_scores, doc_ids=ids)


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

    def asked(self, dialect: Dialect, path: str) -> Asked:
        queries = self.queries * len(self.documents) if len(self.queries) == 1 else self.queries
        if len(queries) != len(self.documents):
            found = f"{len(queries)} for {len(self.documents)} documents; give one, or as many as documents"
            raise Refused(422, "queries", found)
        return Asked(queries, self.documents, model=self.model or "", raw=self.use_activation is False)


class SearchRequest(BaseModel):
    """Ours: as a re-rank request without documents, which the first stage is to find."""

    model_config = ConfigDict(strict=True, extra="ignore")

    query: Query
    model: str | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    explain: bool | None = None
    user: str | None = None

    def asked(self, dialect: Dialect, path: str) -> Asked:
        return Asked(
            [self.query],
            [],
            model=self.model or "",
            top_n=self.top_n or 0,
            explain=bool(self.explain),
            unit=self.user or "",
        )


class Click(BaseModel):
    """A click on a document of a page, which the header `X-Exposure` of its answer names."""

    model_config = ConfigDict(strict=True, extra="ignore")

    request_id: Query
    doc_id: Query  # the request's own id of the document, or the digest of its text
    position: Annotated[int, Field(ge=1)]  # on the page, from 1
    event_id: str = ""  # the sender's own, so that sending twice counts once
    dwell_s: Annotated[float, Field(ge=0)] | None = None  # seconds until the user came back
    time: Annotated[float, Field(ge=0)] | None = None  # seconds since 1970; else when it came


class Events(BaseModel):
    """What `POST /v1/events` takes."""

    model_config = ConfigDict(strict=True, extra="ignore")

    events: Annotated[list[Click], Field(min_length=1, max_length=10_000)]


def clicks(body: bytes, now: float) -> list[dict[str, Any]]:
    """The rows (`rows.ClickEvent`) of a request. Raises `Refused`."""
    try:
        events = Events.model_validate_json(body).events
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


Request = RerankRequest | TeiRequest | ScoreRequest | SearchRequest


def openapi(*kinds: type[BaseModel]) -> dict[str, Any]:
    """The requests of a route for the endpoint's own documentation: it reads the body itself, to bound it."""
    schemas = [kind.model_json_schema(by_alias=False) for kind in kinds]
    content = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
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


@dataclass(frozen=True)
class Limits:
    """What one request may hold, by the keys of `ServeConfig`."""

    max_documents: int
    max_query_chars: int
    max_document_chars: int


def dialect_of(path: str) -> Dialect:
    """Whose path it is, before the body is known."""
    return COHERE if path.startswith(("/v1/rerank", "/v2/rerank", "/v1/search")) else VLLM


def kind_of(path: str, body: bytes) -> tuple[type[Request], Dialect]:
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


def parse(body: bytes, kind: type[Request], dialect: Dialect, path: str, limits: Limits) -> Asked:
    """A request within the limits; `Refused` names the field, what was found and what is wanted."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error, dialect) from error
    asked = request.asked(dialect, path)
    named = "texts" if kind is TeiRequest else "documents"
    if len(asked.texts) > limits.max_documents:
        raise Refused(422, named, f"{len(asked.texts)} texts, at most {limits.max_documents} (max_documents)")
    longest = max(asked.queries, key=len)
    if len(longest) > limits.max_query_chars:
        raise Refused(422, "query", f"{len(longest)} characters, at most {limits.max_query_chars} (max_query_chars)")
    for index, text in enumerate(asked.texts):
        if len(text) > limits.max_document_chars:
            most = f"at most {limits.max_document_chars} (max_document_chars)"
            raise Refused(422, named, f"number {index} has {len(text)} characters, {most}")
    return asked


def may_explain(asked: Asked, writes: bool, limit: int) -> None:
    """Raises `Refused` for a request with `explain` to a model that cannot write, or of more than `limit` results."""
    if not asked.explain:
        return
    if not writes:
        raise Refused(422, "explain", "this model cannot write; one trained with generation.weight above 0 can")
    results = min(asked.top_n or len(asked.texts), len(asked.texts))
    if results > limit:
        raise Refused(422, "explain", f"{results} results, at most {limit} (max_explained); set top_n")


def _refused(error: ValidationError, dialect: Dialect) -> Refused:
    """The first of pydantic's complaints."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return Refused(400, "body", first["msg"])
    place, *index = first["loc"] or ("body",)
    if first["type"] == "missing":
        return Refused(422, str(place), f"missing; the request has {', '.join(first['input']) or 'no fields'}"[:200])
    where = f"number {index[0]} " if index else ""
    message = first["msg"][0].lower() + first["msg"][1:]
    empty = dialect is TEI and first["type"] in ("blank", "too_short")
    return Refused(400 if empty else 422, str(place), f"{where}{message}, found {_shown(first['input'])}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


# ---- answers ------------------------------------------------------------------------------------------------


def best_first(scores: Sequence[float], top_n: int = 0) -> list[int]:
    """Places by raw score, ties by index: the order holds where the sigmoid saturates."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return order[:top_n] if top_n else order


def answer(
    kind: type[Request],
    dialect: Dialect,
    asked: Asked,
    shown: Sequence[float],
    order: Sequence[int],
    tokens: int,
    model: str,
    request_id: str,
) -> Any:
    """The JSON answer: scores as they are `shown`, by document, of which those in `order` are told, in this order."""
    if kind is TeiRequest:
        texts = {index: {"text": asked.texts[index]} if asked.give_back else {} for index in order}
        return [{"index": index, "score": shown[index], **texts[index]} for index in order]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = {"id": request_id, "model": model, "usage": usage}
    if kind is ScoreRequest:
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(shown)]
        return {**head, "object": "list", "created": int(time.time()), "data": data}
    results: list[dict[str, Any]] = []
    for index in order:
        results.append({"index": index, "relevance_score": shown[index]})
        if asked.give_back:
            also = {"multi_modal": None} if dialect is VLLM else {}
            results[-1]["document"] = {"text": asked.texts[index], **also}
    return {**head, "results": results, "meta": {"api_version": {"version": "1"}}}


def sigmoid(score: float) -> float:
    small = math.exp(-abs(score))  # never overflows
    return 1 / (1 + small) if score >= 0 else small / (1 + small)
