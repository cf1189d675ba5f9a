"""The durable consumers of the projects in one route: created with the first message, removed when idle (ADR 0012)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from ocf.events.errors import Unavailable
from ocf.events.ports import Bus, Clock, ConsumerSpec, ConsumerState, Message
from ocf.functions.dispatcher.consumer import log_fetch_failure
from ocf.functions.dispatcher.routes import Route

#: Maximum of project consumers per route. nats-server 2.15 allows 1,000 consumers per stream (`default_max_consumers`),
#: and five routes read the commands; further projects share the route's own consumer.
MAX_CONSUMERS = 180
#: Seconds without a message after which a project's consumer is removed.
IDLE_SECONDS = 600.0


@dataclass
class ProjectConsumer:
    """A project with its own consumer in this route."""

    spec: ConsumerSpec
    #: The highest known stream sequence of the project, and the highest delivered.
    seen: int = 0
    delivered: int = 0
    #: Undelivered messages of the consumer, as far as known.
    behind: int = 0
    #: Remaining empty pulls until a due message counts as delivered elsewhere.
    rechecks: int = 0
    pulling: bool = False
    #: Time of the last message (monotonic seconds).
    active: float = 0.0
    #: Delivered messages that are not settled: infinity while in flight, else the time (monotonic seconds) after which
    #: a redelivery is overdue.
    unsettled: dict[int, float] = field(default_factory=dict)


class ProjectConsumers:
    """The consumers of one route by project. `idle_seconds` without a message end a consumer."""

    def __init__(self, route: Route, bus: Bus, clock: Clock, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._route = route
        self._bus = bus
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._known: dict[str, ProjectConsumer] = {}
        self._opening = 0
        self._removals: dict[str, asyncio.Task[None]] = {}

    def get(self, project: str) -> ProjectConsumer | None:
        """Return the consumer of a project, or None."""
        return self._known.get(project)

    async def stored(self) -> list[tuple[str, ProjectConsumer, ConsumerState]]:
        """Return all consumers of the route on the server, with their states.

        Raises:
            Unavailable: NATS does not answer.
        """
        states = await self._bus.consumers(self._route.stream)
        named = [(self._route.owner(state.name), state) for state in states]
        return [(project, self._register(project, state), state) for project, state in named if project is not None]

    def _register(self, project: str, state: ConsumerState) -> ProjectConsumer:
        if project not in self._known:
            spec = self._route.own(project, state.start)
            self._known[project] = ProjectConsumer(spec, active=self._clock.monotonic())
        return self._known[project]

    async def of_message(self, project: str | None, message: Message) -> ProjectConsumer | None:
        """Return the project's consumer; create one only for a message that was never delivered before.

        A message that was delivered before (by an earlier release, or a dispatcher that was stopped) may have been
        handled, and so may later ones. A consumer that starts there would deliver them again.
        """
        if project is None or project in self._known:
            return self._known.get(project or "")
        if project in self._removals:
            await asyncio.wait((self._removals[project],))
        if message.deliveries > 1 or len(self._known) + self._opening >= MAX_CONSUMERS:
            return None
        self._opening += 1
        try:
            start = await self._bus.open_consumer(self._route.own(project, message.sequence))
        except Unavailable as error:
            log_fetch_failure(f"{self._route.consumer}-{project}", error)
            return None
        finally:
            self._opening -= 1
        return self._known.setdefault(project, ProjectConsumer(self._route.own(project, start)))

    async def reopen(self, own: ProjectConsumer) -> None:
        """Create the consumer again if it was deleted, starting with the oldest message that is not settled.

        Later ones that were handled are delivered again, as after any lost acknowledgement.
        """
        wanted = replace(own.spec, start=max(own.spec.start, min((*own.unsettled, own.delivered + 1))))
        try:
            own.spec = replace(own.spec, start=await self._bus.open_consumer(wanted))
        except Unavailable as error:
            log_fetch_failure(own.spec.name, error)

    async def remove_idle(self, project: str, own: ProjectConsumer) -> None:
        """Remove the consumer of an idle project; the next message creates a new one, which starts there."""
        if own.pulling or own.active > self._clock.monotonic() - self._idle_seconds:
            return
        del self._known[project]
        self._removals[project] = asyncio.create_task(self._bus.remove_consumer(own.spec))
        try:
            await self._removals[project]
        finally:
            del self._removals[project]
