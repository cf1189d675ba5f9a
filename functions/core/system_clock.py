"""The real clock. Tests use `tests.support.clock.ManualClock`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """See `ocf.events.ports.Clock`."""

    def now(self) -> datetime:
        """Implement `Clock.now`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Implement `Clock.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Implement `Clock.sleep`."""
        await asyncio.sleep(seconds)
