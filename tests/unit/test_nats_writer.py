"""The writer of output: what a caller has numbered is sent, also when the caller is cancelled while it waits."""

from __future__ import annotations

import asyncio
import json

from ocf.events.adapters.nats import writer as module
from ocf.events.adapters.nats.writer import NatsWriter, Writers


class Connection(Writers):
    """Takes messages, and acknowledges none by itself."""

    def __init__(self) -> None:
        self.posted: list[int] = []
        self._writers = {}

    @property
    def connected(self) -> bool:
        return True

    async def post(self, name: str, number: int, subject: str, sent: module._Sent) -> None:
        self.posted.append(int(sent.data))


async def test_a_caller_that_is_cancelled_in_a_full_window_leaves_no_hole() -> None:
    """NATS acknowledges slowly and the run is cancelled: its last chunk has a number, and a viewer waits for it."""
    connection = Connection()
    writer = NatsWriter(connection, "1", "ocf.out.p.e", lambda: True, lambda: None)
    for number in range(module._WINDOW):
        await writer.send(b"%d" % number, {})
    waiting = asyncio.create_task(writer.send(b"%d" % module._WINDOW, {}))
    await asyncio.sleep(0)
    assert not waiting.done(), "the window is full"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    for number in (1, 2):
        writer.on_ack(number, json.dumps({"seq": number}).encode())
    await writer.send(b"%d" % (module._WINDOW + 1), {})
    assert connection.posted == list(range(module._WINDOW + 2))
    writer.close()
