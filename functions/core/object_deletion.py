"""Removal and lookup of the objects of executions and sessions in S3, and of the input trees that executions share.

Until release 0.2 a session's objects had the same prefix as those of an execution with the same id. They are still read
there, and the objects of either are removed without those of the other.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from ocf.events.errors import Unreadable
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.input_manifest import INPUT, ExecutionInput
from ocf.events.ports import ObjectInfo, ObjectStore
from ocf.events.session_record import is_old_object, old_prefix
from ocf.events.untrusted_json import KIB

#: Bytes of a description of an input.
_INPUT_BYTES = 256 * KIB


async def delete_execution(store: ObjectStore, ref: ExecutionRef) -> int:
    """Remove the objects of an execution; return their number. An input tree goes with its last execution."""
    prefix = f"{ref.prefix}/"
    keys = [info.key async for info in store.list(prefix)]
    if ref.object_key(INPUT) in keys:
        await release_input(store, ref)
    own = [key for key in keys if not is_old_object(key)]
    if len(own) == len(keys):
        return await store.delete_prefix(prefix)
    return sum([await store.delete_prefix(key) for key in own])


def input_key(project: str, digest: str) -> str:
    """Return the key of an input tree."""
    return f"{project}/inputs/{digest}.tar.zst"


def input_user(ref: ExecutionRef, digest: str) -> str:
    """Return the key of the object that states that an execution uses an input tree (ADR 0025)."""
    return f"{ref.project}/inputs/{digest}.users/{ref.execution}"


async def read_input(store: ObjectStore, ref: ExecutionRef) -> ExecutionInput | None:
    """Return what an execution began from; None where that was not stored.

    Raises:
        Unreadable: It is damaged.
    """
    info = await store.head(ref.object_key(INPUT))
    if info is None:
        return None
    try:
        if info.size > _INPUT_BYTES:
            raise ValueError
        return ExecutionInput.read(await store.get(info.key))
    except (ValidationError, ValueError):
        raise Unreadable(f"{INPUT} of {ref} cannot be read") from None


async def stored_tree(store: ObjectStore, project: str, given: ExecutionInput | None) -> ObjectInfo | None:
    """Return the input tree that a description names; None where it names none, or the tree is not stored."""
    if given is None or given.tree is None:
        return None
    return await store.head(input_key(project, given.tree))


async def release_input(store: ObjectStore, ref: ExecutionRef, *, but: str | None = None) -> None:
    """End an execution's use of its input tree, and remove the tree without users; `but` is a digest that stays.

    Safe to repeat after a crash: the description that names the tree is removed later.
    """
    try:
        found = await read_input(store, ref)
    except Unreadable:
        return
    if found is None or found.tree is None or found.tree == but:
        return
    await store.delete_prefix(input_user(ref, found.tree))
    async for _ in store.list(input_user(ref, found.tree).removesuffix(ref.execution)):
        return
    await store.delete_prefix(input_key(ref.project, found.tree))


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
