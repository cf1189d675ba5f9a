"""Times for the reader of a terminal: in the time zone of that terminal. `--json` has them in UTC."""

from __future__ import annotations

from datetime import datetime


def local_time(text: str) -> str:
    """Return an RFC 3339 time as `2026-01-31 10:15:02` in the local time zone."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"
