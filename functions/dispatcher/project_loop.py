"""Consume loop of a route whose slots are shared by projects: a durable consumer per project (ADR 0012).

The shared consumer of the route gets every message without its data, which shows the projects with messages. Messages
that wait, also for a redelivery, count only against the consumer of their own project.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import structlog

from ocf.events import subjects
from ocf.events.ports import Backlog, Bus, Clock, ConsumerSpec, Delivery
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.dispatcher.consumer import dispatch_one, log_fetch_failure
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.fair_shares import Shares
from ocf.functions.dispatcher.ordering import KeyedOrder
from ocf.functions.dispatcher.project_consumers import IDLE_SECONDS, ProjectConsumers
from ocf.functions.dispatcher.redelivery_time import TrackedDelivery, with_data
from ocf.functions.dispatcher.routes import Route
from ocf.functions.dispatcher.scheduled_pulls import ScheduledPulls
from ocf.functions.observability import metrics

log = structlog.get_logger()

_BATCH = 100
_WAIT = 5.0
#: Seconds of a pull, which holds slots of the project: for a message that must exist, and for one that may exist.
_KNOWN, _POSSIBLE = 0.25, 0.1
#: Seconds between pulls for a due message that did not arrive, and their number; later `measure` finds it.
_RECHECK_SECONDS, _RECHECKS = 0.5, 3
#: Seconds for which a failed message keeps its slot, so that many failures leave the dispatcher time for other
#: projects.
FAILED_SECONDS = 0.5
#: Seconds between two counts of executions elsewhere, if there is a quota.
_RECOUNT = 2.0


#: Yields project and execution of every execution that has a lease.
Running = Callable[[], AsyncIterator[tuple[str, str]]]


class ProjectLoop:
    """The loop of one route with a consumer per project.

    Args:
        route: The route.
        dispatcher: Delivers the messages.
        bus: The bus.
        clock: The clock.
        quota: Maximum of concurrent executions of a project, also those elsewhere; 0 means no limit.
        running: Yields project and execution of every execution that has a lease.
        idle_seconds: Seconds without a message after which a project's consumer is removed.
        failed_seconds: Seconds for which a failed message keeps its slot.
    """

    def __init__(
        self,
        route: Route,
        dispatcher: Dispatcher,
        bus: Bus,
        clock: Clock,
        *,
        quota: int = 0,
        running: Running | None = None,
        idle_seconds: float = IDLE_SECONDS,
        failed_seconds: float = FAILED_SECONDS,
    ) -> None:
        self._route = route
        self._dispatcher = dispatcher
        self._bus = bus
        self._clock = clock
        self._running = running if quota else None
        self._shares = Shares(route.in_flight, quota)
        self._projects = ProjectConsumers(route, bus, clock, idle_seconds=idle_seconds)
        self._pulls = ScheduledPulls(clock, self._pull_is_due)
        self._failed_seconds = failed_seconds
        #: Order within a project of the messages that the shared consumer delivers.
        self._order = KeyedOrder(None, clock)
        self._in_flight: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._changed = asyncio.Event()
        #: Deliveries of the shared consumer that are not routed yet, by sequence.
        self._undispatched: dict[int, Delivery] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def short(self) -> bool:
        """Return whether the function responds soon; an execution does not."""
        return self._route.timeout is not None

    def held(self, project: str) -> int:
        """Return the number of slots that a project holds."""
        return self._shares.held(project)

    def has_room(self, project: str) -> bool:
        """Return whether a message of a project could be delivered now."""
        return self._shares.has_room(project)

    async def run(self) -> None:
        """Dispatch until cancelled."""
        await self._retry(self._recover)
        loops = [self._discover(), self._feed(), self._pulls.run()]
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
        for project, own, state in await self._projects.stored():
            waiting, unsettled = waiting + state.backlog.waiting, unsettled + state.backlog.unsettled
            own.behind = state.backlog.waiting
            if not state.backlog.unsettled:
                own.unsettled.clear()
            now = self._clock.monotonic()
            if state.backlog.unsettled > sum(until > now for until in own.unsettled.values()):
                own.rechecks = max(own.rechecks, _RECHECKS)
            if own.behind or own.rechecks:
                self._wake(project)
            elif state.backlog == Backlog(0, 0) and not self._shares.held(project):
                await self._projects.remove_idle(project, own)
        return Backlog(waiting, unsettled)

    async def _recover(self) -> None:
        """Continue after a predecessor: with the existing consumers and their unsettled messages."""
        if self._running is not None:
            await self._recount()
        for project, own, state in await self._projects.stored():
            own.behind = state.backlog.waiting
            if own.behind:
                self._wake(project)
            if state.backlog.unsettled:
                # Each message arrives at the end of its ack wait or delay.
                for second in range(1, round(self._route.ack_wait) + 5):
                    self._pulls.schedule(project, second, 1)

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
                    log.warning("message not routed", action="dispatch.not_routed", reason=type(failed).__name__)

    async def _route_to_project(self, project: str | None, deliveries: list[Delivery]) -> None:
        """Leave each message to the consumer of its project, or deliver it from here without such a consumer."""
        for delivery in sorted(deliveries, key=lambda each: each.message.sequence):
            own = await self._projects.of_message(project, delivery.message)
            if project is not None and own is not None and own.spec.start <= delivery.message.sequence:
                own.seen, own.active = max(own.seen, delivery.message.sequence), self._clock.monotonic()
                self._wake(project)
                await delivery.ack_soon()
            else:
                await self._deliver_shared(project or "", delivery)
            del self._undispatched[delivery.message.sequence]

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
        # What becomes due during this pull needs another one.
        seen, started, rechecks, own.rechecks = own.seen, 0, own.rechecks, 0
        known = seen > own.delivered or own.behind > 0
        if not known:
            self._free(project, slots - 1)
            slots = 1
        try:
            found = await self._fetched(own.spec, slots, _KNOWN if known else _POSSIBLE)
            for delivery in found or ():
                own.unsettled[delivery.message.sequence] = math.inf
                own.delivered = max(own.delivered, delivery.message.sequence)
                own.behind = delivery.message.behind
                started += 1
                self._start(project, delivery)
        finally:
            own.pulling = False
            self._free(project, slots - started)
        if found:
            own.active = self._clock.monotonic()
            if len(found) >= slots:  # nats-py also returns what arrived after an earlier pull
                own.rechecks = max(own.rechecks, rechecks)
            elif rechecks:
                self._pulls.schedule(project, _RECHECK_SECONDS, rechecks)
        elif found is None:
            await self._projects.reopen(own)
            self._pulls.schedule(project, 0.25, _RECHECKS)
            return
        else:
            # The missing message was deleted, or the consumer's server lags behind that of the stream.
            missing = own.behind > 0 or seen > own.delivered
            own.behind, own.delivered = 0, max(own.delivered, seen)
            if (left := max(rechecks - 1, int(missing))) > 0:
                self._pulls.schedule(project, _RECHECK_SECONDS, left)
        if own.behind or own.rechecks or own.seen > own.delivered:
            self._wake(project)

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
                full = await with_data(self._bus, self._route.stream, delivery, self._route.ack_wait)
            except Exception as error:
                log_fetch_failure(self._route.consumer, error)
                return
            handled = full is None or await dispatch_one(self._route, self._dispatcher, full)
        else:
            tracked = TrackedDelivery(delivery, self._route.ack_wait)
            handled = await dispatch_one(self._route, self._dispatcher, tracked)
            self._settled(project, delivery.message.sequence, tracked.redelivered_in)
        if not handled:
            # Vary the delay, so that messages that failed together are not retried together.
            await self._clock.sleep(self._failed_seconds * (0.5 + delivery.message.sequence % 16 / 15))

    def _settled(self, project: str, sequence: int, redelivered_in: float | None) -> None:
        """Note that a delivery has ended, and when it comes again unless that is None."""
        if (own := self._projects.get(project)) is None:
            return
        if redelivered_in is None:
            own.unsettled.pop(sequence, None)
            return
        own.unsettled[sequence] = self._clock.monotonic() + redelivered_in + _RECHECKS * _RECHECK_SECONDS
        self._pulls.schedule(project, redelivered_in, _RECHECKS)

    def _wake(self, project: str) -> None:
        """Let a project wait for slots, because it has or may have messages."""
        own = self._projects.get(project)
        if own is not None and not own.pulling:
            self._shares.wait(project)
            self._changed.set()

    def _pull_is_due(self, project: str, pulls: int) -> None:
        if (own := self._projects.get(project)) is not None:
            own.rechecks = max(own.rechecks, pulls)
            self._wake(project)

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
