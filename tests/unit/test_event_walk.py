"""The walk of an event from its NATS delivery through the dispatcher and the function to its fact."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx2
from starlette.applications import Starlette
from starlette.routing import Route

from ocf.events import subjects
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.dispatcher.consumer import dispatch_one
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.execute.main import Execute
from ocf.functions.execute.worker import Worker
from ocf.functions.runtime.function import Function
from ocf.functions.submit.handler import submit
from tests.support.parts import PROJECT, Bench, bench
from tests.support.runs import worker_on
from tests.support.walk import Walk, followed
from tests.unit.test_attempt import Emit, StandIn

ROUTE = {route.consumer: route for route in ROUTES}
#: Stays and returns when the SDK and then the function parsed the event (docs/explanation/event-walk.md).
BEFORE = {"submit": (26, 14), "execute": (29, 16)}


class Quick(StandIn):
    """An agent that is done at once."""

    async def script(self, _: Emit) -> None:
        """Say nothing."""


class Ready(Execute):
    """The execute function with a worker of the test."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker


async def walked(b: Bench, name: str, function: Function) -> Walk:
    """Deliver the one command of a route to its function, which handles it."""
    await Function.start(function, b.deps)
    app = Starlette(routes=[Route("/", function.respond, methods=["POST"])])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http:
        target = FunctionTarget(ROUTE[name], "http://function/", None, http)
        dispatcher = Dispatcher(ROUTE[name], target, bus=b.bus, clock=b.deps.clock)
        (delivery,) = await b.bus.fetch(ROUTE[name].spec(), 1, 1)
        with followed(delivery.message.headers["ce-id"]) as walk:
            assert await dispatch_one(ROUTE[name], dispatcher, delivery)
    return walk


async def test_an_event_returns_less_often_than_before(tmp_path: Path) -> None:
    """From delivery to fact, the events of a submit and of an execute stay in fewer files, and come back less often."""
    b = bench(SystemClock(), STATE_DIR=tmp_path)
    execution = str(uuid.uuid4())
    event = b.submit(execution)
    await b.bus.publish(subjects.command("submit", PROJECT, execution), event.data, event.headers())
    walks = {
        "submit": await walked(b, "submit", Function(submit)),
        "execute": await walked(b, "execute", Ready(worker_on(b.deps, Quick))),
    }
    assert await b.said(execution) == ["accepted", "started", "completed"]
    for name, walk in walks.items():
        stays, returns = BEFORE[name]
        assert len(walk.stays) < stays, walk.calls
        assert walk.returns < returns, walk.calls
        assert sum(call.endswith(":parse") for call in walk.calls) == 1
