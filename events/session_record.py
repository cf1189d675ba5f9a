"""The record of a session: the value behind `<project>.<session>` in the bucket `ocf_sessions`.

A session is a conversation and its workspace. What it is now lies in S3 below `<project>/sessions/<session>/`; the
record names the objects, so a half-written save is never taken for one.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, field_serializer

from ocf.events.commands import EmptyWorkspace, ExecutionId, ForwardCompatible, ProjectId, SessionId, Workspace
from ocf.events.facts import Artifact
from ocf.events.refs import SessionRef

#: A client that has not said for so long that it is there has gone without a word.
CLIENT_STAYS = timedelta(hours=1)
_OLD_OBJECT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(\S+\.)?(conversation\.json|workspace\.tar\.zst)")


class Attached(ForwardCompatible):
    """Somebody who watches; `since` is when it last said so."""

    client_id: str
    since: datetime


class Saved(ForwardCompatible):
    """The state after one execution: object names below the session's prefix, and OpenCode's own session id.

    `execution_id` is None once that execution was deleted.
    """

    execution_id: ExecutionId | None = None
    conversation_id: str
    conversation: Artifact
    workspace: Artifact | None = None


class Session(ForwardCompatible):
    """Everything known of a session. `queue`: executions that want it, the first one has it.

    `expired`: it is being destroyed because its time is over, and not because somebody said so; its executions stay.
    """

    session_id: SessionId
    project_id: ProjectId
    state: Literal["open", "destroying"] = "open"
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
        """When it may expire, if nothing happens: not while somebody watches."""
        return max([self.expires_at, *(one.since + CLIENT_STAYS for one in self.clients)])

    @property
    def ref(self) -> SessionRef:
        """Its project and id."""
        return SessionRef(self.project_id, self.session_id)

    @field_serializer("workspace", mode="wrap")
    def _whole(self, value: Workspace, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A caller's model, which as such knows no further fields; here a newer release may have put some.
        return {"source": value.source, **dump(value), **(value.model_extra or {})}


def old_prefix(ref: SessionRef) -> str:
    """Where the objects of a session lay until 0.2: where those of an execution with the same id lie."""
    return f"{ref.project}/{ref.session}"


def is_old_object(key: str) -> bool:
    """Whether a key below `old_prefix` is a session's. An execution has no object whose name begins with an id."""
    return _OLD_OBJECT.fullmatch(key.rsplit("/", 1)[-1]) is not None
