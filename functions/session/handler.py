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
from ocf.events.delivery import NATS_SEQUENCE, publish_command
from ocf.events.envelope import Event, InvalidData, new_event, parse
from ocf.events.errors import Conflict, Drop, InvalidEvent, NotYetKnown
from ocf.events.facts import FieldError, SessionAttached, SessionCreated, SessionDestroyed, SessionDetached
from ocf.events.lifecycle import SESSION, SessionStep, State
from ocf.events.refs import ExecutionRef, SessionRef
from ocf.events.session_record import Attached, Session
from ocf.functions.core.command_events import command, ids_of
from ocf.functions.core.rejections import Refusal
from ocf.functions.core.session_repository import EXPIRY, Sessions, schedule_expiry, schedule_subject
from ocf.functions.core.stored_objects import delete_session
from ocf.functions.runtime.bootstrap import Dependencies

#: Stored workspace of an execution, below its prefix in S3.
WORKSPACE = "workspace.tar.zst"
USED = FieldError(field="session_id", message="was used before for another session; use a new one")


async def session(deps: Dependencies, event: Event) -> None:
    """Handle a session command.

    Raises:
        NotYetKnown: There is no such session (its create may be on the way); the event is redelivered.
        Conflict: An execution of the session runs and is being cancelled; the event is redelivered.
        Drop: There is nothing to do.
    """
    try:
        data = parse(event)
    except InvalidData as error:
        await _reject(deps, event, error.errors)
        return
    handler = _HANDLERS.get(type(data))
    if handler is None:
        raise InvalidEvent(f"type: {event.type} is not for the session function")
    await handler(deps, command(event, type(data)), event)


async def _create(deps: Dependencies, request: SessionCreate, event: Event) -> None:
    sessions = Sessions(deps.sessions, deps.clock)
    wrong = await _creation_error(deps, request)
    if wrong is not None:
        await _reject(deps, event, [wrong])
        return
    source = request.workspace
    if request.from_execution_id is not None:
        source = SnapshotWorkspace(source="snapshot", execution_id=request.from_execution_id)
    now = deps.clock.now()
    ttl = request.ttl_seconds or deps.settings.session_ttl
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
        await sessions.create(made)
    except Conflict:
        existing = await sessions.get(request.project_id, request.session_id)
        if existing is None or not existing.usable or _identity(existing) != _identity(made):
            await _reject(deps, event, [USED])
            return
        made = existing
    await schedule_expiry(deps.bus, made, made.expires_at, now)
    fact = SessionCreated(
        session_id=request.session_id,
        project_id=request.project_id,
        from_execution_id=request.from_execution_id,
        expires_at=made.expires_at,
    )
    await deps.records.publish_fact("dev.ocf.session.created.v1", fact, event, key=_ref(request).message_id("created"))


def _ref(request: SessionCommand) -> SessionRef:
    return SessionRef(request.project_id, request.session_id)


def _key(request: SessionCommand, what: str, event: Event) -> str:
    """Return the message id of the fact that follows `event`: event ids may repeat, stream sequences do not."""
    return _ref(request).message_id(what, event.extensions.get(NATS_SEQUENCE) or event.id)


def _identity(session: Session) -> tuple[object, ...]:
    """Return the fields that distinguish a repeated create from another one."""
    return (session.workspace, session.from_execution_id, session.labels)


async def _creation_error(deps: Dependencies, request: SessionCreate) -> FieldError | None:
    """Return the error that prevents the creation of the session, or None.

    Raises:
        Conflict: The execution in `from_execution_id` is being archived; the event is redelivered.
    """
    if await deps.bus.last(subjects.EVENTS, _ref(request).fact("destroyed")) is not None:
        return USED
    if request.from_execution_id is None:
        return None
    if not isinstance(request.workspace, EmptyWorkspace):
        return FieldError(
            field="workspace", message="must not be combined with from_execution_id, which has its own workspace"
        )
    record = await deps.records.get(request.project_id, request.from_execution_id)
    if record is None or not record.terminal or record.state is State.REJECTED:
        return FieldError(field="from_execution_id", message="not a finished execution of this project")
    if not record.archived:
        raise Conflict(f"execution {request.from_execution_id} is being archived")
    workspace = ExecutionRef(request.project_id, request.from_execution_id).object_key(WORKSPACE)
    if record.archive_expired or await deps.store.head(workspace) is None:
        return FieldError(field="from_execution_id", message="has no stored workspace (never stored, or expired)")
    return None


async def _attach(deps: Dependencies, request: SessionAttach, event: Event) -> None:
    now = deps.clock.now()

    def attached(found: Session) -> Session | None:
        if not found.usable:
            return None
        others = [one for one in found.clients if one.client_id != request.client_id]
        return found.model_copy(update={"clients": [*others, Attached(client_id=request.client_id, since=now)]})

    found = await Sessions(deps.sessions, deps.clock).change(request.project_id, request.session_id, attached)
    if not found.usable:
        await _reject(deps, event, [FieldError(field="session_id", message="is being destroyed")])
        return
    fact = SessionAttached(session_id=request.session_id, project_id=request.project_id, client_id=request.client_id)
    await deps.records.publish_fact("dev.ocf.session.attached.v1", fact, event, key=_key(request, "attached", event))


async def _detach(deps: Dependencies, request: SessionDetach, event: Event) -> None:
    def detached(found: Session) -> Session | None:
        others = [one for one in found.clients if one.client_id != request.client_id]
        return None if len(others) == len(found.clients) else found.model_copy(update={"clients": others})

    await Sessions(deps.sessions, deps.clock).change(request.project_id, request.session_id, detached)
    fact = SessionDetached(session_id=request.session_id, project_id=request.project_id, client_id=request.client_id)
    await deps.records.publish_fact("dev.ocf.session.detached.v1", fact, event, key=_key(request, "detached", event))


async def _destroy(deps: Dependencies, request: SessionDestroy, event: Event) -> None:
    sessions = Sessions(deps.sessions, deps.clock)
    destroyed = _ref(request).fact("destroyed")
    found = await sessions.get(request.project_id, request.session_id)
    if found is None:
        if await deps.bus.last(subjects.EVENTS, destroyed) is None:
            raise NotYetKnown(f"session {request.session_id} of project {request.project_id} is not known")
        await _purge_messages(deps, request)
        raise Drop(f"session {request.session_id} is destroyed")
    found = await _closed(deps, sessions, found, expiry=event.source == EXPIRY)
    if not found.expired:
        await _end_executions(deps, found, event)
    await deps.bus.purge(subjects.COMMANDS, schedule_subject(request.project_id, request.session_id))
    objects = await delete_session(deps.store, _ref(request))
    what = SESSION.step(found.life, SessionStep.REMOVE)
    if await deps.bus.last(subjects.EVENTS, destroyed) is None:
        removed = {
            "objects": objects,
            "executions": 0 if found.expired else len(found.executions),
            "events": await deps.bus.purge(subjects.EVENTS, f"ocf.evt.{request.project_id}.{request.session_id}.>"),
        }
        ids = {"session_id": request.session_id, "project_id": request.project_id}
        fact = SessionDestroyed(**ids, removed=removed, expired=found.expired)
        # Before the record is deleted: without both, a redelivery could not know that the session existed.
        await deps.records.publish_fact(f"dev.ocf.session.{what}.v1", fact, event, once=True)
    await sessions.delete(request.project_id, request.session_id)
    await _purge_messages(deps, request)


async def _closed(deps: Dependencies, sessions: Sessions, found: Session, *, expiry: bool) -> Session:
    """Mark the session as being destroyed, so that no execution can join; return it. Raises Drop if it is in use."""
    project, session_id, now = found.project_id, found.session_id, deps.clock.now()
    if expiry and found.queue:
        await sessions.prune_queue(project, session_id, deps.records)

    def closed(one: Session) -> Session | None:
        if expiry and one.usable and (one.queue or one.idle_until > now):
            return None
        changed = one.after(SessionStep.EXPIRE if expiry else SessionStep.DESTROY)
        return None if changed == one else changed

    found = await sessions.change(project, session_id, closed)
    if found.usable:
        # The session was used after the schedule was set, and gets its full TTL again.
        soonest = now + timedelta(seconds=60) if found.queue else now
        await schedule_expiry(deps.bus, found, max(found.idle_until, soonest), now)
        raise Drop(f"session {session_id} is in use")
    return found


async def _purge_messages(deps: Dependencies, request: SessionDestroy) -> None:
    await dead_letters.delete(deps.bus, request.project_id, request.session_id)
    # Last, because a crash before this point causes a redelivery of the command.
    await deps.bus.purge(subjects.COMMANDS, f"ocf.cmd.*.{request.project_id}.{request.session_id}")


async def _end_executions(deps: Dependencies, found: Session, event: Event) -> None:
    """Cancel open executions, clean up ended ones. Raises Conflict while an execution is open."""
    open_ = False
    for execution in found.executions:
        record = await deps.records.get(found.project_id, execution)
        if record is None:
            continue
        ids = {"execution_id": execution, "project_id": found.project_id}
        if record.terminal:
            await _publish(deps, "dev.ocf.task.cleanup.v1", Cleanup(**ids), event)
            continue
        open_ = True
        if not record.cancel_requested:
            await _publish(deps, "dev.ocf.task.cancel.v1", Cancel(**ids), event)
    if open_:
        raise Conflict(f"session {found.session_id} has a running execution; it is being cancelled first")


async def _publish(deps: Dependencies, type_: str, request: Cleanup | Cancel, event: Event) -> None:
    command_event = new_event(type_, request, source="/ocf/session", time=deps.clock.now(), cause=event)
    await publish_command(deps.bus, command_event, request.project_id)


async def _reject(deps: Dependencies, event: Event, errors: list[FieldError]) -> None:
    await deps.rejections.reject_session(SessionRef(*ids_of(event)), Refusal.of(event, errors))


_Handler = Callable[..., Awaitable[None]]
_HANDLERS: dict[type[Model], _Handler] = {
    SessionCreate: _create,
    SessionAttach: _attach,
    SessionDetach: _detach,
    SessionDestroy: _destroy,
}
