"""Stop reason of an attempt, decided once by the first of agent, user, watchdog, model proxy and worker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ocf.events.errors import OcfError
from ocf.events.lifecycle import AttemptStep, Reason, Step


class Released(OcfError):
    """This worker releases the execution; another attempt, or `worker_lost`, follows elsewhere."""

    http_status = 503


@dataclass(frozen=True)
class StopReason:
    """Why an attempt stops. With `step` None only the attempt ends, by `attempt_step`."""

    step: Step | None
    message: str = ""
    reason: Reason | None = None
    stderr_tail: tuple[str, ...] = ()
    requested_by: str | None = None
    attempt_step: AttemptStep = AttemptStep.RELEASE


def failed(reason: Reason, message: str, stderr_tail: tuple[str, ...] = ()) -> StopReason:
    """Return the stop reason of a failed execution."""
    return StopReason(Step.FAIL, message, reason, stderr_tail)


class StopSignal:
    """Holds the first stop reason; later ones are ignored."""

    def __init__(self) -> None:
        self._decided = asyncio.Event()
        self._stop_reason: StopReason | None = None
        #: Set when this worker releases the execution, also after another stop reason.
        self.released = asyncio.Event()

    @property
    def stop_reason(self) -> StopReason | None:
        """Return the stop reason; None before one is decided."""
        return self._stop_reason

    def decide(self, stop_reason: StopReason) -> None:
        """Set the stop reason unless one is set."""
        if stop_reason.step is None:
            self.released.set()
        if self._stop_reason is None:
            self._stop_reason = stop_reason
            self._decided.set()

    async def wait(self) -> StopReason:
        """Wait for the stop reason and return it."""
        await self._decided.wait()
        assert self._stop_reason is not None
        return self._stop_reason
