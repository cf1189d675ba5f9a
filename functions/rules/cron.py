"""Cron: five fields in a time zone, as NATS' six fields, and the local times at which they are due.

A tick is named by its local time. A time that daylight saving removes is not due; one that it repeats is due once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_FIELD = re.compile(r"[0-9A-Za-z*,/-]{1,100}")
_MINUTE = timedelta(minutes=1)
#: A schedule fires within this many seconds of its time; earlier by the clocks of two machines.
_EARLY = timedelta(seconds=2)
MAX_MISSED = 1_000


class InvalidCron(ValueError):
    """The expression or the time zone cannot be used."""


class Cron:
    """A cron expression in a time zone.

    Raises:
        InvalidCron: One of them cannot be used; the text says why.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        fields = expression.split()
        if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields):
            raise InvalidCron("must be five fields: minute, hour, day of the month, month, day of the week")
        if not (fields[2].startswith("*") or fields[4].startswith("*")):
            raise InvalidCron("must limit the day of the month or the day of the week, not both")
        try:
            parsed = CronSim(expression, datetime(2026, 1, 1))
            self._zone = ZoneInfo(timezone)
        except CronSimError as error:
            raise InvalidCron(str(error)) from None
        except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones, such as Europe, is an OSError
            raise InvalidCron(f"{timezone[:80]!r} is not a time zone such as Europe/Berlin") from None
        days = {0 if day == 7 else day for day in parsed.weekdays}
        if not all(isinstance(one, int) and one >= 0 for one in (*parsed.days, *days)):
            raise InvalidCron("must not use L or #")
        self._expression = expression
        parts: tuple[tuple[set[Any], int], ...] = (
            *((parsed.minutes, 60), (parsed.hours, 24), (parsed.days, 31)),
            *((parsed.months, 12), (days, 7)),
        )
        listed = ("*" if len(part) == whole else ",".join(map(str, sorted(part))) for part, whole in parts)
        #: The expression in the form of NATS (ADR-51): seconds first, Sunday is 0.
        self.nats = " ".join(("0", *listed))

    def after(self, time: datetime) -> Iterator[datetime]:
        """Yield the times after `time` at which it is due, in UTC."""
        for local in CronSim(self._expression, self._local(time) - timedelta(hours=3)):
            due = local.replace(tzinfo=self._zone).astimezone(UTC)
            exists = due.astimezone(self._zone).replace(tzinfo=None) == local
            if exists and due > time:
                yield due

    def planned(self, fired: datetime) -> str:
        """Return the local time, such as `2027-03-28T03:30`, of the tick that fired at `fired`."""
        local = self._local(fired + _EARLY).replace(second=0, microsecond=0)
        due: datetime = next(CronSim(self._expression, local + _MINUTE, reverse=True))
        return due.isoformat(timespec="minutes")

    def missed(self, earlier: str, planned: str) -> int:
        """Return the number of ticks between two ticks, at most `MAX_MISSED`."""
        end, count = datetime.fromisoformat(planned), 0
        for local in CronSim(self._expression, datetime.fromisoformat(earlier)):
            due = local.replace(tzinfo=self._zone)
            if local >= end or count == MAX_MISSED:
                break
            count += due.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) == local
        return count

    def _local(self, time: datetime) -> datetime:
        return time.astimezone(self._zone).replace(tzinfo=None)
