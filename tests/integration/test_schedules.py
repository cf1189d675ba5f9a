"""Schedules on the real nats-server: they fire, and it has the same opinion of daylight saving."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx2
import pytest

from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.functions.rules.cron import Cron
from tests.support.nats import NatsServer
from tests.support.stack import Project, Stack, until


def changes(zone: ZoneInfo, *, missing: bool) -> Iterator[datetime]:
    """The next local times, on half hours, that daylight saving removes or repeats."""
    start = (datetime.now(UTC) + timedelta(days=2)).replace(minute=30, second=0, microsecond=0, tzinfo=None)
    for hours in range(400 * 24):
        local = start + timedelta(hours=hours)
        one, other = local.replace(tzinfo=zone), local.replace(tzinfo=zone, fold=1)
        exists = one.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local
        if (missing and not exists) or (not missing and exists and one.utcoffset() != other.utcoffset()):
            yield local


@pytest.mark.parametrize("timezone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("missing", [True, False])
async def test_the_server_agrees_on_daylight_saving(nats_server: NatsServer, timezone: str, missing: bool) -> None:
    """A schedule that fires now says when it fires next: not in the missing hour, once in the doubled one."""
    zone = ZoneInfo(timezone)
    change, now = next(changes(zone, missing=missing)), datetime.now(zone) + timedelta(seconds=3)
    fields = ((now.minute, change.minute), (now.hour, change.hour), (now.day, change.day), (now.month, change.month))
    cron = Cron(" ".join(f"{one},{other}" for one, other in fields) + " *", timezone)
    project = f"{'missing' if missing else 'doubled'}-{timezone.partition('/')[0].lower()}"
    bus = await connect(nats_server.url, creds=nats_server.creds, name="test")
    try:
        headers = {
            "Nats-Schedule": f"{now.second} {cron.nats.partition(' ')[2]}",
            "Nats-Schedule-Time-Zone": timezone,
            "Nats-Schedule-Target": f"ocf.in.{project}.schedule",
            "Nats-TTL": "never",
        }
        await bus.publish(f"ocf.cron.{project}.change", b"{}", headers)
        fired = await until(lambda: bus.last(subjects.INBOX, f"ocf.in.{project}.schedule"), what="the schedule")
    finally:
        await bus.close()
    following = datetime.fromisoformat(fired.headers["Nats-Schedule-Next"]).astimezone(UTC)
    assert following.replace(second=0) == next(cron.after(now))


@pytest.mark.slow
async def test_a_schedule_fires_at_its_minute_and_starts_a_task(stack: Stack, project: Project) -> None:
    """Through NATS, dispatcher and trigger to a completed execution."""
    async with httpx2.AsyncClient(base_url=stack.answer["gateway"], timeout=30) as client:
        body = {"name": "minutely", "project_id": project.name, "cron": "* * * * *", "task": {"prompt": "hello"}}
        assert (await client.post("/schedules", json=body)).status_code == 201

        async def listed() -> list[dict[str, object]]:
            items = (await client.get("/tasks", params={"project_id": project.name})).json()["items"]
            return [one for one in items if one["status"] == "completed"]

        found = await until(listed, timeout=120, what="an execution of the schedule")
        query = {"project_id": project.name}
        (shown,) = (await client.get("/schedules", params=query)).json()["schedules"]
        last = datetime.fromisoformat(shown["last"]["id"]).replace(tzinfo=UTC)
        assert datetime.now(UTC) - timedelta(minutes=3) < last <= datetime.now(UTC)
        assert found[0]["labels"] == {"trigger": "minutely"}
        assert (await client.delete("/schedules/minutely", params=query)).status_code == 202
