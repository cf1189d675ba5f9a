"""Polling rules: a NATS schedule ticks on `ocf.poll.<project>.<rule>`, and what was read is `poll.<project>.<rule>`."""

from __future__ import annotations

import hashlib
from datetime import datetime

from pydantic import Field

from ocf.events import subjects
from ocf.events.base_model import ForwardCompatible
from ocf.events.envelope import Event
from ocf.events.ports import Bucket, Bus
from ocf.functions.rules.rule import Poll, Rule

POLL = "dev.ocf.poll.tick.v1"


class PollState(ForwardCompatible):
    """The position in a repository by the forge's clock, and why the last poll failed.

    `seen` has what is known of the time that is read again: digests of events and items with their times.
    """

    of: str = Field("", description="digest of the settings that it belongs to")
    since: datetime | None = None
    etag: str | None = None
    seen: dict[str, datetime] = Field(default_factory=dict)
    polled_at: datetime | None = None
    problem: str = ""


def digest(poll: Poll) -> str:
    """Return the digest of what is polled; the interval does not matter."""
    return hashlib.sha256(poll.model_dump_json(exclude={"every"}).encode()).hexdigest()[:16]


def state_key(project: str, name: str) -> str:
    """Return the key of a `PollState`."""
    return f"poll.{project}.{name}"


async def read_state(bucket: Bucket, project: str, name: str) -> PollState | None:
    """Return how far a rule has polled, or None."""
    entry = await bucket.get(state_key(project, name))
    return None if entry is None else PollState.read(entry.value)


async def arm(bus: Bus, rule: Rule, project: str, now: datetime) -> None:
    """Store the NATS schedule of a rule in place of an earlier one, or none; the first poll is due at once.

    The tick of a rule that is not stored removes the schedule again, so a crash between the two leaves nothing.
    """
    await disarm(bus, project, rule.name)
    if rule.poll is None:
        return
    tick = Event(POLL, f"/ocf/triggers/{project}/{rule.name}", rule.name, now, b"{}")
    target, every = subjects.poll(project, rule.name), rule.poll.every
    schedule = {"Nats-Schedule": f"@every {every}", "Nats-Schedule-Target": target, "Nats-Schedule-TTL": every}
    headers = {**tick.headers(), **schedule, "Nats-TTL": "never"}
    await bus.publish(subjects.timetable(project, _schedule(rule.name)), tick.data, headers)
    await bus.publish(target, tick.data, {**tick.headers(), "Nats-TTL": every})


async def disarm(bus: Bus, project: str, name: str) -> None:
    """Remove the NATS schedule of a rule, if it has one."""
    await bus.purge(subjects.INBOX, subjects.timetable(project, _schedule(name)))


def _schedule(name: str) -> str:
    return f"poll_{name}"  # no schedule of cron has such a name
