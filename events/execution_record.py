"""The record of an execution: the value behind `<project>.<execution>` in the bucket `ocf_executions`.

It is derived from events by the functions that own each step and changed only by compare-and-set.
"""

from __future__ import annotations

from datetime import datetime

from ocf.events.commands import ExecutionId, ForwardCompatible, ProjectId, SessionId
from ocf.events.facts import ArtifactState, DiffSummary, FieldError
from ocf.events.lifecycle import TERMINAL, Reason, State
from ocf.events.output import PendingRequest, TodoItem, Usage

#: How an attempt ended whose worker was shut down in good order.
HANDED_ON = "handed_on"
#: How one ended whose agent did not become ready: nothing had run yet.
NOT_READY = "not_ready"


class Attempt(ForwardCompatible):
    """One try by one worker. `ended` is how it ended: a state, `worker_lost`, `handed_on` or `not_ready`."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    ended: str | None = None


class OutboxEntry(ForwardCompatible):
    """A fact that is decided but perhaps not yet published: whoever sees it publishes it again.

    Publishing twice is harmless: the event's id is its message id, and the subject takes one event only.
    """

    type: str
    id: str
    time: datetime
    data: str
    extensions: dict[str, str] = {}


class Record(ForwardCompatible):
    """Everything known of an execution but its output."""

    execution_id: ExecutionId
    project_id: ProjectId
    task_id: str | None = None
    session_id: SessionId | None = None
    state: State
    reason: Reason | None = None
    message: str | None = None
    errors: list[FieldError] = []
    title: str = ""
    labels: dict[str, str] = {}
    model: str | None = None
    digest: str = ""
    command_id: str = ""
    traceparent: str | None = None
    submitted_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    timeout_seconds: int
    max_attempts: int = 1
    attempts: list[Attempt] = []
    cancel_requested: bool = False
    cancel_why: str | None = None
    cancel_by: str | None = None
    waiting_for: PendingRequest | None = None
    todo: list[TodoItem] = []
    usage: Usage = Usage()
    diff: DiffSummary = DiffSummary()
    result: str = ""
    result_bytes: int | None = None
    artifacts: ArtifactState | None = None
    artifacts_message: str | None = None
    waited_ms: int = 0
    last_sequence: int = 0
    archived: bool = False
    output_expired: bool = False
    archive_expired: bool = False
    outbox: list[OutboxEntry] = []

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.state in TERMINAL

    @property
    def attempts_spent(self) -> int:
        """Attempts that count against `max_attempts`: one that was given back, by a worker that shut down
        or because its agent was not ready, does not."""
        return sum(attempt.ended not in (HANDED_ON, NOT_READY) for attempt in self.attempts)

    @property
    def progress(self) -> int:
        """0 to 100, from the agent's todo list; 100 only when completed."""
        if self.state is State.COMPLETED:
            return 100
        if not self.todo:
            return 0
        done = sum(item.status in ("completed", "cancelled") for item in self.todo)
        return min(99, round(100 * done / len(self.todo)))
