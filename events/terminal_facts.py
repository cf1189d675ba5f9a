"""Terminal facts: every function that ends an execution composes them here, within the size of one NATS message.

A record contains its terminal fact twice: in its own fields and, escaped once more, in its outbox. The parts of a fact
therefore have budgets in bytes of JSON. If the record is still too large, all budgets shrink, at last to ids, times and
figures only. A shortened terminal fact is better than one that cannot be published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ocf.events.event_types import TYPES
from ocf.events.execution_record import OutboxEntry, Record
from ocf.events.fact_payloads import (
    Artifact,
    ArtifactState,
    Cancelled,
    ChangedFile,
    Completed,
    DiffSummary,
    Failed,
    FieldError,
    Outcome,
    PullRequestRef,
    RerunResult,
    TimedOut,
)
from ocf.events.lifecycle import Reason, Step
from ocf.events.output import PendingRequest, TodoItem, Usage
from ocf.events.untrusted_json import KIB, RECORD_BYTES, json_size, shorten

#: Objects with the full text of shortened parts.
RESULT_NAME, CHANGES_NAME = "result.txt", "changes.json"

#: Budgets of the parts, in bytes of JSON.
RESULT_BYTES = 128 * KIB
DIFF_BYTES = 192 * KIB
MESSAGE_BYTES = 8 * KIB
STDERR_BYTES = 32 * KIB
NAME_BYTES = KIB
TODO_BYTES = 32 * KIB
WAITING_BYTES = 16 * KIB
ERRORS_BYTES = 64 * KIB
#: Errors per fact; a last entry has the number of omitted errors.
MAX_ERRORS = 100
#: Divergences per fact, each with a text of at most 400 characters.
MAX_DIVERGENCES = 50
#: Shares of the budgets, tried in this order.
_SHARES = (1.0, 0.25, 0.0625, 0.0)
#: Bytes of a list entry without its path or text.
_ENTRY_BYTES = 80


@dataclass(frozen=True)
class PublishedResult:
    """Result of the task's `result` at the forge. Without a commit nothing was pushed; `message` says why."""

    commit: str | None = None
    branch: str | None = None
    pull_request: PullRequestRef | None = None
    message: str | None = None

    def fields(self) -> dict[str, object]:
        """Return the fields of facts and records."""
        about = {"commit": self.commit, "branch": self.branch, "pull_request": self.pull_request}
        return {**about, "result_message": self.message}


@dataclass(frozen=True)
class Work:
    """Results of an attempt that the record does not have yet."""

    usage: Usage = field(default_factory=Usage)
    result: str = ""
    output: object = None
    diff: DiffSummary = field(default_factory=DiffSummary)
    objects: Sequence[Artifact] = ()
    artifacts: ArtifactState = "stored"
    artifacts_message: str | None = None
    waited_ms: int = 0
    first_output_at: datetime | None = None
    published: PublishedResult | None = None
    rerun: RerunResult | None = None


@dataclass(frozen=True)
class Ending:
    """The end of an execution. `reason` and `stderr_tail` are for `Step.FAIL`, `requested_by` is for `Step.CANCEL`."""

    step: Step
    message: str = ""
    reason: Reason | None = None
    stderr_tail: Sequence[str] = ()
    requested_by: str | None = None


def milliseconds(span: timedelta) -> int:
    """Convert a time span to milliseconds, at least 0: clocks differ between machines."""
    return max(0, round(span.total_seconds() * 1000))


def duration_ms(record: Record, now: datetime, waited_ms: int = 0) -> int:
    """Return the milliseconds from the first start to `now` without `waited_ms`; 0 without a start."""
    return max(0, milliseconds(now - record.started_at) - waited_ms) if record.started_at is not None else 0


def compose(
    record: Record, ending: Ending, now: datetime, *, work: Work | None = None, last_sequence: int | None = None
) -> Outcome:
    """Compose the terminal fact of `record`.

    Args:
        record: The record before its terminal step.
        ending: The end.
        now: The time of the end.
        work: Results of the attempt that ends. Without them the fact has the results in the record, and the artifacts
            of a started attempt are lost.
        last_sequence: Last sequence of the output, if the caller knows it better than the record.

    Raises:
        ValueError: `ending.step` is not terminal.
    """
    if work is None:
        work = Work(usage=record.usage, diff=record.diff, result=record.result)
        if record.attempts and record.started_at is not None:
            message = "the worker is gone; the archive has what it had stored until then"
            work = Work(work.usage, work.result, work.diff, artifacts="lost", artifacts_message=message)
    common: dict[str, object] = {
        "execution_id": record.execution_id,
        "project_id": record.project_id,
        "attempt": record.attempts[-1].number if record.attempts else 0,
        "queued_ms": milliseconds((record.started_at or now) - record.submitted_at),
        "duration_ms": duration_ms(record, now, work.waited_ms),
        "waited_ms": work.waited_ms,
        "first_output_ms": milliseconds(work.first_output_at - record.submitted_at) if work.first_output_at else None,
        "usage": work.usage,
        "result": work.result,
        "output": work.output,
        "diff": work.diff,
        "objects": list(work.objects),
        "artifacts": work.artifacts,
        "artifacts_message": work.artifacts_message,
        "last_sequence": record.last_sequence if last_sequence is None else last_sequence,
        "model": record.model,
        "rerun": work.rerun,
        **(work.published.fields() if work.published is not None else {}),
    }
    match ending.step:
        case Step.COMPLETE:
            return Completed.model_validate(common)
        case Step.CANCEL:
            cancelled = {"why": ending.message or None, "requested_by": ending.requested_by}
            return Cancelled.model_validate({**common, **cancelled})
        case Step.TIME_OUT:
            return TimedOut.model_validate({**common, "limit_seconds": record.timeout_seconds})
        case Step.FAIL:
            failed = {"reason": ending.reason or Reason.AGENT_ERROR, "message": ending.message}
            return Failed.model_validate({**common, **failed, "stderr_tail": list(ending.stderr_tail)})
    raise ValueError(f"{ending.step.value} is not a terminal step")


def worker_lost(record: Record) -> Ending:
    """Return the end of an execution whose worker was lost."""
    worker = record.attempts[-1].worker if record.attempts else ""
    return Ending(Step.FAIL, f"its worker {worker} is gone", Reason.WORKER_LOST)


def fit(outcome: Outcome, share: float = 1.0) -> Outcome:
    """Shorten the parts of a fact to `share` of their budgets; with 0 only ids, times and figures remain."""
    result = shorten(outcome.result, int(RESULT_BYTES * share))
    changes: dict[str, object] = {"diff": fit_diff(outcome.diff, int(DIFF_BYTES * share))}
    if result != outcome.result:
        whole = outcome.result_bytes or len(outcome.result.encode())
        changes |= {"result": result, "result_bytes": whole}
    for name in ("message", "why", "artifacts_message", "result_message"):
        if text := getattr(outcome, name, None):
            changes[name] = shorten(text, max(256, int(MESSAGE_BYTES * share)))
    for name in ("model", "requested_by"):
        if text := getattr(outcome, name, None):
            changes[name] = shorten(text, NAME_BYTES)
    if outcome.rerun is not None:
        changes["rerun"] = fit_rerun(outcome.rerun, share)
    if isinstance(outcome, Failed):
        changes["stderr_tail"] = fit_lines(outcome.stderr_tail, int(STDERR_BYTES * share))
    return outcome.model_copy(update=changes)


def fit_rerun(rerun: RerunResult, share: float) -> RerunResult:
    """Keep `share` of the divergences of a rerun; their number stays. The writer limits their texts."""
    listed = rerun.divergences[: int(MAX_DIVERGENCES * share)]
    more = rerun.more + len(rerun.divergences) - len(listed)
    return rerun.model_copy(update={"divergences": listed, "more": more})


def fit_diff(diff: DiffSummary, budget: int) -> DiffSummary:
    """Limit the list of changed files to `budget` bytes of JSON; the counts stay."""
    named = named_files(diff.changed, budget)
    if len(named) == len(diff.changed):
        return diff
    return diff.model_copy(update={"changed": named, "truncated": True})


def named_files(changed: Iterable[ChangedFile], budget: int) -> list[ChangedFile]:
    """Return the first of `changed` that take at most `budget` bytes of JSON."""
    named: list[ChangedFile] = []
    for file in changed:
        budget -= _ENTRY_BYTES + json_size(file.path)
        if budget < 0:
            break
        named.append(file)
    return named


def fit_lines(lines: Sequence[str], budget: int) -> list[str]:
    """Return the last `lines` within `budget` bytes of JSON, after an entry with the number of omitted lines."""
    fitting: list[str] = []
    room = budget
    for line in reversed(lines):
        line = shorten(line, max(0, min(budget // 4, 4 * KIB)))
        room -= json_size(line) + 3
        if room < 0:
            break
        fitting.insert(0, line)
    omitted = len(lines) - len(fitting)
    return [f"… ({omitted} more lines)", *fitting] if omitted else fitting


def fit_errors(errors: Sequence[FieldError], budget: int = ERRORS_BYTES) -> list[FieldError]:
    """Return the first `errors` within `budget` bytes of JSON; a last entry has the number of omitted errors."""
    fitting: list[FieldError] = []
    for error in errors[:MAX_ERRORS]:
        short = error.model_copy(
            update={"field": shorten(error.field, NAME_BYTES), "message": shorten(error.message, 4 * KIB)}
        )
        budget -= _ENTRY_BYTES + json_size(short.field) + json_size(short.message)
        if budget < 0:
            break
        fitting.append(short)
    if omitted := len(errors) - len(fitting):
        fitting.append(FieldError(field="data", message=f"{omitted} more fields are wrong"))
    return fitting


def fit_todo(items: Sequence[TodoItem], budget: int = TODO_BYTES) -> list[TodoItem]:
    """Return the first `items` within `budget` bytes of JSON; a last entry has the number of omitted items."""
    fitting: list[TodoItem] = []
    for item in items:
        short = item.model_copy(update={"content": shorten(item.content, KIB)})
        budget -= _ENTRY_BYTES + json_size(short.content)
        if budget < 0:
            fitting.append(TodoItem(content=f"… ({len(items) - len(fitting)} more)", status="pending"))
            break
        fitting.append(short)
    return fitting


def fit_waiting(waiting: PendingRequest, budget: int = WAITING_BYTES) -> PendingRequest:
    """Shorten the title of a question and drop options beyond `budget` bytes of JSON.

    Options are never cut, because a cut option could not be chosen.
    """
    options: list[str] = []
    room = budget // 2
    for option in waiting.options:
        room -= json_size(option) + 3
        if room < 0:
            break
        options.append(option)
    return waiting.model_copy(update={"title": shorten(waiting.title, budget // 2), "options": options})


def fit_record(record: Record) -> Record:
    """Shorten the texts of `record` until it fits in its bucket."""
    for share in _SHARES:
        if _size(record) <= RECORD_BYTES:
            return record
        record = _cut(record, share)
    return record


def _size(record: Record) -> int:
    return len(record.model_dump_json(exclude_defaults=True).encode())


def _cut(record: Record, share: float) -> Record:
    waiting = record.waiting_for
    changes: dict[str, object] = {
        "title": shorten(record.title, NAME_BYTES),
        "message": shorten(record.message, max(256, int(MESSAGE_BYTES * share))) if record.message else record.message,
        "errors": fit_errors(record.errors, int(ERRORS_BYTES * share)) if record.errors else [],
        "todo": fit_todo(record.todo, int(TODO_BYTES * share)) if record.todo else [],
        "waiting_for": fit_waiting(waiting, max(KIB, int(WAITING_BYTES * share))) if waiting else None,
        "diff": fit_diff(record.diff, int(DIFF_BYTES * share)),
        "rerun": fit_rerun(record.rerun, share) if record.rerun is not None else None,
        "outbox": [fit_outbox(entry, share) for entry in record.outbox],
        "publishing": fit(record.publishing, share) if record.publishing is not None else None,
    }
    result = shorten(record.result, int(RESULT_BYTES * share))
    if result != record.result:
        changes |= {"result": result, "result_bytes": record.result_bytes or len(record.result.encode())}
    return record.model_copy(update=changes)


def fit_outbox(entry: OutboxEntry, share: float) -> OutboxEntry:
    """Shorten a terminal fact in an outbox to `share` of its budgets; return other facts unchanged."""
    kind = TYPES[entry.type].data if entry.type in TYPES else None
    if kind is None or not issubclass(kind, Outcome):
        return entry
    outcome = fit(kind.read(entry.data), share)
    return entry.model_copy(update={"data": outcome.model_dump_json(by_alias=True, exclude_none=True)})
