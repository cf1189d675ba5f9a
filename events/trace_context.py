"""Trace context in events (CloudEvents distributed-tracing extension, W3C Trace Context).

Uses OpenTelemetry's API only: without a configured SDK there is no active span, and an event keeps its cause's context.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context

KEYS = ("traceparent", "tracestate")


def of(extensions: Mapping[str, str]) -> dict[str, str]:
    """The trace context among an event's extensions."""
    return {key: extensions[key] for key in KEYS if key in extensions}


def active() -> dict[str, str]:
    """The active span's context as extensions; empty when there is none."""
    if not trace.get_current_span().get_span_context().is_valid:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return of(carrier)


def parent(extensions: Mapping[str, str]) -> Context:
    """The context that a span about this event continues."""
    return propagate.extract(of(extensions))


def trace_id(traceparent: str | None) -> str:
    """The trace among version, trace, parent and flags; empty when there is none."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) > 3 else ""


def within(traceparent: str | None, near: dict[str, str]) -> dict[str, str]:
    """`near` where it belongs to the trace of `traceparent` (or that is not known), else `traceparent` itself.

    What is said of an execution belongs to its trace, whoever says it: sweep and canceller have their own.
    """
    if not trace_id(traceparent) or trace_id(near.get("traceparent")) == trace_id(traceparent):
        return near
    return {"traceparent": str(traceparent)}


def link(traceparent: str | None) -> None:
    """Let the active span point to that one, where it belongs to another trace."""
    current = trace.get_current_span()
    if not traceparent or not current.is_recording():
        return
    other = trace.get_current_span(parent({"traceparent": traceparent})).get_span_context()
    if other.is_valid and other.trace_id != current.get_span_context().trace_id:
        current.add_link(other)
