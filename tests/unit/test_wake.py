"""A submit wakes the function of the next step: once, however many come, and only if it could run now."""

from __future__ import annotations

import asyncio

import httpx2

from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.functions.dispatcher.delivery_result import DeliveryResult
from ocf.functions.dispatcher.pod_starts import Wake, WakingTarget, WokenTarget
from tests.support.clock import ManualClock

URL = "http://execute.ocf.svc.cluster.local"


class Server:
    """Keeps each request until it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting = 0
        self.goes = asyncio.Event()

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(f"{request.method} {request.url}")
        self.waiting += 1
        try:
            await self.goes.wait()
        finally:
            self.waiting -= 1
        return httpx2.Response(503)

    def wake(self, clock: ManualClock) -> Wake:
        return Wake(URL, httpx2.AsyncClient(transport=httpx2.MockTransport(self)), clock)


class Submit:
    """The target of submits."""

    def __init__(self) -> None:
        self.got: list[Event] = []

    async def post(self, event: Event) -> DeliveryResult:
        self.got.append(event)
        return DeliveryResult(200, "")


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_hundred_submits_send_one_request() -> None:
    """While it waits for a pod no other is sent: each would be demand for one more pod. Later there is another."""
    clock, server = ManualClock(), Server()
    wake = server.wake(clock)
    for _ in range(100):
        wake.start()
        await turn()
        clock.skip(0.5)
    assert server.asked == [f"GET {URL}/health"]
    server.goes.set()
    await turn()
    wake.start()
    wake.start()
    await turn()
    assert len(server.asked) == 2


async def test_a_project_without_room_wakes_nothing() -> None:
    """Its quota is used up. The submit is delivered all the same."""
    clock, server, submit = ManualClock(), Server(), Submit()
    target = WakingTarget(submit, server.wake(clock), lambda project: project != "full")
    subjects = [f"ocf.cmd.submit.{name}.00000000-0000-4000-8000-000000000000" for name in ("full", "free")]
    events = [
        Event("dev.ocf.task.submit.v1", "/x", "1", clock.now(), b"{}", extensions={NATS_SUBJECT: subject})
        for subject in subjects
    ]
    await target.post(events[0])
    await turn()
    assert server.asked == []
    await target.post(events[1])
    await turn()
    assert server.asked == [f"GET {URL}/health"]
    assert submit.got == events


async def test_a_delivery_takes_the_place_of_the_request() -> None:
    """Both would be demand for two pods. Without a request there is nothing to break off."""
    clock, server, execute = ManualClock(), Server(), Submit()
    wake = server.wake(clock)
    target = WokenTarget(execute, wake)
    event = Event("dev.ocf.task.execute.v1", "/x", "1", clock.now(), b"{}")
    await target.post(event)
    wake.start()
    await turn()
    assert (server.asked, server.waiting) == ([f"GET {URL}/health"], 1)
    await target.post(event)
    await turn()
    assert server.waiting == 0
    assert execute.got == [event, event]
