"""The record of a session: the value of `<project>.<session>` in the bucket `ocf_sessions`.

A session is a conversation and its workspace. Its state is stored in S3 below `<project>/sessions/<session>/`. The
record names the objects, so an incomplete save is never used.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, field_serializer

from ocf.events.base_model import ExecutionId, ForwardCompatible, ProjectId, SessionId
from ocf.events.command_payloads import EmptyWorkspace, Workspace
from ocf.events.execution_ref import SessionRef
from ocf.events.fact_payloads import Artifact
from ocf.events.lifecycle import SESSION, SessionState, SessionStep

#: A client that has not re-attached for this long is considered gone.
CLIENT_TTL = timedelta(hours=1)
_OLD_OBJECT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(\S+\.)?(conversation\.json|workspace\.tar\.zst)")


class Attached(ForwardCompatible):
    """A client that watches a session; `since` is the time of its last attach."""

    client_id: str
    since: datetime


class Saved(ForwardCompatible):
    """The state after one execution: objects below the session's prefix, and OpenCode's own session id.

    `execution_id` becomes None when that execution is deleted. `commit` is what the clone of the first one checked out.
    """

    execution_id: ExecutionId | None = None
    conversation_id: str
    conversation: Artifact
    workspace: Artifact | None = None
    commit: str | None = None


class Session(ForwardCompatible):
    """Everything about a session.

    `queue` has the executions in order; only the first may run. `state` is `open` or `destroying`, with `expired` for
    `SessionState.EXPIRING`: being removed because of its TTL, not by a command; its executions stay.
    """

    session_id: SessionId
    project_id: ProjectId
    state: Literal[SessionState.OPEN, SessionState.DESTROYING] = SessionState.OPEN
    expired: bool = False
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    ttl_seconds: int
    workspace: Workspace = EmptyWorkspace()
    from_execution_id: ExecutionId | None = None
    labels: dict[str, str] = {}
    clients: list[Attached] = []
    queue: list[ExecutionId] = []
    executions: list[ExecutionId] = []
    saved: Saved | None = None

    @property
    def idle_until(self) -> datetime:
        """Earliest time of expiry without further activity; attached clients extend it."""
        return max([self.expires_at, *(one.since + CLIENT_TTL for one in self.clients)])

    @property
    def usable(self) -> bool:
        """Return whether clients can attach and executions join."""
        return SESSION.allows(self.life, SessionStep.USE)

    @property
    def life(self) -> SessionState:
        """The state in the life cycle."""
        return SessionState.EXPIRING if self.expired else self.state

    def after(self, taken: SessionStep) -> Session:
        """Return the session after the step `taken`. Raises IllegalStep."""
        state = SESSION.step(self.life, taken)
        expired = state is SessionState.EXPIRING
        return self.model_copy(update={"state": SessionState.DESTROYING if expired else state, "expired": expired})

    @property
    def ref(self) -> SessionRef:
        """Project and id."""
        return SessionRef(self.project_id, self.session_id)

    @field_serializer("workspace", mode="wrap")
    def _whole(self, value: Workspace, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The workspace models reject unknown fields of callers, but in a record a newer release may have added some.
        return {"source": value.source, **dump(value), **(value.model_extra or {})}


def old_prefix(ref: SessionRef) -> str:
    """Return the prefix of a session's objects until release 0.2, shared with an execution of the same id."""
    return f"{ref.project}/{ref.session}"


def is_old_object(key: str) -> bool:
    """Return whether a key below `old_prefix` belongs to a session: object names of executions have no leading id."""
    return _OLD_OBJECT.fullmatch(key.rsplit("/", 1)[-1]) is not None
