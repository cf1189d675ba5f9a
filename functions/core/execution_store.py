"""Execution records: compare-and-set changes, and facts that are published exactly once.

A terminal fact is first written to the record's outbox, then published. After a crash, any function that finds the fact
in the outbox publishes it again; the subject accepts only one message.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import structlog
from pydantic import ValidationError

from ocf.events import terminal_facts, trace_context
from ocf.events.base_model import Model
from ocf.events.command_payloads import CommentEnd
from ocf.events.envelope import Event, field_errors, new_event
from ocf.events.errors import Conflict, DeadLetter, NotYetKnown, TooLarge, Unreadable
from ocf.events.event_types import TYPES
from ocf.events.execution_record import OutboxEntry, Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Failed, Outcome, Rejected
from ocf.events.lifecycle import EXECUTION, AttemptStep, Reason, State, Step
from ocf.events.ports import Bucket, Bus, Clock, Entry, ObjectStore
from ocf.functions.core import compare_and_set
from ocf.functions.core.evicted_executions import EndedExecutions
from ocf.functions.core.open_executions import OpenExecutions
from ocf.functions.observability import metrics

log = structlog.get_logger()

#: Records that are read at once.
_BATCH = 64
#: Publishing attempts of a fact: unchanged, then shortened to these shares of its budgets.
_SHARES = (None, 0.25, 0.0)


class Records:
    """The bucket `ocf_executions` and the facts of its records. `source` is the CloudEvents source of these facts."""

    def __init__(
        self, bucket: Bucket, bus: Bus, clock: Clock, source: str, store: ObjectStore, open_keys: Bucket
    ) -> None:
        self._bucket = bucket
        #: Those that may be open.
        self.open = OpenExecutions(open_keys)
        #: Those that have left the bucket.
        self.ended = EndedExecutions(bucket, store)
        self._bus = bus
        self._clock = clock
        self._source = source

    async def get(self, project: str, execution: str) -> Record | None:
        """Return the record, or None. Raises Unreadable if this release cannot parse it."""
        entry = await self._bucket.get(ExecutionRef(project, execution).record_key)
        return None if entry is None else _read(entry.key, entry.value)

    async def find(self, project: str, execution: str) -> Record | None:
        """Return the record, also of an ended execution that has left the bucket; None if there is none.

        Of an execution that is being deleted, the archive may still have the record.
        """
        return await self.get(project, execution) or await self.ended.record(ExecutionRef(project, execution))

    async def require(self, project: str, execution: str) -> Record:
        """Return the record. Raises NotYetKnown if it does not exist."""
        record = await self.get(project, execution)
        if record is None:
            raise NotYetKnown(f"execution {execution} of project {project} is not known")
        return record

    async def create(self, record: Record) -> None:
        """Store a new record. Raises Conflict if there is one."""
        fitting = terminal_facts.fit_record(record)
        await self._bucket.create(record.ref.record_key, compare_and_set.dump(fitting))
        if record.terminal:
            metrics.count_end(record)

    async def change(self, project: str, execution: str, decide: Callable[[Record], Record | None]) -> Record:
        """Change a record by compare-and-set; count its end in the metrics.

        Args:
            project: The project.
            execution: The execution.
            decide: Returns the changed record, or None for no change. Runs again after a conflict.

        Returns:
            The latest record.

        Raises:
            NotYetKnown: There is no record.
            Conflict: Twenty attempts lost to concurrent changes.
            Unreadable: This release cannot parse the record.
        """
        key, name = ExecutionRef(project, execution).record_key, f"execution {execution} of project {project}"
        ends = False

        def with_metrics(record: Record) -> Record | None:
            nonlocal ends
            changed = decide(record)
            ends = changed is not None and changed.terminal and not record.terminal
            return changed

        try:
            newest = await compare_and_set.change(self._bucket, key, Record, with_metrics, self._stamped, name=name)
        except ValidationError as error:
            raise _unreadable(key, error) from None
        if ends:
            # Every terminal step passes here, and compare-and-set lets only one succeed: each end is counted once.
            metrics.count_end(newest)
            trace_context.link(newest.traceparent)
        return newest

    def _stamped(self, record: Record) -> Record:
        return terminal_facts.fit_record(record.model_copy(update={"updated_at": self._clock.now()}))

    async def end(
        self, project: str, execution: str, decide: Callable[[Record], tuple[Step, Outcome] | None], cause: Event | None
    ) -> Record:
        """Take a terminal step unless the execution has ended, and publish the terminal fact."""

        def ended(record: Record) -> Record | None:
            decided = None if record.terminal else decide(record)
            return None if decided is None else self.apply_terminal_step(record, *decided, cause=cause)

        return await self.publish_outbox(await self.change(project, execution, ended))

    def apply_terminal_step(
        self, record: Record, taken: Step, outcome: Outcome, *, cause: Event | None = None
    ) -> Record:
        """Return `record` after a terminal step, with the fact (shortened if necessary) in its outbox."""
        now, outcome = self._clock.now(), terminal_facts.fit(outcome)
        state = EXECUTION.step(record.state, taken)
        lost = isinstance(outcome, Failed) and outcome.reason is Reason.WORKER_LOST
        facts: dict[str, Model] = {f"dev.ocf.task.{state.value}.v1": outcome}
        if record.reply_to is not None or record.status_open is not None:
            comment = CommentEnd(project_id=record.project_id, execution_id=record.execution_id)
            facts["dev.ocf.task.comment.v1"] = comment
        record = record.end_attempt(AttemptStep.LOSE_WORKER if lost else AttemptStep(taken.value), now)
        return record.model_copy(
            update={
                "state": state,
                "reason": outcome.reason if isinstance(outcome, Failed) else None,
                "message": getattr(outcome, "message", None) or getattr(outcome, "why", None),
                "ended_at": now,
                "usage": outcome.usage,
                "diff": outcome.diff,
                "result": outcome.result,
                "result_bytes": outcome.result_bytes,
                "output": outcome.output,
                "artifacts": outcome.artifacts,
                "artifacts_message": outcome.artifacts_message,
                "waited_ms": outcome.waited_ms,
                "first_output_ms": outcome.first_output_ms,
                "last_sequence": max(record.last_sequence, outcome.last_sequence),
                "waiting_for": None,
                "commit": outcome.commit,
                "branch": outcome.branch,
                "pull_request": outcome.pull_request,
                "result_message": outcome.result_message,
                "rerun": outcome.rerun,
                # A refused result can be pushed again.
                "publishing": None if state is State.COMPLETED else record.publishing,
                "outbox": [
                    *record.outbox,
                    *(self._outbox_entry(type_, data, now, cause, record) for type_, data in facts.items()),
                ],
            }
        )

    def with_fact(self, record: Record, type_: str, data: Model, cause: Event | None) -> Record:
        """Return `record` with a fact in its outbox. Store it, then call `publish_outbox`."""
        trace_context.link(record.traceparent)
        entry = self._outbox_entry(type_, data, self._clock.now(), cause, record)
        return record.model_copy(update={"outbox": [*record.outbox, entry]})

    def _outbox_entry(self, type_: str, data: Model, now: datetime, cause: Event | None, record: Record) -> OutboxEntry:
        extensions = {"causationid": cause.id if cause else record.command_id}
        near = trace_context.active() or (trace_context.of(cause.extensions) if cause else {})
        extensions |= trace_context.within(record.traceparent, near)
        return OutboxEntry(
            type=type_,
            id=str(uuid.uuid4()),
            time=now,
            data=data.model_dump_json(by_alias=True, exclude_none=True),
            extensions=extensions,
        )

    async def publish_outbox(self, record: Record) -> Record:
        """Publish the facts in the outbox, then remove them from it; return the latest record."""
        if not record.outbox:
            return record
        for entry in record.outbox:
            await self._publish(entry, record)
        published = {entry.id for entry in record.outbox}

        def without(newest: Record) -> Record | None:
            left = [entry for entry in newest.outbox if entry.id not in published]
            return None if len(left) == len(newest.outbox) else newest.model_copy(update={"outbox": left})

        return await self.change(record.project_id, record.execution_id, without)

    async def _publish(self, entry: OutboxEntry, record: Record) -> None:
        """Publish a fact of the outbox; drop it if the bus can never accept it, so that it is not retried for ever."""
        ref = record.ref
        for share in _SHARES:
            try:
                fitting = entry if share is None else terminal_facts.fit_outbox(entry, share)
                await _publish_once(
                    self._bus, self._outbox_event(fitting, record), record.project_id, ref.execution, once=True
                )
            except TooLarge:
                continue
            except (DeadLetter, ValidationError) as error:
                reason = str(error) if isinstance(error, DeadLetter) else type(error).__name__
                log.error("fact dropped", action="records.dropped", type=entry.type, reason=reason, **ref.log_fields)
            return
        log.error("fact dropped", action="records.dropped", type=entry.type, reason="too large", **ref.log_fields)

    def _outbox_event(self, entry: OutboxEntry, record: Record) -> Event:
        entity = record.execution_id
        return Event(
            type=entry.type,
            source=self._source,
            id=entry.id,
            time=entry.time,
            data=entry.data.encode(),
            subject=entity,
            extensions={"correlationid": entity, "partitionkey": entity, **entry.extensions},
        )

    async def reject(self, fact: Rejected, cause: Event | None, *, key: str) -> None:
        """Publish `rejected`, once per `key` (within two minutes).

        The ids in `fact` come from the subject of the command, and need not be valid.
        """
        fact = fact.model_copy(update={"errors": terminal_facts.fit_errors(fact.errors)})
        event = new_event("dev.ocf.task.rejected.v1", fact, source=self._source, time=self._clock.now(), cause=cause)
        subject = f"ocf.evt.{fact.project_id}.{fact.execution_id}.rejected"
        await self._bus.publish(subject, event.data, {**event.headers(), "Nats-Msg-Id": key})

    async def publish_fact(
        self,
        type_: str,
        data: Model,
        cause: Event | None,
        *,
        key: str | None = None,
        once: bool = False,
        of: Record | None = None,
    ) -> None:
        """Publish a fact about one execution or session.

        Args:
            type_: Type of the event.
            data: The fact.
            cause: The event that caused the fact.
            key: Message id; a repeated publish with the same key is ignored for two minutes.
            once: Publish only if the subject has no message; takes precedence over `key`.
            of: The execution's record, if `cause` may belong to another trace than the execution.
        """
        event = new_event(type_, data, source=self._source, time=self._clock.now(), cause=cause)
        if of is not None:
            trace_context.link(of.traceparent)
            event = event.with_extensions(**trace_context.within(of.traceparent, trace_context.of(event.extensions)))
        entity = str(getattr(data, "execution_id", None) or getattr(data, "session_id", ""))
        subject = TYPES[type_].subject(str(getattr(data, "project_id", "")), entity)
        # A fact with `once` may have been purged since; a message id would then suppress the new one.
        identity = {} if once or key is None else {"Nats-Msg-Id": key}
        try:
            await self._bus.publish(subject, event.data, {**event.headers(), **identity}, only_first=once)
        except Conflict:
            return  # published before

    async def all(self, unreadable: set[str] | None = None, *, project: str = "*") -> AsyncIterator[Record]:
        """Yield the records of all projects or of one.

        Skips unreadable records: logs them, and adds their keys to `unreadable`.
        """
        async for entry in self._bucket.entries(f"{project}.*"):
            if (record := _readable(entry, unreadable)) is not None:
                yield record

    async def maybe_open(self, unreadable: set[str] | None = None, *, project: str = "*") -> AsyncIterator[Record]:
        """Yield the records with a key in `ocf_open`, some of which have ended; otherwise as `all`."""
        refs = [ref async for ref in self.open.refs(project)]
        for start in range(0, len(refs), _BATCH):
            batch = refs[start : start + _BATCH]
            entries = await asyncio.gather(*(self._bucket.get(ref.record_key) for ref in batch))
            for ref, entry in zip(batch, entries, strict=True):
                if entry is None:
                    await self.open.remove(ref)  # deleted
                elif (record := _readable(entry, unreadable)) is not None:
                    yield record


def _readable(entry: Entry, unreadable: set[str] | None) -> Record | None:
    try:
        return _read(entry.key, entry.value)
    except Unreadable as error:
        log.error("unreadable record", action="records.unreadable", key=entry.key, reason=str(error))
        if unreadable is not None:
            unreadable.add(entry.key)
        return None


def _read(key: str, value: bytes) -> Record:
    try:
        record = Record.read(value)
    except ValidationError as error:
        raise _unreadable(key, error) from None
    if record.ref.record_key != key:
        # A caller would act on the other execution.
        raise Unreadable(f"the record {key} names another execution")
    return record


def _unreadable(key: str, error: ValidationError) -> Unreadable:
    """Return an error that names the invalid fields, never their values."""
    wrong = ", ".join(dict.fromkeys(one.field for one in field_errors(error)[:20]))
    return Unreadable(f"the record {key} cannot be read: {wrong}")


async def _publish_once(bus: Bus, event: Event, project: str, entity: str, *, once: bool) -> None:
    """Publish a fact; with `once`, an existing fact on the subject is kept."""
    headers = {**event.headers(), "Nats-Msg-Id": event.id}
    try:
        await bus.publish(event.spec.subject(project, entity), event.data, headers, only_first=once)
    except Conflict:
        return  # published before, by an earlier attempt or by another function
