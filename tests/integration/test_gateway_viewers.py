"""Viewers: credentials of the gateway listen to one execution's live output, over WebSocket, and do nothing else.

The attacker speaks NATS' protocol itself, so that no client library keeps it from trying anything. After each attempt
a PING is answered in order, so what the server did about it is known, not waited for.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import nkeys
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ocf.events import subjects
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.runtime.nats_auth import mint_viewer
from tests.support.gateway_server import Served, serving
from tests.support.nats import ORIGIN, NatsServer

STREAMS = ("OCF_COMMANDS", "OCF_EVENTS", "OCF_OUTPUT", "OCF_DLQ", "KV_ocf_executions", "KV_ocf_sessions")


class Closed(Exception):
    """The server ended the connection; what it said before."""


@dataclass
class Attacker:
    """A NATS connection without a conscience. `errors` and `messages` are what the server sent."""

    send: Callable[[bytes], Awaitable[None]]
    receive: Callable[[], Awaitable[bytes]]
    errors: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    buffer: bytes = b""

    async def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.buffer += await self.receive()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    async def log_in(self, jwt: str, seed: str) -> None:
        """INFO, CONNECT, PING. Raises Closed when the server refuses."""
        info = json.loads((await self.line()).removeprefix(b"INFO "))
        signature = nkeys.from_seed(bytearray(seed.encode())).sign(info["nonce"].encode())
        sig = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        options = {"jwt": jwt, "sig": sig, "verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        await self.send(
            b"CONNECT " + json.dumps({**options, "lang": "test", "version": "1", "protocol": 1}).encode() + b"\r\n"
        )
        await self.settled()

    async def settled(self) -> None:
        """Everything sent so far has been dealt with."""
        await self.send(b"PING\r\n")
        while True:
            line = await self.line()
            if line == b"PONG":
                return
            if line == b"PING":
                await self.send(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                self.errors.append(line.decode())
            elif line.startswith((b"MSG", b"HMSG")):
                parts = line.decode().split()
                self.messages.append(parts[1])
                while len(self.buffer) < int(parts[-1]) + 2:
                    self.buffer += await self.receive()
                self.buffer = self.buffer[int(parts[-1]) + 2 :]

    async def listen(self) -> None:
        """Until the server ends the connection: Closed."""
        while True:
            await self.line()

    async def try_(self, *commands: str) -> None:
        """Send protocol lines as they are, and wait until the server has dealt with them."""
        await self.send("".join(f"{command}\r\n" for command in commands).encode())
        await self.settled()

    async def try_publish(self, subject: str, payload: str = "", reply: str = "") -> None:
        await self.try_(f"PUB {subject} {reply} {len(payload)}".replace("  ", " "), payload)


@asynccontextmanager
async def over_websocket(url: str, credentials: dict[str, Any], origin: str | None = ORIGIN) -> AsyncIterator[Attacker]:
    async with connect(url, origin=origin, subprotocols=None) as socket:  # type: ignore[arg-type]

        async def receive() -> bytes:
            try:
                data = await socket.recv()
            except ConnectionClosed:
                raise Closed from None
            return data if isinstance(data, bytes) else data.encode()

        attacker = Attacker(socket.send, receive)
        await attacker.log_in(credentials["jwt"], credentials["seed"])
        yield attacker


@dataclass
class Scene:
    """Two projects, two executions of one of them, and a viewer of the first."""

    served: Served
    project: str
    mine: str
    neighbour: str
    other_project: str
    theirs: str
    credentials: dict[str, Any]

    async def stored(self) -> dict[str, int]:
        """How many messages each stream has."""
        infos = [await self.served.bus.js.stream_info(name) for name in STREAMS]
        return {name: info.state.messages for name, info in zip(STREAMS, infos, strict=True)}

    async def consumers(self) -> int:
        return sum([(await self.served.bus.js.stream_info(name)).state.consumer_count for name in STREAMS])

    async def everybody_speaks(self) -> None:
        """One chunk of each execution."""
        for project, execution in (
            (self.project, self.mine),
            (self.project, self.neighbour),
            (self.other_project, self.theirs),
        ):
            await self.served.say(execution, 1, 1, project)


@pytest.fixture
async def scene(nats_server: NatsServer) -> AsyncIterator[Scene]:
    async with serving(nats_server, GatewaySettings()) as served:
        project, other = (f"p-{uuid.uuid4().hex[:12]}" for _ in range(2))
        mine, neighbour, theirs = (str(uuid.uuid4()) for _ in range(3))
        await served.record(mine, project)
        await served.record(neighbour, project)
        await served.record(theirs, other)
        answer = await served.client.post(f"/tasks/{mine}/token?project_id={project}")
        assert answer.status_code == 200
        yield Scene(served, project, mine, neighbour, other, theirs, answer.json())


async def test_a_viewer_hears_its_execution(scene: Scene) -> None:
    """So that the refusals below mean something."""
    async with over_websocket(scene.credentials["nats_ws"], scene.credentials) as viewer:
        await viewer.try_(f"SUB {scene.credentials['subject']} 1")
        await scene.everybody_speaks()
        async with asyncio.timeout(10):
            while not viewer.messages:
                await viewer.settled()
        assert viewer.messages == [subjects.live(scene.project, scene.mine)]
        assert viewer.errors == []


SUBSCRIPTIONS = {
    "everything": ">",
    "everything of ours": "ocf.>",
    "all live output": "ocf.live.>",
    "the project's live output": "ocf.live.{project}.*",
    "its execution in every project": "ocf.live.*.{mine}",
    "another execution": "ocf.live.{project}.{neighbour}",
    "another project": "ocf.live.{other_project}.{theirs}",
    "below its subject": "ocf.live.{project}.{mine}.>",
    "its output's own subject": "ocf.out.{project}.{mine}",
    "its facts": "ocf.evt.{project}.{mine}.*",
    "commands": "ocf.cmd.>",
    "records": "$KV.>",
    "JetStream": "$JS.>",
    "the server": "$SYS.>",
    "other inboxes": "_INBOX.>",
    "an inbox": "_INBOX.me",
    "what functions are answered": "_INBOX_FUNCTIONS.>",
}


@pytest.mark.parametrize("subject", SUBSCRIPTIONS.values(), ids=SUBSCRIPTIONS.keys())
@pytest.mark.parametrize("queue", ["", " workers"])
async def test_a_viewer_subscribes_to_nothing_else(scene: Scene, subject: str, queue: str) -> None:
    """Wildcards, other executions, other projects, other kinds: a violation each, and not one message."""
    async with over_websocket(scene.credentials["nats_ws"], scene.credentials) as viewer:
        await viewer.try_(f"SUB {subject.format(**scene.__dict__)}{queue} 1")
        assert "Permissions Violation for Subscription" in viewer.errors[0]
        await scene.everybody_speaks()
        await scene.served.bus.nc.flush()
        await viewer.settled()
        assert viewer.messages == []


PUBLICATIONS = {
    "a submit": ("ocf.cmd.submit.{project}.{mine}", "{{}}"),
    "a cancel": ("ocf.cmd.cancel.{project}.{mine}", "{{}}"),
    "a reply to the agent": ("ocf.cmd.reply.{project}.{mine}", "{{}}"),
    "a fact": ("ocf.evt.{project}.{mine}.completed", "{{}}"),
    "output": ("ocf.out.{project}.{mine}", "{{}}"),
    "live output": ("ocf.live.{project}.{mine}", "{{}}"),
    "a record": ("$KV.ocf_executions.{project}.{mine}", "{{}}"),
    "an answer to an inbox": ("_INBOX_FUNCTIONS.somebody", "x"),
    "JetStream: who am I": ("$JS.API.INFO", ""),
    "JetStream: a stream's state": ("$JS.API.STREAM.INFO.OCF_OUTPUT", ""),
    "JetStream: delete a stream": ("$JS.API.STREAM.DELETE.OCF_OUTPUT", ""),
    "JetStream: purge": ("$JS.API.STREAM.PURGE.OCF_OUTPUT", ""),
    "JetStream: read a message": ("$JS.API.DIRECT.GET.OCF_OUTPUT", '{{"seq":1}}'),
    "JetStream: read a record": (
        "$JS.API.DIRECT.GET.KV_ocf_executions.$KV.ocf_executions.{other_project}.{theirs}",
        "",
    ),
    "JetStream: a consumer that delivers elsewhere": (
        "$JS.API.CONSUMER.CREATE.OCF_OUTPUT",
        '{{"stream_name":"OCF_OUTPUT","config":{{"deliver_subject":"ocf.live.{project}.{mine}","ack_policy":"none"}}}}',
    ),
    "JetStream: an acknowledgement": ("$JS.ACK.OCF_COMMANDS.submit.1.1.1.1.1", "+ACK"),
    "the server": ("$SYS.REQ.SERVER.PING", ""),
}


@pytest.mark.parametrize(("subject", "payload"), PUBLICATIONS.values(), ids=PUBLICATIONS.keys())
async def test_a_viewer_publishes_nothing(scene: Scene, subject: str, payload: str) -> None:
    """No command, no fact, no record, nothing of JetStream's API: refused, stored nowhere, heard by nobody.

    The reply subject is the viewer's own live subject and another project's: the server must answer to neither.
    """
    target, said = subject.format(**scene.__dict__), payload.format(**scene.__dict__)
    await scene.served.bus.nc.flush()
    stored, consumers = await scene.stored(), await scene.consumers()
    async with scene.served.bus.listen("ocf.>", "_INBOX_FUNCTIONS.somebody") as heard:
        for reply in ("", scene.credentials["subject"], subjects.live(scene.other_project, scene.theirs)):
            async with over_websocket(scene.credentials["nats_ws"], scene.credentials) as viewer:
                await viewer.try_(f"SUB {scene.credentials['subject']} 1")
                await viewer.try_publish(target, "", reply)
                assert "Permissions Violation for Publish" in viewer.errors[0]
                if said:
                    # With a payload it does not get as far as the permissions: the connection is ended.
                    with pytest.raises(Closed):
                        await viewer.try_publish(target, said, reply)
                assert viewer.messages == []
        # What it said would come before this.
        await scene.served.bus.publish_live("ocf.live.end", b"", {})
        assert (await anext(heard)).subject == "ocf.live.end"
    assert await scene.stored() == stored
    assert await scene.consumers() == consumers


async def test_a_viewer_is_no_caller_of_the_gateway(scene: Scene) -> None:
    """Its JWT opens nothing over HTTP."""
    from pydantic import SecretStr

    settings = GatewaySettings(jwt_secret=SecretStr("a-secret-of-at-least-thirty-two-bytes"))
    for gateway in scene.served.gateways:
        gateway.auth._settings = settings
    headers = {"Authorization": f"Bearer {scene.credentials['jwt']}"}
    assert (await scene.served.client.get("/tasks", headers=headers)).status_code == 401


async def test_an_expired_token_is_refused(scene: Scene, nats_server: NatsServer) -> None:
    """At connect; and a connection that is open is closed when the token expires."""
    mint = scene.served.gateway.deps.mint_viewer
    assert mint is not None
    short = mint(scene.project, scene.mine, 2)
    credentials = {"jwt": short.jwt, "seed": short.seed}
    async with over_websocket(nats_server.ws_url, credentials) as viewer:
        await viewer.try_(f"SUB {scene.credentials['subject']} 1")
        async with asyncio.timeout(15):
            with pytest.raises(Closed):
                await viewer.listen()
    signing, account, long_ago = nats_server.trust.viewer_signing, nats_server.account, int(time.time()) - 60
    old = mint_viewer(signing, account, scene.project, scene.mine, ttl=30, now=long_ago)
    with pytest.raises(Closed):
        async with over_websocket(nats_server.ws_url, {"jwt": old.jwt, "seed": old.seed}):
            raise AssertionError("an expired token was accepted")


async def test_a_viewer_of_another_account_or_with_another_seed_is_refused(scene: Scene) -> None:
    """The JWT alone is worth nothing without its seed, and an altered one nothing at all."""
    url, good = scene.credentials["nats_ws"], scene.credentials
    head, body, signature = good["jwt"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["nats"]["tags"] = [f"project:{scene.other_project}", f"execution:{scene.theirs}"]
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    mint = scene.served.gateway.deps.mint_viewer
    assert mint is not None
    stolen = mint(scene.project, scene.mine, 60).seed
    for jwt, seed in ((good["jwt"], stolen), (f"{head}.{forged}.{signature}", good["seed"]), ("", good["seed"])):
        with pytest.raises(Closed):
            async with over_websocket(url, {"jwt": jwt, "seed": seed}):
                raise AssertionError("accepted")


async def test_a_viewer_over_tcp_is_refused(scene: Scene, nats_server: NatsServer) -> None:
    """Its credentials are for the WebSocket, where origins are checked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    async def receive() -> bytes:
        data = await reader.read(65_536)
        if not data:
            raise Closed
        return data

    attacker = Attacker(send, receive)
    with pytest.raises((Closed, ConnectionResetError)):
        await attacker.log_in(scene.credentials["jwt"], scene.credentials["seed"])
    assert "Authorization Violation" in attacker.errors[0]
    writer.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "http://console.test.evil.example", "null"])
async def test_a_foreign_page_is_refused(scene: Scene, origin: str) -> None:
    """Before it can even log in."""
    with pytest.raises(InvalidStatus) as raised:
        async with over_websocket(scene.credentials["nats_ws"], scene.credentials, origin):
            raise AssertionError("accepted")
    assert raised.value.response.status_code == 403
