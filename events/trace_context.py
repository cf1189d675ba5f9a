"""Trace context in events (CloudEvents distributed-tracing extension, W3C Trace Context).

Uses only OpenTelemetry's API: without a configured SDK there is no active span, and an event has its cause's context.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context

KEYS = ("traceparent", "tracestate")


def of(extensions: Mapping[str, str]) -> dict[str, str]:
    """Return the trace context in an event's extensions."""
    return {key: extensions[key] for key in KEYS if key in extensions}


def active() -> dict[str, str]:
    """Return the active span's context as extensions, or {}."""
    if not trace.get_current_span().get_span_context().is_valid:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return of(carrier)


def parent(extensions: Mapping[str, str]) -> Context:
    """Return the parent context of a span for this event."""
    return propagate.extract(of(extensions))


def trace_id(traceparent: str | None) -> str:
    """Return the trace id of a `traceparent`, or ""."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) > 3 else ""


def within(traceparent: str | None, context: dict[str, str]) -> dict[str, str]:
    """Return `context` if it belongs to the trace of `traceparent`, else `traceparent`.

    Facts of an execution belong to its trace, also those that a sweep or a cancel publishes within a trace of its own.
    Without a `traceparent` the result is `context`.
    """
    if not trace_id(traceparent) or trace_id(context.get("traceparent")) == trace_id(traceparent):
        return context
    return {"traceparent": str(traceparent)}


def link(traceparent: str | None) -> None:
    """Link the active span to `traceparent` if they belong to different traces."""
    current = trace.get_current_span()
    if not traceparent or not current.is_recording():
        return
    other = trace.get_current_span(parent({"traceparent": traceparent})).get_span_context()
    if other.is_valid and other.trace_id != current.get_span_context().trace_id:
        current.add_link(other)
