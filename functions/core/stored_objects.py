"""Removal and lookup of the objects of executions and sessions in S3.

Until release 0.2 a session's objects had the same prefix as those of an execution with the same id. They are still read
there, and the objects of either are removed without those of the other.
"""

from __future__ import annotations

from datetime import datetime

from ocf.events.ports import ObjectStore
from ocf.events.refs import ExecutionRef, SessionRef
from ocf.events.session_record import is_old_object, old_prefix


async def delete_execution(store: ObjectStore, ref: ExecutionRef) -> int:
    """Remove the objects of an execution; return their number."""
    prefix = f"{ref.prefix}/"
    keys = [info.key async for info in store.list(prefix)]
    own = [key for key in keys if not is_old_object(key)]
    if len(own) == len(keys):
        return await store.delete_prefix(prefix)
    return sum([await store.delete_prefix(key) for key in own])


async def delete_session(store: ObjectStore, ref: SessionRef) -> int:
    """Remove the objects of a session; return their number."""
    removed = await store.delete_prefix(f"{ref.prefix}/")
    old = [info.key async for info in store.list(f"{old_prefix(ref)}/") if is_old_object(info.key)]
    return removed + sum([await store.delete_prefix(key) for key in old])


def setup_key(project: str, digest: str) -> str:
    """Return the key of a kept setup (docs/how-to/set-up-workspaces.md)."""
    return f"{project}/setup/{digest}.tar.zst"


async def delete_setups(store: ObjectStore, project: str, before: datetime) -> int:
    """Remove the project's kept setups that were stored before a time; return their number."""
    listed = [info async for info in store.list(setup_key(project, "").removesuffix(".tar.zst"))]
    old = [info.key for info in listed if info.modified is not None and info.modified < before]
    return sum([await store.delete_prefix(key) for key in old])


async def saved_key(store: ObjectStore, ref: SessionRef, name: str) -> str:
    """Return the key of the object `name` of a session's saved state, including the location until release 0.2."""
    key = ref.object_key(name)
    return key if await store.head(key) is not None else f"{old_prefix(ref)}/{name}"


async def delete_saved(store: ObjectStore, ref: SessionRef, name: str) -> None:
    """Remove the object `name` of a session's saved state from both locations."""
    for prefix in (ref.prefix, old_prefix(ref)):
        await store.delete_prefix(f"{prefix}/{name}")
