"""Payloads of the fact events, which functions publish."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from ocf.events.base_model import ExecutionId, ForwardCompatible, ProjectId, SessionId
from ocf.events.lifecycle import Reason
from ocf.events.output import Usage


class FieldError(ForwardCompatible):
    """One error of an input: the field, the fault, and the expected value."""

    field: str
    message: str


class Fact(ForwardCompatible):
    """Fields of every fact about an execution."""

    execution_id: ExecutionId
    project_id: ProjectId


class Accepted(Fact):
    """`dev.ocf.task.accepted.v1`: the execution is recorded and queued for a worker."""

    labels: dict[str, str] = {}


RejectReason = Literal["invalid", "not_allowed", "budget_exceeded"]


class Rejected(Fact):
    """`dev.ocf.task.rejected.v1`: the execution never starts; `errors` names every field, `reason` is machine-readable.

    The ids come from the subject of the command, and may themselves be invalid.
    """

    execution_id: str
    project_id: str
    reason: RejectReason = "invalid"
    errors: list[FieldError]


class Started(Fact):
    """`dev.ocf.task.started.v1`: a worker has started the execution."""

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
    """Changes of the workspace since the start of the execution."""

    files: int = 0
    additions: int = 0
    deletions: int = 0
    changed: list[ChangedFile] = []
    truncated: bool = False


class Artifact(ForwardCompatible):
    """One stored object: name below the execution's prefix, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


class PullRequestRef(ForwardCompatible):
    """A pull or merge request."""

    number: int
    url: str


class Divergence(ForwardCompatible):
    """A part of a request that differs from the recording: `system`, `tools`, `message N`, or `call`."""

    call: int
    part: str
    text: str | None = Field(None, description="where the difference begins, if the recording has the text")


class RerunResult(ForwardCompatible):
    """The model calls of a rerun: how many the recording answered, and which requests differed."""

    of: ExecutionId
    calls: int = 0
    live_calls: int = 0
    divergences: list[Divergence] = []
    more: int = Field(0, description="further divergences, which are not listed")


#: State of an execution's artifacts in S3. `pending`: the end waits for S3. `lost`: some are missing for good.
ArtifactState = Literal["stored", "pending", "lost"]


class Outcome(Fact):
    """The end of an execution: fields of completed, failed, cancelled and timed_out.

    The fact always fits in one message. A long `result`, file list or message is shortened; `result_bytes` and
    `diff.truncated` show it. The object `result.txt` then has the whole result, `changes.json` the whole list.
    Times are in milliseconds: `queued_ms` from submit to the first start, `duration_ms` from the first start to the
    end, without the time `waited_ms` that the end waited for S3.
    """

    attempt: int
    duration_ms: int
    queued_ms: int = 0
    waited_ms: int = 0
    first_output_ms: int | None = Field(None, description="from submit to the first text of the agent")
    result: str = ""
    result_bytes: int | None = Field(None, description="bytes of the whole result, when `result` is shortened")
    output: Any = Field(None, description="the JSON value that fits `output_schema`")
    usage: Usage = Usage()
    diff: DiffSummary = DiffSummary()
    last_sequence: int = 0
    artifacts: ArtifactState = "stored"
    artifacts_message: str | None = Field(None, description="the reason if they are not stored")
    objects: list[Artifact] = Field([], description="the stored objects")
    model: str | None = None
    commit: str | None = Field(None, description="the pushed commit of the task's `result`")
    branch: str | None = None
    pull_request: PullRequestRef | None = None
    result_message: str | None = Field(None, description="why nothing was pushed, or what the forge refused besides")
    rerun: RerunResult | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_release(cls, data: Any) -> Any:  # noqa: ANN401 - unvalidated input
        """Convert the form used until release 0.2, where `artifacts` was the list of objects."""
        if isinstance(data, dict) and isinstance(data.get("artifacts"), list):
            return {**data, "objects": data["artifacts"], "artifacts": "stored"}
        return data


class Completed(Outcome):
    """`dev.ocf.task.completed.v1`: the agent finished the task."""


class Failed(Outcome):
    """`dev.ocf.task.failed.v1`: the execution failed; `reason` is machine-readable."""

    reason: Reason
    message: str
    stderr_tail: list[str] = []


class Cancelled(Outcome):
    """`dev.ocf.task.cancelled.v1`: the execution was cancelled on request."""

    why: str | None = None
    requested_by: str | None = None


class TimedOut(Outcome):
    """`dev.ocf.task.timed_out.v1`: the execution reached its time limit."""

    limit_seconds: int


class Published(Fact):
    """`dev.ocf.task.published.v1`: the result was pushed after the end of the execution."""

    commit: str | None = None
    branch: str | None = None
    pull_request: PullRequestRef | None = None
    result_message: str | None = None


class Archived(Fact):
    """`dev.ocf.task.archived.v1`: the archive is complete and verified in S3."""

    prefix: str
    objects: list[Artifact]
    chunks: int


class Cleaned(Fact):
    """`dev.ocf.task.cleaned.v1`: numbers of removed items. The fact stays as the only trace of the execution."""

    removed: dict[str, int]


class SessionFact(ForwardCompatible):
    """Fields of every fact about a session."""

    session_id: SessionId
    project_id: ProjectId


class SessionCreated(SessionFact):
    """`dev.ocf.session.created.v1`: the session exists."""

    from_execution_id: ExecutionId | None = None
    expires_at: datetime | None = None


class SessionAttached(SessionFact):
    """`dev.ocf.session.attached.v1`: a client watches the session."""

    client_id: str


class SessionDetached(SessionFact):
    """`dev.ocf.session.detached.v1`: a client no longer watches the session."""

    client_id: str


class SessionDestroyed(SessionFact):
    """`dev.ocf.session.destroyed.v1`: the session and its data are removed."""

    removed: dict[str, int] = {}
    expired: bool = False


class SessionRejected(SessionFact):
    """`dev.ocf.session.rejected.v1`: the command had no effect; `errors` names every invalid field."""

    errors: list[FieldError]
