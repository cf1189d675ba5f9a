"""From an error or a verdict to how an attempt ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from ocf.events import outcomes
from ocf.events.errors import OcfError, SealError
from ocf.events.execution_record import Attempt
from ocf.events.facts import Artifact, ArtifactState, DiffSummary
from ocf.events.lifecycle import Reason, Step
from ocf.events.output import Usage
from ocf.functions.execute.attempt.publisher import whole
from ocf.functions.execute.attempt.stop import StopReason, failed
from ocf.functions.execute.sandbox.process import AgentFailed


@dataclass(frozen=True)
class StoredArtifacts:
    """What of a run was stored: `objects` below the execution's prefix, and whether that is all of it."""

    diff: DiffSummary = field(default_factory=DiffSummary)
    objects: tuple[Artifact, ...] = ()
    artifacts: ArtifactState = "stored"
    message: str | None = None
    waited_ms: int = 0

    def work(self, usage: Usage, result: str) -> outcomes.Work:
        """With what it used and said, for the terminal fact."""
        return outcomes.Work(
            usage=usage,
            result=whole(result),
            diff=self.diff,
            objects=self.objects,
            artifacts=self.artifacts,
            artifacts_message=whole(self.message),
            waited_ms=self.waited_ms,
        )


def closed(attempts: list[Attempt], now: datetime, ended: str) -> list[Attempt]:
    """`attempts` with an open last one closed as `ended`."""
    if not attempts or attempts[-1].ended_at is not None:
        return list(attempts)
    return [*attempts[:-1], attempts[-1].model_copy(update={"ended_at": now, "ended": ended})]


def of_error(error: OcfError) -> StopReason:
    """What an error of the run says about the execution."""
    if isinstance(error, AgentFailed):
        return failed(error.reason, error.message, error.stderr_tail)
    if isinstance(error, SealError):
        return failed(Reason.MODEL_AUTH, f"model_config.api_key: {error}")
    reason = getattr(error, "reason", Reason.AGENT_ERROR)
    return failed(reason if isinstance(reason, Reason) else Reason.AGENT_ERROR, str(error))


def ending(verdict: StopReason, taken: Step) -> outcomes.Ending:
    """The end that a verdict asks for, in texts that UTF-8 can say."""
    return outcomes.Ending(
        step=taken,
        message=whole(verdict.message),
        reason=verdict.reason,
        stderr_tail=whole(list(verdict.stderr_tail)),
        requested_by=verdict.requested_by,
    )
