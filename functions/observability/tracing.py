"""Tracing: one trace per execution, over OTLP/HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set; else nothing at all.

Sampling is OpenTelemetry's own (`OTEL_TRACES_SAMPLER`). Attributes follow the semantic conventions for messaging and
GenAI; prompts, answers and tool output are never among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from ocf.events import trace_context as context
from ocf.events.delivery import NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.errors import WAITING, Drop
from ocf.functions.settings.settings import Settings

Attributes = Mapping[str, str | int | float | bool]

_tracer = trace.get_tracer("ocf")


def configure(settings: Settings, name: str) -> None:
    """Export spans of this process, when an endpoint is set."""
    if not settings.otel_endpoint:
        return
    # Here: the SDK and its exporter cost 25 MB and 0.2 s, for those who want them.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": f"{settings.otel_service_name}-{name}"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what is waiting; at the end of a process."""
    shutdown = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shutdown is not None:
        shutdown()


@contextmanager
def span(name: str, event: Event, attributes: Attributes | None = None) -> Iterator[Span]:
    """A span about an event, a child of whatever published it; what went wrong is marked."""
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
        # An exception's own words may be somebody's prompt: its type has to do.
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


def set_response(current: Span, status: int, *, waits: bool = False) -> None:
    """What the other side said to an event; `status` 0: nothing. `waits`: not now, which is no error."""
    if status:
        current.set_attribute("http.response.status_code", status)
    if waits:
        current.set_attribute("ocf.waits", True)
    elif not 200 <= status < 300:
        _failed(current, str(status) if status else "no_answer")


def _failed(current: Span, why: str) -> None:
    current.set_attribute("error.type", why)
    current.set_status(Status(StatusCode.ERROR, why))


class Inner:
    """Spans within a run that begin and end in different places: model calls and tool calls."""

    def __init__(self) -> None:
        self._parent = trace.set_span_in_context(trace.get_current_span())
        self._open: dict[str, Span] = {}

    def begin(self, key: str, name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> None:
        """Open a span under `key`."""
        self._open[key] = _tracer.start_span(name, context=self._parent, kind=kind, attributes=dict(attributes))

    def end(self, key: str, attributes: Attributes, *, ok: bool = True) -> None:
        """Close it, if it is open."""
        current = self._open.pop(key, None)
        if current is None:
            return
        current.set_attributes(dict(attributes))
        if not ok:
            current.set_status(Status(StatusCode.ERROR))
        current.end()

    def close(self) -> None:
        """Close what the run left open."""
        for key in list(self._open):
            self.end(key, {"ocf.cut": True}, ok=False)
