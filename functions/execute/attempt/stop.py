"""How an attempt is to end, decided once by whoever is first: the agent, a person, a watchdog, the broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ocf.events.errors import OcfError
from ocf.events.execution_record import RELEASED
from ocf.events.lifecycle import Reason, Step


class Released(OcfError):
    """This worker gives the execution up; another attempt, or `worker_lost`, follows elsewhere."""

    http_status = 503


@dataclass(frozen=True)
class StopReason:
    """An ending. `step` None: not an ending of the execution, only of this attempt, which is `given_back`."""

    step: Step | None
    message: str = ""
    reason: Reason | None = None
    stderr_tail: tuple[str, ...] = ()
    requested_by: str | None = None
    given_back: str = RELEASED


def failed(reason: Reason, message: str, stderr_tail: tuple[str, ...] = ()) -> StopReason:
    """The execution fails."""
    return StopReason(Step.FAIL, message, reason, stderr_tail)


class StopSignal:
    """Holds the first verdict; later ones do not count."""

    def __init__(self) -> None:
        self._decided = asyncio.Event()
        self._verdict: StopReason | None = None
        #: Set when this worker is to give the execution up, also after a verdict.
        self.released = asyncio.Event()

    @property
    def verdict(self) -> StopReason | None:
        """The verdict, once there is one."""
        return self._verdict

    def decide(self, verdict: StopReason) -> None:
        """Take the first."""
        if verdict.step is None:
            self.released.set()
        if self._verdict is None:
            self._verdict = verdict
            self._decided.set()

    async def wait(self) -> StopReason:
        """Until it is decided."""
        await self._decided.wait()
        assert self._verdict is not None
        return self._verdict
