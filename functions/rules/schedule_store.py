"""Schedules: a task at the times of a cron expression, on the NATS schedules of the stream `OCF_INBOX`.

The record's key is `schedule.<project>.<name>`; the NATS schedule lies on `ocf.cron.<project>.<name>` and publishes a
tick on `ocf.in.<project>.schedule`, which the trigger function turns into a submit.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from ocf.events import subjects
from ocf.events.base_model import ForwardCompatible, FreeObject, Model, ProjectId
from ocf.events.envelope import Event
from ocf.events.ports import Bucket, Bus
from ocf.functions.core import compare_and_set
from ocf.functions.rules.cron import Cron
from ocf.functions.rules.rule import Name

#: Source part of the subject of ticks; its events of any other publisher are ignored.
TICKS = "schedule"
TICK = "dev.ocf.schedule.tick.v1"
Overlap = Literal["skip", "queue", "cancel"]


class Schedule(Model):
    """A schedule. `overlap` says what a tick does while the execution of an earlier one runs."""

    name: Name
    project_id: ProjectId | None = None
    cron: Annotated[str, Field(max_length=200, examples=["0 6 * * 1-5"])]
    timezone: Annotated[str, Field(max_length=64, examples=["Europe/Berlin"])] = "UTC"
    overlap: Overlap = "skip"
    task: Annotated[FreeObject, Field(description="a body of POST /tasks/execute, without ids")]


class StoredSchedule(ForwardCompatible):
    """The record of a schedule."""

    schedule: Schedule
    paused: bool = False


class Schedules:
    """The schedules of all projects."""

    def __init__(self, bus: Bus, bucket: Bucket) -> None:
        self._bus, self._bucket = bus, bucket

    async def get(self, project: str, name: str) -> StoredSchedule | None:
        """Return a schedule, or None."""
        entry = await self._bucket.get(_key(project, name))
        return None if entry is None else StoredSchedule.read(entry.value)

    async def list_of(self, project: str) -> list[StoredSchedule]:
        """Return the schedules of a project by name."""
        found = [StoredSchedule.read(entry.value) async for entry in self._bucket.entries(_key(project, "*"))]
        return sorted(found, key=lambda one: one.schedule.name)

    async def put(self, schedule: Schedule, project: str, now: datetime) -> bool:
        """Store and arm a schedule; return whether it is new. Raises Conflict if it is changed at the same time."""
        key = _key(project, schedule.name)
        earlier = await self._bucket.get(key)
        value = compare_and_set.dump(StoredSchedule(schedule=schedule))
        await self._bucket.update(key, value, earlier.revision if earlier else 0)
        await self._arm(schedule, project, now)
        return earlier is None

    async def pause(self, project: str, name: str, *, paused: bool, now: datetime) -> None:
        """Pause or resume a schedule. Raises NotYetKnown for an unknown name."""

        def changed(stored: StoredSchedule) -> StoredSchedule:
            return stored.model_copy(update={"paused": paused})

        found = await compare_and_set.change(
            self._bucket, _key(project, name), StoredSchedule, changed, lambda one: one, name=f"schedule {name}"
        )
        if paused:
            await self._bus.purge(subjects.INBOX, subjects.timetable(project, name))
        else:
            await self._arm(found.schedule, project, now)

    async def delete(self, project: str, name: str) -> bool:
        """Remove a schedule and its state; return whether it existed."""
        found = await self._bucket.get(_key(project, name)) is not None
        await self._bus.purge(subjects.INBOX, subjects.timetable(project, name))
        await self._bucket.delete(_key(project, name))
        await self._bucket.delete(f"state.{project}.{state_name(name)}")
        return found

    async def _arm(self, schedule: Schedule, project: str, now: datetime) -> None:
        """Publish the NATS schedule (ADR-51), which replaces an earlier one of this name. It does not expire."""
        tick = Event(TICK, f"/ocf/schedules/{project}/{schedule.name}", schedule.name, now, b"{}")
        headers = {
            **tick.headers(),
            "Nats-Schedule": Cron(schedule.cron, schedule.timezone).nats,
            "Nats-Schedule-Time-Zone": schedule.timezone,
            "Nats-Schedule-Target": subjects.inbox(project, TICKS),
            "Nats-TTL": "never",
        }
        await self._bus.publish(subjects.timetable(project, schedule.name), tick.data, headers)


def state_name(name: str) -> str:
    """Return the name of a schedule's state; no rule has such a name."""
    return f"schedule_{name}"


def _key(project: str, name: str) -> str:
    return f"schedule.{project}.{name}"
