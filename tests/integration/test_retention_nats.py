"""Retention's schedule on a real server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.functions.core import schedules
from ocf.functions.runtime import setup
from ocf.functions.settings.settings import Settings
from tests.support.nats import NatsServer
from tests.support.stack import until


async def test_the_server_sends_the_command_by_itself(nats_server: NatsServer) -> None:
    """Set up once however often it is asked for; anew in place of the first; it fires; once stopped it is gone."""
    often = replace(schedules.RETENTION, every="@every 1s")
    bus = await connect(nats_server.url, creds=nats_server.creds, name="test")
    target = subjects.command("cleanup", subjects.SYSTEM_PROJECT, schedules.RETENTION.entity)
    try:
        for _ in range(2):
            await schedules.ensure_schedule(bus, often)
        first = await bus.last(subjects.COMMANDS, schedules.RETENTION.subject)
        await schedules.ensure_schedule(bus, often, refresh=True)
        there = [message async for message in bus.history(subjects.COMMANDS, schedules.RETENTION.subject)]
        assert first is not None
        assert [message.sequence > first.sequence for message in there] == [True]

        async def fired() -> bool:
            message = await bus.last(subjects.COMMANDS, target)
            return message is not None and json.loads(message.data)["scope"] == "retention"

        await until(fired, timeout=15, what="the schedule's command")
        await schedules.delete_schedule(bus, often)
        assert await bus.last(subjects.COMMANDS, schedules.RETENTION.subject) is None
    finally:
        await bus.purge(subjects.COMMANDS, target)
        await bus.close()


async def test_setup_begins_it(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Where the table is new and nothing is submitted any more, what lies there already goes too."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds, name="test")
    environ = {"NATS_URL": own_nats_server.url, "NATS_CREDS": str(own_nats_server.creds), "STATE_DIR": str(tmp_path)}
    try:
        for table in ("", "default=7d/90d"):
            assert await setup.run(Settings.model_validate({**environ, "RETENTION": table})) == 0
            message = await bus.last(subjects.COMMANDS, schedules.RETENTION.subject)
            assert (message is not None) == bool(table)
    finally:
        await bus.close()
