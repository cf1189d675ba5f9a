"""session: create, attach, detach, destroy. A session is a conversation and its workspace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from ocf.events import dead_letters, subjects
from ocf.events.commands import (
    Cancel,
    Cleanup,
    EmptyWorkspace,
    Model,
    SessionAttach,
    SessionCommand,
    SessionCreate,
    SessionDestroy,
    SessionDetach,
    SnapshotWorkspace,
)
from ocf.events.delivery import NATS_SEQUENCE
from ocf.events.envelope import Event, InvalidData, new_event, parse
from ocf.events.errors import Conflict, Drop, InvalidEvent, NotYetKnown
from ocf.events.facts import FieldError, SessionAttached, SessionCreated, SessionDestroyed, SessionDetached
from ocf.events.lifecycle import State
from ocf.events.publish_command import publish_command
from ocf.events.refs import ExecutionRef, SessionRef
from ocf.events.session_record import Attached, Session
from ocf.functions.core.command_events import command, ids_of
from ocf.functions.core.rejections import Refusal
from ocf.functions.core.session_repository import EXPIRY, Sessions, schedule_end, schedule_subject
from ocf.functions.core.stored_objects import delete_session
from ocf.functions.runtime.bootstrap import Dependencies

#: The workspace that an execution left, below its prefix in S3.
WORKSPACE = "workspace.tar.zst"
USED = FieldError(field="session_id", message="was used before for another session; use a new one")


async def session(parts: Dependencies, event: Event) -> None:
    """Take one session command.

    Raises:
        NotYetKnown: no such session (its create may be on the way); delivered again.
        Conflict: an execution of it still runs; it was told to end, and this comes again.
        Drop: there is nothing (left) to do.
    """
    try:
        data = parse(event)
    except InvalidData as error:
        await _reject(parts, event, error.errors)
        return
    handler = _HANDLERS.get(type(data))
    if handler is None:
        raise InvalidEvent(f"type: {event.type} is not for the session function")
    await handler(parts, command(event, type(data)), event)


async def _create(parts: Dependencies, wish: SessionCreate, event: Event) -> None:
    sessions = Sessions(parts.sessions, parts.clock)
    wrong = await _not_to_be_made(parts, wish)
    if wrong is not None:
        await _reject(parts, event, [wrong])
        return
    source = wish.workspace
    if wish.from_execution_id is not None:
        source = SnapshotWorkspace(source="snapshot", execution_id=wish.from_execution_id)
    now = parts.clock.now()
    ttl = wish.ttl_seconds or parts.settings.session_ttl
    made = Session(
        session_id=wish.session_id,
        project_id=wish.project_id,
        created_at=now,
        updated_at=now,
        expires_at=now + timedelta(seconds=ttl),
        ttl_seconds=ttl,
        workspace=source,
        from_execution_id=wish.from_execution_id,
        labels=wish.labels,
    )
    try:
        await sessions.create(made)
    except Conflict:
        existing = await sessions.get(wish.project_id, wish.session_id)
        if existing is None or existing.state != "open" or _asked(existing) != _asked(made):
            await _reject(parts, event, [USED])
            return
        made = existing
    await schedule_end(parts.bus, made, made.expires_at, now)
    fact = SessionCreated(
        session_id=wish.session_id,
        project_id=wish.project_id,
        from_execution_id=wish.from_execution_id,
        expires_at=made.expires_at,
    )
    await parts.records.say("dev.ocf.session.created.v1", fact, event, key=_ref(wish).message_id("created"))


def _ref(wish: SessionCommand) -> SessionRef:
    return SessionRef(wish.project_id, wish.session_id)


def _key(wish: SessionCommand, what: str, event: Event) -> str:
    """The id of the fact that answers `event`: two commands may have one event id, and never one sequence."""
    return _ref(wish).message_id(what, event.extensions.get(NATS_SEQUENCE) or event.id)


def _asked(session: Session) -> tuple[object, ...]:
    """What tells a repeated create from another one."""
    return (session.workspace, session.from_execution_id, session.labels)


async def _not_to_be_made(parts: Dependencies, wish: SessionCreate) -> FieldError | None:
    """Why there can be no such session.

    Raises:
        Conflict: the execution it continues has ended and is being archived; this comes again.
    """
    if await parts.bus.last(subjects.EVENTS, _ref(wish).fact("destroyed")) is not None:
        return USED
    if wish.from_execution_id is None:
        return None
    if not isinstance(wish.workspace, EmptyWorkspace):
        return FieldError(field="workspace", message="excludes from_execution_id, whose workspace it would be")
    record = await parts.records.get(wish.project_id, wish.from_execution_id)
    if record is None or not record.terminal or record.state is State.REJECTED:
        return FieldError(field="from_execution_id", message="is no finished execution of this project")
    if not record.archived:
        raise Conflict(f"execution {wish.from_execution_id} is being archived")
    kept = ExecutionRef(wish.project_id, wish.from_execution_id).object_key(WORKSPACE)
    if record.archive_expired or await parts.store.head(kept) is None:
        return FieldError(field="from_execution_id", message="left no workspace, or it is kept no longer")
    return None


async def _attach(parts: Dependencies, wish: SessionAttach, event: Event) -> None:
    now = parts.clock.now()

    def attached(found: Session) -> Session | None:
        if found.state != "open":
            return None
        others = [one for one in found.clients if one.client_id != wish.client_id]
        return found.model_copy(update={"clients": [*others, Attached(client_id=wish.client_id, since=now)]})

    found = await Sessions(parts.sessions, parts.clock).change(wish.project_id, wish.session_id, attached)
    if found.state != "open":
        await _reject(parts, event, [FieldError(field="session_id", message="is being destroyed")])
        return
    fact = SessionAttached(session_id=wish.session_id, project_id=wish.project_id, client_id=wish.client_id)
    await parts.records.say("dev.ocf.session.attached.v1", fact, event, key=_key(wish, "attached", event))


async def _detach(parts: Dependencies, wish: SessionDetach, event: Event) -> None:
    def detached(found: Session) -> Session | None:
        others = [one for one in found.clients if one.client_id != wish.client_id]
        return None if len(others) == len(found.clients) else found.model_copy(update={"clients": others})

    await Sessions(parts.sessions, parts.clock).change(wish.project_id, wish.session_id, detached)
    fact = SessionDetached(session_id=wish.session_id, project_id=wish.project_id, client_id=wish.client_id)
    await parts.records.say("dev.ocf.session.detached.v1", fact, event, key=_key(wish, "detached", event))


async def _destroy(parts: Dependencies, wish: SessionDestroy, event: Event) -> None:
    sessions = Sessions(parts.sessions, parts.clock)
    gone = _ref(wish).fact("destroyed")
    found = await sessions.get(wish.project_id, wish.session_id)
    if found is None:
        if await parts.bus.last(subjects.EVENTS, gone) is None:
            raise NotYetKnown(f"session {wish.session_id} of project {wish.project_id} is not known")
        await _leave_nothing(parts, wish)
        raise Drop(f"session {wish.session_id} is destroyed")
    found = await _closed(parts, sessions, found, expiry=event.source == EXPIRY)
    if not found.expired:
        await _end_executions(parts, found, event)
    await parts.bus.purge(subjects.COMMANDS, schedule_subject(wish.project_id, wish.session_id))
    objects = await delete_session(parts.store, _ref(wish))
    if await parts.bus.last(subjects.EVENTS, gone) is None:
        removed = {
            "objects": objects,
            "executions": 0 if found.expired else len(found.executions),
            "events": await parts.bus.purge(subjects.EVENTS, f"ocf.evt.{wish.project_id}.{wish.session_id}.>"),
        }
        ids = {"session_id": wish.session_id, "project_id": wish.project_id}
        fact = SessionDestroyed(**ids, removed=removed, expired=found.expired)
        # Before the record goes: without both a redelivery could not know that there was such a session.
        await parts.records.say("dev.ocf.session.destroyed.v1", fact, event, once=True)
    await sessions.delete(wish.project_id, wish.session_id)
    await _leave_nothing(parts, wish)


async def _closed(parts: Dependencies, sessions: Sessions, found: Session, *, expiry: bool) -> Session:
    """The session, which nobody joins any more. Raises Drop: its time is not over."""
    project, session_id, now = found.project_id, found.session_id, parts.clock.now()
    if expiry and found.queue:
        await sessions.first(project, session_id, parts.records)

    def closed(one: Session) -> Session | None:
        if one.state != "open":
            # Somebody says so while it expires: then its executions go too.
            return one.model_copy(update={"expired": False}) if one.expired and not expiry else None
        if expiry and (one.queue or one.idle_until > now):
            return None
        return one.model_copy(update={"state": "destroying", "expired": expiry})

    found = await sessions.change(project, session_id, closed)
    if found.state == "open":
        # It was used since the schedule was made; it gets its full time again.
        soonest = now + timedelta(seconds=60) if found.queue else now
        await schedule_end(parts.bus, found, max(found.idle_until, soonest), now)
        raise Drop(f"session {session_id} is in use")
    return found


async def _leave_nothing(parts: Dependencies, wish: SessionDestroy) -> None:
    await dead_letters.delete(parts.bus, wish.project_id, wish.session_id)
    # Last: as long as this command is there, a crash brings it back.
    await parts.bus.purge(subjects.COMMANDS, f"ocf.cmd.*.{wish.project_id}.{wish.session_id}")


async def _end_executions(parts: Dependencies, found: Session, event: Event) -> None:
    """Cancel what is open; clean up what has ended. Raises Conflict while something is open."""
    open_ = False
    for execution in found.executions:
        record = await parts.records.get(found.project_id, execution)
        if record is None:
            continue
        ids = {"execution_id": execution, "project_id": found.project_id}
        if record.terminal:
            await _tell(parts, "dev.ocf.task.cleanup.v1", Cleanup(**ids), event)
            continue
        open_ = True
        if not record.cancel_requested:
            await _tell(parts, "dev.ocf.task.cancel.v1", Cancel(**ids), event)
    if open_:
        raise Conflict(f"session {found.session_id} has a running execution; it is being cancelled first")


async def _tell(parts: Dependencies, type_: str, wish: Cleanup | Cancel, event: Event) -> None:
    told = new_event(type_, wish, source="/ocf/session", time=parts.clock.now(), cause=event)
    await publish_command(parts.bus, told, wish.project_id)


async def _reject(parts: Dependencies, event: Event, errors: list[FieldError]) -> None:
    await parts.rejections.reject_session(SessionRef(*ids_of(event)), Refusal.of(event, errors))


_Handler = Callable[..., Awaitable[None]]
_HANDLERS: dict[type[Model], _Handler] = {
    SessionCreate: _create,
    SessionAttach: _attach,
    SessionDetach: _detach,
    SessionDestroy: _destroy,
}
