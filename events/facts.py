"""What functions say happened: the payloads of the fact events."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from ocf.events.commands import ExecutionId, ForwardCompatible, ProjectId, SessionId
from ocf.events.lifecycle import Reason
from ocf.events.output import Usage


class FieldError(ForwardCompatible):
    """One thing wrong with an input: which field, what is wrong, what would be right."""

    field: str
    message: str


class Fact(ForwardCompatible):
    """What every fact of an execution has."""

    execution_id: ExecutionId
    project_id: ProjectId


class Accepted(Fact):
    """`dev.ocf.task.accepted.v1`: recorded, and on its way to a worker."""

    labels: dict[str, str] = {}


class Rejected(Fact):
    """`dev.ocf.task.rejected.v1`: it never starts; every wrong field is named.

    The ids are those of the subject it came on, which may be what is wrong with it.
    """

    execution_id: str
    project_id: str
    errors: list[FieldError]


class Started(Fact):
    """`dev.ocf.task.started.v1`: a worker has it."""

    attempt: int
    worker: str
    model: str | None = None
    queued_ms: int


class ChangedFile(ForwardCompatible):
    """One changed file of the workspace."""

    path: str
    change: str
    additions: int | None = None
    deletions: int | None = None


class DiffSummary(ForwardCompatible):
    """What the run changed in the workspace, against its start."""

    files: int = 0
    additions: int = 0
    deletions: int = 0
    changed: list[ChangedFile] = []
    truncated: bool = False


class Artifact(ForwardCompatible):
    """One stored object: key below the execution's prefix, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


#: Whether what a run left is in S3. `pending`: its end waits for S3. `lost`: not all of it is there, and never will be.
ArtifactState = Literal["stored", "pending", "lost"]


class Outcome(Fact):
    """How an execution ended: shared by completed, failed, cancelled and timed_out.

    It always fits in one message: a long `result`, list of files or message is shortened and says so (`result_bytes`,
    `diff.truncated`). The whole result is then the object `result.txt`, the whole list the object `changes.json`.
    Times in milliseconds: `queued_ms` from submit to the first start, `duration_ms` from there to the end without
    `waited_ms`, for which the end waited for S3.
    """

    attempt: int
    duration_ms: int
    queued_ms: int = 0
    waited_ms: int = 0
    result: str = ""
    result_bytes: int | None = Field(None, description="bytes of the whole result, when `result` is shortened")
    usage: Usage = Usage()
    diff: DiffSummary = DiffSummary()
    last_sequence: int = 0
    artifacts: ArtifactState = "stored"
    artifacts_message: str | None = Field(None, description="why they are not stored")
    objects: list[Artifact] = Field([], description="what is stored of it")
    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_release(cls, data: Any) -> Any:  # noqa: ANN401 - whatever was said
        """Until 0.2 `artifacts` was the list of objects."""
        if isinstance(data, dict) and isinstance(data.get("artifacts"), list):
            return {**data, "objects": data["artifacts"], "artifacts": "stored"}
        return data


class Completed(Outcome):
    """`dev.ocf.task.completed.v1`"""


class Failed(Outcome):
    """`dev.ocf.task.failed.v1`"""

    reason: Reason
    message: str
    stderr_tail: list[str] = []


class Cancelled(Outcome):
    """`dev.ocf.task.cancelled.v1`"""

    why: str | None = None
    requested_by: str | None = None


class TimedOut(Outcome):
    """`dev.ocf.task.timed_out.v1`"""

    limit_seconds: int


class Archived(Fact):
    """`dev.ocf.task.archived.v1`: verified and readable in S3."""

    prefix: str
    objects: list[Artifact]
    chunks: int


class Cleaned(Fact):
    """`dev.ocf.task.cleaned.v1`: what was removed. Kept as the only trace of the execution."""

    removed: dict[str, int]


class SessionFact(ForwardCompatible):
    """What every fact of a session has."""

    session_id: SessionId
    project_id: ProjectId


class SessionCreated(SessionFact):
    """`dev.ocf.session.created.v1`"""

    from_execution_id: ExecutionId | None = None
    expires_at: datetime | None = None


class SessionAttached(SessionFact):
    """`dev.ocf.session.attached.v1`"""

    client_id: str


class SessionDetached(SessionFact):
    """`dev.ocf.session.detached.v1`"""

    client_id: str


class SessionDestroyed(SessionFact):
    """`dev.ocf.session.destroyed.v1`"""

    removed: dict[str, int] = {}
    expired: bool = False


class SessionRejected(SessionFact):
    """`dev.ocf.session.rejected.v1`: the command had no effect; every wrong field is named."""

    errors: list[FieldError]
