"""The record of an execution: the value of `<project>.<execution>` in the bucket `ocf_executions`.

Each step is written by the function that owns it, and only by compare-and-set.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ocf.events.base_model import ExecutionId, ForwardCompatible, ProjectId, SessionId
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import ArtifactState, Completed, DiffSummary, FieldError, PullRequestRef, RerunResult
from ocf.events.lifecycle import ATTEMPT, TERMINAL, AttemptState, AttemptStep, Reason, State
from ocf.events.output import PendingRequest, TodoItem, Usage
from ocf.events.task_forge_fields import ReplyTo


class Attempt(ForwardCompatible):
    """One attempt of one worker. `ended` is its terminal state, an `AttemptState`, or one of a later release."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    ended: str | None = None


class OutboxEntry(ForwardCompatible):
    """A fact that was decided and may not be published yet; every reader that finds it publishes it.

    A repeated publish is harmless: the event's id is the message id, and the subject accepts only one event.
    """

    type: str
    id: str
    time: datetime
    data: str
    extensions: dict[str, str] = {}


class Record(ForwardCompatible):
    """Everything about an execution except its output."""

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
    #: Of the REST call that made it, if the caller gave its id.
    request_digest: str = ""
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
    output: Any = None
    artifacts: ArtifactState | None = None
    artifacts_message: str | None = None
    waited_ms: int = 0
    #: From the submission to the first text of the agent, in the attempt that ended the execution.
    first_output_ms: int | None = None
    last_sequence: int = 0
    archived: bool = False
    output_expired: bool = False
    archive_expired: bool = False
    outbox: list[OutboxEntry] = []
    reply_to: ReplyTo | None = None
    comment_url: str | None = None
    commit: str | None = None
    branch: str | None = None
    pull_request: PullRequestRef | None = None
    result_message: str | None = None
    #: The execution that this one runs again, and the outcome of that.
    rerun_of: ExecutionId | None = None
    rerun: RerunResult | None = None
    #: `project/execution` of the origin, if it came in a bundle.
    imported_from: str | None = None
    #: The completed work whose result is being pushed, or was refused, and the commit that it began from.
    publishing: Completed | None = None
    base_commit: str | None = None
    #: Commits that this execution pushed or was about to push.
    pushed: list[str] = []
    #: The commit whose status or check run on the forge says that this execution runs.
    status_open: str | None = None

    @property
    def ref(self) -> ExecutionRef:
        """Project and id."""
        return ExecutionRef(self.project_id, self.execution_id)

    @property
    def terminal(self) -> bool:
        """Return whether the execution has ended."""
        return self.state in TERMINAL

    @property
    def attempts_spent(self) -> int:
        """Number of attempts that count against `max_attempts`.

        Attempts released by a worker's shutdown, and attempts whose agent did not become ready, do not count.
        """
        free = (AttemptState.RELEASED, AttemptState.NOT_READY)
        return sum(attempt.ended not in free for attempt in self.attempts)

    @property
    def attempt_state(self) -> AttemptState | None:
        """`RUNNING` while an attempt is open, else None."""
        return AttemptState.RUNNING if self.attempts and self.attempts[-1].ended_at is None else None

    def begin_attempt(self, worker: str, now: datetime) -> Record:
        """Return the record with a new attempt of `worker`. Raises IllegalStep while another one is open."""
        ATTEMPT.step(self.attempt_state, AttemptStep.START)
        attempt = Attempt(number=len(self.attempts) + 1, worker=worker, started_at=now)
        return self.model_copy(update={"attempts": [*self.attempts, attempt]})

    def end_attempt(self, taken: AttemptStep, now: datetime) -> Record:
        """Return the record with the open attempt ended by `taken`; without an open attempt, the record itself."""
        state = self.attempt_state
        if state is None:
            return self
        ended = {"ended_at": now, "ended": ATTEMPT.step(state, taken).value}
        return self.model_copy(update={"attempts": [*self.attempts[:-1], self.attempts[-1].model_copy(update=ended)]})

    @property
    def progress(self) -> int:
        """Progress in percent, from the agent's todo list; 100 only when completed."""
        if self.state is State.COMPLETED:
            return 100
        if not self.todo:
            return 0
        done = sum(item.status in ("completed", "cancelled") for item in self.todo)
        return min(99, round(100 * done / len(self.todo)))
