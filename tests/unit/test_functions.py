"""A function: a handler with exactly the dependencies that it names."""

from __future__ import annotations

import functools
import importlib
import inspect
import typing

import pytest
from starlette.requests import Request

from ocf.events.command_payloads import Cancel
from ocf.events.envelope import Event
from ocf.functions.archive.handler import archive
from ocf.functions.cancel.handler import cancel
from ocf.functions.cleanup.handler import cleanup
from ocf.functions.database.store import History
from ocf.functions.history.handler import history
from ocf.functions.publishing.publisher import ResultPublisher
from ocf.functions.rules.rulebook import RuleBook
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.function import Function, Handler
from ocf.functions.runtime.serve import FUNCTIONS, function_of
from ocf.functions.session.handler import session
from ocf.functions.submit.handler import submit
from tests.support.handlers import post
from tests.support.parts import PROJECT, bench

HANDLERS = (submit, cancel, cleanup, session, archive, history)


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.__name__)
def test_a_handler_names_dependencies_that_there_are(handler: Handler) -> None:
    """A keyword argument has the name and the type of an attribute of `Dependencies`."""
    # Imported by the processes that need them only.
    late = {"History": History, "ResultPublisher": ResultPublisher, "RuleBook": RuleBook}
    attributes = typing.get_type_hints(Dependencies, localns=late)
    for name, one in inspect.getmembers(
        Dependencies, lambda one: isinstance(one, property | functools.cached_property)
    ):
        getter = one.fget if isinstance(one, property) else one.func
        attributes[name] = typing.get_type_hints(getter, localns=late)["return"]
    hints = typing.get_type_hints(handler, localns=late)
    names = [p.name for p in inspect.signature(handler).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert {name: hints[name] for name in names} == {name: attributes.get(name) for name in names}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_entry_point_of_its_name(name: str) -> None:
    """functions-framework finds `FUNCTION_TARGET` in the module."""
    assert isinstance(function_of(name), Function)
    assert inspect.iscoroutinefunction(getattr(importlib.import_module(f"ocf.functions.{name}.main"), name))


async def test_a_function_answers_between_start_and_stop() -> None:
    """Before it has its dependencies, and after it gave them back, an event comes again later."""
    seen: list[Event] = []

    async def handler(event: Event) -> None:
        seen.append(event)

    b, function = bench(), Function(handler)
    data = Cancel(execution_id="00000000-0000-4000-8000-000000000001", project_id=PROJECT)
    event = b.command("dev.ocf.task.cancel.v1", data)
    assert (await function.respond(post(event))).status_code == 503
    await function.start(b.deps)
    assert (await function.respond(post(event))).status_code == 200
    assert seen == [event]
    assert (await function.respond(post(event, "GET"))).status_code == 405
    await function.stop()
    await function.stop()
    assert (await function.respond(post(event))).status_code == 503


async def test_what_is_no_event_is_refused() -> None:
    """It names what is wrong, and reaches no handler."""

    async def handler(_: Event) -> None:
        raise AssertionError

    function = Function(handler)
    await function.start(bench().deps)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"{}"}

    response = await function.respond(Request({"type": "http", "method": "POST", "headers": []}, receive))
    assert (response.status_code, bytes(response.body)) == (400, b"specversion: <0 characters> is not '1.0'")
