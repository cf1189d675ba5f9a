"""Any order of session and task commands, delivered in any order, with crashes between any two steps."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.base_model import Model
from ocf.events.command_payloads import (
    Cancel,
    Cleanup,
    Execute,
    SessionAttach,
    SessionCreate,
    SessionDestroy,
    SessionDetach,
)
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import Event, decode
from ocf.events.errors import DeadLetter, Drop, Retry
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import Completed
from ocf.events.lifecycle import State, Step
from ocf.events.ports import Message
from ocf.events.session_record import Session
from ocf.functions.core.execution_store import Records
from ocf.functions.core.fencing_token import acquire_fence
from ocf.functions.core.session_store import EXPIRY
from ocf.functions.execute.attempt.runner import Runner
from ocf.functions.runtime.bootstrap import Dependencies
from tests.support.clock import ManualClock
from tests.support.handlers import cancel, cleanup, session, submit
from tests.support.parts import PROJECT, bench
from tests.support.runs import runner_on, worker_on

T = TypeVar("T")
Handler = Callable[[Dependencies, Event], Awaitable[None]]
HANDLERS: dict[str, Handler] = {"submit": submit, "cancel": cancel, "cleanup": cleanup, "session": session}
TERMINAL = {"completed", "failed", "cancelled", "timed_out"}
#: A fuse of that many calls: the handler dies before the next one. None: it does not.
FUSE = st.one_of(st.none(), st.integers(0, 14))
PICK = st.integers(0, 10_000)


class Crash(Exception):
    """The process died here."""


class Fuse:
    """Burns down with each call to a part that is wired to it."""

    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Crash


class Wired:
    """A part whose every awaited call burns the fuse first."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def called(*args: Any, **kwargs: Any) -> Any:
            self._fuse.burn()
            return await found(*args, **kwargs)

        return called


class SessionMachine(RuleBasedStateMachine):
    """Two sessions, some executions, one dispatcher that is in no hurry."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        plain = bench(self.clock, SESSION_TTL="1000")
        self.bench, self.fuse = plain, Fuse()
        bus, executions, sessions, store = (
            Wired(part, self.fuse) for part in (plain.deps.bus, plain.deps.executions, plain.deps.sessions, plain.store)
        )
        open_keys = Wired(MemoryBucket(self.clock), self.fuse)
        records = Records(executions, bus, self.clock, source="/test", store=store, open_keys=open_keys)
        self.deps = replace(plain.deps, bus=bus, executions=executions, sessions=sessions, store=store, records=records)
        self.sessions = [str(uuid.uuid4()) for _ in range(2)]
        self.submitted: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.acked: set[int] = set()
        self.runs: dict[str, tuple[Runner, int]] = {}
        #: Sessions that there were at some time.
        self.made: set[str] = set()

    def wait(self, work: Coroutine[Any, Any, T], fuse: int | None = None) -> T:
        self.fuse.left = fuse
        try:
            return self.loop.run_until_complete(work)
        finally:
            self.fuse.left = None

    def publish(self, type_: str, data: Model) -> None:
        event = self.bench.command(type_, data)
        subject = event.extensions[NATS_SUBJECT]
        self.wait(self.bench.bus.publish(subject, event.data, event.headers()))

    def waiting(self, *verbs: str) -> list[Message]:
        """Commands that nobody has acknowledged."""
        found = self.bench.bus._streams[subjects.COMMANDS].messages
        return [m for m in found if m.sequence not in self.acked and m.subject.split(".")[1:3][-1] in verbs]

    # What people do.

    @rule(which=st.integers(0, 1))
    def create(self, which: int) -> None:
        data = SessionCreate(session_id=self.sessions[which], project_id=PROJECT)
        self.publish("dev.ocf.session.create.v1", data)

    @rule(which=st.integers(0, 1), client=st.sampled_from(["ann", "bob"]), escapes=st.booleans())
    def attach(self, which: int, client: str, escapes: bool) -> None:
        ids = {"session_id": self.sessions[which], "project_id": PROJECT, "client_id": client}
        if escapes:
            self.publish("dev.ocf.session.detach.v1", SessionDetach.model_validate(ids))
        else:
            self.publish("dev.ocf.session.attach.v1", SessionAttach.model_validate(ids))

    @rule(which=st.integers(0, 1))
    def destroy(self, which: int) -> None:
        data = SessionDestroy(session_id=self.sessions[which], project_id=PROJECT)
        self.publish("dev.ocf.session.destroy.v1", data)

    @precondition(lambda self: not self.runs)
    @rule(which=st.integers(0, 1))
    def expire(self, which: int) -> None:
        """Its schedule's time has come."""
        self.wait(self.clock.advance(1_001))
        data = SessionDestroy(session_id=self.sessions[which], project_id=PROJECT)
        event = self.bench.command("dev.ocf.session.destroy.v1", data)
        headers = replace(event, source=EXPIRY).headers()
        self.wait(self.bench.bus.publish(event.extensions[NATS_SUBJECT], event.data, headers))

    @rule(which=st.integers(0, 1))
    def submit(self, which: int) -> None:
        execution = str(uuid.uuid4())
        event = self.bench.submit(execution, session_id=self.sessions[which], retry={"max_attempts": 2})
        self.wait(self.bench.bus.publish(event.extensions[NATS_SUBJECT], event.data, event.headers()))
        self.submitted[execution] = self.sessions[which]

    @precondition(lambda self: self.submitted)
    @rule(pick=PICK, delete=st.booleans())
    def end(self, pick: int, delete: bool) -> None:
        execution = _one(list(self.submitted), pick)
        ids = {"execution_id": execution, "project_id": PROJECT}
        if delete:
            self.publish("dev.ocf.task.cleanup.v1", Cleanup.model_validate(ids))
        else:
            self.publish("dev.ocf.task.cancel.v1", Cancel.model_validate(ids))

    # What the system does.

    @precondition(lambda self: self.waiting(*HANDLERS))
    @rule(pick=PICK, fuse=FUSE)
    def deliver(self, pick: int, fuse: int | None) -> None:
        message = _one(self.waiting(*HANDLERS), pick)
        handler = HANDLERS[message.subject.split(".")[2]]
        try:
            self.wait(handler(self.deps, self._event(message)), fuse)  # type: ignore[arg-type]
        except (Retry, Crash):
            return
        except (Drop, DeadLetter):
            pass
        finally:
            self.made |= {id_ for id_ in self.sessions if self.session(id_) is not None}
        self.acked.add(message.sequence)

    @precondition(lambda self: self.waiting("execute"))
    @rule(pick=PICK, fuse=FUSE)
    def start(self, pick: int, fuse: int | None) -> None:
        """A worker takes an execution, as far as OpenCode would start."""
        message = _one(self.waiting("execute"), pick)
        try:
            self.wait(self._take(message), fuse)
        except (Retry, Crash):
            return
        except Drop:
            self.acked.add(message.sequence)

    async def _take(self, message: Message) -> None:
        event = self._event(message)
        task = Execute.model_validate_json(event.data)
        worker = worker_on(self.deps)
        await worker._must_be_open(ExecutionRef(PROJECT, task.execution_id))
        await worker._must_be_its_turn(task)
        run = runner_on(self.deps, task, event)
        record = await self.deps.records.require(PROJECT, task.execution_id)
        await run._lease.acquire(len(record.attempts) + 1)
        record = await run._start(await acquire_fence(run._deps.bus, *run._ids))
        if not record.terminal:
            self.runs[task.execution_id] = (run, message.sequence)

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, fuse=FUSE)
    def finish(self, pick: int, fuse: int | None) -> None:
        """A run ends; its session's state is saved first. When the worker dies there, its lease runs out."""
        execution = _one(list(self.runs), pick)
        run, sequence = self.runs.pop(execution)
        try:
            self.wait(self._finish(run, execution), fuse)
        except (Retry, Crash):
            return
        self.acked.add(sequence)

    async def _finish(self, run: Runner, execution: str) -> None:
        await self.deps.store.put(f"{SessionRef(PROJECT, self.submitted[execution]).prefix}/{execution}.x", b"")
        fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=5)
        await self.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
        await run._leave_session()
        await run._lease.release()

    @precondition(lambda self: self.runs)
    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        """A worker dies in mid-run."""
        del self.runs[_one(list(self.runs), pick)]
        self.later()

    @rule()
    def later(self) -> None:
        """Leases run out, unless their worker lives."""
        self.wait(self.clock.advance(11))
        for execution, (run, _) in self.runs.items():
            self.wait(run._lease.acquire(1))
            assert execution in self.submitted

    # What must hold.

    @invariant()
    def one_run_per_session(self) -> None:
        running = [self.submitted[one.execution_id] for one in self.records() if one.state is State.RUNNING]
        assert len(running) == len(set(running)), "two executions of one session run"

    @invariant()
    def at_most_one_end(self) -> None:
        for execution in self.submitted:
            ends = [what for what in self.said(execution) if what in TERMINAL]
            assert len(ends) <= 1, ends

    def teardown(self) -> None:
        """Given time, everything comes to its end: nothing is stuck, lost, or left behind."""
        if not hasattr(self, "loop"):
            return
        try:
            self._come_to_rest()
            for record in self.records():
                assert record.terminal, record
                assert self.said(record.execution_id), record
            known = {record.execution_id for record in self.records()}
            for execution in self.submitted.keys() - known:
                assert "cleaned" in self.said(execution), "an execution was lost"
            self._nothing_left()
        finally:
            self.loop.close()

    def _come_to_rest(self) -> None:
        for _ in range(40):
            for number in range(len(self.waiting(*HANDLERS, "execute"))):
                if number < len(self.waiting(*HANDLERS)):
                    self.deliver(number, None)
                if number < len(self.waiting("execute")):
                    self.start(number, None)
            while self.runs:
                self.finish(0, None)
            self.wait(self.clock.advance(31))
            if not [m for m in self.waiting(*HANDLERS, "execute") if self._could_go(m)]:
                return
        stuck = [m.subject for m in self.waiting(*HANDLERS, "execute")]
        raise AssertionError(f"not at rest: {stuck}")

    def _could_go(self, message: Message) -> bool:
        """What is about sessions nobody ever made, or joins a destroyed one, is retried, and ends as a dead letter."""
        id_, joins = message.subject[-36:], message.headers["ce-type"].split(".")[3] in ("attach", "detach")
        if message.subject.split(".")[2] != "session" or self.session(id_) is not None:
            return True
        return id_ in self.made and not joins

    def _nothing_left(self) -> None:
        for id_ in self.sessions:
            found = self.session(id_)
            if "destroyed" not in self.said(id_):
                assert (found is not None) == (id_ in self.made), "it went without a word"
                assert found is None or found.state == "open"
                continue
            assert self.said(id_).count("destroyed") == 1
            assert found is None, "a destroyed session is there"
            assert [key for key in self.bench.store.objects if id_ in key] == []
            if not json.loads(self.wait(self.bench.fact(id_, "destroyed")).data)["expired"]:
                assert [one.session_id for one in self.records() if one.session_id == id_] == []

    def session(self, id_: str) -> Session | None:
        entry = self.wait(self.bench.deps.sessions.get(f"{PROJECT}.{id_}"))  # type: ignore[arg-type]
        return None if entry is None else Session.model_validate_json(entry.value)

    def records(self) -> list[Record]:
        async def found() -> list[Record]:
            return [record async for record in self.bench.deps.records.all()]

        return self.wait(found())

    def said(self, entity: str) -> list[str]:
        return self.wait(self.bench.said(entity))

    def _event(self, message: Message) -> Event:
        return decode(message.headers, message.data).with_extensions(**{NATS_SUBJECT: message.subject})


def _one(items: list[T], pick: int) -> T:
    return items[pick % len(items)]


SessionMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    # Shrinking takes minutes: whoever has a failure to look at adds Phase.shrink.
    phases=(Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestSessions = SessionMachine.TestCase
