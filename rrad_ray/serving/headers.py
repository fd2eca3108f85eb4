"""Headers of requests, read so that no client can send one that fails; and those that answers get."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence

from rrad_ray.online.event_rows import MAX_ID_CHARS
from rrad_ray.serving.errors import SHOWN_CHARS, HTTPError

PROXY_ID = "x-proxy-request-id"  # a UUID of HAProxy's own for each request (patches/ray_haproxy.py)

MAX_DIGITS = 15  # of a header's number: `int` refuses thousands of them

# What a page of another origin may send and read, beside what every page may.
SENT = "Authorization, Content-Type, Content-Encoding, X-Deadline-Ms, X-Unit, Traceparent, Tracestate"
READ = "X-Exposure, X-Variant, X-First-Stage, Retry-After, X-Request-ID"
PREFLIGHT_S = 600  # for which a browser need not ask again


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by names in lower case; one that comes again is joined by a comma, as of RFC 9110, 5.3.

    Values are UTF-8, as a body is, and Latin-1 where they are not.
    """
    values: dict[str, list[str]] = {}
    for name, value in raw:
        values.setdefault(name.decode("latin-1").lower(), []).append(_decoded(value))
    return {name: ", ".join(several) for name, several in values.items()}


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def whole_number(text: str) -> int | None:
    """Return the number that decimal digits say, at most `MAX_DIGITS` of them; None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def timeout_s(headers: Mapping[str, str], longest_s: float) -> float:
    """Return the seconds that a request may take: `longest_s`, or fewer by its header `X-Deadline-Ms`.

    Raises `HTTPError` (422) for a header that is no whole number.
    """
    value = headers.get("x-deadline-ms", "")
    if not value:
        return longest_s
    milliseconds = whole_number(value)
    if milliseconds is None:
        raise HTTPError(422, "x-deadline-ms", f"must be milliseconds, found {value[:SHOWN_CHARS]}")
    return min(longest_s, milliseconds / 1000)


def unit_named(headers: Mapping[str, str]) -> str:
    """Return the unit of an online test that a request's header `X-Unit` names; empty if it has none.

    Raises `HTTPError` (422) for one that is too long to be logged.
    """
    unit = headers.get("x-unit", "")
    if len(unit) > MAX_ID_CHARS:
        raise HTTPError(422, "x-unit", f"{len(unit)} characters, at most {MAX_ID_CHARS}")
    return unit


def page_id(headers: Mapping[str, str], unit: str, query: str) -> str:
    """Return the id of a request's page, 128 bits in hexadecimal: the same one where the proxy sends the request to
    another replica again, and otherwise no other page's."""
    if not (sent_as := headers.get(PROXY_ID, "")):
        return uuid.uuid4().hex
    return hashlib.blake2b(json.dumps([sent_as, unit, query]).encode(), digest_size=16).hexdigest()


def cors_headers(origin: str, allowed: Sequence[str]) -> dict[str, str]:
    """Return the headers by which a browser lets a page of this origin read the answer; none for other origins.

    `allowed` are the origins of the config, or `*` for all; empty: CORS is off.
    """
    if "*" in allowed:
        return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": READ}
    readable = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": READ}
    return {"Vary": "Origin", **(readable if origin in allowed else {})} if allowed else {}


def preflight_headers(methods: str) -> dict[str, str]:
    """Return what a page of an allowed origin may send to a path that takes these methods."""
    age = {"Access-Control-Max-Age": str(PREFLIGHT_S)}
    return {"Access-Control-Allow-Methods": methods, "Access-Control-Allow-Headers": SENT, **age}
