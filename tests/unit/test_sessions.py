"""Sessions: made once, worked in one execution at a time, ended without a trace."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
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
from ocf.events.errors import Conflict, Drop, NotItsTurn, NotYetKnown, Unavailable
from ocf.events.execution_record import Attempt, Record
from ocf.events.execution_ref import SessionRef
from ocf.events.fact_payloads import Artifact, Completed
from ocf.events.lifecycle import SessionStep, State, Step
from ocf.events.ports import Message
from ocf.events.session_record import Saved, Session
from ocf.functions.core.session_store import EXPIRY, Sessions, schedule_subject
from tests.support.clock import ManualClock
from tests.support.handlers import cancel, cleanup, session, submit
from tests.support.parts import PROJECT, Bench, bench, instead
from tests.support.runs import worker_on

_MODELS: dict[str, type[Model]] = {
    "create": SessionCreate,
    "attach": SessionAttach,
    "detach": SessionDetach,
    "destroy": SessionDestroy,
}


def request(b: Bench, verb: str, id_: str, **data: Any) -> Event:
    ids = {"session_id": id_, "project_id": PROJECT}
    return b.command(f"dev.ocf.session.{verb}.v1", _MODELS[verb].model_validate({**ids, **data}))


def expiry(b: Bench, id_: str) -> Event:
    """What the schedule sends."""
    return replace(request(b, "destroy", id_, requested_by="schedule"), source=EXPIRY)


async def created(b: Bench, **data: Any) -> str:
    id_ = str(uuid.uuid4())
    await session(b.deps, request(b, "create", id_, **data))
    return id_


async def record_of(b: Bench, id_: str) -> Session:
    found = await Sessions(b.deps.sessions, b.deps.clock).get(PROJECT, id_)
    assert found is not None
    return found


async def submitted(b: Bench, id_: str | None = None) -> str:
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution, **({"session_id": id_} if id_ else {})))
    return execution


async def started(b: Bench, execution: str) -> None:
    now = b.deps.clock.now()

    def running(record: Record) -> Record:
        attempts = [Attempt(number=1, worker="w", started_at=now)]
        return record.model_copy(update={"state": State.RUNNING, "attempts": attempts, "started_at": now})

    await b.deps.records.change(PROJECT, execution, running)


async def finished(b: Bench, execution: str, *, archived: bool = True) -> None:
    await started(b, execution)
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=5)
    await b.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
    if archived:
        await b.store.put(f"{PROJECT}/{execution}/workspace.tar.zst", b"w")
        await b.deps.records.change(PROJECT, execution, lambda r: r.model_copy(update={"archived": True}))


async def fields(b: Bench, id_: str) -> list[str]:
    """The fields that the newest rejection names."""
    return [error["field"] for error in json.loads((await b.fact(id_, "rejected")).data)["errors"]]


async def may_run(b: Bench, execution: str, id_: str) -> bool:
    """Whether a worker would take it now."""
    worker = worker_on(b.deps)
    data = {"execution_id": execution, "project_id": PROJECT, "session_id": id_, "prompt": "p"}
    task = Execute.model_validate({**data, "submitted_at": b.deps.clock.now()})
    try:
        await worker._must_be_its_turn(task)
    except NotItsTurn:
        return False
    return True


async def deliver_commands(b: Bench, verb: str, handler: Any) -> None:
    """Deliver every command of that verb once, as the dispatcher would."""
    for message in [m async for m in b.bus.history(subjects.COMMANDS, f"ocf.cmd.{verb}.>")]:
        event = decode(message.headers, message.data).with_extensions(**{NATS_SUBJECT: message.subject})
        try:
            await handler(b.deps, event)
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
    await session(b.deps, request(b, "create", id_, labels={"a": "1"}))
    assert await record_of(b, id_) == before
    assert await b.said(id_) == ["created"]
    await session(b.deps, request(b, "create", id_, labels={"a": "2"}))
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
        assert await b.deps.sessions.get(f"{PROJECT}.{id_}") is None
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
        await session(b.deps, request(b, "attach", id_, client_id=client))
    assert [one.client_id for one in (await record_of(b, id_)).clients] == ["bob", "ann"]
    for _ in range(2):
        await session(b.deps, request(b, "detach", id_, client_id="bob"))
    assert [one.client_id for one in (await record_of(b, id_)).clients] == ["ann"]
    assert set(await b.said(id_)) == {"created", "attached", "detached"}


async def test_commands_about_an_unknown_session_come_again() -> None:
    """Its create may still be on the way."""
    b = bench()
    for verb, data in (("attach", {"client_id": "a"}), ("detach", {"client_id": "a"}), ("destroy", {})):
        with pytest.raises(NotYetKnown):
            await session(b.deps, request(b, verb, str(uuid.uuid4()), **data))


async def test_destroy_leaves_nothing_but_the_fact_that_it_was() -> None:
    """Open executions are cancelled first; then they, the objects, events, commands and schedules go."""
    b = bench()
    id_ = await created(b)
    done, open_ = await submitted(b, id_), await submitted(b, id_)
    await finished(b, done)
    await b.store.put(f"{SessionRef(PROJECT, id_).prefix}/{done}.conversation.json", b"{}")
    await b.bus.publish(f"ocf.dlq.session.{PROJECT}.{id_}", b"{}", {})
    with pytest.raises(Conflict, match="cancelled first"):
        await session(b.deps, request(b, "destroy", id_))
    assert (await record_of(b, id_)).state == "destroying"
    assert len(await b.commands("cancel", open_)) == 1
    await deliver_commands(b, "cancel", cancel)
    await session(b.deps, request(b, "destroy", id_))
    assert await b.said(id_) == ["destroyed"]
    await deliver_commands(b, "cleanup", cleanup)
    left = [m.subject async for m in b.bus.history(subjects.COMMANDS, ">") if id_ in m.subject]
    assert left == []
    assert b.store.objects == {}
    assert [m async for m in b.bus.history(subjects.DLQ, "ocf.dlq.>")] == []
    assert [e.key async for e in b.deps.sessions.entries()] == []
    assert [e.key async for e in b.deps.executions.entries()] == []
    assert (await b.said(done), await b.said(open_)) == (["cleaned"], ["cleaned"])
    with pytest.raises(Drop, match="destroyed"):
        await session(b.deps, request(b, "destroy", id_))


async def test_a_destroyed_session_does_not_come_back() -> None:
    """A create that is delivered once more afterwards makes no new session of the old id."""
    b = bench()
    id_ = await created(b)
    await session(b.deps, request(b, "destroy", id_))
    await session(b.deps, request(b, "create", id_))
    assert await b.deps.sessions.get(f"{PROJECT}.{id_}") is None
    assert await fields(b, id_) == ["session_id"]


async def test_it_expires_when_idle_and_only_then() -> None:
    """The schedule's destroy counts when nobody is attached, nothing is queued and the time is over."""
    clock = ManualClock()
    b = bench(clock, SESSION_TTL="100")
    id_ = await created(b)
    with pytest.raises(Drop, match="in use"):  # too early: it was used since the schedule was made
        await session(b.deps, expiry(b, id_))
    await session(b.deps, request(b, "attach", id_, client_id="ann"))
    await clock.advance(200)
    with pytest.raises(Drop, match="in use"):  # somebody watches
        await session(b.deps, expiry(b, id_))
    schedule = await b.bus.last(subjects.COMMANDS, schedule_subject(PROJECT, id_))
    assert schedule is not None
    assert schedule.headers["Nats-Schedule"] == "@at 2026-01-01T01:00:00.000000Z"  # unless ann says nothing till then
    await session(b.deps, request(b, "detach", id_, client_id="ann"))
    execution = await submitted(b, id_)
    await clock.advance(200)
    with pytest.raises(Drop, match="in use"):  # an execution waits
        await session(b.deps, expiry(b, id_))
    await finished(b, execution)
    with pytest.raises(Drop, match="in use"):  # it has only now become idle
        await session(b.deps, expiry(b, id_))
    schedule = await b.bus.last(subjects.COMMANDS, schedule_subject(PROJECT, id_))
    assert schedule is not None  # and is looked at again
    await clock.advance(101)
    await session(b.deps, expiry(b, id_))
    assert json.loads((await b.fact(id_, "destroyed")).data)["expired"]
    assert await b.bus.last(subjects.COMMANDS, schedule_subject(PROJECT, id_)) is None


async def test_expired_session_leaves_its_executions_to_retention() -> None:
    """Their records, output and archives stay; what the session itself kept goes."""
    clock = ManualClock()
    b = bench(clock, SESSION_TTL="100")
    id_ = await created(b)
    execution = await submitted(b, id_)
    await finished(b, execution)
    await Sessions(b.deps.sessions, clock).leave(PROJECT, id_, execution)
    await b.bus.publish(subjects.output(PROJECT, execution), b'{"seq":1}', {})
    await b.store.put(f"{SessionRef(PROJECT, id_).prefix}/x.conversation.json", b"{}")
    await clock.advance(101)
    await session(b.deps, expiry(b, id_))
    fact = json.loads((await b.fact(id_, "destroyed")).data)
    assert (fact["expired"], fact["removed"]["executions"], fact["removed"]["objects"]) == (True, 0, 1)
    assert await b.commands("cleanup", execution) == []
    assert (await b.deps.records.require(PROJECT, execution)).archived
    assert "completed" in await b.said(execution)
    assert list(b.store.objects) == [f"{PROJECT}/{execution}/workspace.tar.zst"]
    assert await b.bus.last(subjects.OUTPUT, subjects.output(PROJECT, execution)) is not None


async def test_an_expiry_that_broke_off_goes_on_at_once() -> None:
    """Closed, but the object store did not answer: the next delivery ends it, and does not take it for in use."""
    clock = ManualClock()
    b = bench(clock, SESSION_TTL="100")
    id_ = await created(b)
    await clock.advance(101)
    removing = b.store.delete_prefix

    async def down(_: str) -> int:
        raise Unavailable("S3 does not answer")

    b.store.delete_prefix = down  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await session(b.deps, expiry(b, id_))
    assert (await record_of(b, id_)).state == "destroying"
    b.store.delete_prefix = removing  # type: ignore[method-assign]
    await session(b.deps, expiry(b, id_))
    assert json.loads((await b.fact(id_, "destroyed")).data)["expired"]


async def test_a_destroy_while_it_expires_takes_the_executions_too() -> None:
    """Who says destroy means every trace, also when the expiry was there first, and whatever the caller is called."""
    clock = ManualClock()
    b = bench(clock, SESSION_TTL="100")
    id_ = await created(b)
    execution = await submitted(b, id_)
    await finished(b, execution)
    await session(b.deps, request(b, "attach", id_, client_id="ann"))
    await Sessions(b.deps.sessions, clock).change(PROJECT, id_, lambda one: one.after(SessionStep.EXPIRE))
    await session(b.deps, request(b, "destroy", id_, requested_by="schedule"))
    assert not json.loads((await b.fact(id_, "destroyed")).data)["expired"]
    assert len(await b.commands("cleanup", execution)) == 1


async def test_a_caller_named_schedule_may_destroy() -> None:
    """Its wish is no expiry: a session in use goes."""
    b = bench()
    id_ = await created(b)
    await session(b.deps, request(b, "attach", id_, client_id="ann"))
    await session(b.deps, request(b, "destroy", id_, requested_by="schedule"))
    assert await b.said(id_) == ["destroyed"]


@pytest.mark.parametrize("where", ["record", "fact", "letters"])
async def test_a_destroy_that_died_anywhere_is_said_once_and_ends(where: str) -> None:
    """Before or after the record goes, or before its dead letters do: the next delivery finishes."""
    b = bench()
    id_ = await created(b)
    await b.bus.publish(f"ocf.dlq.session.{PROJECT}.{id_}", b"{}", {})
    told = request(b, "destroy", id_)
    await b.bus.publish(told.extensions[NATS_SUBJECT], told.data, told.headers())
    part, call = {"record": (b.deps.sessions, "delete"), "fact": (b.bus, "publish"), "letters": (b.bus, "purge")}[where]
    working = getattr(part, call)

    async def dies(*given: Any, **named: Any) -> Any:
        if where == "letters" and given[0] != subjects.DLQ:
            return await working(*given, **named)
        raise Unavailable("died here")

    setattr(part, call, dies)
    with pytest.raises(Unavailable):
        await session(b.deps, told)
    setattr(part, call, working)
    if where == "letters":
        with pytest.raises(Drop, match="destroyed"):
            await session(b.deps, told)
    else:
        await session(b.deps, told)
    assert await b.said(id_) == ["destroyed"]
    assert await b.deps.sessions.get(f"{PROJECT}.{id_}") is None
    assert [m async for m in b.bus.history(subjects.DLQ, "ocf.dlq.>")] == []
    assert await b.bus.last(subjects.COMMANDS, told.extensions[NATS_SUBJECT]) is None


async def test_a_client_that_went_without_a_word_keeps_no_session() -> None:
    """An hour after it last said that it is there it counts no more; one that says so again does."""
    clock = ManualClock()
    b = bench(clock, SESSION_TTL="100")
    id_ = await created(b)
    await session(b.deps, request(b, "attach", id_, client_id="ann"))
    await clock.advance(3_000)
    await session(b.deps, request(b, "attach", id_, client_id="ann"))
    await clock.advance(3_599)
    with pytest.raises(Drop, match="in use"):
        await session(b.deps, expiry(b, id_))
    await clock.advance(2)
    await session(b.deps, expiry(b, id_))
    assert await b.said(id_) == ["destroyed"]


async def test_the_end_of_a_long_lived_session_is_scheduled_once() -> None:
    """The stream's age does not end the schedule. One of an earlier release fires too early and schedules it anew."""
    b = bench(ManualClock())
    id_ = await created(b, ttl_seconds=100 * 86_400)
    for early in (False, True):
        if early:
            with pytest.raises(Drop, match="in use"):
                await session(b.deps, expiry(b, id_))
        schedule = await b.bus.last(subjects.COMMANDS, schedule_subject(PROJECT, id_))
        assert schedule is not None
        assert schedule.headers["Nats-Schedule"] == "@at 2026-04-11T00:00:00.000000Z"
        assert schedule.headers["Nats-TTL"] == "never"


@pytest.mark.parametrize("how", ["archive_expired", "no workspace"])
async def test_session_without_a_workspace_cannot_be_forked(how: str) -> None:
    """Else the first turn would fail, and every later one."""
    b = bench()
    execution = await submitted(b)
    await finished(b, execution)
    if how == "archive_expired":
        await b.deps.records.change(PROJECT, execution, lambda r: r.model_copy(update={"archive_expired": True}))
    else:
        await b.store.delete_prefix(f"{PROJECT}/{execution}/")
    assert await fields(b, await created(b, from_execution_id=execution)) == ["from_execution_id"]


async def test_a_deleted_execution_is_not_named_by_the_state_it_saved() -> None:
    """Also when it was the session's newest turn."""
    b = bench()
    id_ = await created(b)
    execution = await submitted(b, id_)
    saved = Saved(execution_id=execution, conversation_id="c", conversation=Artifact(name="a.json", size=1, sha256=""))
    sessions = Sessions(b.deps.sessions, b.deps.clock)
    await sessions.change(PROJECT, id_, lambda one: one.model_copy(update={"saved": saved}))
    await sessions.forget(PROJECT, id_, execution)
    entry = await b.deps.sessions.get(f"{PROJECT}.{id_}")
    assert entry is not None
    assert execution.encode() not in entry.value
    assert (await record_of(b, id_)).saved is not None


async def test_a_submit_that_overtakes_the_create_of_its_session_waits_for_it() -> None:
    """It comes again as long as nobody has said what became of the create, and not when that was rejected."""
    b = bench()
    for data in ({}, {"from_execution_id": str(uuid.uuid4())}):
        id_, execution = str(uuid.uuid4()), str(uuid.uuid4())
        create = request(b, "create", id_, **data)
        await b.bus.publish(create.extensions[NATS_SUBJECT], create.data, create.headers())
        event = b.submit(execution, session_id=id_)
        with pytest.raises(NotYetKnown, match="being created"):
            await submit(b.deps, event)
        await session(b.deps, create)
        await submit(b.deps, event)
        assert await b.said(execution) == (["rejected"] if data else ["accepted"])


async def test_a_submit_that_overtakes_a_create_which_a_replica_lacks_waits_for_it() -> None:
    """One of three replicas lags, and its answer has no create: the leader knows that there is a newer command."""

    class Lagging(MemoryBus):
        async def history(self, stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
            found = [one async for one in super().history(stream, subject, after=after)]
            for one in found[:-1]:
                yield one

    b = bench(bus=Lagging)
    for earlier in (False, True):
        id_, execution = str(uuid.uuid4()), str(uuid.uuid4())
        create = request(b, "create", id_)
        if earlier:
            await b.bus.publish(create.extensions[NATS_SUBJECT], b"{}", {"ce-type": "other"})
        await b.bus.publish(create.extensions[NATS_SUBJECT], create.data, create.headers())
        with pytest.raises(NotYetKnown, match="being created"):
            await submit(b.deps, b.submit(execution, session_id=id_))
        assert await b.said(execution) == []


async def test_a_submit_that_crosses_the_create_of_its_session_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is made just after the submit has looked for it: nobody is told that there is none."""
    b = bench()
    id_, execution = str(uuid.uuid4()), str(uuid.uuid4())
    create = request(b, "create", id_)
    await b.bus.publish(create.extensions[NATS_SUBJECT], create.data, create.headers())
    get = Sessions.get

    async def made_meanwhile(sessions: Sessions, project: str, session_id: str) -> Session | None:
        found = await get(sessions, project, session_id)
        monkeypatch.undo()
        await session(b.deps, create)
        return found

    monkeypatch.setattr(Sessions, "get", made_meanwhile)
    event = b.submit(execution, session_id=id_)
    with pytest.raises(NotYetKnown, match="being created"):
        await submit(b.deps, event)
    await submit(b.deps, event)
    assert await b.said(execution) == ["accepted"]


@pytest.mark.parametrize("how", ["unknown", "destroying"])
async def test_a_submit_needs_an_open_session(how: str) -> None:
    """Rejected, and the field is named."""
    b = bench()
    id_ = str(uuid.uuid4())
    if how == "destroying":
        id_ = await created(b)
        await submitted(b, id_)
        with pytest.raises(Conflict):
            await session(b.deps, request(b, "destroy", id_))
    execution = await submitted(b, id_)
    assert await b.said(execution) == ["rejected"]
    assert [e.field for e in (await b.deps.records.require(PROJECT, execution)).errors] == ["session_id"]
    if how == "destroying":
        await session(b.deps, request(b, "attach", id_, client_id="late"))
        assert await fields(b, id_) == ["session_id"]


async def test_a_session_destroyed_between_submit_and_queue_fails_the_execution() -> None:
    """Its record is there already, so it must end, and not stay pending for ever."""
    b = bench()
    id_ = await created(b)
    event = b.submit(session_id=id_)
    execution = json.loads(event.data)["execution_id"]
    handed = b.deps.records.create

    async def destroyed_meanwhile(record: Record) -> None:
        await handed(record)
        await session(b.deps, request(b, "destroy", id_))

    b.deps.records.create = destroyed_meanwhile  # type: ignore[method-assign]
    await submit(b.deps, event)
    record = await b.deps.records.require(PROJECT, execution)
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
    await b.deps.executions.delete(f"{PROJECT}.{gone}")
    await cancel(b.deps, b.command("dev.ocf.task.cancel.v1", Cancel(execution_id=cancelled, project_id=PROJECT)))
    assert await may_run(b, last, id_)
    assert (await record_of(b, id_)).queue == [last]


async def test_turn_that_lost_its_place_joins_the_queue_again() -> None:
    """Else it would run beside the one that came after it."""
    b = bench()
    id_ = await created(b)
    lost, other = await submitted(b, id_), await submitted(b, id_)
    await Sessions(b.deps.sessions, b.deps.clock).leave(PROJECT, id_, lost)
    await started(b, other)
    assert not await may_run(b, lost, id_)
    assert (await record_of(b, id_)).queue == [other, lost]


async def test_a_deleted_execution_leaves_its_session() -> None:
    """Its id is in nobody's record any more."""
    b = bench()
    id_ = await created(b)
    execution = await submitted(b, id_)
    await finished(b, execution)
    await cleanup(b.deps, b.command("dev.ocf.task.cleanup.v1", Cleanup(execution_id=execution, project_id=PROJECT)))
    found = await record_of(b, id_)
    assert (found.queue, found.executions) == ([], [])


async def test_a_turn_stays_queued_while_its_store_is_away() -> None:
    """Its workspace is in S3: no attempt begins, the delivery comes again. A turn that needs nothing of S3 begins."""
    b = bench()
    id_ = await created(b)
    first = await submitted(b, id_)
    stored = {"name": "w", "size": 1, "sha256": "0" * 64}
    saved = {"execution_id": first, "conversation_id": "c", "conversation": stored, "workspace": stored}
    away = True

    async def ready() -> None:
        if away:
            raise Unavailable("S3 does not answer")

    worker = worker_on(b.having(store=instead(b.store, ready=ready)).deps, _begins)
    with pytest.raises(Begun):
        await worker.execute(await execute_command(b, first))
    await Sessions(b.deps.sessions, b.deps.clock).change(
        PROJECT, id_, lambda one: Session.model_validate({**one.model_dump(), "saved": saved, "queue": []})
    )
    second = await submitted(b, id_)
    with pytest.raises(Unavailable, match="S3 does not answer"):
        await worker.execute(await execute_command(b, second))
    record = await b.deps.records.require(PROJECT, second)
    assert (record.state, record.attempts) == (State.PENDING, [])
    away = False
    with pytest.raises(Begun):
        await worker.execute(await execute_command(b, second))


class Begun(Exception):
    """A run has begun."""


def _begins(*_: object) -> None:
    raise Begun


async def execute_command(b: Bench, execution: str) -> Event:
    (message,) = [m async for m in b.bus.history(subjects.COMMANDS, f"ocf.cmd.execute.{PROJECT}.{execution}")]
    return decode(message.headers, message.data).with_extensions(**{NATS_SUBJECT: message.subject})
