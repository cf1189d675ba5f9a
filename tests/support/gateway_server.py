"""The gateway as a process serves it: real sockets, a real nats-server, objects in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI

from ocf.events import subjects
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.database.store import History
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.gateway.app import create_app
from ocf.functions.gateway.context import Gateway
from ocf.functions.gateway.gateway_deps import GatewayDeps, ViewerCredentials
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.runtime import connection_limits
from ocf.functions.runtime.nats_auth import mint_viewer
from tests.support.database import memory_history
from tests.support.gateway import chunk
from tests.support.nats import NatsServer
from tests.support.relay import GATEWAYS, relay


@dataclass
class Served:
    """A running gateway, and the other end of its bus."""

    url: str
    client: httpx2.AsyncClient
    bus: NatsBus
    executions: NatsBucket
    store: MemoryStore
    history: History
    gateways: list[Gateway]

    @property
    def gateway(self) -> Gateway:
        """The first of them."""
        return self.gateways[0]

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    async def record(self, execution: str, project: str = "default", **fields: Any) -> Record:
        """Put a record into the bucket."""
        now = datetime.now(UTC)
        given = {"state": State.RUNNING, "submitted_at": now, "updated_at": now, "timeout_seconds": 60, **fields}
        record = Record(execution_id=execution, project_id=project, **given)
        key = ExecutionRef(project, execution).record_key
        before = await self.executions.get(key)
        await self.executions.update(key, record.model_dump_json().encode(), before.revision if before else 0)
        await self.history.save(record)
        return record

    async def say(self, execution: str, first: int, last: int, project: str = "default") -> None:
        """Publish those chunks of output."""
        subject = subjects.output(project, execution)
        for seq in range(first, last + 1):
            headers = {"ce-sequence": str(seq), "Nats-Msg-Id": f"{execution}:{seq}"}
            await self.bus.publish(subject, chunk(seq, datetime.now(UTC)), headers)

    async def end(self, execution: str, last: int, project: str = "default") -> None:
        """The execution has completed with that many chunks."""
        await self.record(execution, project, state=State.COMPLETED, last_sequence=last)
        await self.bus.publish(subjects.fact(project, execution, "completed"), b"{}", {})


def viewers(server: NatsServer) -> Any:
    """Mints with the server's scoped key."""

    def mint(project: str, execution: str, ttl: int) -> ViewerCredentials:
        now = int(datetime.now(UTC).timestamp())
        return mint_viewer(server.trust.viewer_signing, server.account, project, execution, ttl=ttl, now=now)

    return mint


@asynccontextmanager
async def serving(
    nats: NatsServer, settings: GatewaySettings | None = None, port: int = 0, *, gateways: int = GATEWAYS, **deps: Any
) -> AsyncIterator[Served]:
    """A gateway on that port, or a free one, ready to be called; with several, a relay to all of them."""
    bus = await connect(nats.url, creds=Path(nats.creds), name="gateway-test")
    executions = NatsBucket(bus, subjects.EXECUTIONS_BUCKET)
    store, history = MemoryStore(), memory_history()
    given = GatewayDeps(
        bus=bus,
        executions=executions,
        sessions=NatsBucket(bus, subjects.SESSIONS_BUCKET),
        triggers=NatsBucket(bus, subjects.TRIGGERS_BUCKET),
        store=store,
        history=history,
        clock=SystemClock(),
        credentials=ForgeCredentials(NatsBucket(bus, subjects.CREDENTIALS_BUCKET), SystemClock()),
        settings=replace(settings or GatewaySettings(), nats_ws_url=nats.ws_url),
        mint_viewer=viewers(nats),
    )
    apps = [create_app(replace(given, **deps)) for _ in range(gateways)]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        # With several gateways the relay has the port that is asked for.
        ports = [await stack.enter_async_context(_served(app, port if gateways == 1 else 0)) for app in apps]
        url = f"http://127.0.0.1:{ports[0] if gateways == 1 else await stack.enter_async_context(relay(ports, port))}"
        client = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=20))
        yield Served(url, client, bus, executions, store, history, [app.state.gateway for app in apps])


@asynccontextmanager
async def _served(app: FastAPI, port: int) -> AsyncIterator[int]:
    """Serve an application on that port, or a free one; yields the port."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_config=None, access_log=False, ws="websockets-sansio", lifespan="on"
    )
    connection_limits.apply_limits(config)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    try:
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving
