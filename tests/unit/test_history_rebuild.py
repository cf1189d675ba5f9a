"""The rebuild of the history, on what nobody can read."""

from __future__ import annotations

import json

import pytest

from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.archive_manifest import read_manifest
from ocf.events.errors import Unreadable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.functions.core.execution_store import Records
from ocf.functions.core.session_store import Sessions
from ocf.functions.database import rebuild
from tests.support.gateway import ID, OTHER, World


async def test_a_message_of_an_unknown_type_in_an_archive_costs_no_row() -> None:
    """A rejected execution's archive has the message that was refused; its row comes back all the same."""
    world = World()
    record = await world.record(state=State.REJECTED)
    ref = ExecutionRef("default", ID)
    manifest = {"version": 1, "objects": [], "record": json.loads(record.model_dump_json(exclude_defaults=True))}
    await world.store.put(ref.object_key("manifest.json"), json.dumps(manifest).encode())
    line = b'{"specversion":"1.0","id":"1","source":"/x","type":"dev.ocf.task.odd.v9","data":{}}\n'
    await world.store.put(ref.object_key("events.ndjson"), line + b"not JSON\n")
    await world.history.remove(ref)
    await world.executions.delete(ref.record_key)
    bus, clock, store = world.bus, world.clock, world.store
    sessions = Sessions(world.sessions, clock)
    records = Records(world.executions, bus, clock, source="/test", store=store, open_keys=MemoryBucket(clock))
    deep = ExecutionRef("default", OTHER)
    await store.put(deep.object_key("manifest.json"), b'{"record": ' + b"[" * 99 + b"]" * 99 + b"}")
    done = await rebuild.rebuild(bus, store, records, sessions, world.history)
    assert (done.archived, done.unreadable) == (1, 1)
    with pytest.raises(Unreadable, match="cannot be read"):
        await read_manifest(store, deep)
    assert await world.history.projects_of(ID) == ["default"]
