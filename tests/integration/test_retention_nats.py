"""Retention's schedule on a real server."""

from __future__ import annotations

import json

import pytest

from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.functions.core import retention_schedule
from ocf.functions.runtime import setup
from tests.support.nats import NatsServer
from tests.support.stack import until


async def test_the_server_sends_the_command_by_itself(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up once however often it is asked for; anew in place of the first; it fires; once stopped it is gone."""
    monkeypatch.setattr(retention_schedule, "_EVERY", "@every 1s")
    bus = await connect(nats_server.url, creds=nats_server.creds, name="test")
    target = subjects.command("cleanup", subjects.SYSTEM_PROJECT, retention_schedule.RETENTION_ID)
    try:
        for _ in range(2):
            await retention_schedule.ensure_retention_schedule(bus)
        first = await bus.last(subjects.COMMANDS, retention_schedule.SCHEDULE)
        await retention_schedule.ensure_retention_schedule(bus, refresh=True)
        there = [message async for message in bus.history(subjects.COMMANDS, retention_schedule.SCHEDULE)]
        assert first is not None
        assert [message.sequence > first.sequence for message in there] == [True]

        async def fired() -> bool:
            message = await bus.last(subjects.COMMANDS, target)
            return message is not None and json.loads(message.data)["scope"] == "retention"

        await until(fired, timeout=15, what="the schedule's command")
        await retention_schedule.delete_retention_schedule(bus)
        assert await bus.last(subjects.COMMANDS, retention_schedule.SCHEDULE) is None
    finally:
        await bus.purge(subjects.COMMANDS, target)
        await bus.close()


async def test_setup_begins_it(own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the table is new and nothing is submitted any more, what lies there already goes too."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds, name="test")
    monkeypatch.setattr(setup.logs, "configure", lambda _: None)
    environ = {"NATS_URL": own_nats_server.url, "NATS_CREDS": str(own_nats_server.creds)}
    try:
        for table in ("", "default=7d/90d"):
            for name, value in {**environ, "RETENTION": table}.items():
                monkeypatch.setenv(name, value)
            assert await setup.run() == 0
            message = await bus.last(subjects.COMMANDS, retention_schedule.SCHEDULE)
            assert (message is not None) == bool(table)
    finally:
        await bus.close()
