"""Session calls of the client (`Client.sessions`). An execution joins a session by a submit with its `session_id`."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ocf.events.command_payloads import SessionAttach, SessionCommand, SessionCreate, SessionDestroy, SessionDetach
from ocf.events.errors import NotYetKnown
from ocf.events.execution_ref import SessionRef
from ocf.events.ports import Bucket
from ocf.events.session_record import Session

log = structlog.get_logger()

#: Publishes one command. Arguments: type, data, and the session id, which is the last token of the subject.
Publish = Callable[[str, SessionCommand, str], Awaitable[None]]
_Sessions = list[Session]


class SessionCalls:
    """Create, attach, detach, destroy and read the sessions of one project."""

    def __init__(self, project: str, bucket: Bucket, publish: Publish, source: str) -> None:
        self._project = project
        self._bucket = bucket
        self._publish = publish
        self._source = source

    async def create(self, *, session_id: str | None = None, **request: Any) -> str:
        """Publish `dev.ocf.session.create.v1`; the fields are those of `ocf.events.command_payloads.SessionCreate`.

        A submit that is published after it waits until the session exists. A refused create is the fact `rejected`.

        Returns:
            The session id, once the command is stored. The session exists a moment later (`get`).

        Raises:
            pydantic.ValidationError: A field is invalid.
            Unavailable: NATS did not store the command.
        """
        session = session_id or str(uuid.uuid4())
        data = SessionCreate.model_validate(
            {"requested_by": self._source, **request, "session_id": session, "project_id": self._project}
        )
        await self._publish("dev.ocf.session.create.v1", data, session)
        return session

    async def attach(self, session: str, client_id: str) -> None:
        """Publish `dev.ocf.session.attach.v1`: `client_id` watches, which prevents expiry of the session."""
        data = SessionAttach(session_id=session, project_id=self._project, client_id=client_id)
        await self._publish("dev.ocf.session.attach.v1", data, session)

    async def detach(self, session: str, client_id: str) -> None:
        """Publish `dev.ocf.session.detach.v1`: `client_id` no longer watches."""
        data = SessionDetach(session_id=session, project_id=self._project, client_id=client_id)
        await self._publish("dev.ocf.session.detach.v1", data, session)

    async def destroy(self, session: str) -> None:
        """Publish `dev.ocf.session.destroy.v1`: cancel its executions, then remove every trace."""
        data = SessionDestroy(session_id=session, project_id=self._project, requested_by=self._source)
        await self._publish("dev.ocf.session.destroy.v1", data, session)

    async def get(self, session: str) -> Session:
        """Return the record of a session. Raises NotYetKnown."""
        entry = await self._bucket.get(SessionRef(self._project, session).record_key)
        if entry is None:
            raise NotYetKnown(f"session {session} of project {self._project} is not known")
        return Session.read(entry.value)

    async def list(self) -> _Sessions:
        """Return all readable session records of the project, newest first."""
        found = []
        async for entry in self._bucket.entries(f"{self._project}.*"):
            try:
                found.append(Session.read(entry.value))
            except ValueError:
                log.warning("unreadable session", action="client.unreadable", key=entry.key)
        return sorted(found, key=lambda session: session.created_at, reverse=True)
