"""The worker: takes one execution at a time, and hands it on when it must stop."""

from __future__ import annotations

import asyncio

import structlog

from ocf.events import dataref
from ocf.events.command_payloads import Execute, GitWorkspace
from ocf.events.envelope import Event
from ocf.events.errors import Busy, Conflict, Drop, KeyNotYetKnown, NotItsTurn, NotYetKnown, Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.session_record import Session
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.core.command_parsing import command, ids_of
from ocf.functions.core.session_store import Sessions
from ocf.functions.execute.agent.warm_pool import WarmPool
from ocf.functions.execute.attempt.agent_run import AgentRun
from ocf.functions.execute.attempt.command_listener import POLL_SECONDS
from ocf.functions.execute.attempt.runner import MakeAgentRun, Runner
from ocf.functions.execute.attempt.stop_signal import StopReason
from ocf.functions.execute.attempt.watchdog import Activity
from ocf.functions.execute.attempt.workspace_source import starts_from_store
from ocf.functions.execute.context import WorkerContext
from ocf.functions.observability import metrics
from ocf.functions.runtime.bootstrap import Dependencies

log = structlog.get_logger()

#: Seconds. A store that takes longer is away, as far as a start is concerned.
_STORE_SECONDS = 10.0
#: Seconds after its submit in which an execution waits for the key that its secrets were sealed under. A rotation of
#: `ENCRYPTION_KEY` takes a minute or two; afterwards the key is unknown for good, and the execution fails.
KEY_SECONDS = 600.0
#: Seconds without NATS after which a stopping worker ends its execution and leaves. Without NATS it can neither finish
#: the execution nor hand it on, and would hold its node or namespace for `DRAIN_SECONDS`.
CUT_OFF_SECONDS = 120.0
_CUT_OFF_CHECK = 5.0
_CUT_OFF_CLEANUP = 60.0


class Worker:
    """One per process. With an execution it answers 429 (Busy), and the dispatcher waits."""

    def __init__(
        self,
        deps: Dependencies,
        slots: WarmPool,
        *,
        make_agent_run: MakeAgentRun,
        poll_every: float = POLL_SECONDS,
    ) -> None:
        self._deps = deps
        self._slots = slots
        self._make_agent_run = make_agent_run
        self._poll_every = poll_every
        self._ref: ExecutionRef | None = None
        self._run: Runner | None = None
        self._task: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._draining = False

    @property
    def busy(self) -> bool:
        """Return whether it has an execution."""
        return self._ref is not None

    @property
    def warm(self) -> bool:
        """Return whether an execution would find a warm server."""
        return not self.busy and self._slots.ready

    @property
    def draining(self) -> bool:
        """Return whether it takes no new execution."""
        return self._draining

    async def idle(self) -> None:
        """Wait until it has no execution."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def execute(self, event: Event) -> None:
        """Run the execution of a `dev.ocf.task.execute.v1` event; return when it has ended.

        A request that breaks off (the dispatcher restarts) does not end the run.

        Raises:
            Busy: the worker has another execution.
            NotItsTurn: the session runs another execution.
            Conflict: it runs here already, or another worker owns it.
            Drop: it has ended.
            KeyNotYetKnown: a secret of it was sealed under a key that this worker does not know yet.
            Unavailable: this worker is shutting down.
        """
        ref = ExecutionRef(*ids_of(event))
        if self._draining:
            raise Unavailable("this worker is shutting down")
        if self._ref == ref:
            raise Conflict("it runs here already")
        if self._ref is not None:
            raise Busy("this worker has an execution")
        self._ref = ref
        self._task = asyncio.create_task(self._take(event, ref))
        task = self._task
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("this worker is shutting down, and NATS is away") from None
            raise

    async def _take(self, event: Event, ref: ExecutionRef) -> None:
        try:
            record = await self._must_be_open(ref)
            event = await dataref.resolve(event, str(ref), self._deps.store)
            task = command(event, Execute, (ref.project, ref.execution))
            session = await self._must_be_its_turn(task)
            self._require_keys(task, session, record)
            await self._require_store(task, session)
            if self._draining:
                raise Unavailable("this worker is shutting down")
            self._run = Runner(
                task,
                event,
                deps=self._deps,
                make_agent_run=self._make_agent_run,
                poll_every=self._poll_every,
            )
            metrics.running.set(1)
            await self._run.run()
        finally:
            self._ref = self._run = None
            metrics.running.set(0)
            if not self._draining:
                self._slots.start()

    async def _must_be_open(self, ref: ExecutionRef) -> Record:
        record = await self._deps.records.get(ref.project, ref.execution)
        if record is None:
            raise Drop(f"execution {ref.execution} was deleted")
        if record.terminal:
            await self._deps.records.publish_outbox(record)
            raise Drop(f"execution {ref.execution} is {record.state.value} already")
        return record

    def _require_keys(self, task: Execute, session: Session | None, record: Record) -> None:
        """Check that this worker knows the keys of the task's secrets, or has waited for them long enough.

        Raises:
            KeyNotYetKnown: it does not know one; nothing has started, and the execution stays queued.
        """
        if task.rerun is not None and not task.rerun.live:
            return  # no key is needed
        keyring = self._deps.keyring
        sealed = [task.model.api_key] if task.model and task.model.api_key else []
        for source in (task.workspace, *(() if session is None else (session.workspace,))):
            if isinstance(source, GitWorkspace) and source.token is not None:
                sealed.append(source.token)
        unknown = [one.kid for one in sealed if keyring is not None and not keyring.knows(one)]
        age = (self._deps.clock.now() - record.submitted_at).total_seconds()
        if unknown and age < KEY_SECONDS:
            raise KeyNotYetKnown(f"a secret was sealed under key id {unknown[0]}, which this worker does not know yet")

    async def _must_be_its_turn(self, task: Execute) -> Session | None:
        """Check that the session runs no other execution (one at a time, in the order of their submits); return it."""
        if task.session_id is None:
            return None
        deps = self._deps
        sessions = Sessions(deps.sessions, deps.clock)
        try:
            found = await sessions.prune_queue(task.project_id, task.session_id, deps.records)
            if task.execution_id not in found.queue and found.usable:
                # A concurrent check of the queue ran before this execution's record existed, and took it for deleted.
                found = await sessions.join(task.project_id, task.session_id, task.execution_id)
        except NotYetKnown:
            return None  # the session was destroyed: the run ends with that reason
        if found.queue and found.queue[0] != task.execution_id:
            raise NotItsTurn(f"session {task.session_id} runs {found.queue[0]}")
        return found

    async def _require_store(self, task: Execute, session: Session | None) -> None:
        """Check that S3 answers when the workspace comes from it. Nothing has started yet: the execution stays queued.

        Raises:
            Unavailable: S3 does not answer.
        """
        if not starts_from_store(task, session):
            return
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await self._deps.store.ready()
        except TimeoutError:
            raise Unavailable(f"S3 did not answer within {_STORE_SECONDS:g} s") from None

    def drain(self) -> None:
        """Take no new execution."""
        self._draining = True

    def leave(self) -> None:
        """Take no new execution. End the current one if NATS is away for `CUT_OFF_SECONDS`."""
        self.drain()
        if self._watching is None:
            self._watching = asyncio.create_task(self._leave_when_cut_off())

    async def _leave_when_cut_off(self) -> None:
        clock, answered = self._deps.clock, self._deps.clock.monotonic()
        while self._task is not None and not self._task.done():
            try:
                await self._deps.bus.ready()
                answered = clock.monotonic()
            except Unavailable as error:
                if clock.monotonic() - answered >= CUT_OFF_SECONDS:
                    log.error("execution given up", action="worker.cut_off", reason=str(error))
                    # Its processes end; the record says `running` until the sweep, after the outage, finds no lease.
                    self._task.cancel()
                    await asyncio.wait({self._task}, timeout=_CUT_OFF_CLEANUP)
                    continue
            await clock.sleep(_CUT_OFF_CHECK)

    async def drained(self, grace: float) -> None:
        """Leave, and let the current execution end by itself, for at most `grace` seconds."""
        self.leave()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=max(0.0, grace))

    async def stop(self) -> None:
        """Release the current execution: its processes end, its lease is freed, its command is redelivered."""
        self.drain()
        if self._run is not None:
            self._run.stop_signal.decide(StopReason(None, "this worker is shutting down"))
        if self._task is not None:
            await asyncio.wait({self._task})
        if self._watching is not None:
            await cancel_and_wait([self._watching])


def worker_of(context: WorkerContext) -> Worker:
    """Return the worker of this process."""

    def make_agent_run(task: Execute, activity: Activity) -> AgentRun:
        ref = ExecutionRef(task.project_id, task.execution_id)
        return AgentRun(context, task, context.deps.settings.state_dir / ref.folder, activity)

    return Worker(context.deps, context.slots, make_agent_run=make_agent_run)
