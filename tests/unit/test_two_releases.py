"""During an upgrade a newer release runs beside this one: what it wrote is read, and kept when it is changed here."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ocf.events.client import Client
from ocf.events.command_payloads import Cleanup, Execute
from ocf.events.envelope import Event, InvalidData, parse
from ocf.events.event_types import TYPES
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.lifecycle import State
from ocf.events.output import Chunk
from ocf.events.ports import Bucket
from ocf.functions.core.cleanup_schedules import SWEEP, ensure_schedule
from ocf.functions.core.lease_lookup import RECHECK_SECONDS
from ocf.functions.core.session_store import Sessions
from tests.support.clock import ManualClock
from tests.support.handlers import cancel, cleanup, session
from tests.support.parts import PROJECT, Bench, bench
from tests.unit.test_sessions import created, request, submitted


async def rewritten(bucket: Bucket, key: str, change: Any) -> None:
    """As a newer release would have written it."""
    entry = await bucket.get(key)
    assert entry is not None
    value = json.loads(entry.value)
    change(value)
    await bucket.update(key, json.dumps(value).encode(), entry.revision)


async def kept(bucket: Bucket, key: str) -> dict[str, Any]:
    entry = await bucket.get(key)
    assert entry is not None
    found: dict[str, Any] = json.loads(entry.value)
    return found


def cancelled(b: Bench, execution: str) -> Event:
    return b.command("dev.ocf.task.cancel.v1", TYPES["dev.ocf.task.cancel.v1"].data(**ids(execution)))


def ids(execution: str) -> dict[str, Any]:
    return {"execution_id": execution, "project_id": PROJECT}


def swept(b: Bench) -> Event:
    request = Cleanup(project_id="ocf-system", execution_id=SWEEP.entity, scope="sweep")
    return b.command("dev.ocf.task.cleanup.v1", request)


async def test_fields_of_a_newer_release_in_a_record_are_read_and_survive_a_change() -> None:
    """At every depth: a backend reads it, and the cancel function ends it without losing them."""
    b = bench()
    execution = await submitted(b)

    def newer(value: dict[str, Any]) -> None:
        value["priority"] = 3
        value["usage"] = {"requests": 1, "gpu_seconds": 4}
        value["attempts"] = [{"number": 1, "worker": "w", "started_at": "2026-01-01T00:00:00Z", "zone": "a"}]

    key = ExecutionRef(PROJECT, execution).record_key
    await rewritten(b.deps.executions, key, newer)
    client = Client(b.bus, b.deps.executions, b.deps.sessions, project=PROJECT)
    assert (await client.status(execution)).state is State.PENDING
    assert len(await client.list()) == 1
    await b.deps.records.change(PROJECT, execution, lambda record: record.model_copy(update={"title": "new"}))
    value = await kept(b.deps.executions, key)
    assert (value["title"], value["priority"], value["usage"]["gpu_seconds"]) == ("new", 3, 4)
    await cancel(b.deps, cancelled(b, execution))
    value = await kept(b.deps.executions, key)
    assert (value["state"], value["priority"], value["attempts"][0]["zone"]) == ("cancelled", 3, "a")


async def test_fields_of_a_newer_release_in_a_session_survive_a_change() -> None:
    """Also those of its workspace, which is a caller's model elsewhere."""
    b = bench()
    id_ = await created(b, workspace={"source": "git", "url": "https://example.com/a.git"})

    def newer(value: dict[str, Any]) -> None:
        value["colour"] = "red"
        value["workspace"]["lfs"] = True

    key = SessionRef(PROJECT, id_).record_key
    await rewritten(b.deps.sessions, key, newer)
    await session(b.deps, request(b, "attach", id_, client_id="ann"))
    value = await kept(b.deps.sessions, key)
    assert (value["colour"], value["workspace"]["lfs"], len(value["clients"])) == ("red", True, 1)
    found = await Sessions(b.deps.sessions, b.deps.clock).get(PROJECT, id_)
    assert found is not None
    assert found.workspace.source == "git"


def test_internal_events_may_have_unknown_fields() -> None:
    """An execute command, with one in its limits too; every fact; a chunk. They are ignored or kept, never refused."""
    execution = str(uuid.uuid4())
    body = {
        **ids(execution),
        "prompt": "p",
        "submitted_at": "2026-01-01T00:00:00Z",
        "limits": {"gpu": 1},
        "priority": 3,
    }
    event = Event("dev.ocf.task.execute.v1", "/ocf/submit", "1", datetime.now(UTC), json.dumps(body).encode())
    assert isinstance(parse(event), Execute)
    fact = replace(event, type="dev.ocf.task.accepted.v1", data=json.dumps({**ids(execution), "by": "x"}).encode())
    parse(fact)
    chunk = json.dumps({"seq": 1, "type": "text", "timestamp": "2026-01-01T00:00:00Z", "tone": "calm"})
    assert json.loads(Chunk.read(chunk).model_dump_json())["tone"] == "calm"


@pytest.mark.parametrize("type_", [name for name, spec in TYPES.items() if spec.from_callers])
def test_unknown_field_of_a_caller_is_refused(type_: str) -> None:
    """A typing error is answered."""
    named = {**ids(str(uuid.uuid4())), "session_id": str(uuid.uuid4()), "promt": "p"}
    event = Event(type_, "/backend", "1", datetime.now(UTC), json.dumps(named).encode())
    with pytest.raises(InvalidData, match="promt"):
        parse(event)


async def test_a_record_that_cannot_be_read_does_not_stop_the_sweep() -> None:
    """What the sweep can read it ends; it goes on sweeping, because the other may be open."""
    clock = ManualClock()
    b = bench(clock)
    first, second = sorted([await submitted(b), await submitted(b)])
    await rewritten(
        b.deps.executions, ExecutionRef(PROJECT, first).record_key, lambda value: value.update(state="paused")
    )
    await ensure_schedule(b.bus, SWEEP)
    await clock.advance(86_400 + 3_601)
    sweeping = asyncio.create_task(cleanup(b.deps, swept(b)))
    while not clock.sleepers:
        await asyncio.sleep(0)
    await clock.advance(RECHECK_SECONDS)
    await sweeping
    assert "timed_out" in await b.said(second)
    await cleanup(b.deps, swept(b))
    assert await b.bus.last("OCF_COMMANDS", SWEEP.subject) is not None
