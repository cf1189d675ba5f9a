"""Routes of the operator's sinks: one durable consumer per sink of `EVENT_SINKS`.

Each sink has its own consumer, so that an unavailable receiver does not delay others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ocf.events import subjects
from ocf.events.event_types import TYPES
from ocf.functions.dispatcher.routes import Route
from ocf.functions.settings.event_sinks import SINK_CONSUMERS, Sink

#: Events of one sink that may wait for a retry; later ones stay in the stream.
_MAX_ACK_PENDING = 1_000
_IN_FLIGHT = 16
_TIMEOUT = 20.0


def consumer(name: str) -> str:
    """Return the name of a sink's durable consumer."""
    return SINK_CONSUMERS + name


def routes(sinks: Sequence[Sink], tries: int) -> tuple[Route, ...]:
    """Return one route per sink; an event becomes a dead letter after `tries` failures."""
    return tuple(_route(sink, tries) for sink in sinks)


def _route(sink: Sink, tries: int) -> Route:
    name = consumer(sink.name)
    return Route(
        name,
        f"the sink {sink.name}",
        subjects.EVENTS,
        (*sink.subjects, subjects.redelivery_subject(f"ocf.evt.{sink.project}.*.*", name)),
        tuple(type_ for type_, spec in TYPES.items() if spec.kind == "evt"),
        in_flight=_IN_FLIGHT,
        max_deliveries=tries,
        timeout=_TIMEOUT,
        max_ack_pending=_MAX_ACK_PENDING,
        # A new sink gets only new events, not those of the last thirty days.
        from_now=True,
    )
