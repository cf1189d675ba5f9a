"""Request bodies. On the bus they become the command models of `ocf.events.command_payloads`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ocf.events.base_model import ExecutionId, Model, ProjectId, Sealed, SessionId, Text
from ocf.events.command_payloads import (
    DirectoryWorkspace,
    EmptyWorkspace,
    GitWorkspace,
    Labels,
    ModelConfigData,
    SecretName,
    SharedWorkspace,
    SnapshotWorkspace,
    TaskRequest,
    TaskSecret,
)
from ocf.events.optional_task_fields import LocalMcp, McpName, RemoteMcp
from ocf.events.redaction import MIN_SECRET

#: Visible characters with inner blanks (RFC 9110, 5.5).
_HEADER_VALUE = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"
#: A secret may be plain over HTTP: the gateway seals it before it reaches the bus.
Secret = Annotated[str, StringConstraints(min_length=1, max_length=8_000)] | Sealed


class ModelConfigIn(ModelConfigData):
    """The model of the task. `api_key` is plain text or sealed; plain text is sealed before use."""

    api_key: Secret | None = Field(default=None, repr=False)  # type: ignore[assignment]


class GitWorkspaceIn(GitWorkspace):
    """A clone. `token` is plain text or sealed."""

    token: Secret | None = Field(default=None, repr=False)  # type: ignore[assignment]


class TaskSecretIn(TaskSecret):
    """A secret of the task. `value` is plain text or sealed."""

    value: (
        Annotated[str, StringConstraints(min_length=MIN_SECRET, max_length=8_000, pattern=_HEADER_VALUE)] | Sealed
    ) = Field(repr=False)  # type: ignore[assignment]


WorkspaceIn = Annotated[
    EmptyWorkspace | GitWorkspaceIn | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace,
    Field(discriminator="source"),
]


class RemoteMcpIn(RemoteMcp):
    """An MCP server at a URL. Plain header values are sealed before use."""

    @classmethod
    def _may_be_plain(cls, name: str) -> bool:
        return True


McpServerIn = Annotated[LocalMcp | RemoteMcpIn, Field(discriminator="type")]


class ExecuteTask(TaskRequest):
    """Body of `POST /tasks/execute`: task, workspace, model and limits."""

    execution_id: ExecutionId | None = None
    project_id: ProjectId | None = None
    model: ModelConfigIn | None = Field(default=None, alias="model_config")
    workspace: WorkspaceIn = EmptyWorkspace()
    secrets: Annotated[
        dict[SecretName, TaskSecretIn], Field(max_length=20, json_schema_extra={"additionalProperties": False})
    ] = Field(default_factory=dict)  # type: ignore[assignment]
    mcp: Annotated[
        dict[McpName, McpServerIn],
        Field(max_length=20, repr=False, json_schema_extra={"additionalProperties": False}),
    ] = Field(default_factory=dict)  # type: ignore[assignment]


class RunAgain(Model):
    """Changes of a rerun: how far the recording answers, and the prompt and model of what follows."""

    until: Annotated[int, Field(ge=0, le=10_000_000, description="last call that the recording answers")] | None = None
    then: Annotated[Literal["live"] | None, Field(description="go on with the model after that call")] = None
    on_divergence: Literal["nearest", "fail", "live"] = "nearest"
    prompt: Annotated[Text, Field(min_length=1, max_length=2_000_000)] | None = None
    model: ModelConfigIn | None = Field(default=None, alias="model_config")
    labels: Labels = Field(default_factory=dict)
    recording: Literal["off", "answers", "full"] | None = None


class CancelTask(Model):
    """Reason of a cancel, shown in the record."""

    why: Annotated[Text, Field(max_length=1_000)] | None = None


class Answer(Model):
    """An answer to the agent's request, or a follow-up prompt."""

    answer: Annotated[Text, Field(max_length=100_000)]


class CreateSession(Model):
    """A conversation and its workspace, empty or forked from a finished execution."""

    session_id: SessionId | None = None
    project_id: ProjectId | None = None
    from_execution_id: ExecutionId | None = None
    workspace: WorkspaceIn = EmptyWorkspace()
    ttl_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    labels: Labels = Field(default_factory=dict)


class AttachSession(Model):
    """The client that attaches or detaches; the caller's name by default."""

    client_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None


CleanupScope = Literal["everything", "workspace"]
