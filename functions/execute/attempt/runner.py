"""One execution on this worker: lease, attempt in the record, agent run, terminal fact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import structlog

from ocf.events import terminal_facts, trace_context
from ocf.events.command_payloads import Execute
from ocf.events.command_publisher import NATS_DELIVERIES
from ocf.events.envelope import Event
from ocf.events.errors import Conflict, NotYetKnown, OcfError, Retry
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Started
from ocf.events.lifecycle import EXECUTION, AttemptState, AttemptStep, Reason, State, Step
from ocf.events.output import ChunkType, Draft
from ocf.functions import workspace
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.core.fencing_token import FencedOutput, acquire_fence
from ocf.functions.core.lease_lookup import RECHECK_SECONDS, is_leased
from ocf.functions.core.session_store import Sessions
from ocf.functions.core.task_limits import effective_limit
from ocf.functions.execute.attempt import outcome, watchdog
from ocf.functions.execute.attempt.agent_run import AgentRun
from ocf.functions.execute.attempt.command_listener import POLL_SECONDS, CommandHandler, CommandListener
from ocf.functions.execute.attempt.finalize import FLUSH_SECONDS, AttemptEnd, end_archived, ending_on_error, unexpected
from ocf.functions.execute.attempt.lease import Lease
from ocf.functions.execute.attempt.output_publisher import OutputLimit, Publisher, without_lone_surrogates
from ocf.functions.execute.attempt.record_progress import Progress
from ocf.functions.execute.attempt.stop_signal import Released, StopReason, StopSignal, failed
from ocf.functions.execute.sandbox.process import AgentNotReady
from ocf.functions.observability import metrics
from ocf.functions.runtime.bootstrap import Dependencies

log = structlog.get_logger()

#: Attempts that may end before OpenCode is ready, which happens on an overloaded machine. After these the execution
#: fails.
NOT_READY_ATTEMPTS = 5

#: Makes the agent's side of an attempt.
MakeAgentRun = Callable[[Execute, watchdog.Activity], AgentRun]


class Runner:
    """Runs one execution, once. `stop_signal` ends it from outside."""

    def __init__(
        self,
        task: Execute,
        event: Event,
        *,
        deps: Dependencies,
        make_agent_run: MakeAgentRun,
        poll_every: float = POLL_SECONDS,
    ) -> None:
        self.task = task
        self.ref = ExecutionRef(task.project_id, task.execution_id)
        self.stop_signal = StopSignal()
        self._deps = deps
        self._event = event
        self._ids = (task.project_id, task.execution_id)
        self._activity = watchdog.Activity(deps.clock)
        self._agent_run = make_agent_run(task, self._activity)
        self._progress = Progress(deps.records, deps.clock, *self._ids)
        self._publisher = Publisher(
            deps.bus, deps.clock, self._agent_run.redactor, project=self._ids[0], execution=self._ids[1]
        )
        self._listener = CommandListener(deps.bus, deps.clock, *self._ids, poll_every=poll_every)
        self._lease = Lease(deps.executions, deps.clock, *self._ids, worker=deps.worker, reclaim=self._reclaim)
        self._began: float | None = None
        self._first_output_seen, self._processes_left = False, 0
        self._commands = CommandHandler(
            self._agent_run, self.stop_signal, self._publisher, self._progress, self._activity, deps.clock
        )

    async def run(self) -> None:
        """Acquire the lease, run an attempt, and end the execution.

        Raises:
            Conflict: another worker owns the execution, or took it over.
            Released: this worker released the execution.
        """
        record = await self._deps.records.require(*self._ids)
        if record.attempts and record.attempts[-1].ended is None:
            await self._require_unowned(record)
        await self._lease.acquire(len(record.attempts) + 1)
        try:
            fenced = await acquire_fence(self._deps.bus, *self._ids)
            record = await self._start(fenced)
            structlog.contextvars.bind_contextvars(attempt=len(record.attempts))
            if record.publishing is not None and not record.terminal:
                await end_archived(self._deps, self.task, record, self._lease, self._event)
            elif not record.terminal:
                await self._attempt(record, fenced)
            await self._leave_session()
        finally:
            await workspace.discard_tree(self._deps.settings.state_dir / self.ref.folder)
            if not self._lease.lost.is_set():
                with suppress(Retry):  # the lease expires by itself within seconds
                    await self._lease.release()

    async def _require_unowned(self, seen: Record) -> None:
        """Check that no live worker runs the open attempt, even if its lease expired during a NATS outage.

        Raises:
            Conflict: another worker runs the attempt.
        """
        if not await is_leased(self._deps.executions, self.ref):
            await self._deps.clock.sleep(RECHECK_SECONDS)
        record = await self._deps.records.require(*self._ids)
        if record.updated_at != seen.updated_at or await is_leased(self._deps.executions, self.ref):
            raise Conflict("another worker has it")

    async def _reclaim(self, attempt: int) -> bool:
        """Return whether the execution still belongs to `attempt`.

        The write invalidates concurrent takeover decisions, which compare the record's update time.
        """

        def touch(record: Record) -> Record | None:
            return record.model_copy() if not record.terminal and len(record.attempts) == attempt else None

        record = await self._deps.records.change(*self._ids, touch)
        mine = not record.terminal and len(record.attempts) == attempt
        if mine and self._began is not None:
            # A concurrent takeover may have fenced the output before it saw the record change.
            self._publisher.fence(await acquire_fence(self._deps.bus, *self._ids))
        return mine

    async def _leave_session(self) -> None:
        """Remove the execution from its session's queue. If this fails, the next execution detects it itself."""
        if self.task.session_id is None:
            return
        with suppress(NotYetKnown):  # the session was destroyed
            sessions = Sessions(self._deps.sessions, self._deps.clock)
            await sessions.leave(self.task.project_id, self.task.session_id, self.task.execution_id)

    async def _start(self, fenced: FencedOutput) -> Record:
        """Record a new attempt, or end the execution when it was cancelled or has no attempts left."""
        worker, now = self._deps.worker, self._deps.clock.now()

        def started(record: Record) -> Record | None:
            if record.terminal:
                return None
            record = record.model_copy(update={"last_sequence": fenced.last})
            record = record.end_attempt(AttemptStep.LOSE_WORKER, now)
            if record.publishing is not None:  # the agent is done: a predecessor was lost while it pushed the result
                return record.begin_attempt(worker, now)
            if record.cancel_requested:
                ending = terminal_facts.Ending(Step.CANCEL, record.cancel_why or "", requested_by=record.cancel_by)
                fact = terminal_facts.compose(record, ending, now)
                return self._deps.records.apply_terminal_step(record, ending.step, fact, cause=self._event)
            if record.attempts and record.attempts_spent >= record.max_attempts:
                lost = terminal_facts.compose(record, terminal_facts.worker_lost(record), now)
                return self._deps.records.apply_terminal_step(record, Step.FAIL, lost, cause=self._event)
            changes = {
                "state": EXECUTION.step(record.state, Step.START),
                "started_at": record.started_at or now,
                "model": self._agent_run.model_name or record.model,
                "waiting_for": None,
            }
            return record.begin_attempt(worker, now).model_copy(update=changes)

        record = await self._deps.records.change(*self._ids, started)
        return await self._deps.records.publish_outbox(record)

    async def _attempt(self, record: Record, fenced: FencedOutput) -> None:
        """Run one attempt until it has ended and its output is stored. Chunks follow those that `fenced` counts."""
        number = self._agent_run.attempt = len(record.attempts)
        self._began = self._deps.clock.monotonic()
        async with self._listener.listen() as commands:
            background = [
                asyncio.create_task(self._lease.keep_alive(number)),
                asyncio.create_task(self._stop_when_lost()),
            ]
            try:
                await self._begin(record, fenced)
                take = self._commands.carry_out
                for reading in (self._listener.follow(commands, take), self._listener.poll(take)):
                    background.append(asyncio.create_task(ending_on_error(reading, self.stop_signal, self.ref)))
                stop_reason = await self._run_agent(record)
                if stop_reason.step is None:
                    raise await self._release(stop_reason)
                end = AttemptEnd(
                    self._deps,
                    self.task,
                    self._event,
                    self.ref,
                    agent_run=self._agent_run,
                    publisher=self._publisher,
                    progress=self._progress,
                    lease=self._lease,
                    cancelled=self._commands.cancelled,
                    released=self.stop_signal.released,
                )
                await end.write(stop_reason, stop_reason.step, self._processes_left)
            finally:
                await cancel_and_wait(background)
                self._publisher.close()
                # Released and lost attempts count too: their output was published.
                metrics.output_bytes.inc(self._publisher.bytes)
                await self._agent_run.close()

    async def _release(self, stop_reason: StopReason) -> OcfError:
        if self._lease.lost.is_set():
            return Conflict("another worker has it")
        await self._publisher.finish(FLUSH_SECONDS)

        def ended(record: Record) -> Record:
            changes = {} if record.terminal else {"usage": self._agent_run.usage}  # with the calls that were cut
            return record.end_attempt(stop_reason.attempt_step, self._now).model_copy(update=changes)

        await self._deps.records.change(*self._ids, ended)
        return Released(stop_reason.message)

    async def _stop_when_lost(self) -> None:
        await self._lease.lost.wait()
        self.stop_signal.decide(StopReason(None, "the lease is lost"))

    @property
    def _queued_in_session(self) -> bool:
        """Return whether the execution waited for an earlier one of its session: this is then a redelivery."""
        return self.task.session_id is not None and self._event.extensions.get(NATS_DELIVERIES, "1") != "1"

    async def _begin(self, record: Record, fenced: FencedOutput) -> None:
        number, most = len(record.attempts), effective_limit(self.task.limits, "max_output_bytes", self._deps.settings)
        context = trace_context.active() or trace_context.of(self._event.extensions)
        self._publisher.begin(number, fenced, max_bytes=most, ownership=self._lease, trace=context)
        # An attempt that ends here is spent, with no agent started.
        await self._lease.repeat(lambda: self._listener.catch_up(self._commands.carry_out_earlier))
        text = f"attempt {number} of {record.max_attempts}" if record.max_attempts > 1 else "started"
        detail = {"state": State.RUNNING.value, "attempt": number}
        await self._publisher.emit(Draft(type=ChunkType.STATUS, data=text, detail=detail))
        waited = terminal_facts.milliseconds((record.started_at or self._now) - record.submitted_at)
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
        publish, key = self._deps.records.publish_fact, f"started:{self._ids[1]}:{number}"
        await self._lease.repeat(lambda: publish("dev.ocf.task.started.v1", fact, self._event, key=key))

    async def _run_agent(self, record: Record) -> StopReason:
        """Run the agent until a stop reason is decided, then end all of its processes."""
        self._publisher.on_limit(lambda error: self.stop_signal.decide(failed(Reason.OUTPUT_LIMIT, str(error))))
        self._agent_run.on_failure(lambda failure: self.stop_signal.decide(failed(failure.reason, failure.message)))
        self._agent_run.on_over(self.stop_signal.decide)
        self._agent_run.answers.on_reply = self._commands.reply
        self._agent_run.on_usage(self._progress.usage)
        bounds, clock = self._bounds(record), self._deps.clock
        watching = watchdog.watch(
            bounds,
            self.stop_signal,
            clock,
            self._activity,
            lambda: self._agent_run.roots,
            self._agent_run.exceeded_disk_limit,
        )
        background = [
            asyncio.create_task(ending_on_error(watching, self.stop_signal, self.ref)),
            asyncio.create_task(self._progress.write_changes(lambda: self._publisher.last)),
            asyncio.create_task(self._progress.track_files(lambda: self._agent_run.prepared, self._emit_found)),
            asyncio.create_task(self._deps.results.try_status(self.task, State.RUNNING)),
        ]
        working = asyncio.create_task(self._agent_run.run(self._emit, record.usage))
        deciding = asyncio.create_task(self.stop_signal.wait())
        try:
            await asyncio.wait({working, deciding}, return_when=asyncio.FIRST_COMPLETED)
            if not deciding.done():
                self.stop_signal.decide(await self._stop_reason_of(working, record))
        finally:
            self._agent_run.refuse("the execution has ended")
            await self._agent_run.kill(hurry=_must_stop_at_once(self.stop_signal.stop_reason))
            # Cancelled only once: the agent run cleans up in between and must not be interrupted.
            for task in (working, deciding, *self._commands.replying):
                task.cancel()
            await asyncio.gather(working, deciding, *self._commands.replying, return_exceptions=True)
            await cancel_and_wait(background)
        if left := await self._agent_run.kill():
            self._processes_left = left
            log.error("agent processes would not die", action="run.processes_left", left=left, **self.ref.log_fields)
        if (since := self._commands.cancel_received_at) is not None:
            metrics.cancel_seconds.observe(clock.monotonic() - since)
        return await self.stop_signal.wait()

    async def _stop_reason_of(self, working: asyncio.Task[None], record: Record) -> StopReason:
        """Map the agent's own end to a stop reason."""
        try:
            await working
        except OutputLimit as error:
            return failed(Reason.OUTPUT_LIMIT, str(error))
        except AgentNotReady as error:
            # The agent has done nothing yet, so another attempt may start where more CPU is available.
            if sum(attempt.ended == AttemptState.NOT_READY for attempt in record.attempts) < NOT_READY_ATTEMPTS - 1:
                return StopReason(None, error.message, attempt_step=AttemptStep.NOT_READY)
            return failed(error.reason, f"{error.message}, in {NOT_READY_ATTEMPTS} attempts", error.stderr_tail)
        except OcfError as error:
            return outcome.stop_reason_of(error)
        except OSError as error:
            # Most likely a full disk. The run fails with the reason; the worker goes on.
            return failed(Reason.AGENT_ERROR, f"{error.strerror or type(error).__name__} ({error.filename or ''})")
        except Exception as error:
            # A bug of ours, triggered by this execution's input. Every attempt would trigger it again.
            return unexpected(error, self.ref)
        return StopReason(Step.COMPLETE)

    async def _emit(self, draft: Draft) -> None:
        self._activity.note()
        draft = without_lone_surrogates(draft)
        self._progress.note(draft)
        self._commands.set_waiting(self._agent_run.waiting)
        self._agent_run.spans.on_draft(draft)
        if draft.type is ChunkType.TEXT and not self._first_output_seen and self._began is not None:
            metrics.first_output.observe(self._deps.clock.monotonic() - self._began)
            self._first_output_seen = True
        await self._publisher.emit(draft)

    async def _emit_found(self, draft: Draft) -> None:
        with suppress(OutputLimit):  # the publisher's listener ends the run
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


def _must_stop_at_once(stop_reason: StopReason | None) -> bool:
    """Return whether to end the agent at once: on cancel or shutdown, or when it still does harm."""
    return stop_reason is None or stop_reason.step in (None, Step.CANCEL) or stop_reason.reason is Reason.OUTPUT_LIMIT
