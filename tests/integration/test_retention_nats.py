"""Retention's schedule on a real server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.events.streams import STREAMS
from ocf.functions.core import cleanup_schedules
from ocf.functions.runtime import setup
from ocf.functions.settings.settings import Settings
from tests.support.nats import NatsServer
from tests.support.stack import until


async def test_the_server_sends_the_command_by_itself(nats_server: NatsServer) -> None:
    """Set up once however often it is asked for; anew in place of the first; it fires; once stopped it is gone."""
    often = replace(cleanup_schedules.RETENTION, every="@every 1s")
    bus = await connect(nats_server.url, creds=nats_server.creds, name="test")
    target = subjects.command("cleanup", subjects.SYSTEM_PROJECT, cleanup_schedules.RETENTION.entity)
    try:
        for _ in range(2):
            await cleanup_schedules.ensure_schedule(bus, often)
        first = await bus.last(subjects.COMMANDS, cleanup_schedules.RETENTION.subject)
        await cleanup_schedules.ensure_schedule(bus, often, replace=True)
        there = [message async for message in bus.history(subjects.COMMANDS, cleanup_schedules.RETENTION.subject)]
        assert first is not None
        assert [message.sequence > first.sequence for message in there] == [True]

        async def fired() -> bool:
            message = await bus.last(subjects.COMMANDS, target)
            return message is not None and json.loads(message.data)["scope"] == "retention"

        await until(fired, timeout=15, what="the schedule's command")
        await cleanup_schedules.delete_schedule(bus, often)
        assert await bus.last(subjects.COMMANDS, cleanup_schedules.RETENTION.subject) is None
    finally:
        await bus.purge(subjects.COMMANDS, target)
        await bus.close()


async def test_a_schedule_outlives_the_age_of_its_stream(own_nats_server: NatsServer) -> None:
    """A command of that age is gone; the schedule still fires, and what it sends expires as any command does."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds, name="test")
    often = replace(cleanup_schedules.RETENTION, every="@every 1s")
    target = subjects.command("cleanup", subjects.SYSTEM_PROJECT, cleanup_schedules.RETENTION.entity)
    old = subjects.command("cancel", "p", cleanup_schedules.RETENTION.entity)
    try:
        (spec,) = (spec for spec in STREAMS if spec.name == subjects.COMMANDS)
        config = setup.stream_config(replace(spec, max_age=3, duplicate_window=2), 1)
        assert "error" not in await setup._call(bus, f"STREAM.UPDATE.{spec.name}", config)
        await bus.publish(old, b"{}", {})
        await cleanup_schedules.ensure_schedule(bus, often)
        first = await bus.last(subjects.COMMANDS, cleanup_schedules.RETENTION.subject)

        async def aged() -> bool:
            return await bus.last(subjects.COMMANDS, old) is None

        async def fired() -> bool:
            return await bus.last(subjects.COMMANDS, target) is not None

        await until(aged, timeout=30, what="the age of the stream is over")
        assert await bus.last(subjects.COMMANDS, cleanup_schedules.RETENTION.subject) == first
        await bus.purge(subjects.COMMANDS, target)
        await until(fired, timeout=15, what="another command of the schedule")
        sent = await bus.last(subjects.COMMANDS, target)
        assert sent is not None
        assert sent.headers["Nats-TTL"] != cleanup_schedules.NEVER
    finally:
        await bus.close()


async def test_setup_begins_it(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Where the table is new and nothing is submitted any more, what lies there already goes too."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds, name="test")
    environ = {"NATS_URL": own_nats_server.url, "NATS_CREDS": str(own_nats_server.creds), "STATE_DIR": str(tmp_path)}
    try:
        for table in ("", "default=7d/90d"):
            assert await setup.run(Settings.model_validate({**environ, "RETENTION": table})) == 0
            message = await bus.last(subjects.COMMANDS, cleanup_schedules.RETENTION.subject)
            assert (message is not None) == bool(table)
    finally:
        await bus.close()
