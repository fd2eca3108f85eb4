"""Refusals of a request, in the error body of each wire format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

RETRY_AFTER_S = 1
SHOWN_CHARS = 60  # of a wrong value, in the message about it
HUNG_UP = 499  # the status that web servers count for a request whose client has gone


@dataclass(frozen=True)
class Dialect:
    """The way in which the clients of one format are refused; `statuses` holds where theirs differ from ours."""

    name: str
    statuses: Mapping[int, int]


COHERE = Dialect("cohere", {})
VLLM = Dialect("vllm", {422: 400})
TEI = Dialect("tei", {500: 424, 503: 429})

VLLM_TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError"}
TEI_TYPES = {400: "Empty", 401: "Unauthorized", 424: "Backend", 429: "Overloaded", 504: "Overloaded"}


class HTTPError(Exception):
    """A refusal of a request: the status, the field at fault and what is wrong with it, and headers of its own."""

    def __init__(self, status: int, field: str, problem: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.field, self.detail, self.headers = status, field, f"{field}: {problem}", headers or {}
        super().__init__(self.detail)

    @classmethod
    def of(cls, error: ValidationError, dialect: Dialect) -> HTTPError:
        """Return the refusal that says the first of pydantic's complaints."""
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            return cls(400, "body", first["msg"])
        field, *index = first["loc"] or ("body",)
        where = _within(index)
        if first["type"] == "missing":
            have = f"{'it' if where else 'the request'} has {', '.join(first['input']) or 'no fields'}"
            return cls(422, str(field), f"{where}missing; {have}"[:200])
        if first["type"] == "extra_forbidden":
            return cls(422, str(field)[:SHOWN_CHARS], "no field of this request; leave it out")
        message = first["msg"][0].lower() + first["msg"][1:]
        empty = dialect is TEI and first["type"] in ("blank", "too_short")
        return cls(400 if empty else 422, str(field), f"{where}{message}, found {_shown(first['input'])}")

    def render(self, dialect: Dialect) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Return status, body and headers as the clients of a dialect read them."""
        status = dialect.statuses.get(self.status, self.status)
        headers = dict(self.headers)
        if self.status == 503:
            headers["Retry-After"] = str(RETRY_AFTER_S)
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if dialect is TEI:
            # Only a field can be empty. TEI itself says in plain text, with the same 400, that a body is no JSON.
            kind = "Validation" if self.field == "body" else TEI_TYPES.get(status, "Validation")
            return status, {"error": self.detail, "error_type": kind}, headers
        if dialect is VLLM:
            kind = VLLM_TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
            error = {"message": self.detail, "type": kind, "param": self.field, "code": status}
            return status, {"error": error}, headers
        return status, {"message": self.detail, "detail": self.detail, "field": self.field}, headers


def unexpected(error: Exception) -> HTTPError:
    """Return the refusal for a fault of ours; the log has the traceback, and the answer no more than its kind."""
    return HTTPError(500, "request", f"could not be answered ({type(error).__name__})")


def _within(index: Sequence[int | str]) -> str:
    """Return where in a field's value something is wrong: of a list's item its number and its own field, of an object
    its key."""
    if not index:
        return ""
    if isinstance(index[0], str):
        return f"'{index[0]}' "
    return f"number {index[0]} " + "".join(f"{name}: " for name in index[1:] if isinstance(name, str))


def _shown(value: Any) -> str:
    """Return a wrong value as a message shows it: as JSON, cut, and of a list its length alone."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
