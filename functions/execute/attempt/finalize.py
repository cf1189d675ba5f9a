"""The end of an attempt that ends its execution: artifacts, last output, terminal fact."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import structlog

from ocf.events import terminal_facts
from ocf.events.command_payloads import Execute, GitWorkspace
from ocf.events.envelope import Event
from ocf.events.errors import Conflict, OcfError
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Outcome
from ocf.events.lifecycle import EXECUTION, Reason, State, Step
from ocf.events.output import ChunkType, Draft, status_draft
from ocf.events.terminal_facts import PublishedResult
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.execute.attempt import outcome
from ocf.functions.execute.attempt.agent_run import AgentRun
from ocf.functions.execute.attempt.lease import Lease
from ocf.functions.execute.attempt.output_publisher import Publisher
from ocf.functions.execute.attempt.record_progress import Progress
from ocf.functions.execute.attempt.stop_signal import StopReason, StopSignal, failed
from ocf.functions.observability import tracing
from ocf.functions.publishing.archived_result import ended, publish_archived
from ocf.functions.publishing.branch import ResultRejected
from ocf.functions.publishing.publisher import Work
from ocf.functions.runtime.bootstrap import Dependencies

log = structlog.get_logger()

#: Maximum wait for the output's last acknowledgements.
FLUSH_SECONDS = 30.0
_FRAMES = 5


class AttemptEnd:
    """Writes the end of an execution.

    Args:
        task: the task.
        event: the command that started it.
        cancelled: set by a cancel command; `released`: set when this worker shuts down. Both end the wait for S3.
    """

    def __init__(
        self,
        deps: Dependencies,
        task: Execute,
        event: Event,
        ref: ExecutionRef,
        *,
        agent_run: AgentRun,
        publisher: Publisher,
        progress: Progress,
        lease: Lease,
        cancelled: asyncio.Event,
        released: asyncio.Event,
    ) -> None:
        self._deps = deps
        self._task = task
        self._event = event
        self._ref = ref
        self._agent_run = agent_run
        self._publisher = publisher
        self._progress = progress
        self._lease = lease
        self._cancelled = cancelled
        self._released = released

    async def write(self, stop_reason: StopReason, taken: Step, processes_left: int) -> None:
        """Store the artifacts, close the output, and record the end of the execution.

        Args:
            stop_reason: why the agent stopped.
            taken: the step of the life cycle that follows from it.
            processes_left: agent processes that could not be ended.

        Raises:
            Conflict: another worker owns the execution.
        """
        await self._publisher.flush_pending()  # the agent's last output precedes the messages about the end
        if missed := self._agent_run.follow_ups:
            await self._publisher.emit(
                status_draft(f"{missed} follow-up prompt{'s' * (missed > 1)} not taken up", "agent")
            )
        if taken is Step.CANCEL:
            self._cancelled.clear()  # this cancel is done; another one ends the wait for S3
        stored = await self._store_artifacts()
        published: PublishedResult | None = None
        if taken is Step.COMPLETE and self._task.result is not None:
            try:
                published = await self._publish(self._task, stored)
            except ResultRejected as error:
                taken, published = Step.FAIL, PublishedResult(message=str(error))
                stop_reason = replace(stop_reason, step=taken, message=str(error), reason=error.reason)
        # The same transition table as the record's.
        state = EXECUTION.step(State.RUNNING, taken)
        await self._deps.results.try_status(self._task, state)
        for draft in self._progress.unnamed_changes(stored.diff):
            await self._publisher.emit(draft)
        if processes_left:
            # The execution ends anyway: a process that survives SIGKILL hangs in the kernel, perhaps for ever. An end
            # implies that no process is left, so the message states the exception.
            rest = f"{processes_left} of its processes could not be ended"
            stop_reason = replace(stop_reason, message=f"{stop_reason.message or state.value}; {rest}")
        text = Draft(type=ChunkType.STATUS, data=stop_reason.message or state.value, detail={"state": state.value})
        await self._publisher.emit(text)
        with tracing.phase("flush output"):
            await self._lease.repeat(lambda: self._publisher.finish(FLUSH_SECONDS))

        def decide(record: Record) -> tuple[Step, Outcome]:
            work = replace(self._work(stored), published=published)
            ending, last = outcome.ending(stop_reason, taken), self._publisher.last
            return taken, terminal_facts.compose(record, ending, self._deps.clock.now(), work=work, last_sequence=last)

        with tracing.phase("record end"):
            await self._lease.repeat(
                lambda: self._deps.records.end(self._ref.project, self._ref.execution, decide, self._event)
            )
        log.info(
            "execution ended",
            action="execution.ended",
            state=state.value,
            reason=stop_reason.reason,
            **self._ref.log_fields,
        )

    def _work(self, stored: outcome.StoredArtifacts) -> terminal_facts.Work:
        work = stored.work(self._agent_run.usage, self._agent_run.result, self._agent_run.output)
        return replace(work, first_output_at=self._progress.first_output_at)

    async def _publish(self, task: Execute, stored: outcome.StoredArtifacts) -> PublishedResult:
        """Record the completed work, so that a successor of this worker can publish it, and publish it.

        Raises:
            ResultRejected: the forge or a rule refuses it; the work is in the archive.
            Conflict: another worker owns the execution.
        """
        source, base, prepared = self._agent_run.source, self._agent_run.base_commit, self._agent_run.prepared
        if not isinstance(source, GitWorkspace) or base is None or prepared is None:
            raise ResultRejected("the workspace is not a clone with a commit, so there is nothing to push to")

        def publishing(record: Record) -> Record | None:
            if record.terminal:
                return None
            ending, last = terminal_facts.Ending(Step.COMPLETE), self._publisher.last
            now = self._deps.clock.now()
            fact = terminal_facts.compose(record, ending, now, work=self._work(stored), last_sequence=last)
            return record.model_copy(update={"publishing": fact, "base_commit": base})

        await self._lease.repeat(lambda: self._deps.records.change(self._ref.project, self._ref.execution, publishing))

        async def say(text: str) -> None:
            await self._publisher.emit(status_draft(text, "result"))

        folder = self._deps.settings.state_dir / self._ref.folder / "result"
        work = Work(source, base, folder, prepared, stored.patch)
        with tracing.phase("publish result"):
            publishing_now = asyncio.ensure_future(self._deps.results.publish(task, self._agent_run.result, work, say))
            lost = asyncio.ensure_future(self._lease.lost.wait())
            try:
                await asyncio.wait({publishing_now, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not publishing_now.done():
                    raise Conflict("another worker has it")
                return publishing_now.result()
            finally:
                await cancel_and_wait([publishing_now, lost])

    async def _store_artifacts(self) -> outcome.StoredArtifacts:
        try:
            wait = self._deps.settings.artifact_wait or None
            return await self._agent_run.store_artifacts(self._publisher.emit, wait, self._lease, self._wait_given_up)
        except OcfError:
            raise
        except Exception as error:
            log_unexpected(error, self._ref)
            text = "the workspace could not be stored: internal error of the worker"
            await self._publisher.emit(Draft(type=ChunkType.GAP, data=text, detail={"reason": "not_stored"}))
            return outcome.StoredArtifacts(artifacts="lost", message=text)

    async def _wait_given_up(self) -> str:
        """Wait for a cancel or a shutdown of the worker, and return why the wait for S3 ends."""
        waiting = [asyncio.create_task(self._cancelled.wait()), asyncio.create_task(self._released.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(waiting)
        return "cancelled while it waited" if self._cancelled.is_set() else "this worker is shutting down"


async def end_archived(deps: Dependencies, task: Execute, record: Record, lease: Lease, event: Event) -> None:
    """Publish what a lost predecessor completed, from the archive, and end the execution.

    Args:
        deps: the dependencies.
        task: the task.
        record: its record, with `publishing`.
        lease: the lease of this attempt.
        event: the command that started it.

    Raises:
        Conflict: another worker owns the execution.
    """
    ref = ExecutionRef(task.project_id, task.execution_id)
    keeping = asyncio.create_task(lease.keep_alive(len(record.attempts)))
    try:
        folder = deps.settings.state_dir / ref.folder / "result"
        published = await publish_archived(task, record, deps.results, folder)
    finally:
        await cancel_and_wait([keeping])
    if lease.lost.is_set() or record.publishing is None:
        raise Conflict("another worker has it")
    step, fact = ended(record.publishing, published)
    await deps.results.try_status(task, EXECUTION.step(State.RUNNING, step))
    await deps.records.end(ref.project, ref.execution, lambda _: (step, fact), event)


def log_unexpected(error: Exception, ref: ExecutionRef) -> str:
    """Log an unexpected error and return its kind. The message is omitted: it may quote the agent's output."""
    kind, where = type(error).__name__, traceback.format_tb(error.__traceback__, -_FRAMES)
    log.error("run failed unexpectedly", action="run.unforeseen", error=kind, where=where, **ref.log_fields)
    return kind


def unexpected(error: Exception, ref: ExecutionRef) -> StopReason:
    """Log an unexpected error and return the stop reason that follows from it."""
    kind = log_unexpected(error, ref)
    return failed(Reason.AGENT_ERROR, f"internal error of the worker ({kind}); see its log")


async def ending_on_error(work: Coroutine[Any, Any, None], stop_signal: StopSignal, ref: ExecutionRef) -> None:
    """Do `work`; an unexpected error ends the execution, which must not go on without it."""
    try:
        await work
    except Exception as error:
        stop_signal.decide(unexpected(error, ref))
