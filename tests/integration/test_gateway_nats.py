"""The gateway over a real nats-server: submit, history, live stream, restarts."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect as connect_bus
from ocf.events.client.gateway import Address, GatewayClient
from ocf.events.client.gateway import connect as cli
from ocf.events.client.gateway_retry import CallFailed
from ocf.events.lifecycle import State
from ocf.functions.gateway.settings import GatewaySettings
from ocf.stack.ports import free_port
from tests.support.gateway import DAMAGED, chunk
from tests.support.gateway_server import serving
from tests.support.measures import value
from tests.support.nats import NatsServer


@pytest.fixture
def execution() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def project() -> str:
    return f"p-{uuid.uuid4().hex[:12]}"


async def read(socket: ClientConnection) -> list[dict[str, Any]]:
    """Every message until it is closed."""
    said = []
    try:
        async for text in socket:
            said.append(json.loads(text))
    except ConnectionClosed:
        return said
    return said


@pytest.mark.parametrize("gateways", [1, 2])
async def test_a_task_reaches_jetstream_and_is_idempotent(nats_server: NatsServer, project: str, gateways: int) -> None:
    """202 means kept; the same key twice is one command; another body is refused; a deleted one is gone.

    Also where each call reaches another gateway than the one before.
    """
    async with serving(nats_server, gateways=gateways) as served:
        body: dict[str, Any] = {"prompt": "x", "project_id": project}
        headers = {"Idempotency-Key": "k"}
        first = await served.client.post("/tasks/execute", json=body, headers=headers)
        again = await served.client.post("/tasks/execute", json=body, headers=headers)
        other = await served.client.post("/tasks/execute", json={**body, "prompt": "y"}, headers=headers)
        assert (first.status_code, again.status_code, other.status_code) == (202, 202, 409)
        assert first.json() == again.json()
        execution = first.json()["execution_id"]
        kept = [m async for m in served.bus.history(subjects.COMMANDS, f"ocf.cmd.submit.{project}.*")]
        assert [json.loads(m.data)["execution_id"] for m in kept] == [execution]
        status = await served.client.get(f"/tasks/{execution}/status?project_id={project}")
        assert status.json()["status"] == "pending"


@pytest.mark.parametrize("gateways", [1, 2])
async def test_the_history_follows_the_bucket(nats_server: NatsServer, project: str, gateways: int) -> None:
    """New, changed and removed records reach the lists of all gateways without being asked for."""
    async with serving(nats_server, gateways=gateways) as served:

        async def until(wanted: list[tuple[str, str]]) -> None:
            async with asyncio.timeout(10):
                while True:
                    items = (await served.client.get(f"/tasks?project_id={project}")).json()["items"]
                    if [(item["execution_id"], item["status"]) for item in items] == wanted:
                        return

        old, new = str(uuid.uuid4()), str(uuid.uuid4())
        await served.record(old, project)
        second = await served.record(new, project)
        await until([(new, "running"), (old, "running")])
        await served.record(new, project, state=State.FAILED, submitted_at=second.submitted_at)
        await until([(new, "failed"), (old, "running")])
        await served.executions.delete(f"{project}.{old}")
        await served.bus.publish(subjects.fact(project, old, "cleaned"), b"{}", {})
        await until([(new, "failed")])


@pytest.mark.parametrize("gateways", [1, 2])
async def test_the_stream_is_lossless_from_any_point(
    nats_server: NatsServer, project: str, execution: str, gateways: int
) -> None:
    """Readers that join before, in the middle and after, and one that resumes, each see every chunk once."""
    async with serving(nats_server, gateways=gateways) as served:
        await served.record(execution, project)
        url = f"{served.ws_url}/tasks/{execution}/stream?project_id={project}"
        async with connect(url) as early:
            reading = asyncio.ensure_future(read(early))
            await served.say(execution, 1, 300, project)
            async with connect(f"{url}&from=1") as middle:
                joined = asyncio.ensure_future(read(middle))
                await served.say(execution, 301, 600, project)
                await served.end(execution, 600, project)
                for said in (await reading, await joined):
                    assert [m["seq"] for m in said] == [*range(1, 601), 600]
                    assert said[-1]["type"] == "end"
        async with connect(f"{url}&from=590") as late:
            assert [m["seq"] for m in await read(late)] == [*range(590, 601), 600]
        lines = (await served.client.get(f"/tasks/{execution}/output?project_id={project}")).text.splitlines()
        assert [json.loads(line)["seq"] for line in lines] == list(range(1, 601))


async def test_a_reader_that_stops_reading_is_cut_off(nats_server: NatsServer, project: str, execution: str) -> None:
    """Others are served meanwhile; when it reads on, it learns where to resume."""
    async with serving(nats_server, GatewaySettings(slow_reader=0.5)) as served:
        await served.record(execution, project)
        subject = subjects.output(project, execution)
        pad = os.urandom(30_000).hex()  # the WebSocket compresses: anything simpler hardly fills a buffer
        url = f"{served.ws_url}/tasks/{execution}/stream?project_id={project}"
        async with connect(url, max_queue=1, ping_interval=None) as slow, connect(url) as quick:
            reading = asyncio.ensure_future(read(quick))
            seq = 0
            async with asyncio.timeout(30):
                while not value(served.gateway.metrics.slow):
                    seq += 1
                    line = json.dumps({"seq": seq, "type": "text", "data": pad, "timestamp": "2026-01-01T00:00:00Z"})
                    await served.bus.publish(subject, line.encode(), {"ce-sequence": str(seq)})
            await served.end(execution, seq, project)
            assert [m["seq"] for m in await reading] == [*range(1, seq + 1), seq]
            await asyncio.sleep(3)  # slow it is: longer than a message may take, and than other readers are waited for
            said = await read(slow)
            assert said[-1]["type"] == "gap"
            got = [m["seq"] for m in said if m["type"] == "text"]
            assert got == list(range(1, len(got) + 1))
            assert len(got) < seq
            assert slow.close_code == 4408
            assert f"resume from={len(got) + 1}" in (slow.close_reason or "")


async def test_ocf_watch_goes_on_over_a_restart_of_the_gateway(
    nats_server: NatsServer, project: str, execution: str
) -> None:
    """Each chunk once and in order: of before, of while it was away, of after; and then the end."""
    port, got = free_port(), list[int]()
    bus = await connect_bus(nats_server.url, creds=nats_server.creds)

    async def follow(gateway: GatewayClient) -> None:
        async for one in gateway.watch(execution):
            got.append(one["seq"])

    async def until_seen(count: int) -> None:
        async with asyncio.timeout(20):
            while len(got) < count:
                await asyncio.sleep(0.02)

    async with cli(lambda: Address(f"http://127.0.0.1:{port}", None, project)) as gateway:
        async with serving(nats_server, port=port) as served:
            await served.record(execution, project)
            await served.say(execution, 1, 40, project)
            following = asyncio.ensure_future(follow(gateway))
            await until_seen(40)
        for seq in range(41, 61):
            headers = {"ce-sequence": str(seq)}
            await bus.publish(subjects.output(project, execution), chunk(seq, datetime.now(UTC)), headers)
        async with serving(nats_server, port=port) as served:
            await until_seen(60)
            await served.say(execution, 61, 80, project)
            await served.end(execution, 80, project)
            await asyncio.wait_for(following, 20)
    assert got == list(range(1, 81))
    await bus.close()


async def test_ocf_watch_gives_up_on_what_can_never_be_read(
    nats_server: NatsServer, project: str, execution: str
) -> None:
    """A damaged archive is said once, with the reason; trying for ever would say nothing."""
    async with serving(nats_server) as served, cli(lambda: Address(served.url, None, project)) as gateway:
        await served.record(execution, project, state=State.COMPLETED, last_sequence=3)
        await served.store.put(f"{project}/{execution}/output.ndjson.gz", DAMAGED["cut"])
        with pytest.raises(CallFailed, match="ends in the middle"):
            async with asyncio.timeout(10):
                _ = [one async for one in gateway.watch(execution)]


async def test_a_restart_of_nats_loses_nobody_anything(
    own_nats_server: NatsServer, project: str, execution: str
) -> None:
    """A reader that resumes with its last sequence has every chunk once; readiness says what is wrong meanwhile."""
    async with serving(own_nats_server, GatewaySettings(heartbeat=0.3)) as served:
        await served.record(execution, project)
        await served.say(execution, 1, 50, project)
        seen: list[int] = []
        ended = False

        async def follow() -> None:
            nonlocal ended
            while not ended:
                url = f"{served.ws_url}/tasks/{execution}/stream?project_id={project}&from={len(seen) + 1}"
                try:
                    async with connect(url) as socket:
                        for message in await read(socket):
                            if "attempt" in message:
                                seen.append(message["seq"])
                            ended = ended or message["type"] == "end"
                except Exception:
                    await asyncio.sleep(0.05)

        following = asyncio.ensure_future(follow())
        own_nats_server.kill()
        async with asyncio.timeout(20):
            while (await served.client.get("/ready")).status_code != 503:
                await asyncio.sleep(0.05)
        assert (await served.client.get("/health")).status_code == 200
        refused = await served.client.post("/tasks/execute", json={"prompt": "x"})
        assert refused.status_code == 503
        own_nats_server.start()
        async with asyncio.timeout(30):
            while (await served.client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.05)
            await served.say(execution, 51, 100, project)
            await served.end(execution, 100, project)
            await following
        assert seen == list(range(1, 101))
