"""What callers send. On the bus it becomes the command models of `ocf.events.commands`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ocf.events.commands import (
    DirectoryWorkspace,
    EmptyWorkspace,
    ExecutionId,
    GitWorkspace,
    Labels,
    Model,
    ModelConfigData,
    ProjectId,
    Sealed,
    SessionId,
    SharedWorkspace,
    SnapshotWorkspace,
    TaskRequest,
    Text,
)

#: A secret may come in plain over HTTP: it is sealed here, before it touches the bus.
Secret = Annotated[str, StringConstraints(min_length=1, max_length=8_000)] | Sealed


class ModelConfigIn(ModelConfigData):
    """Which model runs the task. `api_key` is plain text or already sealed; it is sealed before it goes anywhere."""

    api_key: Secret | None = Field(default=None, repr=False)  # type: ignore[assignment]


class GitWorkspaceIn(GitWorkspace):
    """A clone. `token` is plain text or already sealed."""

    token: Secret | None = Field(default=None, repr=False)  # type: ignore[assignment]


WorkspaceIn = Annotated[
    EmptyWorkspace | GitWorkspaceIn | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace,
    Field(discriminator="source"),
]


class ExecuteTask(TaskRequest):
    """The body of `POST /tasks/execute`: what to do, where, with which model, within which bounds."""

    execution_id: ExecutionId | None = None
    project_id: ProjectId | None = None
    model: ModelConfigIn | None = Field(default=None, alias="model_config")
    workspace: WorkspaceIn = EmptyWorkspace()


class CancelTask(Model):
    """Why it is cancelled, for those who read the record."""

    why: Annotated[Text, Field(max_length=1_000)] | None = None


class Answer(Model):
    """An answer to what the agent waits for, or a follow-up prompt."""

    answer: Annotated[Text, Field(max_length=100_000)]


class CreateSession(Model):
    """A conversation and its workspace, empty or forked from a finished execution."""

    session_id: SessionId | None = None
    project_id: ProjectId | None = None
    from_execution_id: ExecutionId | None = None
    workspace: WorkspaceIn = EmptyWorkspace()
    ttl_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    labels: Labels = Field(default_factory=dict)


class Attachment(Model):
    """Who attaches or detaches; the caller's name when it is left out."""

    client_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None


CleanupScope = Literal["everything", "workspace"]
