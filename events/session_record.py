"""The record of a session: the value behind `<project>.<session>` in the bucket `ocf_sessions`.

A session is a conversation and its workspace. What it is now lies in S3 below `<project>/<session>/`; the record
names the objects, so a half-written save is never taken for one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, field_serializer

from events.facts import Artifact
from events.models import EmptyWorkspace, ExecutionId, Kept, ProjectId, SessionId, Workspace


class Attached(Kept):
    """Somebody who watches."""

    client_id: str
    since: datetime


class Saved(Kept):
    """The state after one execution: object names below the session's prefix, and OpenCode's own session id."""

    execution_id: ExecutionId
    conversation_id: str
    conversation: Artifact
    workspace: Artifact | None = None


class Session(Kept):
    """Everything known of a session. `queue`: executions that want it, the first one has it."""

    session_id: SessionId
    project_id: ProjectId
    state: Literal["open", "destroying"] = "open"
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

    @field_serializer("workspace", mode="wrap")
    def _whole(self, value: Workspace, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A caller's model, which as such knows no further fields; here a newer release may have put some.
        return {"source": value.source, **dump(value), **(value.model_extra or {})}


def session_key(project: str, session: str) -> str:
    """Key of the record."""
    return f"{project}.{session}"


def session_prefix(project: str, session: str) -> str:
    """Where its objects lie."""
    return f"{project}/{session}"
