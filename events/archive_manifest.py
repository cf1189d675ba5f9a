"""The manifest of an archive, and the record in it: it stays there when the bucket no longer has it."""

from __future__ import annotations

import json
from typing import Any

from ocf.events.errors import InvalidEvent, NotYetKnown, Unreadable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import ObjectStore
from ocf.events.untrusted_json import MIB, JsonLimit, parse_json

#: Names of two objects of every archive.
MANIFEST, EVENTS = "manifest.json", "events.ndjson"
#: Fields of a record that the archive itself, retention and each change set.
_PASSING = ("archived", "output_expired", "updated_at")
#: Limit of a manifest: a record, and an entry for each object.
_LIMIT = JsonLimit(bytes=4 * MIB, depth=64, values=200_000)


async def archived_record(store: ObjectStore, ref: ExecutionRef) -> Record | None:
    """Return the record in the manifest of an archive; None without an archive.

    Raises:
        Unavailable: The store does not answer.
        Unreadable: The manifest is damaged.
    """
    manifest = await read_manifest(store, ref)
    if manifest is None:
        return None
    try:
        # It was written before the archive was complete.
        record = Record.read(json.dumps({**manifest["record"], "archived": True}))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(ref, error) from None
    if record.ref != ref:
        raise Unreadable(f"the manifest of {ref} names another execution")
    return record


async def read_manifest(store: ObjectStore, ref: ExecutionRef) -> dict[str, Any] | None:
    """Return the manifest of an archive; None without one. Raises as `archived_record` does."""
    try:
        data = await store.get(ref.object_key(MANIFEST))
    except NotYetKnown:
        return None
    try:
        return dict(parse_json(data, _LIMIT, MANIFEST))
    except (InvalidEvent, ValueError, TypeError) as error:
        raise _unreadable(ref, error) from None


def manifest_form(record: Record) -> dict[str, Any]:
    """Return a record as manifests have it."""
    return dict(json.loads(record.model_dump_json(exclude_defaults=True, exclude={"outbox"})))


async def update_manifest(store: ObjectStore, record: Record) -> bool:
    """Write a record that has changed since its archive into the manifest; return whether it has.

    Raises as `archived_record` does.
    """
    manifest = await read_manifest(store, record.ref)
    newest = manifest_form(record)
    if manifest is None or _lasting(dict(manifest.get("record", {}))) == _lasting(newest):
        return False
    content = json.dumps({**manifest, "record": newest}, indent=2).encode()
    await store.put(record.ref.object_key(MANIFEST), content, content_type="application/json")
    return True


def _lasting(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that say something after the eviction."""
    return {name: value for name, value in fields.items() if name not in _PASSING}


def _unreadable(ref: ExecutionRef, error: Exception) -> Unreadable:
    return Unreadable(f"the manifest of {ref} cannot be read: {type(error).__name__}")
