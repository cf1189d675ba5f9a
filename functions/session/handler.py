"""session: create, attach, detach, destroy. A session is a conversation and its workspace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ocf.events import dead_letters, subjects
from ocf.events.command_payloads import (
    Cancel,
    Cleanup,
    EmptyWorkspace,
    SessionAttach,
    SessionCommand,
    SessionCreate,
    SessionDestroy,
    SessionDetach,
    SnapshotWorkspace,
)
from ocf.events.command_publisher import NATS_SEQUENCE, publish_command
from ocf.events.envelope import Event, InvalidData, new_event
from ocf.events.errors import Conflict, Drop, NotYetKnown
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import FieldError, SessionAttached, SessionCreated, SessionDestroyed, SessionDetached
from ocf.events.lifecycle import SESSION, SessionStep, State
from ocf.events.ports import Bus, Clock, ObjectStore
from ocf.events.session_record import Attached, Session
from ocf.functions.core.command_parsing import command, ids_of
from ocf.functions.core.execution_store import Records
from ocf.functions.core.object_deletion import delete_session
from ocf.functions.core.publish_rejection import Refusal, Rejections
from ocf.functions.core.session_store import EXPIRY, Sessions, schedule_expiry, schedule_subject
from ocf.functions.settings.settings import Settings

#: Stored workspace of an execution, below its prefix in S3.
WORKSPACE = "workspace.tar.zst"
USED = FieldError(field="session_id", message="was used before for another session; use a new one")


async def session(
    event: Event,
    *,
    bus: Bus,
    store: ObjectStore,
    records: Records,
    session_records: Sessions,
    rejections: Rejections,
    clock: Clock,
    settings: Settings,
) -> None:
    """Handle a session command.

    Raises:
        NotYetKnown: There is no such session (its create may be on the way); the event is redelivered.
        Conflict: An execution of the session runs and is being cancelled; the event is redelivered.
        Drop: There is nothing to do.
    """
    commands = SessionCommands(bus, store, records, session_records, rejections, clock, settings.session_ttl)
    try:
        data = command(event, SessionCommand)
    except InvalidData as error:
        await rejections.reject_session(SessionRef(*ids_of(event)), Refusal.of(event, error.errors))
        return
    match data:
        case SessionCreate():
            await commands.create(data, event)
        case SessionAttach():
            await commands.attach(data, event)
        case SessionDetach():
            await commands.detach(data, event)
        case SessionDestroy():
            await commands.destroy(data, event)


@dataclass(frozen=True)
class SessionCommands:
    """The four commands. `default_ttl` is in seconds."""

    bus: Bus
    store: ObjectStore
    records: Records
    sessions: Sessions
    rejections: Rejections
    clock: Clock
    default_ttl: int

    async def create(self, request: SessionCreate, event: Event) -> None:
        """Record the session, schedule its expiry, publish `created`."""
        wrong = await self._creation_error(request)
        if wrong is not None:
            await self._reject(event, [wrong])
            return
        source = request.workspace
        if request.from_execution_id is not None:
            source = SnapshotWorkspace(source="snapshot", execution_id=request.from_execution_id)
        now = self.clock.now()
        ttl = request.ttl_seconds or self.default_ttl
        made = Session(
            session_id=request.session_id,
            project_id=request.project_id,
            state=SESSION.step(None, SessionStep.CREATE),
            created_at=now,
            updated_at=now,
            expires_at=now + timedelta(seconds=ttl),
            ttl_seconds=ttl,
            workspace=source,
            from_execution_id=request.from_execution_id,
            labels=request.labels,
        )
        try:
            await self.sessions.create(made)
        except Conflict:
            existing = await self.sessions.get(request.project_id, request.session_id)
            if existing is None or not existing.usable or _identity(existing) != _identity(made):
                await self._reject(event, [USED])
                return
            made = existing
        await schedule_expiry(self.bus, made, made.expires_at)
        fact = SessionCreated(
            session_id=request.session_id,
            project_id=request.project_id,
            from_execution_id=request.from_execution_id,
            expires_at=made.expires_at,
        )
        await self.records.publish_fact(
            "dev.ocf.session.created.v1", fact, event, key=_ref(request).message_id("created")
        )

    async def _creation_error(self, request: SessionCreate) -> FieldError | None:
        """Return the error that prevents the creation of the session, or None.

        Raises:
            Conflict: The execution in `from_execution_id` is being archived; the event is redelivered.
        """
        if await self.bus.last(subjects.EVENTS, _ref(request).fact("destroyed")) is not None:
            return USED
        if request.from_execution_id is None:
            return None
        if not isinstance(request.workspace, EmptyWorkspace):
            return FieldError(
                field="workspace", message="must not be combined with from_execution_id, which has its own workspace"
            )
        record = await self.records.find(request.project_id, request.from_execution_id)
        if record is None or not record.terminal or record.state is State.REJECTED:
            return FieldError(field="from_execution_id", message="not a finished execution of this project")
        if not record.archived:
            raise Conflict(f"execution {request.from_execution_id} is being archived")
        workspace = ExecutionRef(request.project_id, request.from_execution_id).object_key(WORKSPACE)
        if record.archive_expired or await self.store.head(workspace) is None:
            return FieldError(field="from_execution_id", message="has no stored workspace (never stored, or expired)")
        return None

    async def attach(self, request: SessionAttach, event: Event) -> None:
        """Add a client, publish `attached`."""
        now = self.clock.now()

        def attached(found: Session) -> Session | None:
            if not found.usable:
                return None
            others = [one for one in found.clients if one.client_id != request.client_id]
            return found.model_copy(update={"clients": [*others, Attached(client_id=request.client_id, since=now)]})

        found = await self.sessions.change(request.project_id, request.session_id, attached)
        if not found.usable:
            await self._reject(event, [FieldError(field="session_id", message="is being destroyed")])
            return
        fact = SessionAttached(
            session_id=request.session_id, project_id=request.project_id, client_id=request.client_id
        )
        await self.records.publish_fact(
            "dev.ocf.session.attached.v1", fact, event, key=_key(request, "attached", event)
        )

    async def detach(self, request: SessionDetach, event: Event) -> None:
        """Remove a client, publish `detached`."""

        def detached(found: Session) -> Session | None:
            others = [one for one in found.clients if one.client_id != request.client_id]
            return None if len(others) == len(found.clients) else found.model_copy(update={"clients": others})

        await self.sessions.change(request.project_id, request.session_id, detached)
        fact = SessionDetached(
            session_id=request.session_id, project_id=request.project_id, client_id=request.client_id
        )
        await self.records.publish_fact(
            "dev.ocf.session.detached.v1", fact, event, key=_key(request, "detached", event)
        )

    async def destroy(self, request: SessionDestroy, event: Event) -> None:
        """Remove the session, unless it is in use and only expires; publish `destroyed`."""
        destroyed = _ref(request).fact("destroyed")
        found = await self.sessions.get(request.project_id, request.session_id)
        if found is None:
            if await self.bus.last(subjects.EVENTS, destroyed) is None:
                raise NotYetKnown(f"session {request.session_id} of project {request.project_id} is not known")
            await self._purge_messages(request)
            raise Drop(f"session {request.session_id} is destroyed")
        found = await self._closed(found, expiry=event.source == EXPIRY)
        if not found.expired:
            await self._end_executions(found, event)
        await self.bus.purge(subjects.COMMANDS, schedule_subject(request.project_id, request.session_id))
        objects = await delete_session(self.store, _ref(request))
        what = SESSION.step(found.life, SessionStep.REMOVE)
        if await self.bus.last(subjects.EVENTS, destroyed) is None:
            removed = {
                "objects": objects,
                "executions": 0 if found.expired else len(found.executions),
                "events": await self.bus.purge(subjects.EVENTS, f"ocf.evt.{request.project_id}.{request.session_id}.>"),
            }
            ids = {"session_id": request.session_id, "project_id": request.project_id}
            fact = SessionDestroyed(**ids, removed=removed, expired=found.expired)
            # Before the record is deleted: without both, a redelivery could not know that the session existed.
            await self.records.publish_fact(f"dev.ocf.session.{what}.v1", fact, event, once=True)
        await self.sessions.delete(request.project_id, request.session_id)
        await self._purge_messages(request)

    async def _closed(self, found: Session, *, expiry: bool) -> Session:
        """Mark the session as being destroyed, so that no execution can join; return it. Raises Drop in use."""
        project, session_id, now = found.project_id, found.session_id, self.clock.now()
        if expiry and found.queue:
            await self.sessions.prune_queue(project, session_id, self.records)

        def closed(one: Session) -> Session | None:
            if expiry and one.usable and (one.queue or one.idle_until > now):
                return None
            changed = one.after(SessionStep.EXPIRE if expiry else SessionStep.DESTROY)
            return None if changed == one else changed

        found = await self.sessions.change(project, session_id, closed)
        if found.usable:
            # The session was used after the schedule was set, and gets its full TTL again.
            soonest = now + timedelta(seconds=60) if found.queue else now
            await schedule_expiry(self.bus, found, max(found.idle_until, soonest))
            raise Drop(f"session {session_id} is in use")
        return found

    async def _purge_messages(self, request: SessionDestroy) -> None:
        await dead_letters.delete(self.bus, request.project_id, request.session_id)
        # Last, because a crash before this point causes a redelivery of the command.
        await self.bus.purge(subjects.COMMANDS, f"ocf.cmd.*.{request.project_id}.{request.session_id}")

    async def _end_executions(self, found: Session, event: Event) -> None:
        """Cancel open executions, clean up ended ones. Raises Conflict while an execution is open."""
        open_ = False
        for execution in found.executions:
            record = await self.records.find(found.project_id, execution)
            if record is None:
                continue
            ids = {"execution_id": execution, "project_id": found.project_id}
            if record.terminal:
                await self._publish("dev.ocf.task.cleanup.v1", Cleanup(**ids), event)
                continue
            open_ = True
            if not record.cancel_requested:
                await self._publish("dev.ocf.task.cancel.v1", Cancel(**ids), event)
        if open_:
            raise Conflict(f"session {found.session_id} has a running execution; it is being cancelled first")

    async def _publish(self, type_: str, request: Cleanup | Cancel, event: Event) -> None:
        command_event = new_event(type_, request, source="/ocf/session", time=self.clock.now(), cause=event)
        await publish_command(self.bus, command_event, request.project_id)

    async def _reject(self, event: Event, errors: list[FieldError]) -> None:
        await self.rejections.reject_session(SessionRef(*ids_of(event)), Refusal.of(event, errors))


def _ref(request: SessionCommand) -> SessionRef:
    return SessionRef(request.project_id, request.session_id)


def _key(request: SessionCommand, what: str, event: Event) -> str:
    """Return the message id of the fact that follows `event`: event ids may repeat, stream sequences do not."""
    return _ref(request).message_id(what, event.extensions.get(NATS_SEQUENCE) or event.id)


def _identity(session: Session) -> tuple[object, ...]:
    """Return the fields that distinguish a repeated create from another one."""
    return (session.workspace, session.from_execution_id, session.labels)
