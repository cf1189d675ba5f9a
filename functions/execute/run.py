"""One attempt of one execution, from the lease to its terminal fact."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import structlog

from events import subjects
from events.envelope import Event, decode, parse
from events.errors import Conflict, NotYetKnown, OcfError, Retry
from events.facts import Started
from events.lifecycle import Reason, State, Step, step
from events.models import Cancel, Execute, Reply
from events.output import ChunkType, Draft, Usage
from events.record import Attempt, Record
from functions.common.output import last_sequence
from functions.execute import outcome, watchdog
from functions.execute.lease import Lease
from functions.execute.progress import Progress
from functions.execute.publisher import OutputLimit, Publisher
from functions.execute.shop import Shop
from functions.execute.turn import Turn
from functions.execute.verdict import HandedOn, Judge, Verdict, failed

log = structlog.get_logger()

_KEEP_SECONDS = 120.0


class Run:
    """One attempt. `judge` may be told to end it; `run` returns once it has ended and all of it is said."""

    def __init__(self, shop: Shop, task: Execute, event: Event) -> None:
        self.task = task
        self.judge = Judge()
        self.ended = asyncio.Event()
        self._shop = shop
        self._parts = shop.parts
        self._event = event
        self._ids = (task.project_id, task.execution_id)
        parts = shop.parts
        self._lease = Lease(parts.executions, parts.clock, *self._ids, worker=parts.worker)
        self._progress = Progress(parts.records, parts.clock, *self._ids)
        self._activity = watchdog.Activity(parts.clock)
        self._turn: Turn | None = None
        self._publisher: Publisher | None = None
        self.directory = parts.settings.state_dir / task.execution_id

    async def run(self) -> None:
        """Take the lease, run, end.

        Raises:
            Conflict: another worker owns it, or took it over.
            HandedOn: this worker gave it up.
        """
        record = await self._parts.records.require(*self._ids)
        await self._lease.acquire(len(record.attempts) + 1)
        try:
            record = await self._start()
            if not record.terminal:
                await self._attempt(record)
        finally:
            await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)
            if not self._lease.lost.is_set():
                with suppress(Retry):  # it expires by itself within seconds
                    await self._lease.release()
            self.ended.set()

    async def _start(self) -> Record:
        """Record the attempt, or end what has no attempt left."""
        worker, now = self._parts.worker, self._parts.clock.now()
        said = await last_sequence(self._parts.bus, *self._ids)

        def started(record: Record) -> Record | None:
            if record.terminal:
                return None
            record = record.model_copy(update={"last_sequence": said})
            attempts = outcome.closed(record.attempts, now, "worker_lost")
            if record.cancel_requested:
                fact = outcome.cancelled(record, now, record.cancel_why, record.cancel_by)
                return self._parts.records.ended(record, Step.CANCEL, fact, cause=self._event)
            if len(attempts) >= record.max_attempts and attempts:
                lost = outcome.worker_lost(record, now)
                return self._parts.records.ended(record, Step.FAIL, lost, cause=self._event)
            attempts.append(Attempt(number=len(attempts) + 1, worker=worker, started_at=now))
            changes = {
                "state": step(record.state, Step.START),
                "attempts": attempts,
                "started_at": record.started_at or now,
                "model": self._shop.model_name(self.task) or record.model,
                "waiting_for": None,
            }
            return record.model_copy(update=changes)

        record = await self._parts.records.change(*self._ids, started)
        return await self._parts.records.publish_outbox(record)

    async def _attempt(self, record: Record) -> None:
        attempt = len(record.attempts)
        self._turn = Turn(self._shop, self.task, self.directory, self._activity)
        self._publisher = Publisher(
            self._parts.bus,
            self._parts.clock,
            self._turn.redactor,
            project=self.task.project_id,
            execution=self.task.execution_id,
        )
        keeping = asyncio.create_task(self._lease.keep(attempt))
        losing = asyncio.create_task(self._when_lost())
        try:
            async with self._parts.bus.listen(
                subjects.command("cancel", *self._ids), subjects.command("reply", *self._ids)
            ) as heard:
                hearing = asyncio.create_task(self._hear(heard))
                try:
                    await self._run_and_end(record, attempt)
                finally:
                    hearing.cancel()
        finally:
            for task in (keeping, losing):
                task.cancel()
            self._publisher.close()
            await self._turn.close()

    async def _when_lost(self) -> None:
        await self._lease.lost.wait()
        self.judge.decide(Verdict(None, "the lease is lost"))

    async def _hear(self, messages: object) -> None:
        """Cancel and reply commands for this execution, straight from NATS: no hop in between."""
        async for message in messages:  # type: ignore[attr-defined]
            try:
                data = parse(decode(message.headers, message.data))
            except OcfError as error:
                log.info("command ignored", action="run.command_ignored", reason=str(error), **self._named)
                continue
            if isinstance(data, Cancel):
                self.judge.decide(Verdict(Step.CANCEL, data.why or "", requested_by=data.requested_by))
            elif isinstance(data, Reply) and self._turn is not None:
                await self._turn.reply(data.request_id, data.answer)
                self._progress.answered()
                self._activity.waiting = False

    @property
    def _named(self) -> dict[str, str]:
        return {"project_id": self.task.project_id, "execution_id": self.task.execution_id}

    async def _run_and_end(self, record: Record, attempt: int) -> None:
        assert self._turn is not None
        assert self._publisher is not None
        limits, settings = self.task.limits, self._parts.settings
        await self._publisher.begin(
            attempt, max_bytes=limits.max_output_bytes or settings.max_output_bytes, hold=self._lease, trace=self._trace
        )
        await self._say_started(record, attempt)
        watching = asyncio.create_task(
            watchdog.watch(self._bounds(record), self.judge, self._parts.clock, self._activity, self._roots)
        )
        progressing = asyncio.create_task(self._progress.keep(lambda: self._publisher.last if self._publisher else 0))
        self._turn.on_failure(lambda failure: self.judge.decide(failed(failure.reason, failure.message)))
        self._turn.on_usage(self._note_usage)
        try:
            verdict = await self._until_verdict()
            verdict = await self._stop_agent(verdict)
        finally:
            watching.cancel()
            progressing.cancel()
            await asyncio.gather(watching, progressing, return_exceptions=True)
        if verdict.step is None:
            raise Conflict("another worker has it") if self._lease.lost.is_set() else HandedOn(verdict.message)
        await self._end(verdict, attempt)

    async def _until_verdict(self) -> Verdict:
        assert self._turn is not None
        working = asyncio.create_task(self._turn.run(self._emit))
        deciding = asyncio.create_task(self.judge.wait())
        try:
            await asyncio.wait({working, deciding}, return_when=asyncio.FIRST_COMPLETED)
            if not deciding.done():
                self.judge.decide(await self._judged(working))
        finally:
            self._turn.refuse("the execution has ended")
            deciding.cancel()
            await self._turn.kill()
            working.cancel()
            await asyncio.gather(working, deciding, return_exceptions=True)
        assert self.judge.verdict is not None
        return self.judge.verdict

    async def _judged(self, working: asyncio.Task[None]) -> Verdict:
        """What the agent's own end means."""
        try:
            await working
        except OutputLimit as error:
            return failed(Reason.OUTPUT_LIMIT, str(error))
        except OcfError as error:
            return outcome.of_error(error)
        return Verdict(Step.COMPLETE)

    async def _stop_agent(self, verdict: Verdict) -> Verdict:
        """Make sure of it: nothing of the agent is left before anything is said about its end."""
        assert self._turn is not None
        left = await self._turn.kill()
        if left:
            log.error("agent processes would not die", action="run.processes_left", left=left, **self._named)
        return verdict

    async def _emit(self, draft: Draft) -> None:
        assert self._publisher is not None
        self._activity.note()
        self._activity.waiting = draft.type in (ChunkType.PERMISSION, ChunkType.QUESTION)
        self._progress.note(draft)
        await self._publisher.emit(draft)

    def _roots(self) -> tuple[Path, ...]:
        return self._turn.roots if self._turn is not None else ()

    def _note_usage(self, usage: Usage) -> None:
        self._progress.usage(usage)

    def _bounds(self, record: Record) -> watchdog.Bounds:
        settings, limits = self._parts.settings, self.task.limits
        spent = self._parts.clock.now() - (record.started_at or self._parts.clock.now())
        return watchdog.Bounds(
            wall_left=max(0.0, record.timeout_seconds - spent.total_seconds()),
            wall=record.timeout_seconds,
            silence=limits.silence_seconds or settings.silence_timeout,
            workspace=limits.max_workspace_bytes or settings.max_workspace_bytes,
        )

    @property
    def _trace(self) -> dict[str, str]:
        return {k: v for k, v in self._event.extensions.items() if k in ("traceparent", "tracestate")}

    async def _say_started(self, record: Record, attempt: int) -> None:
        assert self._publisher is not None
        detail = {"state": State.RUNNING.value, "attempt": attempt}
        text = f"attempt {attempt} of {record.max_attempts}" if record.max_attempts > 1 else "started"
        await self._publisher.emit(Draft(type=ChunkType.STATUS, data=text, detail=detail))
        fact = Started(
            execution_id=self.task.execution_id,
            project_id=self.task.project_id,
            attempt=attempt,
            worker=self._parts.worker,
            model=record.model,
            queued_ms=outcome.milliseconds((record.started_at or self._now) - record.submitted_at),
        )
        key = f"started:{self.task.execution_id}:{attempt}"
        await self._parts.records.say("dev.ocf.task.started.v1", fact, self._event, key=key)

    @property
    def _now(self) -> datetime:
        return self._parts.clock.now()

    async def _end(self, verdict: Verdict, attempt: int) -> None:
        assert self._turn is not None
        assert self._publisher is not None
        kept = await self._turn.keep(self._emit_quietly, _KEEP_SECONDS)
        step_taken = verdict.step
        assert step_taken is not None
        # The same transition table that the record goes by.
        state = step(State.RUNNING, step_taken)
        said = verdict.message or state.value
        await self._emit_quietly(Draft(type=ChunkType.STATUS, data=said, detail={"state": state.value}))
        await self._until_kept(lambda: self._publisher.finish(30.0) if self._publisher else asyncio.sleep(0))

        def decide(record: Record) -> tuple[Step, object]:
            assert self._publisher is not None
            assert self._turn is not None
            ending = outcome.Ending(verdict, attempt, self._now, self._publisher.last)
            return step_taken, outcome.fact(record, ending, self._turn.usage, self._turn.result, kept)

        await self._until_kept(lambda: self._parts.records.end(*self._ids, decide, self._event))  # type: ignore[arg-type]
        log.info("execution ended", action="execution.ended", state=state.value, reason=verdict.reason, **self._named)

    async def _emit_quietly(self, draft: Draft) -> None:
        """Say something about the end; the limit on output no longer counts."""
        assert self._publisher is not None
        await self._publisher.emit(draft)

    async def _until_kept(self, attempt: object) -> None:
        """Repeat until the bus takes it: an outage delays the end, and does not change it."""
        while not self._lease.lost.is_set():
            try:
                await attempt()  # type: ignore[operator]
                return
            except NotYetKnown:
                return  # deleted meanwhile
            except Retry as error:
                log.warning("end not kept yet", action="run.end_not_kept", reason=str(error), **self._named)
                await self._parts.clock.sleep(1.0)
        raise Conflict("another worker has it")


def leftovers(state_dir: Path, running: set[str]) -> list[Path]:
    """Directories of executions that this worker does not run (an earlier process died)."""
    if not state_dir.is_dir():
        return []
    return [path for path in state_dir.iterdir() if path.is_dir() and path.name not in running and len(path.name) == 36]
