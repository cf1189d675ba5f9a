"""Events of one session reach their function one after the other; nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.project_loop import ProjectLoop
from ocf.functions.dispatcher.routes import ROUTES, Route
from tests.support.clock import ManualClock
from tests.support.parts import PROJECT

SUBMIT, SESSION = (next(row for row in ROUTES if row.consumer == name) for name in ("submit", "session"))


@asynccontextmanager
async def fed(
    bus: MemoryBus, row: Route, answer: Callable[[httpx2.Request], Awaitable[httpx2.Response]]
) -> AsyncIterator[None]:
    """A dispatcher of that row, whose function says `answer`."""
    function = FunctionTarget(row, "http://function/", None, httpx2.AsyncClient(transport=httpx2.MockTransport(answer)))
    loop = ProjectLoop(row, Dispatcher(row, function, bus=bus, clock=bus.clock), bus, bus.clock)
    task = asyncio.create_task(loop.run())
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        await loop.stop(1)


async def heard(begun: list[str], count: int) -> None:
    """Wait until the function has been asked so often."""
    while len(begun) < count:
        await asyncio.sleep(0.001)


async def submitted(bus: MemoryBus, prompt: str, session: str | None, project: str = PROJECT) -> None:
    execution = str(uuid.uuid4())
    headers = {
        "ce-specversion": "1.0",
        "ce-id": execution,
        "ce-source": "/backend",
        "ce-type": "dev.ocf.task.submit.v1",
    }
    body = {"execution_id": execution, "project_id": project, "prompt": prompt, "session_id": session}
    await bus.publish(subjects.command("submit", project, execution), json.dumps(body).encode(), headers)


async def test_a_session_follow_up_waits_for_the_one_before_it_and_others_do_not() -> None:
    """The second of a session is given on when the first is answered; another session and none go ahead."""
    bus = MemoryBus(SystemClock())
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    for prompt, session in [("1", one), ("2", one), ("3", one), ("other", other), ("none", None)]:
        await submitted(bus, prompt, session)
    begun: list[str] = []
    first = asyncio.Event()

    async def answer(request: httpx2.Request) -> httpx2.Response:
        begun.append(json.loads(request.content)["prompt"])
        if begun[-1] == "1":
            await first.wait()
        return httpx2.Response(200 if begun[-1] != "2" else 422, text="no")

    async with fed(bus, SUBMIT, answer):
        await heard(begun, 3)
        assert sorted(begun) == ["1", "none", "other"]
        first.set()
        await heard(begun, 5)
    assert begun[3:] == ["2", "3"]


async def test_the_same_session_id_in_another_project_is_another_session() -> None:
    """Its submit does not wait for the first project's, which is not answered."""
    bus = MemoryBus(SystemClock())
    session = str(uuid.uuid4())
    await submitted(bus, "1", session)
    await submitted(bus, "other", session, "other")
    begun: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        begun.append(json.loads(request.content)["prompt"])
        if begun[-1] == "1":
            await asyncio.Event().wait()
        return httpx2.Response(200)

    async with fed(bus, SUBMIT, answer):
        await heard(begun, 2)
    assert sorted(begun) == ["1", "other"]


async def test_a_follow_up_does_not_pass_one_that_has_failed() -> None:
    """The first of a session is refused twice, since the session is being created: the second waits for it, and that it
    waited is no failure of its own. Another session goes ahead."""
    bus = MemoryBus(SystemClock())
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    for prompt, session in [("1", one), ("2", one), ("other", other)]:
        await submitted(bus, prompt, session)
    begun: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        begun.append(json.loads(request.content)["prompt"])
        tries = begun.count(begun[-1])
        # The second one fails as often as it may: had its waiting been counted, it would have been given up before.
        return httpx2.Response(404 if tries < 3 and begun[-1] in "12" else 200, text="not yet")

    async with fed(bus, replace(SUBMIT, max_deliveries=3), answer):
        await heard(begun, 7)
    assert begun[:2] in (["1", "other"], ["other", "1"])
    assert [prompt for prompt in begun if prompt != "other"] == ["1", "1", "1", "2", "2", "2"]
    assert [message async for message in bus.history(subjects.DLQ, "ocf.dlq.>")] == []


async def test_one_that_was_given_back_is_not_passed_either() -> None:
    """The first fails, the second is given back for it; when the first has succeeded, a third waits for the second."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    session = str(uuid.uuid4())
    begun: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        begun.append(json.loads(request.content)["prompt"])
        return httpx2.Response(503 if begun == ["1"] else 200, text="not yet")

    function = FunctionTarget(
        SUBMIT, "http://function/", None, httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    )
    dispatcher = Dispatcher(SUBMIT, function, bus=bus, clock=clock)

    async def delivered() -> None:
        for delivery in await bus.fetch(SUBMIT.spec(), 10, 0):
            await dispatcher.dispatch(delivery)

    for prompt in ("1", "2"):
        await submitted(bus, prompt, session)
    await delivered()  # 1 fails and comes again after half a second, 2 after one
    clock.skip(0.6)
    await submitted(bus, "3", session)
    await delivered()
    assert begun == ["1", "1"]
    for _ in range(3):
        clock.skip(1.1)
        await delivered()
    assert begun == ["1", "1", "2", "3"]


async def test_that_it_waited_is_no_failure_for_the_next_dispatcher_either() -> None:
    """A dispatcher is replaced after the event was given back often: one failure does not make it a dead letter."""
    clock = ManualClock()
    bus = MemoryBus(clock)
    await submitted(bus, "1", str(uuid.uuid4()))
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(503, text="away")))
    for _ in range(SUBMIT.max_deliveries + 3):
        [delivery] = await bus.fetch(SUBMIT.spec(), 1, 0)
        await delivery.nak(0)
    dispatcher = Dispatcher(SUBMIT, FunctionTarget(SUBMIT, "http://function/", None, http), bus=bus, clock=clock)
    [delivery] = await bus.fetch(SUBMIT.spec(), 1, 0)
    await dispatcher.dispatch(delivery)
    assert [message async for message in bus.history(subjects.DLQ, "ocf.dlq.>")] == []


async def test_an_attach_that_came_before_its_create_lets_it_pass() -> None:
    """It fails until there is such a session."""
    bus = MemoryBus(SystemClock())
    session = str(uuid.uuid4())
    for verb in ("attach", "create"):
        kind = f"dev.ocf.session.{verb}.v1"
        headers = {"ce-specversion": "1.0", "ce-id": verb, "ce-source": "/backend", "ce-type": kind}
        body = json.dumps({"session_id": session, "project_id": PROJECT, "client_id": "c"})
        await bus.publish(subjects.command("session", PROJECT, session), body.encode(), headers)
    begun: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        begun.append(request.headers["ce-type"].split(".")[3])
        return httpx2.Response(200 if "create" in begun else 404, text="not yet")

    async with fed(bus, SESSION, answer):
        await heard(begun, 3)
    assert begun == ["attach", "create", "attach"]
