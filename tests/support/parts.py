"""Functions on in-memory parts: the same handlers, no I/O."""

from __future__ import annotations

import functools
import json
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.base_model import Model
from ocf.events.command_payloads import Submit
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event, decode, new_event
from ocf.events.event_types import TYPES
from ocf.events.ports import Clock
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.settings.settings import Settings
from tests.support.clock import ManualClock
from tests.support.database import memory_history

PROJECT = "default"


class _Instead:
    def __init__(self, real: object, methods: dict[str, Any]) -> None:
        self._real = real
        vars(self).update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def instead(real: Any, **methods: Any) -> Any:
    """A collaborator that is `real` but for some of its methods."""
    return _Instead(real, methods)


@dataclass(frozen=True)
class Bench:
    """Parts and what a test does with them."""

    deps: Dependencies
    bus: MemoryBus
    store: MemoryStore

    def having(self, **parts: Any) -> Bench:
        """The same bench with other dependencies."""
        return replace(self, deps=replace(self.deps, **parts))

    def command(self, type_: str, data: Model, subject: str | None = None) -> Event:
        """A command as the dispatcher hands it over."""
        event = new_event(type_, data, source="/test", time=self.deps.clock.now())
        entity = str(getattr(data, "execution_id", None) or getattr(data, "session_id", ""))
        named = subject or TYPES[type_].subject(str(getattr(data, "project_id", "")), entity)
        return event.with_extensions(**{NATS_SUBJECT: named})

    def submit(self, execution: str | None = None, **request: Any) -> Event:
        """A submit command."""
        body = {"prompt": "hello", "execution_id": execution or str(uuid.uuid4()), "project_id": PROJECT, **request}
        return self.command("dev.ocf.task.submit.v1", Submit.model_validate(body))

    def raw_submit(self, body: dict[str, Any], project: str, execution: str) -> Event:
        """A submit command that need not be valid."""
        event = self.submit()
        marks = {NATS_SUBJECT: f"ocf.cmd.submit.{project}.{execution}"}
        return Event(event.type, event.source, event.id, event.time, json.dumps(body).encode(), extensions=marks)

    async def said(self, execution: str, project: str = PROJECT) -> list[str]:
        """The last words of the facts of an execution, in order."""
        pattern = f"ocf.evt.{project}.{execution}.*"
        return [m.subject.rsplit(".", 1)[-1] async for m in self.bus.history(subjects.EVENTS, pattern)]

    async def fact(self, execution: str, what: str, project: str = PROJECT) -> Event:
        """One fact."""
        message = await self.bus.last(subjects.EVENTS, f"ocf.evt.{project}.{execution}.{what}")
        assert message is not None, what
        return decode(message.headers, message.data)

    async def commands(self, verb: str, execution: str, project: str = PROJECT) -> list[Event]:
        """The commands of that verb about an execution."""
        pattern = f"ocf.cmd.{verb}.{project}.{execution}"
        return [decode(m.headers, m.data) async for m in self.bus.history(subjects.COMMANDS, pattern)]


def bench(clock: Clock | None = None, *, bus: type[MemoryBus] = MemoryBus, **settings: Any) -> Bench:
    """Fresh parts; `settings` by their environment names."""
    clock = clock or ManualClock()
    made, store, executions, triggers = bus(clock), MemoryStore(), MemoryBucket(clock), MemoryBucket(clock)
    deps = Dependencies(
        settings=Settings.model_validate({"STATE_DIR": Path("/nonexistent"), **settings}),
        clock=clock,
        bus=made,
        executions=executions,
        sessions=MemoryBucket(clock),
        triggers=triggers,
        store=store,
        records=Records(executions, made, clock, source="/test", store=store, open_keys=MemoryBucket(clock)),
        keyring=None,
        credentials=ForgeCredentials(MemoryBucket(clock), clock),
        worker="worker-1",
        isolation=Isolation(clock, made, store),
        open_history=functools.cache(memory_history),
    )
    return Bench(deps, made, store)
