"""Requests of re-rank clients: the wire formats of Cohere, Jina, vLLM and TEI on one port.

    POST /v2/rerank          Cohere v2
    POST /v1/rerank          Cohere v1, Jina
    POST /rerank             vLLM; TEI, where the body has `texts`
    POST /score, /v1/score   vLLM
    POST /v1/search          ours: documents from the served collection, not from the request (search.py)

A request of any of them becomes a `ScoringRequest`. An answer (responses.py) has the fields of its format, and where
several formats share a path those of all of them. A refusal (errors.py) has the status and the body that the format's
clients read:

    Cohere, Jina   {"message", "detail", "field"}: 422 for a field that is missing, wrong, empty or too long, 503 when
                   too many wait
    vLLM           {"error": {"message", "type", "param", "code"}}: 400, 503
    TEI            {"error", "error_type"}: 422 (400 for what is empty), 429, 424 when the model fails

and all of them 400 for a body that is not JSON, 401 without a key, 403 for a page of another site, 404 for a path and
405 for a method that is not served, 408 for a slow body, 413 for too many bytes, 415 for what is no JSON or of an
encoding other than gzip, 500 for a fault of ours, 504 for one whose deadline has passed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from rrad_ray.online.event_rows import NotBlank
from rrad_ray.serving.bodies import parsed_body
from rrad_ray.serving.documents import (
    CountField,
    DocumentList,
    FirstStageScores,
    IdField,
    OneOrMore,
    Texts,
    first_stage_columns,
)
from rrad_ray.serving.errors import COHERE, TEI, VLLM, Dialect, HTTPError


@dataclass(frozen=True)
class ScoringRequest:
    """A request of any format: the pairs (queries[i], texts[i]) to score, and what the answer is to hold.

    `top_n` is the number of best results to return, 0 for all. `raw` asks for the model's scores without the sigmoid.
    `doc_tokens` is the length that a text is cut to, 0 for the model's own limit alone. `unit` names who will see the
    results, for an online test; `doc_ids` are the client's ids of the texts, empty for one without. `first_stage`
    has the scores of first-stage sources for the texts, by source, NaN where a source did not score one.
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
    first_stage: Mapping[str, Sequence[float]] = field(default_factory=dict)


# ---- one class for each format ------------------------------------------------------------------------------


class RerankRequest(BaseModel):
    """A request of Cohere's, Jina's or vLLM's format; fields that it does not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)

    query: NotBlank
    documents: DocumentList
    model: str | None = None
    top_n: CountField | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: CountField | None = None
    rank_fields: list[str] | None = None  # Cohere v1's: the fields of document objects that are ranked by
    use_activation: bool | None = None  # vLLM's: false gives raw scores
    instruction: str | None = None  # vLLM's: for models that follow one
    explain: bool | None = None  # ours: a reason with each result, written by a decoder student that has learnt it
    user: IdField | None = None  # vLLM's and ours: the unit of an online test
    first_stage: FirstStageScores = None  # ours: scores of first-stage sources, a list for each

    def to_scoring(self, wire: WireFormat) -> ScoringRequest:
        """Return the request for the model. Raises `HTTPError` for a value that is not served."""
        if self.top_n == 0 and wire.dialect is COHERE:
            raise HTTPError(422, "top_n", "must be at least 1, found 0")
        if self.rank_fields not in (None, ["text"]):
            raise HTTPError(422, "rank_fields", "documents are ranked by 'text' alone; put there what counts")
        if self.instruction:
            raise HTTPError(422, "instruction", "this model follows none; leave it out")
        by_default = wire.documents == "by default"
        wanted = by_default if self.return_documents is None else self.return_documents
        return ScoringRequest(
            [self.query] * len(self.documents),
            [document.text for document in self.documents],
            model=self.model or "",
            top_n=self.top_n or 0,
            give_back=wanted and wire.documents != "never",
            raw=self.use_activation is False,
            explain=bool(self.explain),
            doc_tokens=self.max_tokens_per_doc or 0,
            unit=self.user or "",
            doc_ids=[document.doc_id for document in self.documents],
            first_stage=first_stage_columns(self.first_stage, self.documents),
        )


class TeiRequest(BaseModel):
    """A request of Text Embeddings Inference's `/rerank`; long texts are cut on the right, its servers' default."""

    model_config = ConfigDict(strict=True, extra="ignore")

    query: NotBlank
    texts: Texts
    model: str | None = None  # ours, as of every format: TEI serves one model
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: str = "right"
    first_stage: FirstStageScores = None  # ours, as of `RerankRequest`

    def to_scoring(self, wire: WireFormat) -> ScoringRequest:
        """Return the request for the model. Raises `HTTPError` for a value that is not served."""
        if self.truncation_direction.lower() != "right":
            raise HTTPError(422, "truncation_direction", "only 'right' is served; leave it out")
        queries = [self.query] * len(self.texts)
        columns = first_stage_columns(self.first_stage, self.texts)
        options: dict[str, Any] = {"give_back": self.return_text, "raw": self.raw_scores}
        return ScoringRequest(queries, self.texts, self.model or "", first_stage=columns, **options)


class ScoreRequest(BaseModel):
    """A request of vLLM's `/score`: one query and N documents, or N and N, pair by pair."""

    model_config = ConfigDict(strict=True, extra="ignore")

    queries: Annotated[OneOrMore, Field(validation_alias=AliasChoices("queries", "text_1", "data_1"))]
    documents: Annotated[OneOrMore, Field(validation_alias=AliasChoices("documents", "items", "text_2", "data_2"))]
    model: str | None = None
    use_activation: bool | None = None
    first_stage: FirstStageScores = None  # ours, as of `RerankRequest`

    def to_scoring(self, wire: WireFormat) -> ScoringRequest:
        """Return the request for the model. Raises `HTTPError` for numbers of queries and documents that differ."""
        queries = self.queries * len(self.documents) if len(self.queries) == 1 else self.queries
        if len(queries) != len(self.documents):
            problem = f"{len(queries)} for {len(self.documents)} documents; give one, or as many as documents"
            raise HTTPError(422, "queries", problem)
        columns = first_stage_columns(self.first_stage, self.documents)
        options: dict[str, Any] = {"model": self.model or "", "raw": self.use_activation is False}
        return ScoringRequest(queries, self.documents, first_stage=columns, **options)


class SearchRequest(BaseModel):
    """A request of our own format: as one to re-rank, but its documents are for the first stage to retrieve.

    No client of another server sends it, so a field that it does not know is a mistake.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    query: NotBlank
    model: str | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    max_tokens_per_doc: CountField | None = None
    explain: bool | None = None
    user: IdField | None = None

    def to_scoring(self, wire: WireFormat) -> ScoringRequest:
        """Return the request for the model, still without documents."""
        return ScoringRequest(
            [self.query],
            [],
            model=self.model or "",
            top_n=self.top_n or 0,
            explain=bool(self.explain),
            doc_tokens=self.max_tokens_per_doc or 0,
            unit=self.user or "",
        )


AnyRequest = RerankRequest | TeiRequest | ScoreRequest | SearchRequest


# ---- formats ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WireFormat:
    """A wire format: the class of its requests, the dialect of its refusals, and when an answer has the documents."""

    kind: type[AnyRequest]
    dialect: Dialect
    documents: Literal["never", "on request", "by default"] = "on request"


COHERE_V1 = WireFormat(RerankRequest, COHERE)  # and Jina
COHERE_V2 = WireFormat(RerankRequest, COHERE, "never")
VLLM_RERANK = WireFormat(RerankRequest, VLLM, "by default")
VLLM_SCORE = WireFormat(ScoreRequest, VLLM)
TEI_RERANK = WireFormat(TeiRequest, TEI)
RRAD_SEARCH = WireFormat(SearchRequest, COHERE)


VLLM_PATHS = ("/rerank", "/score", "/v1/score")


def dialect_of(path: str) -> Dialect:
    """Return the dialect in which a request is refused that no route has read."""
    return VLLM if path in VLLM_PATHS else COHERE


def vllm_or_tei(body: bytes) -> WireFormat:
    """Return the format of a body sent to `/rerank`, which vLLM and TEI share: TEI's has `texts`."""
    if b'"texts"' not in body:  # most are not parsed twice
        return VLLM_RERANK
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return VLLM_RERANK  # which says what is wrong with it
    tei = isinstance(content, dict) and "texts" in content and "documents" not in content
    return TEI_RERANK if tei else VLLM_RERANK


def openapi(*kinds: type[BaseModel]) -> dict[str, Any]:
    """Return the request schemas of a route for the OpenAPI page: the endpoint reads the body itself, to bound it."""
    schemas = [kind.model_json_schema(by_alias=False) for kind in kinds]
    content = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    return {"requestBody": {"required": True, "content": content}}


# ---- reading a request --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, by the keys of `ServeConfig`."""

    max_documents: int
    max_query_chars: int
    max_document_chars: int

    @property
    def max_values(self) -> int:
        """Values of a body's JSON: of objects with some ten fields each for the documents."""
        return 1000 + 100 * self.max_documents


def parse_request(body: bytes, wire: WireFormat, limits: Limits) -> ScoringRequest:
    """Return the request that a body of a format holds.

    Raises `HTTPError`, which names the field, what was found and what is wanted, for a body that is not of its format
    and for one beyond the limits.
    """
    try:
        parsed = parsed_body(lambda text: wire.kind.model_validate_json(text), body)
    except ValidationError as error:
        raise HTTPError.of(error, wire.dialect) from error
    request = parsed.to_scoring(wire)
    _check_limits(request, "texts" if wire.kind is TeiRequest else "documents", limits)
    return request


def _check_limits(request: ScoringRequest, field: str, limits: Limits) -> None:
    """Raise `HTTPError` for a request beyond the limits; `field` is what its format calls the documents."""
    if len(request.texts) > limits.max_documents:
        raise HTTPError(422, field, f"{len(request.texts)} texts, at most {limits.max_documents} (max_documents)")
    longest = len(max(request.queries, key=len))
    if longest > limits.max_query_chars:
        raise HTTPError(422, "query", f"{longest} characters, at most {limits.max_query_chars} (max_query_chars)")
    for index, text in enumerate(request.texts):
        if len(text) > limits.max_document_chars:
            most = f"at most {limits.max_document_chars} (max_document_chars)"
            raise HTTPError(422, field, f"number {index} has {len(text)} characters, {most}")
