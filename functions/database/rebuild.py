"""Rebuild of the history from the archive, the records and the stream; harmless beside a running consumer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from dataclasses import dataclass

import structlog

from ocf.events import subjects
from ocf.events.archive_manifest import EVENTS, archived_record
from ocf.events.envelope import Event, decode, of_line
from ocf.events.errors import DeadLetter, InvalidEvent, NotYetKnown
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bus, Message, ObjectStore
from ocf.functions.core.execution_store import Records
from ocf.functions.core.session_store import Sessions
from ocf.functions.database.store import History

log = structlog.get_logger()

_MANIFEST = "/manifest.json"
_BATCH = 200


@dataclass
class Rebuilt:
    """Numbers of executions written from the archive and from records, of facts read, and of executions left out."""

    archived: int = 0
    records: int = 0
    facts: int = 0
    unreadable: int = 0


async def rebuild(bus: Bus, store: ObjectStore, records: Records, sessions: Sessions, history: History) -> Rebuilt:
    """Write the rows of every session and execution that archive, records or stream hold; remove deleted ones.

    Raises:
        Unavailable: A server does not answer; repeat the call.
    """
    deleted = {_ref(message) async for message in bus.history(subjects.EVENTS, "ocf.evt.*.*.cleaned")}
    done = Rebuilt()
    async for info in store.list(""):
        parts = info.key.split("/")
        if not info.key.endswith(_MANIFEST) or len(parts) != 3 or ExecutionRef(*parts[:2]) in deleted:
            continue
        try:
            await history.save(*await _archived(store, ExecutionRef(*parts[:2])))
            done.archived += 1
        except (ArithmeticError, DeadLetter, NotYetKnown) as error:
            done.unreadable += 1
            log.error("archive not readable", action="rebuild.unreadable", key=info.key, reason=type(error).__name__)
    done.records = await from_records(records, history, deleted)
    async for batch in _facts(bus):
        await history.save_events(batch)
        done.facts += len(batch)
    for ref in deleted:
        await history.remove(ref)
    await from_sessions(sessions, history)
    return done


async def from_sessions(sessions: Sessions, history: History) -> None:
    """Write the row of every session that has a record."""
    async for session in sessions.all():
        await history.save_session(session)


async def from_records(records: Records, history: History, deleted: Set[ExecutionRef] = frozenset()) -> int:
    """Write the rows of every record except those of `deleted`; return their number."""
    count = 0
    async for record in records.all():
        ref = record.ref
        if ref in deleted:
            continue
        try:
            await history.save(record)
            count += 1
        except (DeadLetter, ArithmeticError) as error:
            log.error("no row", action="rebuild.refused", reason=type(error).__name__, **ref.log_fields)
    return count


async def _archived(store: ObjectStore, ref: ExecutionRef) -> tuple[Record, list[Event]]:
    """Return record and facts of an archived execution."""
    record = await archived_record(store, ref)
    if record is None:
        raise NotYetKnown(f"{ref} was deleted meanwhile")
    lines = (await store.get(ref.object_key(EVENTS))).splitlines()
    return record, [event for line in lines if (event := _fact(line)) is not None]


def _fact(line: bytes) -> Event | None:
    try:
        event = of_line(line)
        return event if event.spec.kind == "evt" else None
    except InvalidEvent:
        return None  # kept as it was; it became a dead letter


async def _facts(bus: Bus) -> AsyncIterator[list[tuple[ExecutionRef, Event]]]:
    batch: list[tuple[ExecutionRef, Event]] = []
    async for message in bus.history(subjects.EVENTS, "ocf.evt.*.*.*"):
        try:
            event = decode(message.headers, message.data)
            if event.spec.entity == "execution":
                batch.append((_ref(message), event))
        except InvalidEvent:
            continue  # it became a dead letter
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


def _ref(message: Message) -> ExecutionRef:
    parsed = subjects.parse(message.subject)
    return ExecutionRef(parsed.project, parsed.entity)
