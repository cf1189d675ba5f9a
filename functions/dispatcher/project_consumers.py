"""Consume loop of a route whose slots are shared by projects: a durable consumer per project (ADR 0012).

The shared consumer of the route gets every message without its data, which shows the projects with messages. Messages
that wait, also for a redelivery, count only against the consumer of their own project.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from ocf.events import subjects
from ocf.events.errors import Unavailable
from ocf.events.ports import Backlog, Bus, Clock, ConsumerSpec, ConsumerState, Delivery, Message
from ocf.functions.core.cancellation import cancel_and_wait
from ocf.functions.dispatcher.consumer import dispatch_one, log_fetch_failure
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.fair_shares import Shares
from ocf.functions.dispatcher.ordering import KeyedOrder
from ocf.functions.dispatcher.routes import Route
from ocf.functions.observability import metrics

log = structlog.get_logger()

#: Maximum of project consumers per route. nats-server 2.15 allows 1,000 consumers per stream (`default_max_consumers`),
#: and five routes read the commands; further projects share the route's own consumer.
MAX_CONSUMERS = 180
#: Seconds without a message after which a project's consumer is removed.
IDLE_SECONDS = 600.0
_BATCH = 100
_WAIT = 5.0
#: Seconds of a pull, which holds slots of the project: for a message that must exist, and for one that may exist.
_KNOWN, _POSSIBLE = 0.25, 0.1
#: Seconds between pulls for a due message that did not arrive, and their number; later `measure` finds it.
_RECHECK_SECONDS, _RECHECKS = 0.5, 3
#: Seconds added to a redelivery delay, because the server's delay begins later.
_MARGIN = 0.02
_TICK = 0.05
#: Seconds for which a failed message keeps its slot, so that many failures leave the dispatcher time for other
#: projects.
_FAILED = 0.5
#: Seconds between two counts of executions elsewhere, if there is a quota.
_RECOUNT = 2.0


@dataclass
class _Project:
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
    #: Sequences to be redelivered.
    redelivering: set[int] = field(default_factory=set)


class _TrackedDelivery:
    """A delivery that records when it will be redelivered: in `redelivered_in` seconds, or never (None)."""

    def __init__(self, delivery: Delivery, ack_wait: float) -> None:
        self._delivery = delivery
        self._ack_wait = ack_wait
        self.redelivered_in: float | None = ack_wait

    @property
    def message(self) -> Message:
        return self._delivery.message

    async def ack(self) -> None:
        await self._delivery.ack()
        self.redelivered_in = None

    async def ack_soon(self) -> None:
        await self._delivery.ack_soon()
        self.redelivered_in = None

    async def nak(self, delay: float) -> None:
        await self._delivery.nak(delay)
        self.redelivered_in = delay

    async def in_progress(self) -> None:
        await self._delivery.in_progress()


class _FullDelivery(_TrackedDelivery):
    """A delivery of the shared consumer, completed with the message's data."""

    def __init__(self, delivery: Delivery, message: Message, ack_wait: float) -> None:
        super().__init__(delivery, ack_wait)
        self._message = message

    @property
    def message(self) -> Message:
        return self._message


#: Yields project and execution of every execution that has a lease.
Running = Callable[[], AsyncIterator[tuple[str, str]]]


class ProjectLoop:
    """The loop of one route with a consumer per project."""

    def __init__(
        self,
        route: Route,
        dispatcher: Dispatcher,
        bus: Bus,
        clock: Clock,
        *,
        quota: int = 0,
        running: Running | None = None,
    ) -> None:
        self._route = route
        self._dispatcher = dispatcher
        self._bus = bus
        self._clock = clock
        self._running = running if quota else None
        self._shares = Shares(route.in_flight, quota)
        self._projects: dict[str, _Project] = {}
        self._opening = 0
        #: Order within a project of the messages that the shared consumer delivers.
        self._order = KeyedOrder(None, clock)
        self._in_flight: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._changed = asyncio.Event()
        #: Scheduled pulls: (monotonic time, project, number of pulls).
        self._due: list[tuple[float, str, int]] = []
        self._some_due = asyncio.Event()
        self._removals: dict[str, asyncio.Task[None]] = {}
        #: Deliveries of the shared consumer that are not routed yet, by sequence.
        self._undispatched: dict[int, Delivery] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def short(self) -> bool:
        """Return whether the function responds soon; an execution does not."""
        return self._route.timeout is not None

    async def run(self) -> None:
        """Dispatch until cancelled."""
        await self._retry(self._recover)
        loops = [self._discover(), self._feed(), self._wake_due()]
        if self._running is not None:
            loops.append(self._recount_for_ever())
        tasks = [asyncio.create_task(loop) for loop in loops]
        self._tasks.update(tasks)
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_and_wait(tasks)

    async def _retry(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await step()
            except Exception as error:
                log_fetch_failure(self._route.consumer, error)
                await self._clock.sleep(0.25)

    async def stop(self, grace: float) -> None:
        """Wait `grace` seconds for deliveries in flight; the next dispatcher gets those that are not finished."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace)
        await cancel_and_wait((*self._in_flight, *self._tasks))
        with suppress(Exception):  # without the nak the server redelivers after the ack wait
            for delivery in self._undispatched.values():
                await delivery.nak(0)

    async def measure(self) -> Backlog:
        """Return the backlog of all consumers of the route; wake projects that were missed, and remove idle ones.

        Raises:
            Unavailable: NATS does not answer.
        """
        shared = await self._bus.backlog(self._route.shared())
        waiting, unsettled = shared.waiting, shared.unsettled
        for project, state in await self._consumers():
            waiting, unsettled = waiting + state.backlog.waiting, unsettled + state.backlog.unsettled
            own = self._register(project, state)
            own.behind = state.backlog.waiting
            if not state.backlog.unsettled:
                own.redelivering.clear()
            if state.backlog.unsettled > self._shares.held(project) + len(own.redelivering):
                own.rechecks = max(own.rechecks, _RECHECKS)
            if own.behind or own.rechecks:
                self._wake(project)
            elif state.backlog == Backlog(0, 0):
                await self._remove_idle(project, own)
        return Backlog(waiting, unsettled)

    async def _recover(self) -> None:
        """Continue after a predecessor: with the existing consumers and their unsettled messages."""
        if self._running is not None:
            await self._recount()
        for project, state in await self._consumers():
            own = self._register(project, state)
            own.behind = state.backlog.waiting
            if own.behind:
                self._wake(project)
            if state.backlog.unsettled:
                # Each message arrives at the end of its ack wait or delay.
                for second in range(1, round(self._route.ack_wait) + 5):
                    self._recheck_after(project, second, 1)

    async def _consumers(self) -> list[tuple[str, ConsumerState]]:
        found = [(self._route.owner(state.name), state) for state in await self._bus.consumers(self._route.stream)]
        return [(project, state) for project, state in found if project is not None]

    def _register(self, project: str, state: ConsumerState) -> _Project:
        if project not in self._projects:
            spec = self._route.own(project, state.start)
            self._projects[project] = _Project(spec, active=self._clock.monotonic())
        return self._projects[project]

    async def _remove_idle(self, project: str, own: _Project) -> None:
        """Remove the consumer of an idle project; the next message creates a new one, which starts there."""
        if own.pulling or self._shares.held(project) or own.active > self._clock.monotonic() - IDLE_SECONDS:
            return
        del self._projects[project]
        self._removals[project] = asyncio.create_task(self._bus.remove_consumer(own.spec))
        try:
            await self._removals[project]
        finally:
            del self._removals[project]

    async def _discover(self) -> None:
        """Fetch every message of the route from the shared consumer, and route it to its project."""
        while True:
            deliveries = await self._fetched(self._route.shared(), _BATCH, _WAIT)
            if deliveries is None:
                await self._clock.sleep(0.25)
                continue
            by_project: dict[str | None, list[Delivery]] = defaultdict(list)
            self._undispatched = {delivery.message.sequence: delivery for delivery in deliveries}
            for delivery in deliveries:
                by_project[subjects.project_of(delivery.message.subject)].append(delivery)
            routed = (self._route_to_project(project, each) for project, each in by_project.items())
            for failed in await asyncio.gather(*routed, return_exceptions=True):
                if isinstance(failed, Exception):  # the shared consumer delivers them again
                    log.warning("message not routed", action="dispatch.unheard", reason=type(failed).__name__)

    async def _route_to_project(self, project: str | None, deliveries: list[Delivery]) -> None:
        """Leave each message to the consumer of its project, or deliver it from here without such a consumer."""
        for delivery in sorted(deliveries, key=lambda each: each.message.sequence):
            own = await self._own(project, delivery.message)
            if project is not None and own is not None and own.spec.start <= delivery.message.sequence:
                own.seen, own.active = max(own.seen, delivery.message.sequence), self._clock.monotonic()
                self._wake(project)
                await delivery.ack_soon()
            else:
                await self._deliver_shared(project or "", delivery)
            del self._undispatched[delivery.message.sequence]

    async def _own(self, project: str | None, message: Message) -> _Project | None:
        """Return the project if it has a consumer; create one only for a message that was never delivered before.

        A message that was delivered before (by an earlier release, or a dispatcher that was stopped) may have been
        handled, and so may later ones. A consumer that starts there would deliver them again.
        """
        if project is None or project in self._projects:
            return self._projects.get(project or "")
        if project in self._removals:
            await asyncio.wait((self._removals[project],))
        if message.deliveries > 1 or len(self._projects) + self._opening >= MAX_CONSUMERS:
            return None
        self._opening += 1
        try:
            start = await self._bus.open_consumer(self._route.own(project, message.sequence))
        except Unavailable as error:
            log_fetch_failure(f"{self._route.consumer}-{project}", error)
            return None
        finally:
            self._opening -= 1
        return self._projects.setdefault(project, _Project(self._route.own(project, start)))

    async def _deliver_shared(self, project: str, delivery: Delivery) -> None:
        """Deliver a message of the shared consumer, in the order of the project's messages."""
        sequence = delivery.message.sequence
        if self._order.would_overtake(project, sequence) or not self._shares.take(project):
            self._order.will_be_redelivered(project, sequence, 1.0 + self._route.ack_wait)
            await delivery.nak(1.0)
            return
        self._order.settled(project, sequence)
        self._start(project, delivery, whole=False)

    async def _feed(self) -> None:
        """Pull for the next project as soon as it may have a slot."""
        while True:
            if (turn := self._shares.next()) is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            project, slots = turn
            task = asyncio.create_task(self._pull(project, slots))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pull(self, project: str, slots: int) -> None:
        own = self._projects.get(project)
        if own is None:
            self._free(project, slots)
            return
        own.pulling = True
        seen, started = own.seen, 0
        known = seen > own.delivered or own.behind > 0
        if not known:
            self._free(project, slots - 1)
            slots = 1
        try:
            found = await self._fetched(own.spec, slots, _KNOWN if known else _POSSIBLE)
            for delivery in found or ():
                own.redelivering.discard(delivery.message.sequence)
                own.delivered = max(own.delivered, delivery.message.sequence)
                own.behind = delivery.message.behind
                started += 1
                self._start(project, delivery)
        finally:
            own.pulling = False
            self._free(project, slots - started)
        if found:
            own.active = self._clock.monotonic()
            if len(found) < slots:
                own.rechecks = 0
        elif found is None:
            await self._reopen(own)
            self._recheck_after(project, 0.25)
            return
        else:
            # The missing message was deleted, or the consumer's server lags behind that of the stream.
            missing = own.behind > 0 or seen > own.delivered
            own.behind, own.delivered = 0, max(own.delivered, seen)
            left, own.rechecks = max(own.rechecks - 1, int(missing)), 0
            if left > 0:
                self._recheck_after(project, _RECHECK_SECONDS, left)
        if own.behind or own.rechecks or own.seen > own.delivered:
            self._wake(project)

    async def _reopen(self, own: _Project) -> None:
        """Create the consumer again if it was deleted, starting after the last delivered message."""
        wanted = replace(own.spec, start=max(own.spec.start, own.delivered + 1))
        try:
            own.spec = replace(own.spec, start=await self._bus.open_consumer(wanted))
        except Unavailable as error:
            log_fetch_failure(own.spec.name, error)

    async def _fetched(self, spec: ConsumerSpec, limit: int, wait: float) -> list[Delivery] | None:
        try:
            return await self._bus.fetch(spec, limit, wait)
        except Exception as error:
            log_fetch_failure(spec.name, error)
            return None

    def _start(self, project: str, delivery: Delivery, *, whole: bool = True) -> None:
        task = asyncio.create_task(self._dispatch_one(project, delivery, whole=whole))
        self._in_flight[task] = (project, delivery.message.subject.rsplit(".", 1)[-1])
        metrics.in_flight.labels(self._route.consumer).set(len(self._in_flight))
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        project, _ = self._in_flight.pop(task)
        metrics.in_flight.labels(self._route.consumer).set(len(self._in_flight))
        self._free(project, 1)

    def _free(self, project: str, slots: int) -> None:
        self._shares.release(project, slots)
        self._changed.set()

    async def _dispatch_one(self, project: str, delivery: Delivery, *, whole: bool) -> None:
        if not whole:
            try:
                full = await self._with_data(delivery)
            except Exception as error:
                log_fetch_failure(self._route.consumer, error)
                return
            handled = full is None or await dispatch_one(self._route, self._dispatcher, full)
        else:
            tracked = _TrackedDelivery(delivery, self._route.ack_wait)
            handled = await dispatch_one(self._route, self._dispatcher, tracked)
            if tracked.redelivered_in is not None and (own := self._projects.get(project)) is not None:
                own.redelivering.add(delivery.message.sequence)
                self._recheck_after(project, tracked.redelivered_in)
        if not handled:
            # Vary the delay, so that messages that failed together are not retried together.
            await self._clock.sleep(_FAILED * (0.5 + delivery.message.sequence % 16 / 15))

    async def _with_data(self, delivery: Delivery) -> _FullDelivery | None:
        """Return the delivery with its data; acknowledge it and return None if the message was deleted."""
        message = delivery.message
        found = await self._bus.first(self._route.stream, message.subject, after=message.sequence - 1)
        if found is None or found.sequence != message.sequence:
            await delivery.ack()
            return None
        full = replace(found, time=message.time, deliveries=message.deliveries)
        return _FullDelivery(delivery, full, self._route.ack_wait)

    def _wake(self, project: str) -> None:
        """Let a project wait for slots, because it has or may have messages."""
        own = self._projects.get(project)
        if own is not None and not own.pulling:
            self._shares.wait(project)
            self._changed.set()

    def _recheck_after(self, project: str, seconds: float, pulls: int = _RECHECKS) -> None:
        heapq.heappush(self._due, (self._clock.monotonic() + seconds + _MARGIN, project, pulls))
        self._some_due.set()

    async def _wake_due(self) -> None:
        while True:
            now = self._clock.monotonic()
            while self._due and self._due[0][0] <= now:
                _, project, pulls = heapq.heappop(self._due)
                if (own := self._projects.get(project)) is not None:
                    own.rechecks = max(own.rechecks, pulls)
                    self._wake(project)
            if self._due:
                await self._clock.sleep(_TICK)
            else:
                self._some_due.clear()
                await self._some_due.wait()

    async def _recount_for_ever(self) -> None:
        while True:
            await self._clock.sleep(_RECOUNT)
            await self._retry(self._recount)

    async def _recount(self) -> None:
        """Count the executions of each project that have a lease and are not in flight here.

        A predecessor or another dispatcher delivered them; they count against the project's quota.
        """
        if self._running is None:
            return
        leased = [pair async for pair in self._running()]
        here, counted = set(self._in_flight.values()), defaultdict[str, int](int)
        for project, execution in leased:
            if (project, execution) not in here:
                counted[project] += 1
        self._shares.count_elsewhere(counted)
        self._changed.set()
