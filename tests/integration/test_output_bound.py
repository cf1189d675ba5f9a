"""`OUTPUT_STREAM_BYTES` on a real nats-server."""

from __future__ import annotations

from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.functions.runtime.setup import apply
from tests.support.nats import NatsServer

FIRST, LAST = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


async def test_a_full_output_stream_gives_up_the_oldest_output_and_takes_the_newest(
    own_nats_server: NatsServer,
) -> None:
    """A flood fills no disk and stops neither output nor commands; the bound can be changed and lifted."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds, name="setup")
    try:
        await apply(bus, output_bytes=4 * 1024 * 1024)
        await bus.publish(subjects.output("p", FIRST), b"first", {})
        for _ in range(10):
            await bus.publish(subjects.output("p", LAST), bytes(512 * 1024), {})
        assert await bus.last(subjects.OUTPUT, subjects.output("p", FIRST)) is None
        kept = [message async for message in bus.history(subjects.OUTPUT, subjects.output("p", LAST))]
        assert 5 <= len(kept) <= 8
        await bus.publish(subjects.command("submit", "p", LAST), b"{}", {})

        await apply(bus)
        for _ in range(10):
            await bus.publish(subjects.output("p", LAST), bytes(512 * 1024), {})
        again = [message async for message in bus.history(subjects.OUTPUT, subjects.output("p", LAST))]
        assert len(again) == len(kept) + 10
    finally:
        await bus.close()
