"""Executions that wait for their session or their project's quota leave the slots to others."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter

import httpx2

from ocf.events import subjects
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.dispatcher.consumer import ConsumerLoop
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.routes import ROUTES
from tests.support.nats import NatsServer

EXECUTE = next(row for row in ROUTES if row.consumer == "execute")
#: More than may be in flight.
WAITING = EXECUTE.in_flight + 50


async def published(bus: NatsBus, project: str, session: str | None = None) -> None:
    execution = str(uuid.uuid4())
    headers = {"ce-specversion": "1.0", "ce-id": execution, "ce-source": "/t", "ce-type": "dev.ocf.task.execute.v1"}
    body = {"execution_id": execution, "project_id": project, "session_id": session}
    await bus.publish(subjects.command("execute", project, execution), json.dumps(body).encode(), headers)


async def test_a_project_at_its_quota_and_a_busy_session_hold_up_nobody(own_nats_server: NatsServer) -> None:
    """Behind more waiting executions than may be in flight another project's is delivered at once; those that waited
    run when it is their turn."""
    clock, session = SystemClock(), str(uuid.uuid4())
    bus = await connect(own_nats_server.url, creds=own_nats_server.creds, name="test")
    asked: Counter[str] = Counter()
    done: Counter[str] = Counter()
    theirs = asyncio.Event()

    def answer(request: httpx2.Request) -> httpx2.Response:
        project = json.loads(request.content)["project_id"]
        asked[project] += 1
        if project != "patient" and not theirs.is_set():
            return httpx2.Response(425, text="its project or session runs another")
        done[project] += 1
        if project == "patient":
            theirs.set()
        return httpx2.Response(200)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        for number in range(WAITING):
            await published(bus, "greedy") if number % 2 else await published(bus, "talker", session)
        await published(bus, "patient")
        function = FunctionTarget(EXECUTE, "http://execute/", None, http)
        loop = ConsumerLoop(EXECUTE, Dispatcher(EXECUTE, function, bus=bus, clock=clock), bus, clock)
        running = asyncio.create_task(loop.run())
        try:
            await asyncio.wait_for(theirs.wait(), 10)
            assert asked["greedy"] + asked["talker"] >= WAITING
            async with asyncio.timeout(60):
                while done.total() <= WAITING:
                    await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await loop.stop(1)
            await bus.close()
    assert done == {"greedy": WAITING // 2, "talker": WAITING // 2, "patient": 1}
