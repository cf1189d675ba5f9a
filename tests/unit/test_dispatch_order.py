"""Events of one session reach their function one after the other; nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import uuid

import httpx

from events import subjects
from events.bus_memory import MemoryBus
from functions.clock import SystemClock
from functions.dispatcher.dispatch import Dispatcher
from functions.dispatcher.loop import Loop
from functions.dispatcher.targets import Function
from functions.dispatcher.wiring import WIRING
from tests.support.parts import PROJECT

SUBMIT = next(row for row in WIRING if row.consumer == "submit")


async def submitted(bus: MemoryBus, prompt: str, session: str | None) -> None:
    execution = str(uuid.uuid4())
    headers = {
        "ce-specversion": "1.0",
        "ce-id": execution,
        "ce-source": "/backend",
        "ce-type": "dev.ocf.task.submit.v1",
    }
    body = {"execution_id": execution, "project_id": PROJECT, "prompt": prompt, "session_id": session}
    await bus.publish(subjects.command("submit", PROJECT, execution), json.dumps(body).encode(), headers)


async def test_a_session_follow_up_waits_for_the_one_before_it_and_others_do_not() -> None:
    """The second of a session is given on when the first is answered; another session and none go ahead."""
    bus = MemoryBus(SystemClock())
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    for prompt, session in [("1", one), ("2", one), ("3", one), ("other", other), ("none", None)]:
        await submitted(bus, prompt, session)
    begun: list[str] = []
    first = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        begun.append(json.loads(request.content)["prompt"])
        if begun[-1] == "1":
            await first.wait()
        return httpx.Response(200 if begun[-1] != "2" else 422, text="no")

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    function = Function(SUBMIT, "http://submit/", None, http)
    loop = Loop(SUBMIT, Dispatcher(SUBMIT, function, bus=bus, clock=bus.clock), bus, bus.clock)
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(5):
        while len(begun) < 3:
            await asyncio.sleep(0.001)
        assert sorted(begun) == ["1", "none", "other"]
        first.set()
        while len(begun) < 5:
            await asyncio.sleep(0.001)
    assert begun[3:] == ["2", "3"]
    task.cancel()
    await loop.stop(1)
