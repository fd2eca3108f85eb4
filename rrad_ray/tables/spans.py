"""Spans by OpenTelemetry's own environment variables: the one module that knows OpenTelemetry.

Where the environment names no exporter, OpenTelemetry is not imported and every span is `OFF`. Spans never carry
queries, texts or the words of errors: an error is named by its type.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from rrad_ray.errors import RradError

Attributes = Mapping[str, str | int | float | bool]

TRACE_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACE_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
TRACE_EXPORTERS = "OTEL_TRACES_EXPORTER"


class TraceSpan:
    """A span that is not recorded, as all are where tracing is off; as a block it does nothing."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def link(self, other: TraceSpan) -> None:
        """Add a link to another span."""

    def fail(self, error_type: str) -> None:
        """Mark the span as failed, by the type of the error."""

    def end(self) -> None:
        """End the span; the second time does nothing."""

    def __enter__(self) -> TraceSpan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        return None


OFF = TraceSpan()


class RecordedSpan(TraceSpan):
    """A span of OpenTelemetry. In its block it is the current one, and it ends with the block."""

    def __init__(self, span: Any) -> None:
        self.span, self.ended = span, False
        self.tokens: list[Any] = []

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        self.span.set_attributes(attributes)

    def link(self, other: TraceSpan) -> None:
        """Add a link to another span."""
        if isinstance(other, RecordedSpan):
            self.span.add_link(other.span.get_span_context())

    def fail(self, error_type: str) -> None:
        """Mark the span as failed, by the type of the error."""
        from opentelemetry.trace import StatusCode

        self.span.set_attribute("error.type", error_type)
        self.span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End the span; the second time does nothing."""
        if not self.ended:
            self.ended = True
            self.span.end()

    def __enter__(self) -> RecordedSpan:
        from opentelemetry import context, trace

        self.tokens.append(context.attach(trace.set_span_in_context(self.span)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        from opentelemetry import context

        context.detach(self.tokens.pop())
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


def is_on() -> bool:
    """Return whether the environment names an exporter of traces and does not switch the SDK off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get(TRACE_EXPORTERS, "").strip()
    return exporters == "otlp" or (not exporters and any(os.environ.get(name) for name in TRACE_ENDPOINTS))


@functools.cache
def _provider() -> Any:
    """Return this process's provider of tracers; None where tracing is off. It is ours alone: what other libraries
    trace in this process goes its own way.

    Raises `RradError` for a protocol that is not spoken here.
    """
    if not is_on():
        return None
    protocol = next((os.environ[name] for name in TRACE_PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        remedy = f"set {TRACE_PROTOCOLS[0]}=http/protobuf and the port of OTLP/HTTP, or {TRACE_EXPORTERS}=none"
        raise RradError(TRACE_PROTOCOLS[0], f"traces are sent as http/protobuf, not as {protocol}", remedy)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "rrad-ray"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def check_exporter() -> None:
    """Raise `RradError` where the environment asks for traces that cannot be sent."""
    _provider()


def begin(
    name: str,
    attributes: Attributes | None = None,
    *,
    parent: TraceSpan | None = None,
    links: Iterable[TraceSpan] = (),
    carrier: Mapping[str, str] | None = None,
    server: bool = False,
) -> TraceSpan:
    """Begin a span below `parent`, or else below the current one; its links go to other spans.

    `carrier`: headers whose `traceparent` is the parent instead; a broken one is as none. `server`: the span is of a
    request that came with them.
    """
    if (provider := _provider()) is None:
        return OFF
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context

    context, kind = None, trace.SpanKind.SERVER if server else trace.SpanKind.INTERNAL
    if carrier is not None:
        context = propagate.extract(carrier, context=Context())
    elif isinstance(parent, RecordedSpan):
        context = trace.set_span_in_context(parent.span)
    linked = [trace.Link(span.span.get_span_context()) for span in links if isinstance(span, RecordedSpan)]
    tracer = provider.get_tracer("rrad_ray")
    return RecordedSpan(tracer.start_span(name, context, kind, attributes=attributes, links=linked))


def current() -> TraceSpan:
    """Return the span that this code runs in; `OFF` where tracing is off."""
    if _provider() is None:
        return OFF
    from opentelemetry import trace

    return RecordedSpan(trace.get_current_span())


def sampled(spans: Iterable[TraceSpan]) -> TraceSpan | None:
    """Return the first span that is recorded; None without one."""
    return next((span for span in spans if isinstance(span, RecordedSpan) and span.span.is_recording()), None)


def outgoing() -> dict[str, str]:
    """Return the headers by which a request to another server goes on with the current trace; none where off."""
    headers = dict[str, str]()
    if _provider() is not None:
        from opentelemetry import propagate

        propagate.inject(headers)
    return headers


def flush() -> None:
    """Send what has ended; slow while the collector does not answer."""
    if (provider := _provider()) is not None:
        provider.force_flush()
