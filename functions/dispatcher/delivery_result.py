"""Result of a delivery, and its consequence."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from ocf.functions.dispatcher.routes import backoff
from ocf.functions.settings.event_sinks import SINK_PAUSES, SPREAD

#: 401 and 403 mean that a process has a wrong token, and are not a fault of the event.
_RETRIED = frozenset({401, 403, 404, 408, 409})
_GONE = 410
#: Another worker has it. After a restart of the dispatcher, a long execution causes this response until it ends.
_CONFLICT = 409


@dataclass(frozen=True)
class DeliveryResult:
    """Response of a function. `status` 0 means no response."""

    status: int
    reason: str = ""
    #: Seconds of `Retry-After`.
    retry_after: float = 1.0

    @property
    def loggable_reason(self) -> str:
        """The part of `reason` that may be logged; all of it, because functions never quote their input."""
        return self.reason

    @property
    def done(self) -> bool:
        """Return whether the event was handled."""
        return 200 <= self.status < 300

    @property
    def kind(self) -> str:
        """Label value for the metrics, which separates waits from failures."""
        if self.too_early:
            return "early"
        if self.status == _CONFLICT:
            return "conflict"
        return f"{self.status // 100}xx" if self.status else "none"

    @property
    def busy(self) -> bool:
        """Return whether all slots are taken: wait, which is not a failure."""
        return self.status == 429

    @property
    def too_early(self) -> bool:
        """Return whether other executions come first: requeue, which is not a failure. A slot may be free."""
        return self.status == 425

    @property
    def retried(self) -> bool:
        """Return whether a retry may succeed."""
        return self.status == 0 or self.status >= 500 or self.status in _RETRIED

    @property
    def endpoint_gone(self) -> bool:
        """Return whether the target refuses all further events."""
        return False

    def pause(self, failures: int) -> float:
        """Return the seconds until the next attempt after so many failures."""
        return backoff(failures)


@dataclass(frozen=True)
class SinkResult(DeliveryResult):
    """Response of an external sink. Every status except 2xx is retried over days, because its operator may fix it."""

    #: Id of the event, from which the jitter of the pauses is derived.
    event_id: str = ""
    #: Type of the error if there was no response, else empty.
    failure: str = ""

    @property
    def loggable_reason(self) -> str:
        """The type of the error only: a sink that echoes its input would put the agent's output into the log."""
        return self.failure

    @property
    def busy(self) -> bool:
        """Return False: 429 is a failure like any other."""
        return False

    @property
    def too_early(self) -> bool:
        """Return False: 425 is a failure like any other."""
        return False

    @property
    def retried(self) -> bool:
        """Return whether the status is not 2xx."""
        return not self.done

    @property
    def endpoint_gone(self) -> bool:
        """Return whether the sink responded with 410 Gone."""
        return self.status == _GONE

    def pause(self, failures: int) -> float:
        """Return the seconds until the next attempt: the planned pause with jitter, at least `Retry-After`."""
        planned = SINK_PAUSES[min(failures, len(SINK_PAUSES)) - 1]
        share = zlib.crc32(f"{self.event_id}.{failures}".encode()) / 0xFFFF_FFFF
        return max(planned * (1 + SPREAD * (2 * share - 1)), self.retry_after)
