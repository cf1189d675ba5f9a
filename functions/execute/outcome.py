"""From a verdict to the terminal fact."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from events.errors import OcfError, SealError
from events.facts import Artifact, Cancelled, Completed, DiffSummary, Failed, Outcome, TimedOut
from events.lifecycle import Reason, Step
from events.output import Usage
from events.record import Attempt, Record
from functions.execute.process import AgentFailed
from functions.execute.publisher import whole
from functions.execute.verdict import Verdict, failed

_RESULT = 100_000


@dataclass(frozen=True)
class Kept:
    """What of the workspace was stored."""

    diff: DiffSummary = field(default_factory=DiffSummary)
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Ending:
    """A verdict, and when and where it fell."""

    verdict: Verdict
    attempt: int
    now: datetime
    last_sequence: int


def milliseconds(span: timedelta) -> int:
    """Never negative: clocks differ between machines."""
    return max(0, round(span.total_seconds() * 1000))


def closed(attempts: list[Attempt], now: datetime, ended: str) -> list[Attempt]:
    """`attempts` with an open last one closed as `ended`."""
    if not attempts or attempts[-1].ended_at is not None:
        return list(attempts)
    return [*attempts[:-1], attempts[-1].model_copy(update={"ended_at": now, "ended": ended})]


def of_error(error: OcfError) -> Verdict:
    """What an error of the run says about the execution."""
    if isinstance(error, AgentFailed):
        return failed(error.reason, error.message, error.stderr_tail)
    if isinstance(error, SealError):
        return failed(Reason.MODEL_AUTH, f"model_config.api_key: {error}")
    reason = getattr(error, "reason", Reason.AGENT_ERROR)
    return failed(reason if isinstance(reason, Reason) else Reason.AGENT_ERROR, str(error))


def fact(record: Record, ending: Ending, usage: Usage, result: str, kept: Kept) -> Outcome:
    """The terminal fact of an attempt that ran."""
    verdict, result = ending.verdict, whole(result)
    message = whole(verdict.message)
    common = _common(record, ending.now) | {
        "attempt": ending.attempt,
        "result": result if len(result) <= _RESULT else f"{result[:_RESULT]}…",
        "usage": usage,
        "diff": kept.diff,
        "artifacts": list(kept.artifacts),
        "last_sequence": ending.last_sequence,
    }
    if verdict.step is Step.COMPLETE:
        return Completed(**common)
    if verdict.step is Step.CANCEL:
        return Cancelled(**common, why=message or None, requested_by=verdict.requested_by)
    if verdict.step is Step.TIME_OUT:
        return TimedOut(**common, limit_seconds=record.timeout_seconds)
    reason = verdict.reason or Reason.AGENT_ERROR
    return Failed(**common, reason=reason, message=message, stderr_tail=whole(list(verdict.stderr_tail)))


def _common(record: Record, now: datetime) -> dict[str, Any]:
    started = record.started_at or now
    return {
        "execution_id": record.execution_id,
        "project_id": record.project_id,
        "attempt": len(record.attempts),
        "duration_ms": milliseconds(now - started) if record.started_at else 0,
        "queued_ms": milliseconds(started - record.submitted_at),
        "usage": record.usage,
        "diff": record.diff,
        "last_sequence": record.last_sequence,
        "model": record.model,
    }


def worker_lost(record: Record, now: datetime) -> Failed:
    """No attempt is left after the last worker vanished."""
    worker = record.attempts[-1].worker if record.attempts else ""
    return Failed(**_common(record, now), reason=Reason.WORKER_LOST, message=f"its worker {worker} is gone")


def cancelled(record: Record, now: datetime, why: str | None, by: str | None) -> Cancelled:
    """Cancelled before this attempt could begin."""
    return Cancelled(**_common(record, now), why=why, requested_by=by)
