"""Answers of the gateway: the record as a caller sees it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ocf.events.execution_record import Attempt, Record
from ocf.events.fact_payloads import ArtifactState, ChangedFile, DiffSummary, FieldError, PullRequestRef, RerunResult
from ocf.events.lifecycle import Reason, State
from ocf.events.output import PendingRequest, TodoItem, Usage
from ocf.events.terminal_facts import duration_ms


class View(BaseModel):
    """An answer. Frozen, like the record."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Submitted(View):
    """202: published. `status` is `pending`, or the state of the execution that an earlier identical call made."""

    execution_id: str
    status: State


class RerunSubmitted(Submitted):
    """202: published; `rerun_of` is the execution that runs again."""

    rerun_of: str


class TaskSummary(View):
    """An execution in lists. Times in UTC, durations in milliseconds."""

    # An answer has every field; without this the schema calls those with a default optional.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    execution_id: str
    project_id: str
    task_id: str | None = None
    session_id: str | None = None
    status: State
    reason: Reason | None = None
    message: str | None = None
    progress: int = Field(ge=0, le=100)
    title: str = ""
    labels: dict[str, str] = {}
    model: str | None = None
    submitted_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: int | None = None
    attempt: int = 0
    waiting: bool = False
    cancel_requested: bool = False
    usage: Usage = Usage()
    files_changed: int = 0
    archived: bool = False
    rerun_of: str | None = Field(None, description="the execution that this one runs again")

    @classmethod
    def of(cls, record: Record) -> TaskSummary:
        """Return the summary of `record`."""
        return cls.model_validate(_common(record))


class TaskStatus(TaskSummary):
    """The state of an execution, without its output."""

    queue_position: int | None = Field(None, ge=1, description="1 is next; only while pending")
    timeout_seconds: int | None = None
    max_attempts: int = 1
    attempts: list[Attempt] = []
    waiting_for: PendingRequest | None = Field(None, description="answer it with POST /tasks/{id}/replies/{request_id}")
    todo: list[TodoItem] = []
    errors: list[FieldError] = []
    diff: DiffSummary = DiffSummary()
    result: str = Field("", description="the agent's last message; shortened when `result_bytes` is set")
    result_bytes: int | None = Field(None, description="bytes of the whole result, in `result.txt` of the archive")
    output: Any = Field(None, description="the JSON value that fits `output_schema`, once completed")
    artifacts: ArtifactState | None = Field(None, description="whether the run's results are in S3; once it has ended")
    artifacts_message: str | None = Field(None, description="why they are not")
    last_sequence: int = 0
    commit: str | None = Field(None, description="the pushed commit of the task's `result`")
    branch: str | None = None
    pull_request: PullRequestRef | None = None
    result_message: str | None = Field(None, description="why nothing was pushed, or what the forge refused besides")
    comment_url: str | None = Field(None, description="the comment on the issue or pull request that began it")
    output_expired: bool = Field(False, description="its output has expired from the stream; the archive may have it")
    archive_expired: bool = Field(False, description="its archive has expired")
    cancel_why: str | None = None
    rerun: RerunResult | None = Field(None, description="outcome of a rerun; once it has ended")
    imported_from: str | None = Field(None, description="`project/execution` of the bundle that it came in")

    @classmethod
    def of(cls, record: Record, queue_position: int | None = None) -> TaskStatus:
        """Return the status of `record`."""
        return cls.model_validate({**dict(record), **_common(record), "queue_position": queue_position})


def _common(record: Record) -> dict[str, object]:
    ended = record.ended_at if record.started_at else None
    return {
        "execution_id": record.execution_id,
        "project_id": record.project_id,
        "task_id": record.task_id,
        "session_id": record.session_id,
        "status": record.state,
        "reason": record.reason,
        "message": record.message,
        "progress": record.progress,
        "title": record.title,
        "labels": record.labels,
        "model": record.model,
        "submitted_at": record.submitted_at,
        "updated_at": record.updated_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "duration_ms": duration_ms(record, ended, record.waited_ms) if ended is not None else None,
        "attempt": record.attempts[-1].number if record.attempts else 0,
        "waiting": record.waiting_for is not None,
        "cancel_requested": record.cancel_requested,
        "usage": record.usage,
        "files_changed": record.diff.files,
        "archived": record.archived,
        "rerun_of": record.rerun_of,
    }


class Imported(View):
    """201: the bundle is an archived execution of the project. `imported_from` is `project/execution` of its origin."""

    execution_id: str
    project_id: str
    imported_from: str


class TaskPage(View):
    """One page of the history, newest first. `next` is the `cursor` of the next page."""

    items: list[TaskSummary]
    next: str | None = None
    behind: int | None = Field(None, description="facts that are not in the history yet; null: unknown")


class Files(View):
    """Changes of the run in the workspace; `final`: the run has ended."""

    execution_id: str
    final: bool
    files: list[ChangedFile]
    additions: int
    deletions: int
    truncated: bool


class ViewerToken(View):
    """Credentials for one execution's live subject over the NATS WebSocket, and the URL of its history."""

    nats_ws: str | None = Field(description="null when this gateway offers no NATS: use the WebSocket stream")
    jwt: str
    seed: str
    subject: str
    history_url: str
    expires_at: datetime


class Accepted(View):
    """202: the command is published."""

    execution_id: str
    status: State


class ReplyAccepted(View):
    """202: the answer is published for the worker."""

    execution_id: str
    request_id: str


class SessionAccepted(View):
    """202: the session command is published; `open`: the session exists."""

    session_id: str
    status: Literal["open", "creating", "attaching", "detaching", "destroying"]


class Check(View):
    """One dependency of the gateway."""

    ok: bool
    detail: str = ""
    ms: float


class Readiness(View):
    """Readiness to serve calls, with each check by name."""

    ready: bool
    offline_model: bool = Field(description="without `model_config` a script answers, not a language model")
    checks: dict[str, Check]


class Health(View):
    """The process answers."""

    status: Literal["ok"] = "ok"
    open: bool = Field(description="no token is required: loopback only")
    instance: str | None = Field(description="id of this start of `ocf up`; null elsewhere")
