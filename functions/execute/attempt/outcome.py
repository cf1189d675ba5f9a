"""Map errors and stop reasons to the end of an attempt."""

from __future__ import annotations

from dataclasses import dataclass, field

from ocf.events import terminal_facts
from ocf.events.errors import OcfError, SealError
from ocf.events.fact_payloads import Artifact, ArtifactState, DiffSummary, RerunResult
from ocf.events.lifecycle import Reason, Step
from ocf.events.output import ChunkType, Draft, Usage
from ocf.functions.execute.attempt.output_publisher import replace_lone_surrogates
from ocf.functions.execute.attempt.stop_signal import StopReason, failed
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.workspace import Packed, Patch, readable

_MAX_NAMED = 10


@dataclass(frozen=True)
class StoredArtifacts:
    """The stored results of a run: `objects` below the execution's prefix, and whether they are complete."""

    diff: DiffSummary = field(default_factory=DiffSummary)
    objects: tuple[Artifact, ...] = ()
    artifacts: ArtifactState = "stored"
    message: str | None = None
    waited_ms: int = 0
    patch: Patch | None = None
    rerun: RerunResult | None = None

    def work(self, usage: Usage, result: str, output: object = None) -> terminal_facts.Work:
        """Return these artifacts with usage and result, for the terminal fact."""
        return terminal_facts.Work(
            usage=usage,
            result=replace_lone_surrogates(result),
            output=output,
            diff=self.diff,
            objects=self.objects,
            artifacts=self.artifacts,
            artifacts_message=replace_lone_surrogates(self.message),
            waited_ms=self.waited_ms,
            rerun=self.rerun,
        )


def stop_reason_of(error: OcfError) -> StopReason:
    """Return the stop reason for an error of the run."""
    if isinstance(error, AgentFailed):
        return failed(error.reason, error.message, error.stderr_tail)
    if isinstance(error, SealError):
        return failed(Reason.MODEL_AUTH, f"model_config.api_key: {error}")
    reason = getattr(error, "reason", Reason.AGENT_ERROR)
    return failed(reason if isinstance(reason, Reason) else Reason.AGENT_ERROR, str(error))


def ending(stop_reason: StopReason, taken: Step) -> terminal_facts.Ending:
    """Return the ending that a stop reason asks for, with texts that UTF-8 can encode."""
    return terminal_facts.Ending(
        step=taken,
        message=replace_lone_surrogates(stop_reason.message),
        reason=stop_reason.reason,
        stderr_tail=replace_lone_surrogates(list(stop_reason.stderr_tail)),
        requested_by=stop_reason.requested_by,
    )


def not_stored_draft(text: str) -> Draft:
    """Return a gap chunk about work that is not stored."""
    return Draft(type=ChunkType.GAP, data=text, detail={"reason": "not_stored"})


def skipped_draft(packed: Packed) -> Draft:
    """Return a gap chunk that names the files the archive lacks, so that later users of it know."""
    named = [[readable(path), why] for path, why in packed.skipped[:_MAX_NAMED]]
    more = f" and {packed.skipped_count - len(named)} more" if packed.skipped_count > len(named) else ""
    text = f"not in the saved workspace: {'; '.join(f'{path} ({why})' for path, why in named)}{more}"
    detail = {"reason": "left_out", "paths": named, "count": packed.skipped_count}
    return Draft(type=ChunkType.GAP, data=text, detail=detail)
