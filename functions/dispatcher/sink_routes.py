"""The rows of the wiring that the operator adds: one durable consumer for each sink of `EVENT_SINKS`.

Each has a consumer of its own, so that one receiver which is down holds up nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence

from ocf.events import subjects
from ocf.events.event_types import TYPES
from ocf.functions.dispatcher.routes import Route
from ocf.functions.settings.sink_rules import Sink

#: Events of one sink that may wait for their next try; those behind them wait in the stream.
_PENDING = 1_000
_IN_FLIGHT = 16
_TIMEOUT = 20.0


def consumer(name: str) -> str:
    """The durable consumer of the sink of that name."""
    return f"sink-{name}"


def rows(sinks: Sequence[Sink], tries: int) -> tuple[Route, ...]:
    """A row for each sink; an event is a dead letter after `tries` failures."""
    return tuple(_row(sink, tries) for sink in sinks)


def _row(sink: Sink, tries: int) -> Route:
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
        max_ack_pending=_PENDING,
        # A new sink hears what happens from now on, not the last thirty days.
        from_now=True,
    )
