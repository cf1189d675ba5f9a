"""What the other side said to an event, and what follows from it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from ocf.functions.dispatcher.routes import backoff

#: 401 and 403 say that somebody was deployed with a wrong token, and nothing about the event.
_RETRIED = frozenset({401, 403, 404, 408, 409})
#: Seconds between the tries of a delivery to a sink: twelve pauses, two days (Standard Webhooks 1.0.0, Deliverability).
SINK_PAUSES = (1, 5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400)
_SPREAD = 0.1
_GONE = 410
#: Another has it. After a restart of the dispatcher a long run is answered so for as long as it lasts.
_CONFLICT = 409


@dataclass(frozen=True)
class DeliveryResult:
    """What a function said. `status` 0: nothing, it did not answer."""

    status: int
    reason: str = ""
    #: Seconds it asked for (`Retry-After`).
    retry_after: float = 1.0

    @property
    def loggable_reason(self) -> str:
        """As much of `reason` as a log may have: functions never repeat what they were given."""
        return self.reason

    @property
    def done(self) -> bool:
        """It is handled."""
        return 200 <= self.status < 300

    @property
    def kind(self) -> str:
        """For counting: those that are no failures apart from those that are."""
        if self.too_early:
            return "early"
        if self.status == _CONFLICT:
            return "conflict"
        return f"{self.status // 100}xx" if self.status else "none"

    @property
    def busy(self) -> bool:
        """All its slots are taken: wait, which is not a failure."""
        return self.status == 429

    @property
    def too_early(self) -> bool:
        """Others come first, while a slot may be free: it is given back, which is not a failure either."""
        return self.status == 425

    @property
    def retried(self) -> bool:
        """It may go better later."""
        return self.status == 0 or self.status >= 500 or self.status in _RETRIED

    @property
    def endpoint_gone(self) -> bool:
        """It wants no more events at all."""
        return False

    def pause(self, failures: int) -> float:
        """Seconds until the next try after that many failures."""
        return backoff(failures)


@dataclass(frozen=True)
class SinkResult(DeliveryResult):
    """What somebody else's receiver said. Whatever is no 2xx may be mended over there: it is tried again, over days."""

    #: Of the event: tries of many events that failed together do not come together again.
    event_id: str = ""
    #: What kept it from answering, by its kind; empty when it did answer.
    failure: str = ""

    @property
    def loggable_reason(self) -> str:
        """Not its own words: who echoes what comes in would put the agent's answer into the log."""
        return self.failure

    @property
    def busy(self) -> bool:
        return False

    @property
    def too_early(self) -> bool:
        return False

    @property
    def retried(self) -> bool:
        return not self.done

    @property
    def endpoint_gone(self) -> bool:
        return self.status == _GONE

    def pause(self, failures: int) -> float:
        planned = SINK_PAUSES[min(failures, len(SINK_PAUSES)) - 1]
        share = zlib.crc32(f"{self.event_id}.{failures}".encode()) / 0xFFFF_FFFF
        return max(planned * (1 + _SPREAD * (2 * share - 1)), self.retry_after)
