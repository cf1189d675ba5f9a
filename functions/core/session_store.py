"""Session records: compare-and-set changes, the queue, and the schedule that destroys an idle session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import structlog
from pydantic import ValidationError

from ocf.events import subjects
from ocf.events.command_payloads import SessionDestroy
from ocf.events.envelope import new_event, timestamp
from ocf.events.errors import NotYetKnown
from ocf.events.execution_ref import SessionRef
from ocf.events.ports import Bucket, Bus, Clock
from ocf.events.session_record import Session
from ocf.functions.core import cleanup_schedules, compare_and_set
from ocf.functions.core.execution_store import Records

log = structlog.get_logger()

DESTROY = "dev.ocf.session.destroy.v1"
#: CloudEvents source of a scheduled destroy, which takes effect only if the session is idle and overdue.
EXPIRY = cleanup_schedules.SOURCE


class Sessions:
    """The bucket `ocf_sessions`."""

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock

    async def get(self, project: str, session: str) -> Session | None:
        """Return the record, or None."""
        entry = await self._bucket.get(SessionRef(project, session).record_key)
        return None if entry is None else Session.read(entry.value)

    async def all(self) -> AsyncIterator[Session]:
        """Yield every session that this release can read."""
        async for entry in self._bucket.entries("*.*"):
            try:
                yield Session.read(entry.value)
            except ValidationError as error:
                log.error("unreadable", action="sessions.unreadable", key=entry.key, errors=error.error_count())

    async def create(self, session: Session) -> None:
        """Store a new record. Raises Conflict if there is one."""
        await self._bucket.create(session.ref.record_key, compare_and_set.dump(session))

    async def change(self, project: str, session: str, decide: Callable[[Session], Session | None]) -> Session:
        """Change a record by compare-and-set, and extend its TTL; see `execution_store.Records.change`.

        Raises:
            NotYetKnown: There is no such session.
            Conflict: Twenty attempts lost to concurrent changes.
        """
        key, name = SessionRef(project, session).record_key, f"session {session} of project {project}"
        return await compare_and_set.change(self._bucket, key, Session, decide, self._stamped, name=name)

    def _stamped(self, session: Session) -> Session:
        now = self._clock.now()
        return session.model_copy(
            update={"updated_at": now, "expires_at": now + timedelta(seconds=session.ttl_seconds)}
        )

    async def delete(self, project: str, session: str) -> None:
        """Remove the record."""
        await self._bucket.delete(SessionRef(project, session).record_key)

    async def prune_queue(self, project: str, session: str, records: Records) -> Session:
        """Remove ended and deleted executions from the head of the queue; return the session.

        Raises:
            NotYetKnown: There is no such session.
        """
        found = await self.get(project, session)
        while found is not None and found.queue:
            head = await records.get(project, found.queue[0])
            if head is not None and not head.terminal:
                return found
            found = await self.leave(project, session, found.queue[0])
        if found is None:
            raise NotYetKnown(f"session {session} of project {project} is not known")
        return found

    async def join(self, project: str, session: str, execution: str) -> Session:
        """Add an execution to the queue; idempotent.

        Raises:
            NotYetKnown: There is no such session, or it is being destroyed.
        """

        def joined(found: Session) -> Session | None:
            if execution in found.queue:
                return None
            if not found.usable:
                # The destroy has already read the list of executions, and would miss a later one.
                raise NotYetKnown(f"session {session} of project {project} is being destroyed")
            known = found.executions if execution in found.executions else [*found.executions, execution]
            return found.model_copy(update={"queue": [*found.queue, execution], "executions": known})

        return await self.change(project, session, joined)

    async def forget(self, project: str, session: str, execution: str) -> None:
        """Remove a deleted execution from the record. Raises NotYetKnown if there is no such session."""

        def without(found: Session) -> Session | None:
            lists = {
                "queue": [item for item in found.queue if item != execution],
                "executions": [item for item in found.executions if item != execution],
            }
            saved = found.saved
            if saved is not None and saved.execution_id == execution:
                saved = saved.model_copy(update={"execution_id": None})
            changed = found.model_copy(update={**lists, "saved": saved})
            return None if changed == found else changed

        await self.change(project, session, without)

    async def leave(self, project: str, session: str, execution: str) -> Session:
        """Remove an execution from the queue. Raises NotYetKnown if there is no such session."""

        def without(found: Session) -> Session | None:
            left = [item for item in found.queue if item != execution]
            return None if left == found.queue else found.model_copy(update={"queue": left})

        return await self.change(project, session, without)


def schedule_subject(project: str, session: str) -> str:
    """Return the subject of the schedule that destroys a session."""
    return f"ocf.schedule.session.{subjects.check_project(project)}.{subjects.check_id(session, 'session_id')}"


async def schedule_expiry(bus: Bus, session: Session, at: datetime) -> None:
    """Schedule a destroy at `at`; replace an earlier schedule."""
    subject = schedule_subject(session.project_id, session.session_id)
    data = SessionDestroy(project_id=session.project_id, session_id=session.session_id, requested_by="schedule")
    event = new_event(DESTROY, data, source=EXPIRY, time=at)
    headers = {
        **event.headers(),
        "Nats-Schedule": f"@at {timestamp(at)}",
        "Nats-Schedule-Target": session.ref.command(),
        "Nats-TTL": cleanup_schedules.NEVER,
    }
    await bus.publish(subject, event.data, headers)
