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
