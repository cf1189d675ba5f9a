"""Sessions: made once, worked in one execution at a time, ended without a trace."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from events import subjects
from events.envelope import Event, decode
from events.errors import Conflict, Drop, NotItsTurn, NotYetKnown
from events.facts import Completed
from events.lifecycle import State, Step
from events.models import (
    Cancel,
    Cleanup,
    Execute,
    Model,
    SessionAttach,
    SessionCreate,
    SessionDestroy,
    SessionDetach,
)
from events.record import Attempt, Record
from events.session_record import Session, session_prefix
from functions.cancel.handler import cancel
from functions.cleanup.handler import cleanup
from functions.common.commands import NATS_SUBJECT
from functions.common.sessions import EXPIRY, Sessions, schedule_subject
from functions.execute.worker import Worker
from functions.session.handler import session
from functions.submit.handler import submit
from tests.support.clock import ManualClock
from tests.support.parts import PROJECT, Bench, bench

_MODELS: dict[str, type[Model]] = {
    "create": SessionCreate,
    "attach": SessionAttach,
    "detach": SessionDetach,
    "destroy": SessionDestroy,
}


def wish(b: Bench, verb: str, id_: str, **data: Any) -> Event:
    ids = {"session_id": id_, "project_id": PROJECT}
    return b.command(f"dev.ocf.session.{verb}.v1", _MODELS[verb].model_validate({**ids, **data}))


async def created(b: Bench, **data: Any) -> str:
    id_ = str(uuid.uuid4())
    await session(b.parts, wish(b, "create", id_, **data))
    return id_


async def record_of(b: Bench, id_: str) -> Session:
    found = await Sessions(b.parts.sessions, b.parts.clock).get(PROJECT, id_)
    assert found is not None
    return found


async def submitted(b: Bench, id_: str | None = None) -> str:
    execution = str(uuid.uuid4())
    await submit(b.parts, b.submit(execution, **({"session_id": id_} if id_ else {})))
    return execution


async def started(b: Bench, execution: str) -> None:
    now = b.parts.clock.now()

    def running(record: Record) -> Record:
        attempts = [Attempt(number=1, worker="w", started_at=now)]
        return record.model_copy(update={"state": State.RUNNING, "attempts": attempts, "started_at": now})

    await b.parts.records.change(PROJECT, execution, running)


async def finished(b: Bench, execution: str, *, archived: bool = True) -> None:
    await started(b, execution)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=5)
    await b.parts.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
    if archived:
        await b.parts.records.change(PROJECT, execution, lambda r: r.model_copy(update={"archived": True}))


async def fields(b: Bench, id_: str) -> list[str]:
    """The fields that the newest rejection names."""
    return [error["field"] for error in json.loads((await b.fact(id_, "rejected")).data)["errors"]]


async def may_run(b: Bench, execution: str, id_: str) -> bool:
    """Whether a worker would take it now."""
    worker = Worker(_Shop(b))  # type: ignore[arg-type]
    data = {"execution_id": execution, "project_id": PROJECT, "session_id": id_, "prompt": "p"}
    task = Execute.model_validate({**data, "submitted_at": b.parts.clock.now()})
    try:
        await worker._must_be_its_turn(task)
    except NotItsTurn:
        return False
    return True


class _Shop:
    def __init__(self, b: Bench) -> None:
        self.parts = b.parts


async def deliver_commands(b: Bench, verb: str, handler: Any) -> None:
    """Deliver every command of that verb once, as the dispatcher would."""
    for message in [m async for m in b.bus.history(subjects.COMMANDS, f"ocf.cmd.{verb}.>")]:
        event = decode(message.headers, message.data).with_extensions(**{NATS_SUBJECT: message.subject})
        try:
            await handler(b.parts, event)
        except Drop:
            continue


async def test_create_makes_a_record_a_schedule_and_a_fact() -> None:
    """It expires after SESSION_TTL unless it says otherwise, by a schedule on the server."""
    b = bench(SESSION_TTL="3600")
    id_ = await created(b, labels={"team": "x"})
    found = await record_of(b, id_)
    assert (found.state, found.ttl_seconds, found.labels) == ("open", 3600, {"team": "x"})
    assert await b.said(id_) == ["created"]
    schedule = await b.bus.last(subjects.COMMANDS, schedule_subject(PROJECT, id_))
    assert schedule is not None
    assert schedule.headers["Nats-Schedule"] == "@at 2026-01-01T01:00:00.000000Z"
    assert schedule.headers["Nats-Schedule-Target"] == f"ocf.cmd.session.{PROJECT}.{id_}"


async def test_create_twice_is_one_session() -> None:
    """A repeated create changes nothing and says the same again; another one under that id is rejected."""
    b = bench()
    id_ = await created(b, labels={"a": "1"})
    before = await record_of(b, id_)
    await session(b.parts, wish(b, "create", id_, labels={"a": "1"}))
    assert await record_of(b, id_) == before
    assert await b.said(id_) == ["created"]
    await session(b.parts, wish(b, "create", id_, labels={"a": "2"}))
    assert await fields(b, id_) == ["session_id"]


async def test_a_fork_needs_a_finished_execution() -> None:
    """Unknown, pending and running ones are rejected by field; of a finished one it takes the workspace."""
    b = bench()
    execution = await submitted(b)
    for state in ("unknown", "pending", "running"):
        if state == "running":
            await started(b, execution)
        id_ = await created(b, from_execution_id=execution if state != "unknown" else str(uuid.uuid4()))
        assert await fields(b, id_) == ["from_execution_id"], state
        assert await b.parts.sessions.get(f"{PROJECT}.{id_}") is None
    await finished(b, execution)
    found = await record_of(b, await created(b, from_execution_id=execution))
    assert (found.workspace.source, found.from_execution_id) == ("snapshot", execution)


async def test_a_fork_waits_for_the_archive() -> None:
    """An execution that has just ended can be forked: the command comes again until it is archived."""
    b = bench()
    execution = await submitted(b)
    await finished(b, execution, archived=False)
    with pytest.raises(Conflict, match="archived"):
        await created(b, from_execution_id=execution)


async def test_a_fork_brings_its_own_workspace() -> None:
    """Two sources at once are rejected, not guessed at."""
    b = bench()
    execution = await submitted(b)
    await finished(b, execution)
    id_ = await created(b, from_execution_id=execution, workspace={"source": "shared", "path": "x"})
    assert await fields(b, id_) == ["workspace"]


async def test_attach_and_detach() -> None:
    """A client is there once however often it attaches; detaching what is not there changes nothing."""
    b = bench()
    id_ = await created(b)
    for client in ("ann", "bob", "ann"):
        await session(b.parts, wish(b, "attach", id_, client_id=client))
    assert [one.client_id for one in (await record_of(b, id_)).clients] == ["bob", "ann"]
    for _ in range(2):
        await session(b.parts, wish(b, "detach", id_, client_id="bob"))
    assert [one.client_id for one in (await record_of(b, id_)).clients] == ["ann"]
    assert set(await b.said(id_)) == {"created", "attached", "detached"}


async def test_commands_about_an_unknown_session_come_again() -> None:
    """Its create may still be on the way."""
    b = bench()
    for verb, data in (("attach", {"client_id": "a"}), ("detach", {"client_id": "a"}), ("destroy", {})):
        with pytest.raises(NotYetKnown):
            await session(b.parts, wish(b, verb, str(uuid.uuid4()), **data))


async def test_destroy_leaves_nothing_but_the_fact_that_it_was() -> None:
    """Open executions are cancelled first; then they, the objects, events, commands and schedules go."""
    b = bench()
    id_ = await created(b)
    done, open_ = await submitted(b, id_), await submitted(b, id_)
    await finished(b, done)
    await b.store.put(f"{session_prefix(PROJECT, id_)}/{done}.conversation.json", b"{}")
    await b.bus.publish("ocf.dlq.session", b"{}", {"Ocf-Dlq-Subject": f"ocf.cmd.session.{PROJECT}.{id_}"})
    with pytest.raises(Conflict, match="cancelled first"):
        await session(b.parts, wish(b, "destroy", id_))
    assert (await record_of(b, id_)).state == "destroying"
    assert len(await b.commands("cancel", open_)) == 1
    await deliver_commands(b, "cancel", cancel)
    await session(b.parts, wish(b, "destroy", id_))
    assert await b.said(id_) == ["destroyed"]
    await deliver_commands(b, "cleanup", cleanup)
    left = [m.subject async for m in b.bus.history(subjects.COMMANDS, ">") if id_ in m.subject]
    assert left == []
    assert b.store.objects == {}
    assert [m async for m in b.bus.history(subjects.DLQ, "ocf.dlq.>")] == []
    assert [e.key async for e in b.parts.sessions.entries()] == []
    assert [e.key async for e in b.parts.executions.entries()] == []
    assert (await b.said(done), await b.said(open_)) == (["cleaned"], ["cleaned"])
    with pytest.raises(Drop, match="destroyed"):
        await session(b.parts, wish(b, "destroy", id_))


async def test_a_destroyed_session_does_not_come_back() -> None:
    """A create that is delivered once more afterwards makes no new session of the old id."""
    b = bench()
    id_ = await created(b)
    await session(b.parts, wish(b, "destroy", id_))
    await session(b.parts, wish(b, "create", id_))
    assert await b.parts.sessions.get(f"{PROJECT}.{id_}") is None
    assert await fields(b, id_) == ["session_id"]


async def test_it_expires_when_idle_and_only_then() -> None:
    """The schedule's destroy counts when nobody is attached, nothing is queued and the time is over."""
    clock = ManualClock()
    b = bench(clock, SESSION_TTL="100")
    id_ = await created(b)
    expiry = {"requested_by": EXPIRY}
    with pytest.raises(Drop, match="in use"):  # too early: it was used since the schedule was made
        await session(b.parts, wish(b, "destroy", id_, **expiry))
    await session(b.parts, wish(b, "attach", id_, client_id="ann"))
    await clock.advance(200)
    with pytest.raises(Drop, match="in use"):  # somebody watches
        await session(b.parts, wish(b, "destroy", id_, **expiry))
    await session(b.parts, wish(b, "detach", id_, client_id="ann"))
    execution = await submitted(b, id_)
    await clock.advance(200)
    with pytest.raises(Drop, match="in use"):  # an execution waits
        await session(b.parts, wish(b, "destroy", id_, **expiry))
    await finished(b, execution)
    with pytest.raises(Drop, match="in use"):  # it has only now become idle
        await session(b.parts, wish(b, "destroy", id_, **expiry))
    schedule = await b.bus.last(subjects.COMMANDS, schedule_subject(PROJECT, id_))
    assert schedule is not None  # and is looked at again
    await clock.advance(101)
    await session(b.parts, wish(b, "destroy", id_, **expiry))
    assert json.loads((await b.fact(id_, "destroyed")).data)["expired"]
    assert await b.bus.last(subjects.COMMANDS, schedule_subject(PROJECT, id_)) is None


@pytest.mark.parametrize("how", ["unknown", "destroying"])
async def test_a_submit_needs_an_open_session(how: str) -> None:
    """Rejected, and the field is named."""
    b = bench()
    id_ = str(uuid.uuid4())
    if how == "destroying":
        id_ = await created(b)
        await submitted(b, id_)
        with pytest.raises(Conflict):
            await session(b.parts, wish(b, "destroy", id_))
    execution = await submitted(b, id_)
    assert await b.said(execution) == ["rejected"]
    assert [e.field for e in (await b.parts.records.require(PROJECT, execution)).errors] == ["session_id"]
    if how == "destroying":
        await session(b.parts, wish(b, "attach", id_, client_id="late"))
        assert await fields(b, id_) == ["session_id"]


async def test_a_session_destroyed_between_submit_and_queue_fails_the_execution() -> None:
    """Its record is there already, so it must end, and not stay pending for ever."""
    b = bench()
    id_ = await created(b)
    event = b.submit(session_id=id_)
    execution = json.loads(event.data)["execution_id"]
    handed = b.parts.records.create

    async def destroyed_meanwhile(record: Record) -> None:
        await handed(record)
        await session(b.parts, wish(b, "destroy", id_))

    b.parts.records.create = destroyed_meanwhile  # type: ignore[method-assign]
    await submit(b.parts, event)
    record = await b.parts.records.require(PROJECT, execution)
    assert (record.state, record.reason) == (State.FAILED, "invalid_workspace")
    assert await b.said(execution) == ["failed"]
    assert await b.commands("execute", execution) == []


async def test_one_at_a_time_in_the_order_of_their_submits() -> None:
    """The first has the session; the others wait until it has ended, however it ends."""
    b = bench()
    id_ = await created(b)
    first, second, third = [await submitted(b, id_) for _ in range(3)]
    assert [await may_run(b, one, id_) for one in (first, second, third)] == [True, False, False]
    await started(b, first)
    assert [await may_run(b, one, id_) for one in (second, third)] == [False, False]
    await finished(b, first)
    assert [await may_run(b, one, id_) for one in (second, third)] == [True, False]


async def test_a_head_that_ended_or_is_gone_is_skipped() -> None:
    """A worker that died before it left the queue blocks nobody; nor does one that was deleted or cancelled."""
    b = bench()
    id_ = await created(b)
    ended, gone, cancelled, last = [await submitted(b, id_) for _ in range(4)]
    await finished(b, ended)
    await b.parts.executions.delete(f"{PROJECT}.{gone}")
    await cancel(b.parts, b.command("dev.ocf.task.cancel.v1", Cancel(execution_id=cancelled, project_id=PROJECT)))
    assert await may_run(b, last, id_)
    assert (await record_of(b, id_)).queue == [last]


async def test_who_fell_out_of_the_queue_joins_again() -> None:
    """Else it would run beside the one that came after it."""
    b = bench()
    id_ = await created(b)
    lost, other = await submitted(b, id_), await submitted(b, id_)
    await Sessions(b.parts.sessions, b.parts.clock).done(PROJECT, id_, lost)
    await started(b, other)
    assert not await may_run(b, lost, id_)
    assert (await record_of(b, id_)).queue == [other, lost]


async def test_a_deleted_execution_leaves_its_session() -> None:
    """Its id is in nobody's record any more."""
    b = bench()
    id_ = await created(b)
    execution = await submitted(b, id_)
    await finished(b, execution)
    await cleanup(b.parts, b.command("dev.ocf.task.cleanup.v1", Cleanup(execution_id=execution, project_id=PROJECT)))
    found = await record_of(b, id_)
    assert (found.queue, found.executions) == ([], [])
