"""What the real nats-server lets each role do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import nkeys
import pytest
from nats.aio.client import Client
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from ocf.events.adapters.nats.bus import connect as connect_bus
from ocf.events.adapters.nats.inbox_prefix import inbox_of
from ocf.events.client import connect as connect_client
from ocf.functions.runtime.nats_auth import (
    FUNCTIONS,
    MAX_CONNECT_BYTES,
    PROJECT_BACKEND,
    Credentials,
    Role,
    _user,
    mint_user,
    mint_viewer,
)
from ocf.stack.keys import write_private
from tests.support.nats import ORIGIN, NatsServer


class Refusals:
    """Permission violations that the server reported to one client."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.arrived = asyncio.Event()

    async def note(self, error: Exception) -> None:
        self.seen.append(str(error))
        self.arrived.set()


@asynccontextmanager
async def client(url: str, creds: Path) -> AsyncIterator[tuple[Client, Refusals]]:
    """A connected client that never reconnects, and what it is refused."""
    refusals, connected = Refusals(), Client()
    try:
        await connected.connect(
            url,
            user_credentials=str(creds),
            inbox_prefix=inbox_of(creds),
            allow_reconnect=False,
            error_cb=refusals.note,
            connect_timeout=2,
        )
        yield connected, refusals
    finally:
        await connected.close()


async def refused(act: Callable[[], Awaitable[object]], refusals: Refusals) -> bool:
    """Whether the server reports a violation after `act`."""
    refusals.arrived.clear()
    await act()
    async with asyncio.timeout(3):
        await refusals.arrived.wait()
    return "permissions violation" in refusals.seen[-1].lower()


class Browser:
    """A page's connection: the NATS protocol over a WebSocket, without a library that could hide anything."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._buffer = b""

    async def say(self, line: str) -> None:
        await self._socket.send(line.encode() + b"\r\n")

    async def hear(self, wanted: bytes) -> bytes:
        """The bytes up to and including the next line that has `wanted`."""
        async with asyncio.timeout(5):
            while wanted not in self._buffer or not self._buffer.endswith(b"\r\n"):
                self._buffer += await self._socket.recv(decode=False)
        heard, self._buffer = self._buffer, b""
        return heard

    async def enter(self, credentials: Credentials) -> bytes:
        """Connect; returns PONG, or the server's error."""
        info = json.loads((await self.hear(b"INFO")).removeprefix(b"INFO ").strip())
        signature = nkeys.from_seed(bytearray(credentials.seed.encode())).sign(info["nonce"].encode())
        sig = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        said = {"jwt": credentials.jwt, "sig": sig, "headers": True, "verbose": False, "protocol": 1, "lang": "test"}
        line = f"CONNECT {json.dumps(said)}"
        assert len(line) < MAX_CONNECT_BYTES
        await self.say(line)
        await self.say("PING")
        return await self.hear(b"\r\n")

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(5):
                while True:
                    await self._socket.recv()


@asynccontextmanager
async def browser(server: NatsServer, origin: str = ORIGIN) -> AsyncIterator[Browser]:
    """A page of `origin` that has opened the WebSocket."""
    async with websocket(server.ws_url, origin=Origin(origin), proxy=None) as socket:
        yield Browser(socket)


def viewer(server: NatsServer, execution: str, *, project: str = "view", ttl: int = 60) -> Credentials:
    """What the gateway hands out."""
    return mint_viewer(server.trust.viewer_signing, server.account, project, execution, ttl=ttl, now=int(time.time()))


@pytest.fixture
def execution() -> str:
    return str(uuid.uuid4())


async def test_a_viewer_hears_its_execution_and_nothing_else(nats_server: NatsServer, execution: str) -> None:
    """Over WebSocket it gets what `ocf.out` republishes for its execution; every other subject is refused."""
    async with client(nats_server.url, nats_server.creds) as (worker, _), browser(nats_server) as page:
        assert b"PONG" in await page.enter(viewer(nats_server, execution))
        await page.say(f"SUB ocf.live.view.{execution} 1")
        await page.say("PING")
        await page.hear(b"PONG")
        await worker.jetstream().publish(f"ocf.out.view.{execution}", b"hello")
        heard = await page.hear(b"hello")
        assert b"Nats-Sequence" in heard
        for subject in (
            f"ocf.live.view.{uuid.uuid4()}",
            "ocf.live.>",
            f"ocf.out.view.{execution}",
            "_INBOX.>",
            "$SYS.>",
        ):
            await page.say(f"SUB {subject} 2")
            assert b"Permissions Violation for Subscription" in await page.hear(b"-ERR"), subject


@pytest.mark.parametrize("subject", ["ocf.live.view.{}", "$JS.API.INFO", "_INBOX.x", "ocf.cmd.cancel.view.{}"])
async def test_a_viewer_may_publish_nothing(nats_server: NatsServer, execution: str, subject: str) -> None:
    """Not even to itself, to JetStream's API, or to an inbox."""
    async with browser(nats_server) as page:
        await page.enter(viewer(nats_server, execution))
        await page.say(f"PUB {subject.format(execution)} 0\r\n")
        assert b"Permissions Violation for Publish" in await page.hear(b"-ERR")


async def test_a_viewer_is_let_in_by_websocket_only(nats_server: NatsServer, tmp_path: Path, execution: str) -> None:
    """The same credentials are refused on the plain NATS port."""
    creds = write_private(tmp_path / "viewer.creds", viewer(nats_server, execution).file())
    with pytest.raises(nats.errors.Error):
        async with client(nats_server.url, creds):
            raise AssertionError("let in")


async def test_a_viewer_is_put_out_when_its_time_is_over(nats_server: NatsServer, execution: str) -> None:
    """The server closes the connection at the JWT's expiry."""
    async with browser(nats_server) as page:
        assert b"-ERR" not in await page.enter(viewer(nats_server, execution, ttl=2))
        await page.closed()


async def test_only_our_pages_connect(nats_server: NatsServer) -> None:
    """A browser names the page it runs for; a foreign one gets no WebSocket."""
    with pytest.raises(InvalidStatus) as refusal:
        async with browser(nats_server, "http://evil.test"):
            raise AssertionError("let in")
    assert refusal.value.response.status_code == 403


async def test_the_gateways_key_mints_nothing_but_viewers(nats_server: NatsServer, tmp_path: Path) -> None:
    """A user with the functions' permissions, signed with the scoped key, is refused by the server."""
    stolen, now = nats_server.trust.viewer_signing, int(time.time())
    everything = {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}}
    forged = _user(stolen, nats_server.account, "functions", everything, now, 60)
    creds = write_private(tmp_path / "forged.creds", forged.file())
    with pytest.raises(nats.errors.Error):
        async with client(nats_server.url, creds):
            raise AssertionError("let in")
    async with browser(nats_server) as page:
        assert b"Authorization Violation" in await page.enter(forged)


async def test_a_backend_submits_watches_and_reads(nats_server: NatsServer, execution: str) -> None:
    """What `events.Client` does works with the backend's credentials; changing what was said does not."""
    async with (
        connect_client(nats_server.url, creds=nats_server.backend_creds, project="jwt") as backend,
        client(nats_server.url, nats_server.backend_creds) as (plain, no),
    ):
        await backend.submit(execution_id=execution, prompt="x")
        assert [event.type for event in await backend.events(execution)] == ["dev.ocf.task.submit.v1"]
        assert isinstance(await backend.list(), list)
        for subject in (
            f"ocf.evt.jwt.{execution}.completed",
            f"ocf.out.jwt.{execution}",
            f"ocf.cmd.execute.jwt.{execution}",
            f"$KV.ocf_executions.jwt.{execution}",
            "$JS.API.STREAM.DELETE.OCF_EVENTS",
            "$JS.API.STREAM.PURGE.OCF_COMMANDS",
            "$JS.API.CONSUMER.CREATE.OCF_EVENTS.archive",
        ):
            assert await refused(lambda subject=subject: plain.publish(subject, b"{}"), no), subject


async def test_a_backend_may_follow_a_stream_with_its_own_consumer(nats_server: NatsServer, execution: str) -> None:
    """An ordinary ordered consumer of nats-py reads facts from the start."""
    async with (
        client(nats_server.url, nats_server.creds) as (worker, _),
        client(nats_server.url, nats_server.backend_creds) as (plain, _no),
    ):
        await worker.jetstream().publish(f"ocf.evt.follow.{execution}.accepted", b"{}")
        following = await plain.jetstream().subscribe("ocf.evt.follow.>", ordered_consumer=True)
        message = await following.next_msg(timeout=20)
        assert message.subject == f"ocf.evt.follow.{execution}.accepted"


async def test_a_projects_backend_hears_its_project_and_nothing_else(nats_server: NatsServer, execution: str) -> None:
    """Facts, output and live of its project; nothing of others, and no inbox, where others get their answers."""
    creds = nats_server.creds_for(PROJECT_BACKEND, "mine")
    async with client(nats_server.url, nats_server.creds) as (worker, _), client(nats_server.url, creds) as (plain, no):
        facts = await plain.subscribe("ocf.evt.mine.>")
        live = await plain.subscribe("ocf.live.mine.*")
        await plain.flush()
        await worker.jetstream().publish(f"ocf.evt.mine.{execution}.accepted", b"{}")
        await worker.jetstream().publish(f"ocf.out.mine.{execution}", b"hello")
        assert (await facts.next_msg(timeout=20)).subject == f"ocf.evt.mine.{execution}.accepted"
        assert (await live.next_msg(timeout=20)).data == b"hello"
        for subject in ("ocf.evt.other.>", "ocf.evt.>", "ocf.live.other.>", "$KV.>", "_INBOX.>", "_INBOX_FUNCTIONS.>"):
            assert await refused(lambda subject=subject: plain.subscribe(subject), no), subject


@pytest.mark.parametrize(
    "headers", [{}, {"Nats-Rollup": "all"}, {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "ocf.cmd.x.other.y"}]
)
async def test_a_projects_backend_changes_nothing(
    nats_server: NatsServer, execution: str, headers: dict[str, str]
) -> None:
    """Whatever it publishes is refused: with a reply subject the server would write its answer to another project's
    record, with a rollup it would empty the stream of commands, with a schedule it would speak for another project."""
    creds = nats_server.creds_for(PROJECT_BACKEND, "mine")
    record = f"$KV.ocf_executions.other.{execution}"
    async with client(nats_server.url, nats_server.creds) as (owner, _), client(nats_server.url, creds) as (plain, no):
        js = owner.jetstream()
        await js.publish(record, b"theirs")
        await js.publish(f"ocf.cmd.submit.other.{execution}", b"{}")
        stored = (await js.stream_info("OCF_COMMANDS")).state.messages
        for subject in (f"ocf.cmd.reply.mine.{execution}", "$JS.API.DIRECT.GET.OCF_EVENTS", "_INBOX_FUNCTIONS.x"):
            said = lambda subject=subject: plain.publish(subject, b"x", reply=record, headers=headers)  # noqa: E731
            assert await refused(said, no), subject
        await plain.flush()
        assert (await js.get_last_msg("KV_ocf_executions", record)).data == b"theirs"
        assert (await js.stream_info("OCF_COMMANDS")).state.messages == stored


async def test_a_projects_backend_reaches_no_path_of_another_project(nats_server: NatsServer, execution: str) -> None:
    """Neither by inbox, schedule, key of an open execution or consumer; nor does its message id keep theirs out."""
    creds = nats_server.creds_for(PROJECT_BACKEND, "mine")
    theirs, headers = f"ocf.cmd.submit.other.{execution}", {"Nats-Msg-Id": f"submit:other:{execution}"}
    async with client(nats_server.url, nats_server.creds) as (owner, _), client(nats_server.url, creds) as (plain, no):
        for subject in (
            theirs,
            f"ocf.evt.other.{execution}.completed",
            "ocf.schedule.sweep",
            "ocf.cron.other.nightly",
            "ocf.in.other.github",
            f"$KV.ocf_open.other.{execution}",
            "$JS.API.DIRECT.GET.KV_ocf_open",
            "$JS.API.CONSUMER.CREATE.OCF_EVENTS.x.ocf.evt.other.>",
        ):
            said = lambda subject=subject: plain.publish(subject, b"forged", headers=headers)  # noqa: E731
            assert await refused(said, no), subject
        await plain.flush()
        js = owner.jetstream()
        assert not (await js.publish(theirs, b"{}", headers=headers)).duplicate
        assert (await js.get_last_msg("OCF_COMMANDS", theirs)).data == b"{}"
        await js.purge_stream("OCF_COMMANDS", subject=theirs)


async def test_nobody_else_hears_what_functions_are_answered(nats_server: NatsServer) -> None:
    """Functions listen for answers where no other role may, and `connect` knows that from their credentials."""
    bus = await connect_bus(nats_server.url, creds=nats_server.creds)
    try:
        assert bus.nc.new_inbox().startswith("_INBOX_FUNCTIONS.")
        await bus.ready()
    finally:
        await bus.close()
    async with client(nats_server.url, nats_server.backend_creds) as (plain, no):
        assert await refused(lambda: plain.subscribe("_INBOX_FUNCTIONS.>"), no)


async def test_scheduled_command_carries_the_name_of_its_backend(nats_server: NatsServer, execution: str) -> None:
    """The server does not check a schedule's target, so one project can have a command of another said. But it
    stamps what it says with the schedule's subject, which nobody can forge: the dispatcher goes by that."""
    creds = nats_server.backend_creds
    mine, target = f"ocf.cmd.cancel.mine.{execution}", f"ocf.cmd.cancel.other.{execution}"
    schedule = {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": target}
    async with client(nats_server.url, nats_server.creds) as (owner, _), client(nats_server.url, creds) as (plain, _no):
        with pytest.raises(nats.errors.Error, match="invalid scheduler"):
            await plain.jetstream().publish(mine, b"x", headers={**schedule, "Nats-Scheduler": "ocf.schedule.x"})
        await plain.jetstream().publish(mine, b"x", headers=schedule)
        pull = await owner.jetstream().pull_subscribe(target, stream="OCF_COMMANDS")
        [said] = await pull.fetch(1, timeout=5)
        assert said.headers["Nats-Scheduler"] == mine
        await owner.jetstream().purge_stream("OCF_COMMANDS", subject=mine)


@pytest.mark.parametrize("role", [FUNCTIONS])
async def test_functions_do_all_of_their_work(nats_server: NatsServer, role: Role, tmp_path: Path) -> None:
    """Publishing, pulling and key-value with the functions' credentials; the server's own account stays closed."""
    creds = write_private(tmp_path / "f.creds", mint_user(nats_server.trust, role, int(time.time())).file())
    async with client(nats_server.url, creds) as (worker, no):
        js = worker.jetstream()
        await js.publish(f"ocf.cmd.cleanup.jwtf.{uuid.uuid4()}", b"{}")
        pull = await js.pull_subscribe("ocf.cmd.cleanup.jwtf.>", durable="jwtf")
        [message] = await pull.fetch(1, timeout=20)
        await message.ack()
        await js.delete_consumer("OCF_COMMANDS", "jwtf")
        assert await refused(lambda: worker.subscribe("$SYS.>"), no)
