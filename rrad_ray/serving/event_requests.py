"""The body of `POST /v1/events`: clicks on pages of the online test, in our format or as events of UBI."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError

from rrad_ray.online.event_rows import MAX_DWELL_S, MAX_POSITION, MAX_TIME_S, IdToName
from rrad_ray.online.ubi import ubi_clicks
from rrad_ray.serving.bodies import parsed_body
from rrad_ray.serving.documents import IdField
from rrad_ray.serving.errors import COHERE, HTTPError

DwellSeconds = Annotated[float, Field(ge=0, le=MAX_DWELL_S, allow_inf_nan=False)]
MAX_EVENTS = 10_000  # of a request
MAX_VALUES = 20 * MAX_EVENTS  # of its JSON

EventTime = Annotated[float, Field(ge=0, le=MAX_TIME_S, allow_inf_nan=False)]


_JSON = TypeAdapter[Any](Any)


class ClickRequest(BaseModel):
    """A click on a document of a page, which the header `X-Exposure` of its answer names."""

    model_config = ConfigDict(strict=True, extra="ignore")

    request_id: IdToName
    doc_id: IdToName  # the request's own id of the document, or the digest of its text
    position: Annotated[int, Field(ge=1, le=MAX_POSITION)]  # on the page, from 1
    event_id: IdField = ""  # the sender's own, so that sending twice counts once
    dwell_s: DwellSeconds | None = None  # seconds until the user came back
    time: EventTime | None = None  # seconds since 1970; else when it came


class EventsRequest(BaseModel):
    """The clicks that a client sends together."""

    model_config = ConfigDict(strict=True, extra="ignore")

    events: Annotated[list[ClickRequest], Field(min_length=1, max_length=MAX_EVENTS), FailFast()]


def parse_clicks(body: bytes, now: float) -> list[dict[str, Any]]:
    """Return the rows (`rows.ClickEvent`) of a body; `now`, in seconds since 1970, is for clicks without a time.

    A body that is an event of UBI, or a list of them, has its clicks in it. Raises `HTTPError`.
    """
    try:
        if b'"action_name"' in body and (ubi := _ubi_events(body)) is not None:
            return [dict(click) for click in ubi_clicks(ubi)]
        events = parsed_body(EventsRequest.model_validate_json, body).events
    except ValidationError as error:
        raise HTTPError.of(error, COHERE) from error
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


def _ubi_events(body: bytes) -> list[Any] | None:
    """Return the events of UBI in a body; None for one in our format. Raises `ValidationError` and `HTTPError`."""
    content = parsed_body(_JSON.validate_json, body)
    if isinstance(content, dict) and "events" in content:
        return None
    events = content if isinstance(content, list) else [content]
    if len(events) > MAX_EVENTS:
        raise HTTPError(422, "events", f"{len(events)} events, at most {MAX_EVENTS}")
    return events
