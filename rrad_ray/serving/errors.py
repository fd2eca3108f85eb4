"""Refusals of a request, in the error body of each wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RETRY_AFTER_S = 1

HUNG_UP = "499"  # the status that web servers count for a request whose client has gone


@dataclass(frozen=True)
class Dialect:
    """The way in which the clients of one format are refused; `statuses` holds where theirs differ from ours."""

    name: str
    statuses: Mapping[int, int]


COHERE = Dialect("cohere", {})

VLLM = Dialect("vllm", {422: 400})

TEI = Dialect("tei", {500: 424, 503: 429})

VLLM_TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 413: "BadRequestError"}

TEI_TYPES = {400: "Empty", 401: "Unauthorized", 424: "Backend", 429: "Overloaded", 504: "Overloaded"}


class HTTPError(Exception):
    """A refusal of a request: the status, the field at fault and what is wrong with it."""

    def __init__(self, status: int, field: str, problem: str) -> None:
        self.status, self.field, self.detail = status, field, f"{field}: {problem}"
        super().__init__(self.detail)

    def render(self, dialect: Dialect) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Return status, body and headers as the clients of a dialect read them."""
        status = dialect.statuses.get(self.status, self.status)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if dialect is TEI:
            return status, {"error": self.detail, "error_type": TEI_TYPES.get(status, "Validation")}, headers
        if dialect is VLLM:
            kind = VLLM_TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
            error = {"message": self.detail, "type": kind, "param": self.field, "code": status}
            return status, {"error": error}, headers
        return status, {"message": self.detail, "detail": self.detail, "field": self.field}, headers
