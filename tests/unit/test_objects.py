"""What executions and sessions have in S3: the same id is no bond between them."""

from __future__ import annotations

import uuid

import pytest

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.functions.core.object_deletion import delete_execution, delete_saved, delete_session, saved_key

ID = str(uuid.uuid4())
EXECUTION, SESSION = ExecutionRef("p", ID), SessionRef("p", ID)
OWN = [f"p/{ID}/{name}" for name in ("output.ndjson.gz", "workspace.tar.zst", "conversation.json", f"data/{ID}.json")]
NEW = [f"p/sessions/{ID}/{uuid.uuid4()}.0a1b2c3d.workspace.tar.zst"]
OLD = [f"p/{ID}/{uuid.uuid4()}.0a1b2c3d.conversation.json", f"p/{ID}/{uuid.uuid4()}.workspace.tar.zst"]
OTHER = [f"q/{ID}/output.ndjson.gz", f"q/sessions/{ID}/x"]


@pytest.fixture
async def store() -> MemoryStore:
    """One execution and one session of the same id, which an earlier release saved, and another project's."""
    made = MemoryStore()
    for key in (*OWN, *NEW, *OLD, *OTHER):
        await made.put(key, b"x")
    return made


async def test_deleting_an_execution_leaves_the_session_of_the_same_id(store: MemoryStore) -> None:
    """Also what a release before 0.3 saved of it, beside the execution's own objects."""
    assert await delete_execution(store, EXECUTION) == len(OWN)
    assert set(store.objects) == {*NEW, *OLD, *OTHER}


async def test_deleting_a_session_leaves_the_execution_of_the_same_id(store: MemoryStore) -> None:
    """What is saved goes from both places."""
    assert await delete_session(store, SESSION) == len(NEW) + len(OLD)
    assert set(store.objects) == {*OWN, *OTHER}


async def test_objects_of_an_earlier_release_are_found(store: MemoryStore) -> None:
    """The new place is looked at first."""
    old = OLD[0].rsplit("/", 1)[-1]
    assert await saved_key(store, SESSION, old) == OLD[0]
    assert await saved_key(store, SESSION, NEW[0].rsplit("/", 1)[-1]) == NEW[0]
    await delete_saved(store, SESSION, old)
    assert set(store.objects) == {*OWN, *NEW, OLD[1], *OTHER}
