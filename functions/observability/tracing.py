"""Tracing: one trace per execution over OTLP/HTTP if `OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT` is set.

OpenTelemetry configures the sampling (`OTEL_TRACES_SAMPLER`). Attributes follow the semantic conventions for messaging
and GenAI; they never contain prompts, answers or tool output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from ocf.events import trace_context as context
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.errors import WAITING, Drop
from ocf.functions.settings.settings import Settings

Attributes = Mapping[str, str | int | float | bool]

_tracer = trace.get_tracer("ocf")


def configure(settings: Settings, name: str) -> None:
    """Export the spans of this process if an endpoint is set."""
    if not (settings.otel_endpoint or settings.otel_traces_endpoint):
        return
    # Imported here, because the SDK and its exporter cost 25 MB and 0.2 s.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"{settings.otel_service_name}-{name}"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send the pending spans at the end of a process."""
    shutdown = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shutdown is not None:
        shutdown()


@contextmanager
def span(name: str, event: Event, attributes: Attributes | None = None) -> Iterator[Span]:
    """Open a span for an event as a child of its publisher's span; mark errors."""
    own = {
        "messaging.system": "nats",
        "messaging.operation.name": name.partition(" ")[0],
        "messaging.operation.type": "process",
        "messaging.destination.name": event.extensions.get(NATS_SUBJECT, ""),
        "messaging.message.id": event.id,
        "cloudevents.event_type": event.type,
        "cloudevents.event_source": event.source,
        "ocf.execution.id": event.extensions.get("correlationid", ""),
        **(attributes or {}),
    }
    with _tracer.start_as_current_span(
        name,
        context=context.parent(event.extensions),
        kind=SpanKind.CONSUMER,
        attributes=own,
        # Record only the exception's type, because its message may quote a prompt.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Drop:
            current.set_attribute("ocf.dropped", True)
            raise
        except WAITING:
            current.set_attribute("ocf.waits", True)
            raise
        except Exception as error:
            _failed(current, type(error).__name__)
            raise


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Open a span for a part of the current span's work."""
    with _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False):
        yield


def set_response(current: Span, status: int, *, waits: bool = False) -> None:
    """Record the HTTP response to an event on its span.

    Args:
        current: The span.
        status: HTTP status; 0 means no response.
        waits: The event has to wait, which is not an error.
    """
    if status:
        current.set_attribute("http.response.status_code", status)
    if waits:
        current.set_attribute("ocf.waits", True)
    elif not 200 <= status < 300:
        _failed(current, str(status) if status else "no_answer")


def _failed(current: Span, kind: str) -> None:
    current.set_attribute("error.type", kind)
    current.set_status(Status(StatusCode.ERROR, kind))


class Inner:
    """Spans of model calls and tool calls, which begin and end in different places."""

    def __init__(self) -> None:
        self._parent = trace.set_span_in_context(trace.get_current_span())
        self._open: dict[str, Span] = {}

    @contextmanager
    def within(self, name: str, attributes: Attributes) -> Iterator[Span]:
        """Open a span that is the parent of those that begin meanwhile; mark errors."""
        outer = self._parent
        with _tracer.start_as_current_span(
            name, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
        ) as current:
            self._parent = trace.set_span_in_context(current)
            try:
                yield current
            except Exception as error:
                _failed(current, type(error).__name__)
                raise
            finally:
                self._parent = outer

    def begin(self, key: str, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> None:
        """Open a span under `key`."""
        self._open[key] = _tracer.start_span(name, context=self._parent, kind=kind, attributes=dict(attributes))

    def end(self, key: str, attributes: Attributes, error: str | None = None) -> None:
        """Close the span of `key` if it is open; `error` is the kind of a failure."""
        current = self._open.pop(key, None)
        if current is None:
            return
        current.set_attributes(dict(attributes))
        if error is not None:
            _failed(current, error)
        current.end()

    def close(self) -> None:
        """Close all open spans as cut off."""
        for key in list(self._open):
            self.end(key, {"ocf.cut": True}, "cut")
