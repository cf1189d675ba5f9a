"""For backends: sessions. `Client.sessions` is one of these; a turn in a session is a submit with its `session_id`."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ocf.events.commands import SessionAttach, SessionCommand, SessionCreate, SessionDestroy, SessionDetach
from ocf.events.errors import NotYetKnown
from ocf.events.ports import Bucket
from ocf.events.refs import SessionRef
from ocf.events.session_record import Session

log = structlog.get_logger()

#: Publishes one command: its type, its data, and the id that is the last token of its subject.
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
        """Publish `dev.ocf.session.create.v1`; the fields are those of `ocf.events.commands.SessionCreate`.

        Returns the session id once the command is kept; the session exists a moment later (`get`). A submit that
        is published after it waits for it; one that is rejected is the fact `rejected`.

        Raises:
            pydantic.ValidationError: a field is wrong.
            Unavailable: NATS did not keep it.
        """
        session = session_id or str(uuid.uuid4())
        data = SessionCreate.model_validate(
            {"requested_by": self._source, **request, "session_id": session, "project_id": self._project}
        )
        await self._publish("dev.ocf.session.create.v1", data, session)
        return session

    async def attach(self, session: str, client_id: str) -> None:
        """Publish `dev.ocf.session.attach.v1`: `client_id` watches; the session does not expire meanwhile."""
        data = SessionAttach(session_id=session, project_id=self._project, client_id=client_id)
        await self._publish("dev.ocf.session.attach.v1", data, session)

    async def detach(self, session: str, client_id: str) -> None:
        """Publish `dev.ocf.session.detach.v1`: `client_id` has left."""
        data = SessionDetach(session_id=session, project_id=self._project, client_id=client_id)
        await self._publish("dev.ocf.session.detach.v1", data, session)

    async def destroy(self, session: str) -> None:
        """Publish `dev.ocf.session.destroy.v1`: what runs is cancelled, then every trace goes."""
        data = SessionDestroy(session_id=session, project_id=self._project, requested_by=self._source)
        await self._publish("dev.ocf.session.destroy.v1", data, session)

    async def get(self, session: str) -> Session:
        """What is known of it. Raises NotYetKnown."""
        entry = await self._bucket.get(SessionRef(self._project, session).record_key)
        if entry is None:
            raise NotYetKnown(f"session {session} of project {self._project} is not known")
        return Session.read(entry.value)

    async def list(self) -> _Sessions:
        """Every session of the project, newest first."""
        found = []
        async for entry in self._bucket.entries(f"{self._project}.*"):
            try:
                found.append(Session.read(entry.value))
            except ValueError:
                log.warning("unreadable session", action="client.unreadable", key=entry.key)
        return sorted(found, key=lambda session: session.created_at, reverse=True)
