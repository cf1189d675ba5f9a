"""One execution on this worker: the lease, the attempt in the record, the agent's work, the terminal fact."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import structlog

from ocf.events import outcomes, trace_context
from ocf.events.commands import Cancel, Execute, Reply
from ocf.events.delivery import NATS_DELIVERIES, NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.errors import Conflict, NotYetKnown, OcfError, Retry
from ocf.events.execution_record import NOT_READY, Attempt, Record
from ocf.events.facts import Outcome, Started
from ocf.events.lifecycle import Reason, State, Step, step
from ocf.events.output import ChunkType, Draft
from ocf.events.refs import ExecutionRef
from ocf.functions import workspace
from ocf.functions.core.cancellation import cancel_and_wait
from ocf.functions.core.lease_state import RECHECK_SECONDS, is_leased
from ocf.functions.core.output_fence import FencedOutput, acquire_fence
from ocf.functions.core.session_repository import Sessions
from ocf.functions.core.task_limits import effective_limit
from ocf.functions.execute.attempt import outcome, watchdog
from ocf.functions.execute.attempt.agent_run import FOLLOW_UP, AgentRun
from ocf.functions.execute.attempt.command_listener import POLL_SECONDS, CommandListener
from ocf.functions.execute.attempt.lease import Lease
from ocf.functions.execute.attempt.progress import Progress
from ocf.functions.execute.attempt.publisher import OutputLimit, Publisher, sayable
from ocf.functions.execute.attempt.stop import Released, StopReason, StopSignal, failed
from ocf.functions.execute.sandbox.process import AgentNotReady
from ocf.functions.observability import logs, metrics
from ocf.functions.runtime.bootstrap import Dependencies

log = structlog.get_logger()

_FLUSH_SECONDS = 30.0
_FRAMES = 5
#: So many attempts may end before OpenCode was ready, on a crowded machine; then it is OpenCode's own fault.
NOT_READY_ATTEMPTS = 5

#: The agent's side of an attempt.
MakeAgentRun = Callable[[Execute, watchdog.Activity], AgentRun]


class Runner:
    """Runs one execution, once. `stop_signal` may be told to end it."""

    def __init__(
        self,
        task: Execute,
        event: Event,
        *,
        deps: Dependencies,
        make_turn: MakeAgentRun,
        look_every: float = POLL_SECONDS,
    ) -> None:
        self.task = task
        self.ref = ExecutionRef(task.project_id, task.execution_id)
        self.stop_signal = StopSignal()
        self._deps = deps
        self._event = event
        self._ids = (task.project_id, task.execution_id)
        self._activity = watchdog.Activity(deps.clock)
        self._turn = make_turn(task, self._activity)
        self._progress = Progress(deps.records, deps.clock, *self._ids)
        self._publisher = Publisher(
            deps.bus, deps.clock, self._turn.redactor, project=self._ids[0], execution=self._ids[1]
        )
        self._listener = CommandListener(deps.bus, deps.clock, *self._ids, look_every=look_every)
        self._lease = Lease(deps.executions, deps.clock, *self._ids, worker=deps.worker, reclaim=self._reclaim)
        self._began: float | None = None
        self._spoken = False
        self._cancel_heard: float | None = None
        #: Of a cancel, also after the verdict: then it ends the wait for S3.
        self._cancelled = asyncio.Event()
        self._left = 0
        self._replying: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take the lease, run, end.

        Raises:
            Conflict: another worker owns it, or took it over.
            HandedOn: this worker gave it up.
        """
        record = await self._deps.records.require(*self._ids)
        if record.attempts and record.attempts[-1].ended is None:
            await self._must_be_ownerless(record)
        await self._lease.acquire(len(record.attempts) + 1)
        try:
            fenced = await acquire_fence(self._deps.bus, *self._ids)
            record = await self._start(fenced)
            about = logs.about(self._event.extensions.get(NATS_SUBJECT), self._event)
            structlog.contextvars.bind_contextvars(**about, attempt=len(record.attempts))
            if not record.terminal:
                await self._attempt(record, fenced)
            await self._leave_session()
        finally:
            await workspace.discard_tree(self._deps.settings.state_dir / self.ref.folder)
            if not self._lease.lost.is_set():
                with suppress(Retry):  # it expires by itself within seconds
                    await self._lease.release()

    async def _must_be_ownerless(self, seen: Record) -> None:
        """Its newest attempt has not ended. Raises Conflict: the worker of that one lives, whether or not its lease has
        run out while NATS was away."""
        if not await is_leased(self._deps.executions, self.ref):
            await self._deps.clock.sleep(RECHECK_SECONDS)
        record = await self._deps.records.require(*self._ids)
        if record.updated_at != seen.updated_at or await is_leased(self._deps.executions, self.ref):
            raise Conflict("another worker has it")

    async def _reclaim(self, attempt: int) -> bool:
        """Whether the execution is still that attempt's; writing it anew makes an older judgement of it void."""

        def touched(record: Record) -> Record | None:
            return record.model_copy() if not record.terminal and len(record.attempts) == attempt else None

        record = await self._deps.records.change(*self._ids, touched)
        mine = not record.terminal and len(record.attempts) == attempt
        if mine and self._began is not None:
            # Whoever judged may have fenced the output off before it saw the record move.
            self._publisher.fence(await acquire_fence(self._deps.bus, *self._ids))
        return mine

    async def _leave_session(self) -> None:
        """The next execution of the session may come. If this is missed, that one finds out by itself."""
        if self.task.session_id is None:
            return
        with suppress(NotYetKnown):  # destroyed meanwhile
            sessions = Sessions(self._deps.sessions, self._deps.clock)
            await sessions.leave(self.task.project_id, self.task.session_id, self.task.execution_id)

    async def _start(self, fenced: FencedOutput) -> Record:
        """Record the attempt, or end what has no attempt left."""
        worker, now = self._deps.worker, self._deps.clock.now()

        def started(record: Record) -> Record | None:
            if record.terminal:
                return None
            record = record.model_copy(update={"last_sequence": fenced.last})
            record = record.model_copy(update={"attempts": outcome.closed(record.attempts, now, "worker_lost")})
            attempts = list(record.attempts)
            if record.cancel_requested:
                ending = outcomes.Ending(Step.CANCEL, record.cancel_why or "", requested_by=record.cancel_by)
                fact = outcomes.compose(record, ending, now)
                return self._deps.records.apply_terminal_step(record, ending.step, fact, cause=self._event)
            if attempts and record.attempts_spent >= record.max_attempts:
                lost = outcomes.compose(record, outcomes.worker_lost(record), now)
                return self._deps.records.apply_terminal_step(record, Step.FAIL, lost, cause=self._event)
            attempts.append(Attempt(number=len(attempts) + 1, worker=worker, started_at=now))
            changes = {
                "state": step(record.state, Step.START),
                "attempts": attempts,
                "started_at": record.started_at or now,
                "model": self._turn.model_name or record.model,
                "waiting_for": None,
            }
            return record.model_copy(update=changes)

        record = await self._deps.records.change(*self._ids, started)
        return await self._deps.records.publish_outbox(record)

    async def _attempt(self, record: Record, fenced: FencedOutput) -> None:
        """Until it has ended and all of it is said, after the chunks that `fenced` counts."""
        number = len(record.attempts)
        self._began = self._deps.clock.monotonic()
        async with self._listener.listen() as commands:
            background = [
                asyncio.create_task(self._lease.keep(number)),
                asyncio.create_task(self._when_lost()),
            ]
            try:
                await self._begin(record, fenced)
                background += [
                    asyncio.create_task(self._listener.live(commands, self._take)),
                    asyncio.create_task(self._listener.keep_looking(self._take)),
                ]
                verdict = await self._verdict(record)
                if verdict.step is None:
                    raise await self._given_up(verdict)
                await self._end(verdict, verdict.step, number)
            finally:
                await cancel_and_wait(background)
                self._publisher.close()
                # Also of an attempt that is handed on or lost: it has said what it has said.
                metrics.output_bytes.inc(self._publisher.bytes)
                await self._turn.close()

    async def _given_up(self, verdict: StopReason) -> OcfError:
        if self._lease.lost.is_set():
            return Conflict("another worker has it")
        await self._publisher.finish(_FLUSH_SECONDS)

        def given_back(record: Record) -> Record:
            attempts = outcome.closed(record.attempts, self._now, verdict.given_back)
            return record.model_copy(update={"attempts": attempts})

        await self._deps.records.change(*self._ids, given_back)
        return Released(verdict.message)

    async def _when_lost(self) -> None:
        await self._lease.lost.wait()
        self.stop_signal.decide(StopReason(None, "the lease is lost"))

    def _take(self, data: Cancel | Reply) -> None:
        if isinstance(data, Cancel):
            self._cancel_heard = self._deps.clock.monotonic()
            self._cancelled.set()
            self._turn.refuse("the execution is being cancelled")
            self.stop_signal.decide(StopReason(Step.CANCEL, data.why or "", requested_by=data.requested_by))
        else:
            # Not awaited: a cancel that comes next must not wait for OpenCode.
            self._replying.add(asyncio.create_task(self._reply(data)))

    def _take_earlier(self, data: Cancel | Reply) -> None:
        """What was said before this attempt listened. A retry begins anew: it takes up every follow-up prompt again,
        and asks its own questions; the answers were to those of an earlier one."""
        if isinstance(data, Cancel) or data.request_id == FOLLOW_UP:
            self._take(data)

    async def _reply(self, data: Reply) -> None:
        if await self._turn.reply(data.request_id, data.answer):
            if data.request_id != FOLLOW_UP:
                self._waits(self._turn.waiting - {data.request_id})
        elif self.stop_signal.verdict is None:
            what = "a follow-up prompt came too late" if data.request_id == FOLLOW_UP else "nobody waits for an answer"
            await self._publisher.emit(_status(f"{what} ({data.request_id[:80]})"))

    def _waits(self, requests: Collection[str]) -> None:
        self._activity.waiting = bool(requests)
        self._progress.still_waiting(requests)

    @property
    def _queued_in_session(self) -> bool:
        """Whether an earlier turn of its session was waited for: it was given back, and this is a later delivery."""
        return self.task.session_id is not None and self._event.extensions.get(NATS_DELIVERIES, "1") != "1"

    async def _begin(self, record: Record, fenced: FencedOutput) -> None:
        number, limits = len(record.attempts), self.task.limits
        most = effective_limit(limits, "max_output_bytes", self._deps.settings)
        context = trace_context.active() or trace_context.of(self._event.extensions)
        self._publisher.begin(number, fenced, max_bytes=most, hold=self._lease, trace=context)
        await self._listener.kept(self._take_earlier)
        text = f"attempt {number} of {record.max_attempts}" if record.max_attempts > 1 else "started"
        detail = {"state": State.RUNNING.value, "attempt": number}
        await self._publisher.emit(Draft(type=ChunkType.STATUS, data=text, detail=detail))
        waited = outcomes.milliseconds((record.started_at or self._now) - record.submitted_at)
        if number == 1 and not self._queued_in_session:
            metrics.queued.observe(waited / 1000)
        fact = Started(
            execution_id=self._ids[1],
            project_id=self._ids[0],
            attempt=number,
            worker=self._deps.worker,
            model=record.model,
            queued_ms=waited,
        )
        key = f"started:{self._ids[1]}:{number}"
        await self._deps.records.publish_fact("dev.ocf.task.started.v1", fact, self._event, key=key)

    async def _verdict(self, record: Record) -> StopReason:
        """Let the agent work until somebody decides; then see that nothing of it is left."""
        self._publisher.on_limit(lambda error: self.stop_signal.decide(failed(Reason.OUTPUT_LIMIT, str(error))))
        self._turn.on_failure(lambda failure: self.stop_signal.decide(failed(failure.reason, failure.message)))
        self._turn.on_usage(self._progress.usage)
        bounds, clock = self._bounds(record), self._deps.clock
        watching = watchdog.watch(
            bounds, self.stop_signal, clock, self._activity, lambda: self._turn.roots, self._turn.overfull
        )
        helpers = [
            asyncio.create_task(watching),
            asyncio.create_task(self._progress.keep(lambda: self._publisher.last)),
            asyncio.create_task(self._progress.look_at(lambda: self._turn.prepared)),
        ]
        working = asyncio.create_task(self._turn.run(self._emit, record.usage))
        deciding = asyncio.create_task(self.stop_signal.wait())
        try:
            await asyncio.wait({working, deciding}, return_when=asyncio.FIRST_COMPLETED)
            if not deciding.done():
                self.stop_signal.decide(await self._judged(working, record))
        finally:
            self._turn.refuse("the execution has ended")
            await self._turn.kill(hurry=_hurries(self.stop_signal.verdict))
            # Once: the turn puts away what it has begun, and must not be disturbed in that.
            for task in (working, deciding, *self._replying):
                task.cancel()
            await asyncio.gather(working, deciding, *self._replying, return_exceptions=True)
            await cancel_and_wait(helpers)
        if left := await self._turn.kill():
            self._left = left
            log.error("agent processes would not die", action="run.processes_left", left=left, **self.ref.log_fields)
        if self._cancel_heard is not None:
            metrics.cancel_seconds.observe(clock.monotonic() - self._cancel_heard)
        return await self.stop_signal.wait()

    async def _judged(self, working: asyncio.Task[None], record: Record) -> StopReason:
        """What the agent's own end means."""
        try:
            await working
        except OutputLimit as error:
            return failed(Reason.OUTPUT_LIMIT, str(error))
        except AgentNotReady as error:
            # Nothing has run: it may begin anew where there is more of a processor to be had.
            if sum(attempt.ended == NOT_READY for attempt in record.attempts) < NOT_READY_ATTEMPTS - 1:
                return StopReason(None, error.message, given_back=NOT_READY)
            return failed(error.reason, f"{error.message}, in {NOT_READY_ATTEMPTS} attempts", error.stderr_tail)
        except OcfError as error:
            return outcome.of_error(error)
        except OSError as error:
            # A full disk, most likely: the run fails, and says so; the worker goes on.
            return failed(Reason.AGENT_ERROR, f"{error.strerror or type(error).__name__} ({error.filename or ''})")
        except Exception as error:
            # Our own mistake, which what this execution says has brought to light: it does so again with every attempt.
            kind = self._unforeseen(error)
            return failed(Reason.AGENT_ERROR, f"an error of the worker's own, {kind}; its log has more")
        return StopReason(Step.COMPLETE)

    async def _emit(self, draft: Draft) -> None:
        self._activity.note()
        draft = sayable(draft)
        self._progress.note(draft)
        self._waits(self._turn.waiting)
        self._turn.spans.said(draft)
        spoken = draft.type in (ChunkType.TEXT, ChunkType.REASONING, ChunkType.TOOL_CALL)
        if spoken and not self._spoken and self._began is not None:
            metrics.first_output.observe(self._deps.clock.monotonic() - self._began)
            self._spoken = True
        await self._publisher.emit(draft)

    def _bounds(self, record: Record) -> watchdog.Bounds:
        settings, limits = self._deps.settings, self.task.limits
        spent = self._now - (record.started_at or self._now)
        return watchdog.Bounds(
            wall_left=max(0.0, record.timeout_seconds - spent.total_seconds()),
            wall=record.timeout_seconds,
            silence=effective_limit(limits, "silence_seconds", settings),
            workspace=effective_limit(limits, "max_workspace_bytes", settings),
        )

    @property
    def _now(self) -> datetime:
        return self._deps.clock.now()

    async def _end(self, verdict: StopReason, taken: Step, number: int) -> None:
        await self._publisher.settle()  # the agent's last letters come before what is said about its end
        if missed := self._turn.follow_ups:
            await self._publisher.emit(_status(f"{missed} follow-up prompt{'s' * (missed > 1)} not taken up"))
        if taken is Step.CANCEL:
            self._cancelled.clear()  # that one is obeyed; another ends the wait for S3
        kept = await self._keep()
        # The same transition table that the record goes by.
        state = step(State.RUNNING, taken)
        if self._left:
            # Still the end: what SIGKILL does not end hangs in the kernel, perhaps for ever. But an end means that
            # nothing is left, unless it says so.
            rest = f"{self._left} of its processes could not be ended"
            verdict = replace(verdict, message=f"{verdict.message or state.value}; {rest}")
        said = Draft(type=ChunkType.STATUS, data=verdict.message or state.value, detail={"state": state.value})
        await self._publisher.emit(said)
        await self._until_kept(lambda: self._publisher.finish(_FLUSH_SECONDS))

        def decide(record: Record) -> tuple[Step, Outcome]:
            work = kept.work(self._turn.usage, self._turn.result)
            ending, last = outcome.ending(verdict, taken), self._publisher.last
            return taken, outcomes.compose(record, ending, self._now, work=work, last_sequence=last)

        await self._until_kept(lambda: self._deps.records.end(*self._ids, decide, self._event))
        log.info(
            "execution ended", action="execution.ended", state=state.value, reason=verdict.reason, **self.ref.log_fields
        )

    async def _keep(self) -> outcome.StoredArtifacts:
        try:
            wait = self._deps.settings.artifact_wait or None
            return await self._turn.keep(self._publisher.emit, wait, self._lease, self._given_up_waiting)
        except OcfError:
            raise
        except Exception as error:
            self._unforeseen(error)
            said = "the workspace could not be stored: an error of the worker's own"
            await self._publisher.emit(Draft(type=ChunkType.GAP, data=said, detail={"reason": "not_stored"}))
            return outcome.StoredArtifacts(artifacts="lost", message=said)

    async def _given_up_waiting(self) -> str:
        """Return why the end is to wait for S3 no longer, once somebody says so."""
        told = [asyncio.create_task(self._cancelled.wait()), asyncio.create_task(self.stop_signal.released.wait())]
        try:
            await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(told)
        return "cancelled while it waited" if self._cancelled.is_set() else "this worker is shutting down"

    def _unforeseen(self, error: Exception) -> str:
        """Log it; what kind of error it was. Not its message, which may quote what the agent has said."""
        kind, where = type(error).__name__, traceback.format_tb(error.__traceback__, -_FRAMES)
        log.error("a run failed unforeseen", action="run.unforeseen", error=kind, where=where, **self.ref.log_fields)
        return kind

    async def _until_kept(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Repeat until the bus takes it: an outage delays the end, and does not change it."""
        while not self._lease.lost.is_set():
            try:
                await attempt()
                return
            except NotYetKnown:
                return  # deleted meanwhile
            except Retry as error:
                log.warning("end not kept yet", action="run.end_not_kept", reason=str(error), **self.ref.log_fields)
                await self._deps.clock.sleep(1.0)
        raise Conflict("another worker has it")


def _status(said: str) -> Draft:
    return Draft(type=ChunkType.STATUS, data=said, detail={"phase": "agent"})


def _hurries(verdict: StopReason | None) -> bool:
    """Whether the agent must be gone at once: somebody waits for that, or it does harm for as long as it lives."""
    return verdict is None or verdict.step in (None, Step.CANCEL) or verdict.reason is Reason.OUTPUT_LIMIT
