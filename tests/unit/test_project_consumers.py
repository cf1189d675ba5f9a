"""The loop of a row that projects share: what fails for one project, message or pull fails for nobody else."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.errors import Unavailable
from ocf.events.ports import Backlog, ConsumerSpec, Delivery, Message
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.dispatcher import project_loop
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.project_loop import ProjectLoop
from ocf.functions.dispatcher.redelivery_time import with_data
from ocf.functions.dispatcher.routes import ROUTES, Route

CANCEL, EXECUTE = (next(row for row in ROUTES if row.consumer == name) for name in ("cancel", "execute"))


class Broken(MemoryBus):
    """A bus that cannot be asked for the messages of some consumers."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.trouble: dict[str, Exception] = {}

    async def fetch(self, consumer: ConsumerSpec, limit: int, wait: float) -> list[Delivery]:
        if consumer.name in self.trouble:
            raise self.trouble[consumer.name]
        return await super().fetch(consumer, limit, wait)

    async def open_consumer(self, consumer: ConsumerSpec) -> int:
        if (trouble := self.trouble.get(f"open {consumer.name}")) is not None:
            raise trouble
        return await super().open_consumer(consumer)

    def states(self) -> list[str]:
        """The names of the consumers."""
        return list(self._consumers)


class Late(MemoryBus):
    """A bus whose naks take effect when it is told, and whose pulls return when it is told."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.naks: list[int] = []
        self.empty = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def fetch(self, consumer: ConsumerSpec, limit: int, wait: float) -> list[Delivery]:
        found = await super().fetch(consumer, limit, wait)
        if consumer.name == "cancel-acme":
            self.empty += not found
            await self.hold.wait()
        return [LateNak(delivery, self) for delivery in found]

    def arrive(self) -> None:
        """Let every nak arrive, with its delay over."""
        for sequence in self.naks:
            self._consumers["cancel-acme"].not_before[sequence] = 0
        self.changed()


class LateNak:
    """A delivery whose nak arrives late."""

    def __init__(self, delivery: Delivery, bus: Late) -> None:
        self._delivery, self._bus = delivery, bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    async def nak(self, delay: float) -> None:
        await self._delivery.nak(3600)
        self._bus.naks.append(self._delivery.message.sequence)


async def publish(bus: MemoryBus, project: str, subject: str = "", verb: str = "cancel") -> str:
    execution = str(uuid.uuid4())
    headers = {"ce-specversion": "1.0", "ce-id": execution, "ce-source": "/t", "ce-type": f"dev.ocf.task.{verb}.v1"}
    body = json.dumps({"execution_id": execution, "project_id": project}).encode()
    await bus.publish(subject or subjects.command(verb, project, execution), body, headers)
    return execution


class Rig:
    """A loop with a function that notes the project and the execution of each event."""

    def __init__(self, bus: MemoryBus, route: Route = CANCEL, quota: int = 0) -> None:
        self.heard: list[str] = []
        self.executions: list[str] = []
        self.surprise: str | None = None
        #: Statuses of the next answers; then 200.
        self.statuses: list[int] = []
        #: Executions that are answered with a status each time; 0: never answered.
        self.always: dict[str, int] = {}
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer))
        dispatcher = Dispatcher(route, FunctionTarget(route, "http://function/", None, http), bus=bus, clock=bus.clock)
        self.loop = ProjectLoop(route, dispatcher, bus, bus.clock, quota=quota)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        data = json.loads(request.content)
        project, execution = data["project_id"], data["execution_id"]
        if project == self.surprise:
            raise RuntimeError("words of the message")
        self.heard.append(project)
        self.executions.append(execution)
        status = self.always.get(execution, self.statuses.pop(0) if self.statuses else 200)
        if not status:
            await asyncio.Event().wait()
        return httpx2.Response(status)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.running():
            await self.wait(condition)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.loop.run())
        try:
            yield
        finally:
            running.cancel()
            await self.loop.stop(0.1)

    async def wait(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("trouble", [Unavailable("no answer"), RuntimeError("nobody thought of it")])
async def test_a_project_whose_consumer_does_not_answer_holds_up_no_other(trouble: Exception) -> None:
    """It comes when it answers again."""
    bus = Broken()
    rig = Rig(bus)
    bus.trouble["cancel-broken"] = trouble
    for project in ("broken", "fine", "broken", "fine"):
        await publish(bus, project)
    await rig.until(lambda: rig.heard.count("fine") == 2)
    assert "broken" not in rig.heard
    del bus.trouble["cancel-broken"]
    later = Rig(bus)
    await later.until(lambda: later.heard.count("broken") == 2)


async def test_an_error_that_nobody_thought_of_is_its_delivery_s_alone() -> None:
    """Others go on, and the log has the kind of the error and not its words."""
    bus = MemoryBus(SystemClock())
    rig = Rig(bus)
    rig.surprise = "odd"
    for project in ("odd", "fine"):
        await publish(bus, project)
    with capture_logs() as logged:
        await rig.until(lambda: rig.heard == ["fine"] and any("RuntimeError" in str(line) for line in logged))
    assert "words of the message" not in json.dumps(logged, default=str)


async def test_a_project_that_gets_no_consumer_is_served_by_the_shared_one() -> None:
    """The server has as many as it may (err_code 10026): nothing waits for one."""
    bus = Broken()
    bus.trouble["open cancel-late"] = Unavailable("maximum consumers limit reached")
    rig = Rig(bus)
    for project in ("early", "late", "late"):
        await publish(bus, project)
    await rig.until(lambda: sorted(rig.heard) == ["early", "late", "late"])
    assert {state.name for state in await bus.consumers(CANCEL.stream)} == {"cancel", "cancel-early"}


async def test_a_subject_that_names_no_project_is_delivered_and_makes_no_consumer() -> None:
    """It ends as the row says, beside the others."""
    bus = MemoryBus(SystemClock())
    rig = Rig(bus)
    for subject in ("ocf.cmd.cancel.x", "ocf.cmd.cancel.No_Project.1", f"ocf.cmd.cancel.{'p' * 64}.1"):
        await publish(bus, "strange", subject)
    await publish(bus, "fine")
    await rig.until(lambda: len(rig.heard) == 4)
    assert {state.name for state in await bus.consumers(CANCEL.stream)} == {"cancel", "cancel-fine"}


async def test_a_message_that_was_deleted_before_it_was_delivered_ends_there() -> None:
    """What the shared consumer has given nobody the data of is acknowledged; so is what its project never gets."""
    bus = MemoryBus(SystemClock())
    rig = Rig(bus)
    await publish(bus, "gone")
    (early,) = await bus.fetch(CANCEL.shared(), 1, 1)
    await early.nak(0)
    await publish(bus, "gone")
    await bus.purge(CANCEL.stream, "ocf.cmd.cancel.gone.>")
    await publish(bus, "fine")
    await rig.until(lambda: rig.heard == ["fine"])
    assert await bus.backlog(CANCEL.shared()) == Backlog(0, 0)


async def test_a_message_that_a_replica_lacks_is_no_deleted_one() -> None:
    """One of three replicas lags: the data come from the leader, or the message comes again."""

    class Lagging(MemoryBus):
        async def first(self, stream: str, subject: str, *, after: int = 0) -> Message | None:
            return None

    bus = Lagging(SystemClock())
    subject = subjects.command("cancel", "acme", str(uuid.uuid4()))
    await publish(bus, "acme", subject)
    [delivery] = await bus.fetch(CANCEL.shared(), 1, 1)
    found = await with_data(bus, CANCEL.stream, delivery, 30)
    assert found is not None
    assert found.message.data
    await publish(bus, "acme", subject)
    with pytest.raises(Unavailable, match="cannot be read yet"):
        await with_data(bus, CANCEL.stream, delivery, 30)
    assert (await bus.backlog(CANCEL.shared())).unsettled == 1


def test_the_consumers_of_a_row() -> None:
    """Each project's has the row's limits on its own; the index has none, and no data."""
    own, shared = CANCEL.own("acme", 7), CANCEL.shared()
    assert own == replace(CANCEL.spec(), name="cancel-acme", subjects=("ocf.cmd.cancel.acme.>",), start=7)
    assert (shared.name, shared.max_in_flight, shared.headers_only) == ("cancel", 0, True)
    archive = next(row for row in ROUTES if row.consumer == "archive")
    assert "ocf.evt.acme.*.completed" in archive.own("acme", 1).subjects
    assert "ocf.evt.acme.*.*.again.archive" in archive.own("acme", 1).subjects
    assert [row.consumer for row in ROUTES if not row.by_project] == ["history"]
    assert (CANCEL.owner("cancel-acme"), CANCEL.owner("cancel"), CANCEL.owner("cancel-A"), CANCEL.owner("x")) == (
        "acme",
        None,
        None,
        None,
    )


async def test_a_redelivery_that_comes_later_than_planned_is_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nak reached the server after all pulls for it (NATS was away): the next count of the backlog finds it."""
    monkeypatch.setattr(project_loop, "_RECHECK_SECONDS", 0.01)
    bus = Late()
    rig = Rig(bus)
    rig.statuses = [503]
    await publish(bus, "acme")
    async with rig.running():
        await rig.wait(lambda: bus.empty >= 3)
        assert len(rig.heard) == 1
        bus.arrive()
        assert (await rig.loop.measure()).unsettled == 1
        await rig.wait(lambda: len(rig.heard) == 2)


async def test_a_redelivery_that_is_due_during_another_pull_is_pulled_after_it() -> None:
    """That pull finds another message, and was answered before the redelivery was due."""
    bus = Late()
    rig = Rig(bus)
    rig.statuses = [503]
    await publish(bus, "acme")
    async with rig.running():
        await rig.wait(lambda: len(bus.naks) == 1)
        bus.hold.clear()
        await publish(bus, "acme")
        due = asyncio.get_running_loop().time() + 0.6
        await rig.wait(lambda: asyncio.get_running_loop().time() > due)
        bus.arrive()
        bus.hold.set()
        await rig.wait(lambda: len(rig.heard) == 3)


async def test_a_deleted_consumer_is_created_again_from_the_oldest_open_message() -> None:
    """An operator deletes it while one message waits for its retry: that one is not passed over."""
    bus = Broken()
    rig = Rig(bus)
    first = await publish(bus, "acme")
    rig.statuses = [503]
    async with rig.running():
        await rig.wait(lambda: rig.executions == [first])
        second = await publish(bus, "acme")
        await rig.wait(lambda: second in rig.executions)
        await bus.remove_consumer(CANCEL.own("acme", 1))
        bus.trouble["cancel-acme"] = Unavailable("no such consumer")
        await rig.wait(lambda: "cancel-acme" in bus.states())
        del bus.trouble["cancel-acme"]
        await rig.wait(lambda: rig.executions.count(first) == 2)


async def test_executions_that_wait_for_their_session_hold_no_slot() -> None:
    """One session is busy and six executions wait for it (425): with a quota of two, the project's next one comes."""
    bus = MemoryBus(SystemClock())
    rig = Rig(bus, EXECUTE, quota=2)
    rig.always[await publish(bus, "acme", verb="execute")] = 0
    async with rig.running():
        await rig.wait(lambda: len(rig.heard) == 1)
        for _ in range(6):
            rig.always[await publish(bus, "acme", verb="execute")] = 425
        new = await publish(bus, "acme", verb="execute")
        await rig.wait(lambda: new in rig.executions, 2)
