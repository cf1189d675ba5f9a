"""What a worker said must not arrive after it lost its lease: no late delivery, no repetition unasked."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import UNACKED, connect
from ocf.events.client import Client
from ocf.events.command_payloads import Cancel, Reply
from ocf.events.errors import Conflict, Unavailable
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.attempt.command_listener import CommandListener
from ocf.functions.execute.attempt.lease import SAFE, TTL
from tests.support.nats import NatsServer
from tests.support.stack import until


async def test_sent_data_does_not_outlive_the_lease(own_nats_server: NatsServer) -> None:
    """The kernel gives up what is not acknowledged before the lease it was said under can vanish; also on a connection
    that was made anew."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds)

    def limit() -> int:
        found = bus.nc._transport._io_writer.get_extra_info("socket")
        return found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    async def bounded_anew() -> bool:
        return bus.nc.is_connected and bus.nc.stats["reconnects"] == 1 and limit() == UNACKED * 1000

    try:
        assert SAFE + UNACKED < TTL
        assert limit() == UNACKED * 1000
        own_nats_server.kill()
        own_nats_server.start()
        await until(bounded_anew, what="the new connection is bounded")
    finally:
        await bus.close()


async def test_command_published_during_an_outage_is_delivered_after_it(own_nats_server: NatsServer) -> None:
    """An answer and a cancel that the stream took while the worker's connection was away: each is heard, and once."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay.to(own_nats_server.port))
        worker = await connect(f"nats://127.0.0.1:{relay.port}", creds=own_nats_server.creds)
        stack.push_async_callback(worker.close)
        backend = await connect(own_nats_server.url, creds=own_nats_server.creds)
        stack.push_async_callback(backend.close)
        ids = {"execution_id": str(uuid.uuid4()), "project_id": "p"}
        client = Client(backend, None, None, project="p")  # type: ignore[arg-type]  # it only publishes
        listener = CommandListener(worker, SystemClock(), ids["project_id"], ids["execution_id"])
        heard: list[str] = []

        def take(data: Cancel | Reply) -> None:
            heard.append(data.answer if isinstance(data, Reply) else "cancel")

        async def is_heard(*wanted: str) -> bool:
            return sorted(heard) == sorted(wanted)

        commands = await stack.enter_async_context(listener.listen())
        tasks = [
            asyncio.create_task(listener.follow(commands, take)),
            asyncio.create_task(listener.poll(take)),
        ]
        stack.push_async_callback(cancel_and_wait, tasks)
        await client.reply(ids["execution_id"], "1", "first")
        await until(lambda: is_heard("first"), what="the first answer is heard")
        await relay.cut()
        await client.reply(ids["execution_id"], "2", "second")
        await client.cancel(ids["execution_id"])
        await relay.mend()
        await until(lambda: is_heard("first", "second", "cancel"), what="all of it is heard")
        await client.reply(ids["execution_id"], "3", "third")
        await until(lambda: is_heard("first", "second", "cancel", "third"), what="it hears as before")


class Relay:
    """A way to a port on this machine that can be cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, target: int) -> AsyncIterator[Relay]:
        relay = cls(target)
        await relay.mend()
        try:
            yield relay
        finally:
            await relay.cut()

    async def mend(self) -> None:
        """Accept connections (again), on the same port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End every connection; no new one is accepted."""
        if self._server is not None:
            self._server.close()
        await cancel_and_wait(list(self._open))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = asyncio.current_task()
        assert here is not None
        self._open.add(here)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, there_writer))
                both.create_task(_copy(there_reader, writer))
        finally:
            writer.close()
            there_writer.close()
            self._open.discard(here)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_writer_repeats_only_what_may_still_be_said(own_nats_server: NatsServer) -> None:
    """A chunk that an outage may have swallowed waits until `may_repeat` says yes; forgotten, it is never sent."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds)
    execution = str(uuid.uuid4())
    subject = subjects.output("p", execution)
    mine = False

    async def back() -> bool:
        return bus.nc.is_connected

    async def away() -> bool:
        return not bus.nc.is_connected

    try:
        writer = bus.writer(subject, may_repeat=lambda: mine)
        own_nats_server.kill()
        await until(away, what="the connection is lost")
        await writer.send(b"{}", {"Nats-Msg-Id": "1"})
        own_nats_server.start()
        await until(back, what="the connection is back")
        with pytest.raises(Unavailable):
            await writer.flush(0.5)
        assert await bus.last(subjects.OUTPUT, subject) is None
        mine = True
        await asyncio.wait_for(writer.flush(10), 15)
        assert await bus.last(subjects.OUTPUT, subject) is not None
    finally:
        await bus.close()


async def test_listening_in_vain_leaves_no_subscription(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscribed, and the server did not answer in time: whoever tries again for hours does not hear all twice."""
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds)

    async def late(timeout: int = 10) -> None:
        raise TimeoutError

    try:
        before = len(bus.nc._subs)
        with monkeypatch.context() as patched:
            patched.setattr(bus.nc, "flush", late)
            with pytest.raises(Unavailable):
                async with bus.listen("ocf.evt.>"):
                    pytest.fail("the server has not answered")
        assert len(bus.nc._subs) == before
    finally:
        await bus.close()


async def test_deleted_execution_stays_deleted_after_a_server_kill(own_nats_server: NatsServer) -> None:
    """Records and leases that were removed do not come back with a server that had no time to tidy up its files."""
    async with bucket_of(own_nats_server) as bucket:
        for key in ("p.kept", "p.gone", "p.kept.lease"):
            first = await bucket.create(key, b"1")
            await bucket.update(key, b"2", first)
        await bucket.delete("p.gone")
        found = await bucket.get("p.kept.lease")
        assert found is not None
        with pytest.raises(Conflict):
            await bucket.delete("p.kept.lease", revision=found.revision - 1)
        await bucket.delete("p.kept.lease", revision=found.revision)
    for _ in range(2):
        own_nats_server.kill()
        own_nats_server.start()
        async with bucket_of(own_nats_server) as bucket:
            assert [entry.key async for entry in bucket.entries()] == ["p.kept"]


@asynccontextmanager
async def bucket_of(server: NatsServer) -> AsyncIterator[NatsBucket]:
    """The bucket of executions, over a connection of its own."""
    bus = await connect(server.url, creds=server.creds)
    try:
        yield NatsBucket(bus, subjects.EXECUTIONS_BUCKET)
    finally:
        await bus.close()
