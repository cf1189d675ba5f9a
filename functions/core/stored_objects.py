"""Objects in S3 of executions and sessions: where they lie, and how they are removed.

Until 0.2 a session's objects lay where those of an execution with the same id do. They are still read there, and the
one is removed without the other.
"""

from __future__ import annotations

from ocf.events.ports import ObjectStore
from ocf.events.refs import ExecutionRef, SessionRef
from ocf.events.session_record import is_old_object, old_prefix


async def delete_execution(store: ObjectStore, ref: ExecutionRef) -> int:
    """Remove what an execution has; return how many objects."""
    prefix = f"{ref.prefix}/"
    keys = [info.key async for info in store.list(prefix)]
    own = [key for key in keys if not is_old_object(key)]
    if len(own) == len(keys):
        return await store.delete_prefix(prefix)
    return sum([await store.delete_prefix(key) for key in own])


async def delete_session(store: ObjectStore, ref: SessionRef) -> int:
    """Remove what a session has; return how many objects."""
    removed = await store.delete_prefix(f"{ref.prefix}/")
    old = [info.key async for info in store.list(f"{old_prefix(ref)}/") if is_old_object(info.key)]
    return removed + sum([await store.delete_prefix(key) for key in old])


async def saved_key(store: ObjectStore, ref: SessionRef, name: str) -> str:
    """Key of the object `name` of a session's saved state, also of one that a release before 0.3 saved."""
    key = ref.object_key(name)
    return key if await store.head(key) is not None else f"{old_prefix(ref)}/{name}"


async def delete_saved(store: ObjectStore, ref: SessionRef, name: str) -> None:
    """Remove the object `name` of a session's saved state, wherever it lies."""
    for prefix in (ref.prefix, old_prefix(ref)):
        await store.delete_prefix(f"{prefix}/{name}")
