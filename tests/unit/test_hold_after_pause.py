"""The history's pod does not start beside an agent's boot: first facts after a pause wait, others do not."""

from __future__ import annotations

import asyncio

from ocf.events.envelope import Event
from ocf.functions.dispatcher.delivery_result import DeliveryResult
from ocf.functions.dispatcher.pod_starts import HoldingTarget
from tests.support.clock import ManualClock


class Scene:
    """A target that counts what arrives, behind one that holds."""

    def __init__(self) -> None:
        self.clock, self.got, self.posts = ManualClock(), list[str](), set[asyncio.Task[DeliveryResult]]()
        self.target = HoldingTarget(self, self.clock)

    async def post(self, event: Event) -> DeliveryResult:
        """The function."""
        self.got.append(event.type.split(".")[3])
        return DeliveryResult(200, "")

    async def send(self, verb: str) -> None:
        """Deliver a fact in the background."""
        event = Event(f"dev.ocf.task.{verb}.v1", "/x", verb, self.clock.now(), b"{}")
        self.posts.add(asyncio.create_task(self.target.post(event)))
        for _ in range(5):
            await asyncio.sleep(0)


async def test_the_first_facts_after_a_pause_wait_for_seconds() -> None:
    """Once: what comes within the next seconds is delivered at once."""
    scene = Scene()
    await scene.send("accepted")
    await scene.clock.advance(4.0)
    await scene.send("started")
    assert scene.got == []
    await scene.clock.advance(4.0)
    assert sorted(scene.got) == ["accepted", "started"]
    await scene.clock.advance(15.0)
    await scene.send("accepted")
    assert len(scene.got) == 3


async def test_an_end_ends_the_wait() -> None:
    """A run of a second is in the history at its end, with all of its facts."""
    scene = Scene()
    await scene.send("accepted")
    await scene.send("failed")
    assert sorted(scene.got) == ["accepted", "failed"]


async def test_after_each_pause_the_first_facts_wait_again() -> None:
    """The pod has gone in the meantime. An earlier timer does not end the new wait."""
    scene = Scene()
    await scene.send("completed")
    assert scene.got == ["completed"]
    await scene.clock.advance(21.0)
    await scene.send("accepted")
    assert scene.got == ["completed"]
    await scene.clock.advance(8.0)
    assert scene.got == ["completed", "accepted"]
